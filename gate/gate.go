// Package gate admits one request: it identifies the caller, asks the rules,
// charges all limits or none, and says so in one Decision. It is protocol-free:
// a door decodes a request, calls Admit once and encodes the Decision.
//
// ALLOW is made in one place, after every stage has said that it passed; an error,
// a panic, a deadline or a stage that says nothing denies. In the soft stage of a roll-out the same
// place also lets pass what a stage found out and declined, and says so in the Decision.
//
// An admission with three limits costs a few hundred nanoseconds and allocates nothing.
package gate

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// Request is one request as a door understood it.
type Request struct {
	Credentials authz.Credentials
	Action      authz.Action
	Peer        string   // the door's peer: who asks on the caller's behalf
	Stream      string   // Envoy's per-stream id; never x-request-id, which a client can choose
	Holder      string   // SPIFFE id of the workload that gets the request; "" without mTLS
	Trace       [16]byte // of the door's span; zero for none
	Malformed   string   // why the door could not read the request one way only; "" if it could
}

// MaxLimits is the most limits that one request may meet.
const MaxLimits = 16

// Decision is the answer to one Request. The zero value denies.
type Decision struct {
	allowed   bool
	Reason    Reason
	Detail    string   // one plain sentence for the caller, or what the soft stage kept from him; never a secret
	ID        [16]byte // MAC'd decision id
	Edge      [16]byte // of the decision at the edge: ID, unless a tenant token says otherwise
	Tenant    tenant.ID
	Plan      string
	Principal authz.Principal
	Revision  uint64 // of the snapshot that decided
	Verdict   authz.Verdict
	Token     []byte // tenant token for the service; empty where nobody could hold it

	snapshot *quota.Snapshot
	account  *quota.Account
	shadowed Reason // what the soft stage overlooked first; ReasonInternal for nothing
	would    string // the Detail of that
	nobody   bool   // let pass by the soft stage without a proven caller: no tenant, no limits, no token
	inner    bool   // a hop behind the edge
	until    int64  // end of the tenant token that was shown, Unix µs; 0 for none

	n        int
	charges  [MaxLimits]ratelimit.Charge
	outcomes [MaxLimits]ratelimit.Outcome
	input    authz.Input // of the rules; here, because what they are asked about may not be on a stack
	entry    audit.Entry
}

// Allowed reports whether the request may pass. Only Admit makes it true.
func (d *Decision) Allowed() bool { return d.allowed }

// Forwardable reports whether the names in d can be told to a service as header
// values: there is a tenant, and none of them could start another header. What is admitted is. Without a tenant
// there is nothing to tell, which is so where the soft stage let a caller pass whom nothing proved.
func (d *Decision) Forwardable() bool {
	return (d.Tenant != "" || d.nobody) && visible(string(d.Tenant)) && visible(d.Principal.Name) && visible(d.Plan)
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Limits are the limits that the request met and what each said, in the
// catalogue's order; the slices are valid as long as d is.
func (d *Decision) Limits() ([]ratelimit.Charge, []ratelimit.Outcome) {
	return d.charges[:d.n], d.outcomes[:d.n]
}

// Degraded reports whether a limit was judged without the store that replicas share, as its on_outage says.
func (d *Decision) Degraded() bool {
	for i := range d.outcomes[:d.n] {
		if d.outcomes[i].Degraded {
			return true
		}
	}
	return false
}

// Authenticator turns credentials into the principal and the account that they prove.
type Authenticator interface {
	// Identify may wait, but not beyond ctx.
	Identify(ctx context.Context, now int64, s *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error)
	// Workload is the account of the workload behind the request, by its certificate or as a trusted proxy
	// names it; nil if it is no tenant's. An error where it can't be told.
	Workload(s *quota.Snapshot, c *authz.Credentials) (*quota.Account, error)
}

// Auditor records decisions. Record of a required entry returns when it is
// durable, or an error; Available says, for next to nothing, whether it could be.
type Auditor interface {
	Available() bool
	Record(e *audit.Entry) error
}

// Options are what a gate is made of. Snapshot, Authenticator, Store and IDKey are required.
type Options struct {
	Snapshot      func() *quota.Snapshot
	Authenticator Authenticator
	Store         ratelimit.Store
	Shared        bool          // Store is one that other replicas charge too
	IDKey         [16]byte      // MACs decision ids
	Tokens        *token.Tokens // nil: no tenant token is made, and none is accepted
	Audit         Auditor       // nil: nothing is recorded
	Log           *slog.Logger  // panics, and why usage can't be counted; default none
	// Edges are the peers at which requests may begin. The others must bring a tenant token: whoever
	// steals a service's key can't claim a caller. Nil: requests may begin at all of them.
	Edges []string
	// Soft is the stage of a roll-out in which nothing is protected: who the caller is, rules and limits are
	// found out and counted, and what they decline is admitted, and recorded as such. Whatever else denies, denies.
	Soft bool
	// Observe is told each decision once it is made, for figures, and keeps none: it is d's only while it runs. Nil: nobody is.
	Observe func(now int64, d *Decision)
}

// Gate admits requests. It is safe for concurrent use.
type Gate struct {
	o      Options
	ids    minter
	stages []stage
	counts [reasonCount]atomic.Uint64
	shadow atomic.Uint64
	soft   [reasonCount]atomic.Uint64
	panics atomic.Uint64

	nextUncounted atomic.Int64 // when one is logged again, Unix µs
}

// New returns a gate.
func New(o Options) *Gate {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Gate{o: o, ids: newMinter(o.IDKey), stages: stages[:]}
}

// Admit decides r and writes the answer into d, whatever d held. now is Unix
// microseconds. It never fails and never panics: what it can't decide, it denies. A ctx that
// has ended denies too: nobody waits for the answer.
func (g *Gate) Admit(ctx context.Context, now int64, r *Request, d *Decision) {
	d.reset()
	d.ID = g.ids.mint(r.Peer)
	d.Edge = d.ID
	if g.run(ctx, now, r, d) {
		d.allowed, d.Reason, d.Detail = true, ReasonAdmitted, d.would
	} else {
		d.allowed = false
	}
	if !g.record(now, r, d) {
		d.deny(ReasonUnavailable, "the decision can't be recorded right now; try again")
	}
	overlooked, soft := d.Shadowed()
	if soft {
		g.soft[overlooked].Add(1)
	}
	if soft || d.Verdict.ShadowRule != "" {
		g.shadow.Add(1)
	}
	g.counts[d.Reason].Add(1)
	g.observe(now, d)
	// A door may keep d for as long as a stream lasts: not the catalogue of now with it, nor the request.
	d.snapshot, d.account, d.input, d.entry = nil, nil, authz.Input{}, audit.Entry{}
}

// Refuse is what a door says where it can't ask: to a peer that may not, of what came out of order, after a panic of its own. d has
// the reason and the detail, and gets the rest; it never allows. It is counted, and recorded as the refusal of
// somebody who proved nothing, whatever Admit said of the request before: what became of that is this. It never panics.
func (g *Gate) Refuse(now int64, r *Request, d *Decision) {
	reason, detail := d.Reason, d.Detail
	if reason == ReasonAdmitted || int(reason) >= reasonCount {
		reason = ReasonInternal
	}
	d.reset()
	d.deny(reason, detail)
	defer func() {
		if recover() != nil {
			g.panicked()
		}
	}()
	d.ID = g.ids.mint(r.Peer)
	d.Edge, d.Revision = d.ID, g.o.Snapshot().Revision
	g.counts[reason].Add(1)
	g.record(now, r, d)
	g.observe(now, d)
	d.entry = audit.Entry{}
}

// observe changes no decision: what panics there is contained.
func (g *Gate) observe(now int64, d *Decision) {
	if g.o.Observe == nil {
		return
	}
	defer func() {
		if recover() != nil {
			g.panicked()
		}
	}()
	g.o.Observe(now, d)
}

// Charge applies charges that no tenant stands behind, for doors whose
// protocol brings its own limits (RLS).
func (g *Gate) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	return g.o.Store.Charge(op, charges, outcomes)
}

// VerifyID parses the text of a decision id and reports whether this server
// gave it to that peer.
func (g *Gate) VerifyID(text, peer string) ([16]byte, bool) { return g.ids.verify(text, peer) }

// Count is how many decisions ended for a reason since New.
func (g *Gate) Count(r Reason) uint64 { return g.counts[r].Load() }

// Shadowed is how many decisions would have been others with every rule, and the server, enforced.
func (g *Gate) Shadowed() uint64 { return g.shadow.Load() }

// panicked logs the 1st, 2nd, 4th, 8th … panic: a caller who found one can't fill
// the disk with it. What it panicked with may quote input, so only the place is logged.
func (g *Gate) panicked() {
	if n := g.panics.Add(1); n&(n-1) == 0 {
		g.o.Log.Error("gate: an admission panicked and was denied", "panics", n, "stack", string(debug.Stack()))
	}
}

// uncounted logs, once a minute, why usage can't be counted: the caller is told no reason.
func (g *Gate) uncounted(now int64, id tenant.ID, err error) {
	next := g.nextUncounted.Load()
	if now >= next && g.nextUncounted.CompareAndSwap(next, now+time.Minute.Microseconds()) {
		g.o.Log.Error("gate: usage can't be counted, and requests are refused for it", "tenant", id, "error", err, "total", g.Count(ReasonUnavailable))
	}
}

// Panics is how many admissions panicked, and were denied, since New.
func (g *Gate) Panics() uint64 { return g.panics.Load() }

func (d *Decision) reset() {
	d.allowed, d.Reason, d.Detail = false, ReasonInternal, ""
	d.ID, d.Edge, d.Tenant, d.Plan, d.Principal, d.Revision = [16]byte{}, [16]byte{}, "", "", authz.Principal{}, 0
	d.Verdict, d.Token, d.n = authz.Verdict{}, d.Token[:0], 0
	d.snapshot, d.account, d.inner, d.until = nil, nil, false, 0
	d.shadowed, d.would, d.nobody = ReasonInternal, "", false
}

// deny says why. It returns what a stage that denies returns.
func (d *Decision) deny(r Reason, detail string) verdict {
	d.allowed, d.Reason, d.Detail = false, r, detail
	return denied
}
