package quota

import (
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// Snapshot is the compiled catalogue. It is immutable: a request loads it once.
type Snapshot struct {
	Revision uint64
	Rules    *authz.Rules   // never nil; without rules it denies everything
	Issuers  *trust.Issuers // never nil

	// Keys and principals name their tenant, so that a tenant can change without them.
	plans   shards[string, []limit]
	tenants shards[tenant.ID, *Account]
	keys    shards[[32]byte, Credential]
	digests shards[string, [32]byte] // of keys, by id
	spiffe  shards[string, tenant.ID]

	rules   []authz.Rule // what Rules and Issuers were compiled from
	issuers []trust.Issuer
	cellKey [16]byte
}

// Account is a tenant ready to be charged.
type Account struct {
	Tenant    tenant.ID
	Plan      string
	Suspended bool
	Shadow    bool // what rules refuse is recorded, not enforced
	// Charges are one hit on every limit of the tenant, cells included. The
	// slice is shared and read-only; copy it to change Hits.
	Charges []ratelimit.Charge
	// Inner are those of Charges that hold at an inner hop too: limits with "at: service".
	Inner []ratelimit.Charge

	own        []limit // those of the tenant itself
	principals []string
}

// Credential is an API key ready to be checked.
type Credential struct {
	ID      string
	Digest  [32]byte
	Voucher [16]byte  // of principals that show the key; of its digest, and so another's if the key is exchanged
	Expires time.Time // zero: never
	Scopes  []string  // become the principal's roles; shared and read-only
	Account *Account

	tenant tenant.ID
}
