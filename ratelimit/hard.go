package ratelimit

import "math"

// Hard keeps the hits of the trailing window in the order they came, in up to
// 120 segments. A segment holds a 120th of the limit, rounded up, and counts
// until a window after its last hit; the newest one may hold less. Stamps are
// whole ticks, rounded up: a tick is a 60,000th of the window.
//
// So no trailing window ever holds more than the limit, and what a caller
// loses to counting is, at any moment and however the hits are spread, less
// than a 120th of the limit, which is nothing for limits up to 120, and a tick.
// Sixty sub-windows of time, of the same size in memory, lose up to a twelfth
// of the limit in the worst window (docs/adr/0007).
//
// A block that is recorded ahead is stamped a 60th of the window ahead, and
// covers spending until then. A state whose stamps lie in the future is
// therefore one that was read back after a crash: its hits came before it.

const (
	segments    = 120
	windowTicks = 60_000 // a window and a 60th of one fit into the 16 bits of a stamp
	hardAhead   = 60
	// regrouped is more than two copies of a ring can differ by in Spent.
	regrouped = int64(1) << 33
)

// Ring holds the hits of a Hard limit. All numbers but Spent stay below 2^53.
type Ring struct {
	Tick  int64            // µs; 0 in a ring never used
	Last  int64            // stamp of the newest segment, in ticks since 1970
	Spent int64            // hits ever added, to compare copies; jumps when hits are regrouped
	Size  uint32           // hits in each segment but the newest
	Fill  uint32           // hits in the newest segment, 1 to Size
	First uint8            // index of the oldest segment
	Len   uint8            // segments in use
	Stamp [segments]uint16 // tick of each segment's last hit, modulo 2^16
}

// hardLimit is what 32 bits can hold.
func hardLimit(l *Limit) int64 { return min(l.Hits, math.MaxUint32) }

func hardSize(limit int64) int64 { return (limit + segments - 1) / segments }

func hardTick(l *Limit) int64 { return (window(l) + windowTicks - 1) / windowTicks }

// tickOf is at in ticks, rounded up. Division rounds up below 0 by itself.
func tickOf(at, tick int64) int64 {
	n := at / tick
	if n*tick < at {
		n++
	}
	return n
}

func timeOf(n, tick int64) int64 {
	if t := n * tick; n <= 0 || t > 0 {
		return t
	}
	return math.MaxInt64
}

func (r *Ring) index(i int) int {
	if i += int(r.First); i >= segments {
		i -= segments
	}
	return i
}

// stamp is that of segment i, counted from the oldest.
func (r *Ring) stamp(i int) int64 {
	return r.Last - int64(uint16(r.Last)-r.Stamp[r.index(i)])
}

// free is when the hits of segment i have left the window.
func (r *Ring) free(i int, window int64) int64 {
	return satAdd(timeOf(r.stamp(i), r.Tick), window)
}

// gone is how many segments have left the window at a time.
func (r *Ring) gone(at, window int64) (n int) {
	for n < int(r.Len) && r.free(n, window) <= at {
		n++
	}
	return n
}

// used is how many hits there are without the oldest n segments.
func (r *Ring) used(n int) int64 {
	if n >= int(r.Len) {
		return 0
	}
	return int64(r.Size)*(int64(r.Len)-1-int64(n)) + int64(r.Fill)
}

func (r *Ring) hits(i int) int64 {
	if i == int(r.Len)-1 {
		return int64(r.Fill)
	}
	return int64(r.Size)
}

func (r *Ring) drop(n int) {
	r.First = uint8(r.index(n))
	r.Len -= uint8(n)
}

// add counts hits that come at a tick, which is not before Last. There must be
// room for them.
func (r *Ring) add(hits, tick int64) {
	r.Last = tick
	r.Spent += hits
	stamp := uint16(tick)
	if r.Len > 0 && r.Fill < r.Size {
		n := min(hits, int64(r.Size-r.Fill))
		r.Fill += uint32(n)
		r.Stamp[r.index(int(r.Len)-1)] = stamp
		hits -= n
	}
	for hits > 0 {
		n := min(hits, int64(r.Size))
		r.Fill = uint32(n)
		r.Stamp[r.index(int(r.Len))] = stamp
		r.Len++
		hits -= n
	}
}

// past moves stamps of the future to that tick.
func (r *Ring) past(tick int64) {
	for i := int(r.Len) - 1; i >= 0 && r.stamp(i) > tick; i-- {
		r.Stamp[r.index(i)] = uint16(tick)
	}
	r.Last = min(r.Last, tick)
}

// regroup changes the size of ticks and segments. A hit is stamped like the
// last of its new segment, so never earlier; none came after at.
func (r *Ring) regroup(tick, size, at int64) {
	out := Ring{Tick: tick, Size: uint32(size)}
	latest := tickOf(at, tick)
	for i := range int(r.Len) {
		out.add(r.hits(i), min(tickOf(timeOf(r.stamp(i), r.Tick), tick), latest))
	}
	out.Spent = r.Spent + regrouped
	*r = out
}

// hardLive reports whether s counts anything at now, and the time that it is then.
func hardLive(s *State, now int64) (at int64, live bool) {
	if s.Expires <= now || s.Ring == nil || s.Ring.Len == 0 {
		return now, false
	}
	return max(now, s.At), true
}

func hardEvaluate(s *State, l *Limit, hits, now int64) Outcome {
	limit, window := hardLimit(l), window(l)
	hits = max(hits, 0)
	at, live := hardLive(s, now)
	r, gone, used := s.Ring, 0, int64(0)
	if live {
		gone = r.gone(at, window)
		used = r.used(gone)
	}
	if hits > 0 && hits <= limit-used {
		tick := hardTick(l)
		reset := satAdd(timeOf(tickOf(at, tick), tick), window)
		return Outcome{Remaining: limit - used - hits, ResetAfter: until(reset, now)}
	}
	o := Outcome{Remaining: max(limit-used, 0)}
	if used > 0 {
		o.ResetAfter = until(min(r.free(int(r.Len)-1, window), s.Expires), now)
	}
	switch {
	case hits == 0:
	case hits > limit:
		o.Over, o.RetryAfter = true, Never
	default:
		// All segments but the newest hold Size hits.
		n := (used + hits - limit + int64(r.Size) - 1) / int64(r.Size)
		last := int(min(int64(gone)+n, int64(r.Len))) - 1
		o.Over, o.RetryAfter = true, until(min(r.free(last, window), s.Expires), now)
	}
	return o
}

// hardForm is how l wants the ring: its tick, and how many hits to a segment.
// After a limit was lowered the segments stay large until what is used fits.
func hardForm(r *Ring, l *Limit, used int64) (tick, size int64) {
	tick, size = hardTick(l), hardSize(hardLimit(l))
	if used > size*segments {
		size = int64(r.Size)
	}
	return tick, size
}

// hardTurn brings s to now and into the form that l wants. It returns what
// time that is.
func hardTurn(s *State, l *Limit, now int64) (at int64) {
	r, window := s.Ring, window(l)
	at, live := hardLive(s, now)
	if live {
		r.drop(r.gone(at, window))
		if timeOf(r.Last-1, r.Tick) >= at {
			r.past(tickOf(at, r.Tick))
		}
	} else {
		r.drop(int(r.Len))
	}
	if tick, size := hardForm(r, l, r.used(0)); r.Tick != tick || int64(r.Size) != size {
		r.regroup(tick, size, at)
	}
	s.At, s.Level, s.Expires = at, r.used(0), 0
	if r.Len > 0 {
		s.Expires = r.free(int(r.Len)-1, window)
	}
	return at
}

// hardAdd counts hits at a time that s was turned to, or later.
func hardAdd(s *State, l *Limit, hits, at int64) {
	add := min(hits, hardLimit(l)-s.Level)
	if add <= 0 {
		return
	}
	s.Ring.add(add, tickOf(at, s.Ring.Tick))
	s.Level += add
	s.Expires = satAdd(timeOf(s.Ring.Last, s.Ring.Tick), window(l))
}

func hardApply(s *State, l *Limit, hits, now int64) {
	if hits > 0 && s.Ring != nil {
		hardAdd(s, l, hits, hardTurn(s, l, now))
	}
}

func hardReserve(recorded, s *State, l *Limit, hits, now int64) {
	ring := recorded.Ring
	if s.Ring == nil || ring == nil {
		return
	}
	at := hardTurn(s, l, now) // so that both count alike from here on
	*recorded, *ring = *s, *s.Ring
	recorded.Ring = ring
	hardAdd(recorded, l, hits, satAdd(at, window(l)/hardAhead))
}

// hardCovers compares two copies of one ring. What both held when the copy was
// made they hold alike. What came after has, in the record, its newest stamp.
func hardCovers(recorded, s *State, l *Limit, hits, now int64) bool {
	r, rec := s.Ring, recorded.Ring
	if r == nil || rec == nil {
		return false
	}
	at, live := hardLive(s, now)
	used := int64(0)
	if live {
		used = r.used(r.gone(at, window(l)))
	}
	tick, size := hardForm(r, l, used)
	if r.Tick != tick || rec.Tick != tick || int64(r.Size) != size {
		return false
	}
	next := tickOf(at, tick)
	return rec.Spent >= r.Spent+max(min(hits, hardLimit(l)-used), 0) &&
		rec.Last >= next && recorded.Expires >= satAdd(timeOf(next, tick), window(l))
}
