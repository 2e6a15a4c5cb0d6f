package outage

import (
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// shares is the room in which one call is judged by local limits.
type shares struct {
	limits   []ratelimit.Limit
	charges  []ratelimit.Charge
	outcomes []ratelimit.Outcome
	at       []int // which charges they are
}

// unknown is what can be said of a limit that is not counted now.
var unknown = ratelimit.Outcome{Remaining: -1, Degraded: true}

// absence is how the shared store came to say nothing of an operation.
type absence struct {
	seen    sight // whether it may have charged it all the same
	bounded bool  // requests can have brought it about: allow means local
}

// without answers while the shared store does not.
//
// A charge that is Shadowed refuses nothing, and what gives back asks for nothing: of those no OnOutage is asked.
// A look is answered as its limit would be: not at all for deny.
func (s *Store) without(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome, why absence) (bool, error) {
	policy := ratelimit.OutageAllow
	for i := range charges {
		c := &charges[i]
		switch {
		case c.Hits < 0:
		case s.counted(c, why.bounded):
			policy = ratelimit.OutageLocal
		case s.onOutage(c.Limit) == ratelimit.OutageAllow, c.Limit.Hits == ratelimit.Unlimited:
		case !c.Shadowed():
			s.degraded[ratelimit.OutageDeny].Add(1)
			return false, ErrUnavailable
		}
	}
	s.degraded[policy].Add(1)
	admitted := true
	for i := range charges {
		outcomes[i] = unknown
	}
	if policy == ratelimit.OutageLocal {
		var err error
		if admitted, err = s.share(op, charges, outcomes, why.bounded); err != nil {
			return false, err
		}
	}
	if admitted && changesAny(charges) {
		s.owed.add(op, charges, why.seen, time.Now().Add(-owedAge))
		s.trouble.begin(time.Now(), false)
	}
	return admitted, nil
}

// counted reports whether c is judged by a share. A limit of 0 is, whatever it says: that it admits nothing needs no store.
func (s *Store) counted(c *ratelimit.Charge, bounded bool) bool {
	on := s.onOutage(c.Limit)
	return c.Hits >= 0 && (on == ratelimit.OutageLocal || bounded && on == ratelimit.OutageAllow || c.Limit.Hits == 0)
}

// onOutage is the limit's word, or the server's for those that have none.
func (s *Store) onOutage(l *ratelimit.Limit) ratelimit.Outage {
	if s.o.OnOutage != nil && !l.OutageSaid {
		return *s.o.OnOutage
	}
	return l.OnOutage
}

// share charges this replica's share of the local limits, all or none. What gives back is not given
// back here: the share that it was taken from may be another's.
func (s *Store) share(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome, bounded bool) (bool, error) {
	b := s.scratch.Get().(*shares) //nolint:errcheck // the pool holds nothing else
	defer s.scratch.Put(b)
	b.limits, b.charges, b.at = b.limits[:0], b.charges[:0], b.at[:0]
	n := int64(max(s.o.Replicas(), 1))
	for i := range charges {
		c := charges[i]
		if !s.counted(&c, bounded) {
			continue
		}
		l := *c.Limit
		l.Hits, l.Burst, l.Durable = divide(l.Hits, n), divide(l.Burst, n), false
		b.limits, b.charges, b.at = append(b.limits, l), append(b.charges, c), append(b.at, i)
	}
	for i := range b.charges { // now that limits do not move any more
		b.charges[i].Limit = &b.limits[i]
	}
	if cap(b.outcomes) < len(b.charges) {
		b.outcomes = make([]ratelimit.Outcome, len(b.charges))
	}
	out := b.outcomes[:len(b.charges)]
	clear(out)
	admitted, err := s.local.Charge(ratelimit.Operation{Now: op.Now}, b.charges, out)
	for i, at := range b.at {
		outcomes[at] = out[i]
		outcomes[at].Degraded = true
	}
	return admitted, err
}

// divide rounds down, but no limit becomes 0 by it: that would be deny under another name.
func divide(hits, replicas int64) int64 {
	if hits <= 0 { // none, or unlimited
		return hits
	}
	return max(hits/replicas, 1)
}
