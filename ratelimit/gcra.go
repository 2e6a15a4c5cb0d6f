package ratelimit

import "math"

// GCRA, as a continuous leaky bucket: Level is the hits in the bucket in units
// of 1e-6, the rate drains it and Burst is its size. That is the generic cell
// rate algorithm (ITU-T I.371) turned round: the state is hits and not a
// theoretical arrival time, so a new rate or burst holds at once.
//
// Draining rounds down, so rounding never admits too much. It delays: by less
// than 1e-6 hits for each charge applied.

const (
	micro = 1_000_000
	// gcraSlack is what two roundings can differ by.
	gcraSlack = 1
)

func gcraRate(l *Limit) int64 { return min(l.Hits, MaxHits) * micro }

func gcraSize(l *Limit) int64 { return min(max(l.Burst, 0), MaxHits) * micro }

// gcraLevel is the level at now, and the time it is true for.
func gcraLevel(s *State, l *Limit, now int64) (level, at int64) {
	if s.Expires <= now {
		return 0, now
	}
	if now <= s.At {
		return s.Level, s.At
	}
	drained, _ := mulDiv(now-s.At, gcraRate(l), window(l))
	return max(s.Level-drained, 0), now
}

// gcraExpires is when a bucket with this level at that time is empty. What lies
// beyond the year 2112 is never: stores may count in doubles.
func gcraExpires(at, level int64, l *Limit) int64 {
	const latest = int64(1) << 52
	if t := satAdd(at, mulDivUp(level, window(l), gcraRate(l))); t < latest {
		return t
	}
	return math.MaxInt64
}

func gcraEvaluate(s *State, l *Limit, hits, now int64) Outcome {
	size := gcraSize(l)
	level, at := gcraLevel(s, l, now)
	hits = max(hits, 0)
	if hits > size/micro {
		o := gcraNow(s, l, level, now)
		o.Over, o.RetryAfter = true, Never
		return o
	}
	if hits == 0 {
		return gcraNow(s, l, level, now)
	}
	next := level + hits*micro
	if next <= size {
		return Outcome{Remaining: (size - next) / micro, ResetAfter: until(gcraExpires(at, next, l), now)}
	}
	o := gcraNow(s, l, level, now)
	o.Over = true
	// From the stored level, not from the drained one: that is what the next
	// evaluation starts from, so the answer is exact.
	fits := gcraExpires(s.At, s.Level+hits*micro-size, l)
	o.RetryAfter = until(min(fits, s.Expires), now)
	return o
}

// gcraNow is the outcome of nothing applied.
func gcraNow(s *State, l *Limit, level, now int64) Outcome {
	o := Outcome{Remaining: max(gcraSize(l)-level, 0) / micro}
	if level > 0 {
		o.ResetAfter = until(min(gcraExpires(s.At, s.Level, l), s.Expires), now)
	}
	return o
}

func gcraApply(s *State, l *Limit, hits, now int64) {
	if hits < 0 {
		return
	}
	level, at := gcraLevel(s, l, now)
	size := gcraSize(l)
	if hits > size/micro {
		level = max(level, size)
	} else {
		level = min(level+hits*micro, max(level, size))
	}
	s.Level, s.At = level, at
	s.Expires = gcraExpires(at, level, l)
}

func gcraCovers(recorded, s *State, l *Limit, hits, now int64) bool {
	size := gcraSize(l)
	have, _ := gcraLevel(recorded, l, now)
	level, at := gcraLevel(s, l, now)
	if at > now { // the clock went backwards: compare when it was furthest
		have, _ = gcraLevel(recorded, l, at)
	}
	next := max(level, size)
	if hits <= size/micro {
		next = min(level+hits*micro, next)
	}
	// A record made at a faster rate can be empty, and forgotten, too early.
	return have >= next+gcraSlack && recorded.Expires >= gcraExpires(at, next, l)
}
