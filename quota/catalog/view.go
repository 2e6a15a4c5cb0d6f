package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/voicecore-ai/sluice/quota"
)

// Origin says who owns an entry.
type Origin string

// The origins.
const (
	FromFile Origin = "file" // read-only here: change the file
	FromAPI  Origin = "api"
)

// Source is where an entry comes from, and a fingerprint of what it says.
type Source struct {
	Origin Origin
	Path   string // of the file, relative to the folder; "" for the API
	ETag   string // hex digest of the content: equal entries have equal ones
}

// PlanEntry is a plan and its source.
type PlanEntry struct {
	quota.Plan
	Source
}

// TenantEntry is a tenant and its source.
type TenantEntry struct {
	quota.Tenant
	Source
}

// APIKeyEntry is an API key and its source.
type APIKeyEntry struct {
	quota.APIKey
	Source
}

// View is the merged catalogue, each list sorted by name or id. It is shared
// and must not be changed.
type View struct {
	Revision uint64
	Plans    []PlanEntry
	Tenants  []TenantEntry
	APIKeys  []APIKeyEntry
}

// ETag is the digest of a quota.Plan, quota.Tenant or quota.APIKey that View gives.
func ETag[T quota.Plan | quota.Tenant | quota.APIKey](entry T) string {
	content, err := json.Marshal(entry)
	if err != nil {
		panic(err) // plain structs of strings, numbers and checked times
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:12])
}

func (m *merged) view() View {
	v := View{
		Revision: m.revision,
		Plans:    make([]PlanEntry, len(m.all.Plans)),
		Tenants:  make([]TenantEntry, len(m.all.Tenants)),
		APIKeys:  make([]APIKeyEntry, len(m.all.APIKeys)),
	}
	for i, p := range m.all.Plans {
		v.Plans[i] = PlanEntry{p, m.source("plans", i, ETag(p))}
	}
	for i, t := range m.all.Tenants {
		v.Tenants[i] = TenantEntry{t, m.source("tenants", i, ETag(t))}
	}
	for i, k := range m.all.APIKeys {
		v.APIKeys[i] = APIKeyEntry{k, m.source("api_keys", i, ETag(k))}
	}
	slices.SortFunc(v.Plans, func(a, b PlanEntry) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(v.Tenants, func(a, b TenantEntry) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.APIKeys, func(a, b APIKeyEntry) int { return cmp.Compare(a.ID, b.ID) })
	return v
}
