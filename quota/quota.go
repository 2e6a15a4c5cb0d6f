// Package quota is the catalogue's model: tenants on plans, plans made of limits,
// keys and issuers that speak for tenants, rules that say what these may; and its
// compilation into one immutable snapshot.
// It is pure: sources (files, API) are in quota/catalog, doors never see it whole.
//
// A look-up in a Snapshot costs a map access, or two for a credential, and allocates nothing. A change of a few entries
// costs what these entries do, however many there are; of a plan, a fraction of a microsecond for each tenant on it.
package quota

import (
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/tenant"
)

// Plan is what a tenant may use: every limit holds for each request.
type Plan struct {
	Name        string  `json:"name" yaml:"name"`
	DisplayName string  `json:"display_name,omitempty" yaml:"display_name,omitempty"`
	Limits      []Limit `json:"limits" yaml:"limits"`
}

// Limit is one limit as people write it.
type Limit struct {
	Name        string        `json:"name" yaml:"name"`
	Algorithm   string        `json:"algorithm" yaml:"algorithm"`                         // gcra (default), hard, fixed
	Limit       int64         `json:"limit" yaml:"limit"`                                 // hits per window; 0 denies
	Window      time.Duration `json:"window" yaml:"window"`                               // "1s", "10s", "1m", "24h"
	Burst       int64         `json:"burst,omitempty" yaml:"burst,omitempty"`             // gcra; default Limit
	Enforcement string        `json:"enforcement,omitempty" yaml:"enforcement,omitempty"` // enforce (default), shadow
	Durable     *bool         `json:"durable,omitempty" yaml:"durable,omitempty"`         // default: Window >= 1m
	// At is where on a request's way through the mesh the limit charges: edge (default)
	// is once, at the first door; service is there and again at each service behind it.
	At string `json:"at,omitempty" yaml:"at,omitempty"`
	// OnOutage is what holds while a store that replicas share does not answer: deny, allow, or local, this
	// replica's share of the limit. Default: deny if it is durable, else local.
	OnOutage string `json:"on_outage,omitempty" yaml:"on_outage,omitempty"`
}

// Tenant is a customer. Its principals and keys are the only way to be it.
type Tenant struct {
	ID          tenant.ID `json:"id" yaml:"id"`
	DisplayName string    `json:"display_name,omitempty" yaml:"display_name,omitempty"`
	Plan        string    `json:"plan" yaml:"plan"`
	Suspended   bool      `json:"suspended,omitempty" yaml:"suspended,omitempty"`
	Principals  []string  `json:"principals,omitempty" yaml:"principals,omitempty"` // SPIFFE ids
	Limits      []Limit   `json:"limits,omitempty" yaml:"limits,omitempty"`         // replace the plan's limits of the same name, or add
	// Authorization is enforce (default), or shadow: what rules refuse is recorded and let
	// pass, for a soft roll-out. Identity, suspension and limits hold all the same.
	Authorization string `json:"authorization,omitempty" yaml:"authorization,omitempty"`
}

// APIKey is a credential's public half. The secret itself is kept nowhere.
type APIKey struct {
	ID      string    `json:"id" yaml:"id"`
	Tenant  tenant.ID `json:"tenant" yaml:"tenant"`
	Digest  string    `json:"digest" yaml:"digest"` // hex HMAC-SHA-256 of the whole key under the pepper
	Expires time.Time `json:"expires,omitzero" yaml:"expires,omitempty"`
	Scopes  []string  `json:"scopes,omitempty" yaml:"scopes,omitempty"` // the roles of whoever shows the key
}

// Catalogue is everything that one source, or all of them merged, declares.
type Catalogue struct {
	Plans   []Plan         `json:"plans,omitempty" yaml:"plans,omitempty"`
	Tenants []Tenant       `json:"tenants,omitempty" yaml:"tenants,omitempty"`
	APIKeys []APIKey       `json:"api_keys,omitempty" yaml:"api_keys,omitempty"`
	Rules   []authz.Rule   `json:"rules,omitempty" yaml:"rules,omitempty"`
	Issuers []trust.Issuer `json:"issuers,omitempty" yaml:"issuers,omitempty"`
}
