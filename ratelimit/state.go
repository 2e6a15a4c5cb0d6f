package ratelimit

import (
	"math"
	"math/bits"
)

// State is what a limit remembers about one cell. The zero value is a cell
// that was never charged, and so is every state with Expires <= now: a store
// may forget it without giving anything away. Times are Unix microseconds.
type State struct {
	Expires int64 // from then on equal to the zero State
	At      int64 // of the last charge; never goes back
	Level   int64 // GCRA: hits in the bucket × 1e6; Hard: hits in the ring; Fixed: hits in the window
	Ring    *Ring // Hard only; a store that applies Hard charges must supply it
}

// Evaluate says what l says to hits at now, without charging them. Remaining
// and ResetAfter are those after the charge, or those of now if it is Over.
//
// Hits of 0 are never Over. Negative hits give back for Fixed and count as 0
// elsewhere. A limit of 0 is Over for every hit, with RetryAfter Never, as are
// hits above what the limit ever holds. A clock that went backwards stands still.
func Evaluate(s *State, l *Limit, hits, now int64) Outcome {
	switch {
	case l.Hits == Unlimited:
		return Outcome{Remaining: MaxHits}
	case l.Hits <= 0:
		return overZero(hits)
	}
	switch l.Algorithm {
	case GCRA:
		return gcraEvaluate(s, l, hits, now)
	case Hard:
		return hardEvaluate(s, l, hits, now)
	case Fixed:
		return fixedEvaluate(s, l, hits, now)
	}
	return overZero(hits) // not an algorithm: deny
}

// Apply charges hits to s, whether Evaluate found them Over or not. What does
// not fit is counted up to the brim and no further: after hits that were Over,
// which only a Shadowed charge applies, the cell is exactly full.
func Apply(s *State, l *Limit, hits, now int64) {
	if l.Hits <= 0 || hits == 0 {
		return
	}
	switch l.Algorithm {
	case GCRA:
		gcraApply(s, l, hits, now)
	case Hard:
		hardApply(s, l, hits, now)
	case Fixed:
		fixedApply(s, l, hits, now)
	}
}

// Covers reports whether recorded counts at least what s would count after
// hits were applied at now, from now on and for ever: whoever falls back from
// s to recorded gives nothing away.
func Covers(recorded, s *State, l *Limit, hits, now int64) bool {
	if l.Hits <= 0 || hits <= 0 {
		return true
	}
	switch l.Algorithm {
	case GCRA:
		return gcraCovers(recorded, s, l, hits, now)
	case Hard:
		return hardCovers(recorded, s, l, hits, now)
	case Fixed:
		return fixedCovers(recorded, s, l, hits, now)
	}
	return true
}

// Reserve makes recorded the state that s becomes when hits are applied at
// now, rounded so that it Covers every way to spend them one by one: over
// time for GCRA, within the window for Fixed, within a 60th of the window for
// Hard. For Hard both need a Ring, and not the same one, and s is brought to
// now and into the form that l wants; that gives nothing away.
func Reserve(recorded, s *State, l *Limit, hits, now int64) {
	if l.Algorithm == Hard {
		hardReserve(recorded, s, l, hits, now)
		return
	}
	*recorded = *s
	Apply(recorded, l, hits, now)
	switch l.Algorithm {
	case GCRA:
		recorded.Level = satAdd(recorded.Level, gcraSlack)
		recorded.Expires = gcraExpires(recorded.At, recorded.Level, l)
	case Fixed:
		recorded.At = recorded.Expires - 1
	}
}

func overZero(hits int64) Outcome {
	if hits <= 0 {
		return Outcome{}
	}
	return Outcome{Over: true, RetryAfter: Never}
}

func window(l *Limit) int64 { return max(l.Window.Microseconds(), 1) }

func satAdd(a, b int64) int64 {
	if sum := a + b; a < 0 || b < 0 || sum >= 0 {
		return sum
	}
	return math.MaxInt64
}

// until is the time from now to t, at most Never.
func until(t, now int64) int64 {
	if now < 0 && t > math.MaxInt64+now {
		return Never
	}
	return min(t-now, Never)
}

// mulDiv is a·b/c rounded down, and whether that was exact; all are at least
// 0 and c at least 1. What does not fit saturates.
func mulDiv(a, b, c int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return math.MaxInt64, true
	}
	q, r := bits.Div64(hi, lo, uint64(c))
	if q > math.MaxInt64 {
		return math.MaxInt64, true
	}
	return int64(q), r == 0
}

func mulDivUp(a, b, c int64) int64 {
	q, exact := mulDiv(a, b, c)
	if !exact {
		q = satAdd(q, 1)
	}
	return q
}
