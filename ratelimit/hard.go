package ratelimit

import "math"

// Hard counts hits in sub-windows of a sixtieth of the window and admits what
// the limit leaves over the current one and the sixty before it. The oldest is
// counted whole, so no trailing window ever holds more than the limit. The
// price is up to a sub-window of delay before a hit is free again: under a
// steady overload 60/61 of the limit is used.

// hardLimit is what a counter of 32 bits can hold.
func hardLimit(l *Limit) int64 { return min(l.Hits, math.MaxUint32) }

func hardWidth(l *Limit) int64 { return (window(l) + ringSize - 2) / (ringSize - 1) }

func slot(sub int64) int64 {
	i := sub % ringSize
	if i < 0 {
		i += ringSize
	}
	return i
}

// hardSub is the sub-window of a time, rounding down before 1970 too.
func hardSub(at, width int64) int64 {
	sub := at / width
	if at%width < 0 {
		sub--
	}
	return sub
}

// hardExpires is when the hits of a sub-window have left every trailing window.
func hardExpires(sub, width int64) int64 { return satAdd(sub, ringSize) * width }

// reshape turns the ring into one of another width. Each hit moves to the
// sub-window of the latest time at which it can have happened.
func (r *Ring) reshape(width, at int64) Ring {
	out := Ring{Width: width, Sub: hardSub(at, width)}
	for sub := r.Sub - ringSize + 1; sub <= r.Sub; sub++ {
		n := r.Count[slot(sub)]
		if n == 0 {
			continue
		}
		last := min((sub+1)*r.Width-1, at)
		to := hardSub(last, width)
		if to <= out.Sub-ringSize {
			continue
		}
		c := &out.Count[slot(to)]
		*c = uint32(min(uint64(*c)+uint64(n), math.MaxUint32))
	}
	return out
}

// hardUsed is what counts at now: hits in the ring as it would be turned to
// sub-window cur. The ring must have the limit's width.
func hardUsed(r *Ring, level, cur int64) int64 {
	if cur-r.Sub >= ringSize {
		return 0
	}
	for sub := r.Sub + 1; sub <= cur; sub++ {
		level -= int64(r.Count[slot(sub)])
	}
	return max(level, 0)
}

func (r *Ring) sum() (total int64) {
	for _, n := range r.Count {
		total += int64(n)
	}
	return total
}

// hardView is the ring to judge by and its total; spare is used if the window
// has changed.
func hardView(s *State, l *Limit, spare *Ring) (*Ring, int64) {
	width := hardWidth(l)
	if s.Ring.Width == width {
		return s.Ring, s.Level
	}
	*spare = s.Ring.reshape(width, s.At)
	return spare, spare.sum()
}

func hardEvaluate(s *State, l *Limit, hits, now int64) Outcome {
	limit, width := hardLimit(l), hardWidth(l)
	hits = max(hits, 0)
	empty := s.Expires <= now || s.Ring == nil || s.Ring.Width == 0
	at := now
	var spare Ring
	var r *Ring
	var used int64
	if !empty {
		at = max(now, s.At)
		var level int64
		r, level = hardView(s, l, &spare)
		used = hardUsed(r, level, hardSub(at, width))
	}
	cur := hardSub(at, width)
	o := Outcome{Remaining: max(limit-used, 0)}
	if used > 0 {
		o.ResetAfter = max(until(hardLast(r, cur), now), 0)
	}
	switch {
	case hits == 0:
	case hits > limit:
		o.Over, o.RetryAfter = true, Never
	case used+hits > limit:
		o.Over, o.RetryAfter = true, until(min(hardFits(r, cur, used+hits-limit), s.Expires), now)
	default:
		o.Remaining = limit - used - hits
		o.ResetAfter = until(hardExpires(cur, width), now)
	}
	return o
}

// hardLast is when the newest hit counted at cur is free.
func hardLast(r *Ring, cur int64) int64 {
	for sub := min(cur, r.Sub); sub > cur-ringSize && sub > r.Sub-ringSize; sub-- {
		if r.Count[slot(sub)] > 0 {
			return hardExpires(sub, r.Width)
		}
	}
	return 0
}

// hardFits is when need hits of those counted at cur are free.
func hardFits(r *Ring, cur, need int64) int64 {
	for sub := max(cur, r.Sub) - ringSize + 1; sub <= r.Sub; sub++ {
		if need -= int64(r.Count[slot(sub)]); need <= 0 {
			return hardExpires(sub, r.Width)
		}
	}
	return hardExpires(cur, r.Width)
}

func hardApply(s *State, l *Limit, hits, now int64) {
	r := s.Ring
	if hits < 0 || r == nil {
		return
	}
	limit, width := hardLimit(l), hardWidth(l)
	at := now
	switch {
	case s.Expires <= now || r.Width == 0:
		*r = Ring{Width: width, Sub: hardSub(now, width)}
		s.Level = 0
	default:
		at = max(now, s.At)
		if r.Width != width {
			*r = r.reshape(width, s.At)
			s.Level = r.sum()
		}
	}
	cur := hardSub(at, width)
	s.Level = hardUsed(r, s.Level, cur)
	if cur-r.Sub >= ringSize {
		r.Count = [ringSize]uint32{}
	} else {
		for sub := r.Sub + 1; sub <= cur; sub++ {
			r.Count[slot(sub)] = 0
		}
	}
	r.Sub = cur
	add := max(min(hits, limit-s.Level), 0)
	r.Count[slot(cur)] += uint32(add)
	s.Level += add
	s.At = at
	if add > 0 {
		s.Expires = hardExpires(cur, width)
	} else {
		s.Expires = max(hardLast(r, cur), 0)
	}
}

func hardCovers(recorded, s *State, l *Limit, hits, now int64) bool {
	limit, width := hardLimit(l), hardWidth(l)
	at := now
	var used, here int64
	var spare Ring
	rec := recorded.Ring
	if recorded.Expires <= now || rec == nil || rec.Width != width {
		return false
	}
	if r := s.Ring; s.Expires > now && r != nil && r.Width != 0 {
		at = max(now, s.At)
		reshaped := r.Width != width
		r, level := hardView(s, l, &spare)
		cur := hardSub(at, width)
		used = hardUsed(r, level, cur)
		if r.Sub == cur {
			here = int64(r.Count[slot(cur)])
		}
		// What was recorded of the past is true, unless that was for another window.
		if reshaped && !rec.coversPast(r, cur) {
			return false
		}
	}
	cur := hardSub(at, width)
	next := here + max(min(hits, limit-used), 0)
	return rec.Sub == cur && int64(rec.Count[slot(cur)]) >= next
}

// coversPast reports whether r, which is at cur, holds at least what of
// holds of every sub-window before.
func (r *Ring) coversPast(of *Ring, cur int64) bool {
	for sub := max(cur, of.Sub) - ringSize + 1; sub <= of.Sub && sub < cur; sub++ {
		if r.Count[slot(sub)] < of.Count[slot(sub)] {
			return false
		}
	}
	return true
}
