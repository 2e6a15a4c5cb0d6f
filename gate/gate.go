// Package gate admits one request: it identifies the caller, finds the limits,
// charges them all or none, and says so in one Decision. It is protocol-free:
// a door decodes a request, calls Admit once and encodes the Decision.
//
// An admission with three limits costs a few hundred nanoseconds and allocates nothing.
package gate

import (
	"sync/atomic"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// Reason says why a decision is what it is. The zero value denies.
type Reason uint8

// The reasons. Only ReasonAdmitted comes with an allowed decision.
const (
	ReasonInternal        Reason = iota // zero value: something failed; 503
	ReasonAdmitted                      // 200
	ReasonUnauthenticated               // 401: no, several or unknown credentials
	ReasonSuspended                     // 403: the tenant is suspended
	ReasonForbidden                     // 403: known, but not here
	ReasonMalformed                     // 400: the request can't be read one way only
	ReasonOverLimit                     // 429
	ReasonUnavailable                   // 503: the store can't answer

	reasonCount = iota
)

var reasonNames = [reasonCount]string{
	"internal", "admitted", "unauthenticated", "suspended", "forbidden", "malformed", "over_limit", "unavailable",
}

// String is the reason's name in logs, metrics and answers.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Reasons lists every reason, for metrics.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// MaxLimits is the most limits that one request may meet.
const MaxLimits = 16

// Request is one request as a door understood it.
type Request struct {
	Credentials authz.Credentials
	Peer        string // the door's peer: who asks on the caller's behalf
	Stream      string // Envoy's per-stream id; never x-request-id, which a client can choose
	Malformed   string // why the door could not read the request one way only; "" if it could
}

// Decision is the answer to one Request. The zero value denies.
type Decision struct {
	allowed   bool
	Reason    Reason
	Detail    string   // one plain sentence for the caller; never a secret
	ID        [16]byte // MAC'd decision id
	Tenant    tenant.ID
	Plan      string
	Principal authz.Principal
	Revision  uint64 // of the snapshot that decided

	n        int
	charges  [MaxLimits]ratelimit.Charge
	outcomes [MaxLimits]ratelimit.Outcome
}

// Allowed reports whether the request may pass. Only Admit makes it true.
func (d *Decision) Allowed() bool { return d.allowed }

// Limits are the limits that the request met and what each said, in the
// catalogue's order; the slices are valid as long as d is.
func (d *Decision) Limits() ([]ratelimit.Charge, []ratelimit.Outcome) {
	return d.charges[:d.n], d.outcomes[:d.n]
}

// Authenticator turns credentials into the principal and the account that they prove.
type Authenticator interface {
	Identify(now int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error)
}

// Options are what a gate is made of; every field is required.
type Options struct {
	Snapshot      func() *quota.Snapshot
	Authenticator Authenticator
	Store         ratelimit.Store
	IDKey         [16]byte // MACs decision ids
}

// Gate admits requests. It is safe for concurrent use.
type Gate struct {
	o      Options
	ids    minter
	counts [reasonCount]atomic.Uint64
}

// New returns a gate.
func New(o Options) *Gate { return &Gate{o: o, ids: newMinter(o.IDKey)} }

// Admit decides r and writes the answer into d, whatever d held. now is Unix
// microseconds. It never fails: what it can't decide, it denies.
func (g *Gate) Admit(now int64, r *Request, d *Decision) {
	d.reset()
	d.ID = g.ids.mint(r.Peer)
	g.decide(now, r, d)
	g.counts[d.Reason].Add(1)
}

func (g *Gate) decide(now int64, r *Request, d *Decision) {
	if r.Malformed != "" {
		d.deny(ReasonMalformed, r.Malformed)
		return
	}
	snapshot := g.o.Snapshot()
	d.Revision = snapshot.Revision
	principal, account, err := g.o.Authenticator.Identify(now, snapshot, &r.Credentials)
	if err != nil {
		d.deny(ReasonUnauthenticated, err.Error())
		return
	}
	d.Principal, d.Tenant, d.Plan = principal, account.Tenant, account.Plan
	if account.Suspended {
		d.deny(ReasonSuspended, "the tenant is suspended")
		return
	}
	if len(account.Charges) > MaxLimits {
		d.deny(ReasonInternal, "the tenant has too many limits")
		return
	}
	d.n = copy(d.charges[:], account.Charges)
	admitted, err := g.o.Store.Charge(now, d.charges[:d.n], d.outcomes[:d.n])
	switch {
	case err != nil:
		d.n = 0
		d.deny(ReasonUnavailable, "usage can't be counted right now; try again")
	case !admitted:
		d.deny(ReasonOverLimit, "a limit of the plan is used up")
	default:
		d.allowed, d.Reason = true, ReasonAdmitted
	}
}

// Charge applies charges that no tenant stands behind, for doors whose
// protocol brings its own limits (RLS).
func (g *Gate) Charge(now int64, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	return g.o.Store.Charge(now, charges, outcomes)
}

// VerifyID parses the text of a decision id and reports whether this server
// gave it to that peer.
func (g *Gate) VerifyID(text, peer string) ([16]byte, bool) { return g.ids.verify(text, peer) }

// Count is how many decisions ended for a reason since New.
func (g *Gate) Count(r Reason) uint64 { return g.counts[r].Load() }

func (d *Decision) reset() {
	d.allowed, d.Reason, d.Detail = false, ReasonInternal, ""
	d.ID, d.Tenant, d.Plan, d.Principal, d.Revision, d.n = [16]byte{}, "", "", authz.Principal{}, 0, 0
}

func (d *Decision) deny(r Reason, detail string) { d.allowed, d.Reason, d.Detail = false, r, detail }
