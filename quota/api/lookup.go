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
func byID[Entry any](entries []Entry, id string, of func(Entry) string) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(entries, id, func(e Entry, id string) int { return strings.Compare(of(e), id) })
	if !ok {
		var none Entry
		return none, false
	}
	return entries[i], true
}

func idOfPlan(p catalog.PlanEntry) string     { return p.Name }
func idOfTenant(t catalog.TenantEntry) string { return string(t.ID) }
func idOfKey(k catalog.APIKeyEntry) string    { return k.ID }

// The three below say where the API's own entry is, or why the caller can't
// change it. Updates run one at a time and a file's reload is one, so inside of
// Update the view is what own is merged with.

func (s *server) plan(own *quota.Catalogue, id string) (int, error) {
	_, ok := byID(s.catalog.View().Plans, id, idOfPlan)
	return index(slices.IndexFunc(own.Plans, func(p quota.Plan) bool { return p.Name == id }), ok, planName(id))
}

func (s *server) tenant(own *quota.Catalogue, id tenant.ID) (int, error) {
	_, ok := byID(s.catalog.View().Tenants, string(id), idOfTenant)
	return index(slices.IndexFunc(own.Tenants, func(t quota.Tenant) bool { return t.ID == id }), ok, tenantName(id))
}

func (s *server) apiKey(own *quota.Catalogue, of tenant.ID, id string) (int, error) {
	k, ok := byID(s.catalog.View().APIKeys, id, idOfKey)
	return index(slices.IndexFunc(own.APIKeys, func(k quota.APIKey) bool { return k.ID == id && k.Tenant == of }),
		ok && k.Tenant == of, apiKeyName(of, id))
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
