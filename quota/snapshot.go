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
	tenants  map[tenant.ID]*Account
	keys     map[[32]byte]Credential
	digests  map[string][32]byte // of keys, by id
	spiffe   map[string]*Account

	rules   []authz.Rule // what Rules and Issuers were compiled from
	issuers []trust.Issuer
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
}

// Credential is an API key ready to be checked.
type Credential struct {
	ID      string
	Digest  [32]byte
	Voucher [16]byte  // of principals that show the key; of its digest, and so another's if the key is exchanged
	Expires time.Time // zero: never
	Scopes  []string  // become the principal's roles; shared and read-only
	Account *Account
}
