package api

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/tenant"
)

func origin(o catalog.Origin) quotav1.Origin {
	if o == catalog.FromFile {
		return quotav1.Origin_ORIGIN_FILE
	}
	return quotav1.Origin_ORIGIN_API
}

// byID finds an entry in a sorted list of a view.
func byID[T catalog.Listed](entries []*catalog.Entry[T], id string, of func(T) string) (*catalog.Entry[T], bool) {
	i, ok := slices.BinarySearchFunc(entries, id, func(e *catalog.Entry[T], id string) int { return strings.Compare(of(e.Value), id) })
	if !ok {
		return nil, false
	}
	return entries[i], true
}

// apiKey is the API's own key, or why the caller can't change it; see kind.at.
func apiKey(c *catalog.Edit, of tenant.ID, id string) (quota.APIKey, error) {
	k, ok := c.APIKeys.Find(id)
	return k.Value, mutable(ok && k.Value.Tenant == of, k.Source, apiKeyName(of, id))
}

// mutable is nil if an entry is there and the API's.
func mutable(exists bool, source catalog.Source, name string) error {
	switch {
	case !exists:
		return notFound(name)
	case source.Origin == catalog.FromFile:
		return about(codes.FailedPrecondition, "OWNED_BY_FILE", name, "comes from a file of the catalog folder; change it there")
	}
	return nil
}

// fresh is nil if the caller saw the entry as it is, or didn't say what it saw.
func fresh(name, seen, is string) error {
	if seen == "" || seen == is {
		return nil
	}
	return about(codes.Aborted, "ETAG_MISMATCH", name, "changed since it was read; read it again")
}
