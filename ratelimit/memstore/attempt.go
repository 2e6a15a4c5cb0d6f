package memstore

import (
	"math"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// slot is one charge on its way. It lives on the stack, or in a
// shard's scratch space if a request has many.
type slot struct {
	sh      *shard
	key     key
	at      int64 // now, or the latest time that the shard has seen
	light   *lightCell
	heavy   *heavyCell
	state   ratelimit.State // of light, or of a cell that is not there yet
	pending int64           // hits of earlier charges on the same cell
	durable bool            // has to be recorded before it is spent
}

// needsState reports whether applying c changes anything.
func needsState(c *ratelimit.Charge) bool {
	return c.Limit.Hits > 0 && (c.Hits > 0 || c.Hits < 0 && c.Limit.Algorithm == ratelimit.Fixed)
}

func (s *Store) durable(c *ratelimit.Charge) bool {
	return s.journal != nil && c.Limit.Durable && !c.Shadowed() && c.Limit.Hits > 0
}

// attempt judges the charges and, if all fit, applies them. With rec it is a
// look of somebody who holds the recording locks.
func (s *Store) attempt(now int64, set *shardSet, charges []ratelimit.Charge, outcomes []ratelimit.Outcome, rec *recording) verdict {
	first := s.lock(set)
	defer s.unlock(set)
	if rec != nil {
		rec.commit()
	}
	var few [4]slot // the stack is in the cache, the shard's scratch space is not
	slots := few[:min(len(charges), len(few))]
	if len(charges) > len(few) {
		if cap(first.scratch) < len(charges) {
			first.scratch = make([]slot, len(charges))
		}
		slots = first.scratch[:len(charges)]
	}
	touched := uint64(0)
	for i := range charges {
		touched += s.reserve(&charges[i], len(charges))
	}
	first.touched = touched
	fits, skewed := true, false
	for i := range charges {
		c, sl := &charges[i], &slots[i]
		s.locate(sl, c, now)
		skewed = skewed || sl.at != now
		for j := range i {
			if slots[j].key == sl.key && slots[j].sh == sl.sh {
				sl.pending = addHits(sl.pending, charges[j].Hits)
			}
		}
		hits := c.Hits
		if hits > 0 {
			hits = addHits(sl.pending, hits)
		}
		outcomes[i] = ratelimit.Evaluate(sl.current(), c.Limit, hits, sl.at)
		fits = fits && (!outcomes[i].Over || c.Shadowed())
	}
	result, created := refused, 0
	if fits {
		result, created = s.settle(slots, charges, rec)
	}
	report(slots, charges, outcomes, result == admitted)
	if skewed {
		skew(slots, outcomes, now)
	}
	if created > 0 { // last, since it moves cells
		for i := range slots {
			slots[i].sh.sweep(s, sweepPerInsert)
		}
	}
	return result
}

// addHits adds hits above 0. Hits given back in the same request don't count.
func addHits(pending, hits int64) int64 {
	if hits <= 0 {
		return pending
	}
	if pending > math.MaxInt64-hits {
		return math.MaxInt64
	}
	return pending + hits
}

// reserve makes room before anything is located, so that no insert moves a
// cell. It reads where the cell should be: the reads of all charges miss the
// cache together, where those of locate would miss one after the other.
func (s *Store) reserve(c *ratelimit.Charge, n int) uint64 {
	sh := &s.shards[shardOf(&c.Cell)]
	if c.Limit.Algorithm == ratelimit.Hard || s.durable(c) {
		sh.heavy.reserve(n)
		return 0
	}
	sh.light.reserve(n)
	return sh.light.touch(keyOf(&c.Cell, c.Limit.Algorithm))
}

// locate finds the cell of c. A limit that became durable, or stopped being
// it, keeps its usage: each table is the fallback of the other.
func (s *Store) locate(sl *slot, c *ratelimit.Charge, now int64) {
	sh := &s.shards[shardOf(&c.Cell)]
	sh.now = max(sh.now, now)
	sl.sh, sl.at, sl.pending = sh, sh.now, 0
	sl.key = keyOf(&c.Cell, c.Limit.Algorithm)
	sl.light, sl.heavy = nil, nil
	sl.durable = s.durable(c)
	sl.state = ratelimit.State{}
	if c.Limit.Hits <= 0 {
		return
	}
	if sl.durable || c.Limit.Algorithm == ratelimit.Hard {
		if cell := sh.heavy.find(sl.key); cell != nil {
			sl.heavy = *cell
			return
		}
	}
	if c.Limit.Algorithm != ratelimit.Hard {
		if sl.light = sh.light.find(sl.key); sl.light != nil {
			sl.state = ratelimit.State{Expires: sl.light.expires, At: sl.light.at, Level: sl.light.level}
		}
		if s.journal != nil && !sl.durable && sl.state.Expires <= sl.at {
			if cell := sh.heavy.find(sl.key); cell != nil {
				sl.heavy, sl.light = *cell, nil
				return
			}
		}
	}
	if sl.durable && sl.light == nil && s.damaged != 0 {
		sl.state = usedUp(c.Limit, s.damaged)
	}
}

// usedUp is the state of a limit that was used up at that time.
func usedUp(l *ratelimit.Limit, at int64) (state ratelimit.State) {
	if l.Algorithm == ratelimit.Hard {
		state.Ring = new(ratelimit.Ring)
	}
	ratelimit.Apply(&state, l, ratelimit.MaxHits, at)
	return state
}

func (sl *slot) current() *ratelimit.State {
	if sl.heavy != nil {
		return &sl.heavy.state
	}
	return &sl.state
}

// covered reports whether the journal already holds what c would make of the cell.
func (sl *slot) covered(c *ratelimit.Charge) bool {
	if !sl.durable || c.Hits <= 0 {
		return true
	}
	return sl.heavy != nil && !sl.sh.sealed &&
		ratelimit.Covers(&sl.heavy.recorded, &sl.heavy.state, c.Limit, addHits(sl.pending, c.Hits), sl.at)
}

// creates reports whether c needs a cell that is not there.
func (sl *slot) creates(c *ratelimit.Charge) bool {
	return sl.heavy == nil && (sl.light == nil || sl.durable) && needsState(c)
}

// settle applies charges that all fit, or says what is in the way. It also
// returns how many cells that created.
func (s *Store) settle(slots []slot, charges []ratelimit.Charge, rec *recording) (verdict, int) {
	missing, covered := 0, true
	for i := range slots {
		if slots[i].creates(&charges[i]) {
			missing++ // a cell met twice counts twice, for a moment
		}
		covered = covered && slots[i].covered(&charges[i])
	}
	if !covered && rec == nil {
		return uncovered, 0
	}
	if missing > 0 && !s.claim(missing) {
		return full, 0
	}
	result, created := admitted, 0
	if !covered {
		result, created = uncovered, rec.prepare(slots, charges)
	} else {
		for i := range slots {
			if needsState(&charges[i]) {
				created += s.apply(&slots[i], &charges[i])
			}
		}
	}
	s.cells.Add(int64(created - missing))
	return result, created
}

// claim takes n cells out of MaxCells.
func (s *Store) claim(n int) bool {
	if s.cells.Add(int64(n)) <= s.maxCells {
		return true
	}
	s.cells.Add(int64(-n))
	return false
}

// apply charges one cell and returns how many cells that created.
func (s *Store) apply(sl *slot, c *ratelimit.Charge) (created int) {
	if sl.heavy == nil && (sl.durable || c.Limit.Algorithm == ratelimit.Hard) {
		created = sl.create(c)
	}
	if sl.heavy != nil {
		ratelimit.Apply(&sl.heavy.state, c.Limit, c.Hits, sl.at)
		return created
	}
	if sl.light == nil {
		if sl.light = sl.sh.light.find(sl.key); sl.light == nil {
			sl.light, created = sl.sh.light.insert(sl.key), 1
		}
	}
	// The slot's copy is stale if the request has charged the cell before.
	state := ratelimit.State{Expires: sl.light.expires, At: sl.light.at, Level: sl.light.level}
	ratelimit.Apply(&state, c.Limit, c.Hits, sl.at)
	*sl.light = lightCell{expires: state.Expires, at: state.At, level: state.Level}
	return created
}

// create makes the heavy cell of a slot, unless an earlier charge of the
// request just did, and returns how many it made.
func (sl *slot) create(c *ratelimit.Charge) int {
	if cell := sl.sh.heavy.find(sl.key); cell != nil {
		sl.heavy = *cell
		return 0
	}
	sl.heavy = &heavyCell{state: sl.state, shard: c.Cell.Shard, alg: c.Limit.Algorithm}
	if c.Limit.Algorithm == ratelimit.Hard && sl.heavy.state.Ring == nil {
		sl.heavy.state.Ring = new(ratelimit.Ring)
	}
	if sl.light != nil { // moved: the old cell is empty now and will be swept
		*sl.light = lightCell{}
		sl.light = nil
	}
	*sl.sh.heavy.insert(sl.key) = sl.heavy
	return 1
}

// report corrects outcomes that were judged for a charge that came out otherwise.
func report(slots []slot, charges []ratelimit.Charge, outcomes []ratelimit.Outcome, applied bool) {
	for i := range slots {
		if outcomes[i].Over == applied {
			o := &outcomes[i]
			over, retry := o.Over, o.RetryAfter
			sl := &slots[i]
			state := sl.current()
			if sl.heavy == nil && sl.light != nil {
				sl.state = ratelimit.State{Expires: sl.light.expires, At: sl.light.at, Level: sl.light.level}
			}
			*o = ratelimit.Evaluate(state, charges[i].Limit, 0, sl.at)
			o.Over, o.RetryAfter = over, retry
		}
	}
}

// skew turns times from the shard's latest time into times from now.
func skew(slots []slot, outcomes []ratelimit.Outcome, now int64) {
	for i := range slots {
		behind := slots[i].at - now
		if r := &outcomes[i].RetryAfter; *r > 0 && *r < ratelimit.Never {
			*r = min(*r+behind, ratelimit.Never)
		}
		if r := &outcomes[i].ResetAfter; *r > 0 {
			*r = min(*r+behind, ratelimit.Never)
		}
	}
}
