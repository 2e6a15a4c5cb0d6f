// Package traffic counts decisions by tenant and by limit, of plans and of descriptor files, for Prometheus: what was allowed as well as what
// was refused, and what is configured beside it. The number of series is bounded whatever the catalogue holds
// and callers send: the tenants that ask most have their own, the others share one.
//
// It is no ledger: a tenant that leaves the ranking takes its counts with it. What was used is the quota API's to say.
//
// A decision costs about a tenth of a microsecond, takes no lock that it would wait for, and allocates nothing
// but where a tenant or a limit gets series of its own.
package traffic

import (
	"hash/maphash"
	"iter"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/tenant"
)

// MaxTenants bounds Options.Tenants: each of them has a series for each of at most 16 limits.
const MaxTenants = 100

// Labels of what has no series of its own. No tenant has such an id, and no plan such a name.
const (
	others = "_others" // beyond the bound
	nobody = "_none"   // requests whose tenant nothing proves
)

// Options say what is counted.
type Options struct {
	Tenants int // most tenants with series of their own, at most MaxTenants
	// Limits are the limits of plans, with the plan's name, in a set that Revision names; they may come in any order.
	Limits   func() iter.Seq2[string, *ratelimit.Limit]
	Revision func() uint64
	Now      func() time.Time
}

// Traffic counts decisions. It is safe for concurrent use, and a prometheus.Collector.
type Traffic struct {
	o Options

	top         atomic.Pointer[map[tenant.ID]*account] // never changed, only replaced
	none, crowd striped
	limits      table
	sketch      sketch

	mu         sync.Mutex // of what follows, and of who replaces the maps
	configured []configured
	revision   uint64
	read       bool
}

// account is a tenant with series of its own.
type account struct {
	id       tenant.ID
	requests striped
	left     [gate.MaxLimits]left
	score    uint64 // fading hits; of Traffic.mu
	counted  uint64 // hits that are in score; of Traffic.mu
}

// left is what a tenant had left of a limit when it last asked.
type left struct {
	limit      atomic.Pointer[ratelimit.Limit]
	hundredths atomic.Int64
	until      atomic.Int64 // Unix µs; then the limit is whole again
}

// Outcomes of a request, as indexes of striped.
const (
	allowed = iota
	overLimit
	denied
	failed
)

var requestOutcomes = [...]string{"allowed", "over_limit", "denied", "failed"}

// stripes is how many places one count is spread over, so that cores seldom write to the same.
const stripes = 8

type striped [stripes]struct {
	n [4]atomic.Uint64
	_ [32]byte // the rest of a cache line
}

func (s *striped) add(stripe, outcome int) { s[stripe].n[outcome].Add(1) }

func (s *striped) sum(outcome int) (n uint64) {
	for i := range s {
		n += s[i].n[outcome].Load()
	}
	return n
}

// New returns an empty one.
func New(o Options) *Traffic {
	t := &Traffic{o: o, sketch: sketch{seed: maphash.MakeSeed()}}
	t.top.Store(&map[tenant.ID]*account{})
	return t
}

// Observe counts d, which was made at now, Unix microseconds. It keeps nothing of d but the names.
func (t *Traffic) Observe(now int64, d *gate.Decision) {
	stripe := int(d.ID[len(d.ID)-1]) % stripes // of a MAC: even
	a := t.count(stripe, d)
	charges, outcomes := d.Limits()
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if a != nil && i < len(a.left) {
			a.left[i].see(now, c.Limit, o)
		}
		switch {
		case d.Allowed() && o.Over:
			t.limits.at(limitKey{d.Plan, c.Limit.Name}).add(stripe, shadowed)
		case d.Allowed():
			t.limits.at(limitKey{d.Plan, c.Limit.Name}).add(stripe, covered)
		case d.Reason == gate.ReasonOverLimit && o.Over && !c.Shadowed():
			t.limits.at(limitKey{d.Plan, c.Limit.Name}).add(stripe, refused)
		}
	}
}

// count counts d for its tenant, which it returns if it has series of its own.
func (t *Traffic) count(stripe int, d *gate.Decision) *account {
	outcome := denied
	switch d.Reason {
	case gate.ReasonAdmitted:
		outcome = allowed
	case gate.ReasonOverLimit:
		outcome = overLimit
	case gate.ReasonInternal, gate.ReasonUnavailable:
		outcome = failed
	}
	if d.Tenant == "" {
		t.none.add(stripe, outcome)
		return nil
	}
	top := *t.top.Load()
	a := top[d.Tenant]
	if a == nil && len(top) < t.o.Tenants {
		a = t.join(d.Tenant)
	}
	if a == nil {
		t.crowd.add(stripe, outcome)
		t.sketch.add(d.Tenant)
		return nil
	}
	a.requests.add(stripe, outcome)
	return a
}

// join gives a tenant series of its own while there is room.
func (t *Traffic) join(id tenant.ID) *account {
	t.mu.Lock()
	defer t.mu.Unlock()
	top := *t.top.Load()
	if a := top[id]; a != nil || len(top) >= t.o.Tenants {
		return a
	}
	top = maps.Clone(top)
	a := &account{id: tenant.ID(strings.Clone(string(id)))}
	top[a.id] = a
	t.top.Store(&top)
	return a
}

// whole is what a limit has when nothing is used; 0 if that is not a number to divide by.
func whole(l *ratelimit.Limit) int64 {
	if l.Algorithm == ratelimit.GCRA && l.Hits > 0 {
		return l.Burst
	}
	return max(l.Hits, 0)
}

// see notes what a decision said of a limit. It writes only what has changed, for many cores may read it.
func (s *left) see(now int64, l *ratelimit.Limit, o *ratelimit.Outcome) {
	if o.Remaining < 0 { // nobody knows
		return
	}
	share := int64(0)
	if of := whole(l); of > 0 {
		share = min(o.Remaining, of) * 100 / of
	}
	if s.limit.Load() != l {
		s.limit.Store(l)
	} else if s.hundredths.Load() == share && s.until.Load() >= now+o.ResetAfter/2 {
		return
	}
	s.hundredths.Store(share)
	s.until.Store(now + o.ResetAfter)
}
