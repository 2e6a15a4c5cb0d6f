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
func byID[T catalog.Listed](entries []catalog.Entry[T], id string, of func(T) string) (catalog.Entry[T], bool) {
	i, ok := slices.BinarySearchFunc(entries, id, func(e catalog.Entry[T], id string) int { return strings.Compare(of(e.Value), id) })
	if !ok {
		return catalog.Entry[T]{}, false
	}
	return entries[i], true
}

func idOfKey(k quota.APIKey) string { return k.ID }

// apiKey is where the API's own key is, or why the caller can't change it; see kind.at.
func (s *server) apiKey(own *quota.Catalogue, of tenant.ID, id string) (int, error) {
	k, ok := byID(s.catalog.View().APIKeys, id, idOfKey)
	return index(slices.IndexFunc(own.APIKeys, func(k quota.APIKey) bool { return k.ID == id && k.Tenant == of }),
		ok && k.Value.Tenant == of, apiKeyName(of, id))
}

func index(i int, exists bool, name string) (int, error) {
	switch {
	case i >= 0:
		return i, nil
	case exists:
		return 0, about(codes.FailedPrecondition, "OWNED_BY_FILE", name, "comes from a file of the catalog folder; change it there")
	default:
		return 0, notFound(name)
	}
}

// fresh is nil if the caller saw the entry as it is, or didn't say what it saw.
func fresh(name, seen, is string) error {
	if seen == "" || seen == is {
		return nil
	}
	return about(codes.Aborted, "ETAG_MISMATCH", name, "changed since it was read; read it again")
}
