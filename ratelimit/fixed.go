package ratelimit

// Fixed counts per window aligned at unix % window, as envoyproxy/ratelimit
// does. A changed limit keeps the count. A changed window keeps it too, as far
// as the last charge lies in the new window: every hit may have been that late.

// fixedEnd is the end of the aligned window that contains at.
func fixedEnd(at int64, l *Limit) int64 {
	w := window(l)
	r := at % w
	if r < 0 {
		r += w
	}
	return satAdd(at-r, w)
}

// fixedLevel is the count of the window that contains now, the time of the
// last charge, and the window's end.
func fixedLevel(s *State, l *Limit, now int64) (count, at, end int64) {
	at = now
	if s.Expires <= now {
		return 0, at, fixedEnd(at, l)
	}
	if end = fixedEnd(s.At, l); end > now {
		return s.Level, max(at, s.At), end
	}
	return 0, at, fixedEnd(at, l)
}

func fixedEvaluate(s *State, l *Limit, hits, now int64) Outcome {
	count, _, end := fixedLevel(s, l, now)
	limit := min(l.Hits, MaxHits)
	next := count
	switch {
	case hits < 0:
		next = max(count+max(hits, -MaxHits), 0)
	case hits > limit:
		return Outcome{Over: true, Remaining: max(limit-count, 0), ResetAfter: fixedReset(count, end, now), RetryAfter: Never}
	case hits > 0 && count+hits > limit:
		return Outcome{
			Over: true, Remaining: max(limit-count, 0),
			ResetAfter: fixedReset(count, end, now), RetryAfter: until(min(end, s.Expires), now),
		}
	default:
		next += hits
	}
	return Outcome{Remaining: max(limit-next, 0), ResetAfter: fixedReset(next, end, now)}
}

func fixedReset(count, end, now int64) int64 {
	if count == 0 {
		return 0
	}
	return until(end, now)
}

func fixedApply(s *State, l *Limit, hits, now int64) {
	count, at, end := fixedLevel(s, l, now)
	limit := min(l.Hits, MaxHits)
	if hits < 0 {
		s.Level = max(count+max(hits, -MaxHits), 0)
	} else {
		s.Level = min(count+min(hits, limit), max(count, limit))
	}
	s.At, s.Expires = at, end
}

func fixedCovers(recorded, s *State, l *Limit, hits, now int64) bool {
	count, at, end := fixedLevel(s, l, now)
	limit := min(l.Hits, MaxHits)
	next := min(count+min(hits, limit), max(count, limit))
	return recorded.Expires == end && recorded.At >= at && recorded.Level >= next
}
