package quota

import (
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// Snapshot is the compiled catalogue. It is immutable: a request loads it once.
type Snapshot struct {
	Revision uint64
	tenants  map[tenant.ID]*Account
	keys     map[[32]byte]Credential
	spiffe   map[string]*Account
}

// Account is a tenant ready to be charged.
type Account struct {
	Tenant    tenant.ID
	Plan      string
	Suspended bool
	// Charges are one hit on every limit of the tenant, cells included. The
	// slice is shared and read-only; copy it to change Hits.
	Charges []ratelimit.Charge
}

// Credential is an API key ready to be checked.
type Credential struct {
	ID      string
	Digest  [32]byte
	Expires time.Time // zero: never
	Account *Account
}
