package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func hardTestLimit(t *rapid.T, label string) *Limit {
	hits := rapid.OneOf(rapid.Int64Range(1, 40), rapid.Int64Range(100, 600)).Draw(t, label)
	return testLimit(Hard, hits, time.Duration(rapid.IntRange(1, 70).Draw(t, label+"'s seconds"))*time.Second)
}

// lost is what counting by segments can cost at any moment.
func lost(l *Limit) int64 { return hardSize(l.Hits) - 1 }

// since sums the log from that time on.
func since(log []event, from int64) (sum int64) {
	for i := len(log) - 1; i >= 0 && log[i].at >= from; i-- {
		sum += log[i].hits
	}
	return sum
}

// surelyCounted is what counts at now however stamps are rounded.
func surelyCounted(log []event, l *Limit, now int64) int64 {
	return since(log, now-window(l)-hardTick(l)+2)
}

func copyState(s *State) State {
	out, ring := *s, *s.Ring
	out.Ring = &ring
	return out
}

func checkRing(t interface{ Fatalf(string, ...any) }, s *State) {
	r := s.Ring
	if int(r.Len) > segments || r.First >= segments || s.Level != r.used(0) || (r.Len > 0) != (s.Expires != 0) {
		t.Fatalf("not a ring: %+v %+v", s, r)
	}
	for i := range int(r.Len) {
		if i > 0 && r.stamp(i-1) > r.stamp(i) || i == int(r.Len)-1 && (r.stamp(i) != r.Last || r.Fill == 0 || r.Fill > r.Size) {
			t.Fatalf("segment %d of %+v", i, r)
		}
	}
}

// trailing is the least and the most of the log, which ascends, in any
// trailing window that begins after the first hit and ends before end.
func trailing(log []int64, window, end int64) (least, most int) {
	least = len(log)
	in, before := 0, 0
	for i, at := range log {
		for log[in] <= at-window {
			in++
		}
		most = max(most, i-in+1) // in the window that ends with this hit
		if at >= log[0]+window { // in the one that ends just before it
			for log[before] < at-window {
				before++
			}
			least = min(least, i-before)
		}
	}
	next := 0
	for i, at := range log {
		if at+window >= end {
			break
		}
		for next < len(log) && log[next] <= at+window {
			next++
		}
		least = min(least, next-i-1) // in the window that begins just after this hit
	}
	return least, most
}

// TestA3HardUsesTheLimitUnderOverload offers five times the limit: whatever
// window is looked at holds 98 % of the limit, and none more than all of it.
// With a jitter of a microsecond an exact log has 98 of 100 there too: a hit
// leaves the window just after one request and the next just before another.
func TestA3HardUsesTheLimitUnderOverload(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for _, c := range []struct {
		hits   int64
		window time.Duration
	}{{100, 10 * time.Second}, {600, time.Minute}, {1000, time.Second}, {100, time.Second}, {100, 24 * time.Hour}, {10_000, time.Hour}} {
		window := c.window.Microseconds()
		pause := window / c.hits / 5
		for _, jitter := range []int64{0, 1, pause / 20} {
			for _, start := range []int64{testBase, testBase + 1, testBase + 123_456_789} {
				l, s, exact := testLimit(Hard, c.hits, c.window), newState(Hard), exactLog{hits: c.hits, window: window}
				var log []int64
				end := start + 6*window
				for due := start; due < end; due += pause {
					at := due + rnd.Int64N(jitter+1)
					exact.spend(at)
					if spend(&s, l, 1, at) {
						log = append(log, at)
					}
				}
				least, most := trailing(log, window, end)
				name := fmt.Sprintf("%d per %v, jitter %d µs", c.hits, c.window, jitter)
				if start == testBase {
					exactLeast, _ := trailing(exact.log, window, end)
					t.Logf("%s: %d to %d in a trailing window; an exact log: %d", name, least, most, exactLeast)
				}
				if int64(most) > c.hits || int64(least) < c.hits*98/100 {
					t.Errorf("%s, start %d: %d to %d in a trailing window", name, start-testBase, least, most)
				}
			}
		}
	}
}

// arrivals are times that a limit finds hard, in order.
func arrivals(t *rapid.T, l *Limit, rnd *rand.Rand, n int) (at []int64) {
	now, window := testBase+rnd.Int64N(testSecond), window(l)
	mean := float64(window) / float64(l.Hits) / float64(rapid.IntRange(1, 8).Draw(t, "overload"))
	kind := rapid.SampledFrom([]string{"Poisson", "bursts", "edges"}).Draw(t, "kind")
	for len(at) < n {
		switch kind {
		case "Poisson":
			now += int64(rnd.ExpFloat64() * mean)
		case "bursts":
			if rnd.Int64N(l.Hits/3+2) == 0 {
				now += rnd.Int64N(window/2 + 1)
			}
		case "edges": // when an earlier one leaves the window, and about then
			earlier := now - window
			if len(at) > 0 {
				earlier = at[len(at)-1-rnd.IntN(min(len(at), int(l.Hits)+2))]
			}
			now = max(now+rnd.Int64N(3), earlier+window+rnd.Int64N(2*hardTick(l)+3)-hardTick(l)-1)
		}
		at = append(at, now)
	}
	return at
}

// exactLog is the limit without any rounding: it remembers every hit.
type exactLog struct {
	hits, window int64
	log          []int64
}

func (e *exactLog) spend(now int64) bool {
	if n := int64(len(e.log)); n >= e.hits && e.log[n-e.hits] > now-e.window {
		return false
	}
	e.log = append(e.log, now)
	return true
}

// TestA1HardAgainstALog: never more than the limit in a trailing window; a
// refusal only if the log, a tick longer, has no room for more than the hits
// that a segment can lose; and by any time as many admitted as by an exact log
// of a limit that is smaller by those.
func TestA1HardAgainstALog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, s := hardTestLimit(t, "limit"), newState(Hard)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		exact := exactLog{hits: l.Hits - lost(l), window: window(l) + hardTick(l)}
		var log []event
		for _, now := range arrivals(t, l, rnd, 1500) {
			exact.spend(now)
			o := Evaluate(&s, l, 1, now)
			if !o.Over {
				Apply(&s, l, 1, now)
				checkRing(t, &s)
				log = append(log, event{now, 1})
			}
			counted := int64(0)
			if n := int64(len(log)); n > l.Hits && log[n-l.Hits-1].at > now-window(l) {
				t.Fatalf("%d and more in the window that ends at %d", l.Hits+1, now)
			}
			if o.Over {
				if counted = surelyCounted(log, l, now); counted+lost(l) < l.Hits {
					t.Fatalf("refused with %d of %d in the window", counted, l.Hits)
				}
				checkRetry(t, &s, l, 1, now, o)
			}
			if len(log) < len(exact.log) {
				t.Fatalf("%d admitted by %d, a log of %d admits %d", len(log), now, exact.hits, len(exact.log))
			}
		}
	})
}

// checkRetry: refused hits fit at RetryAfter and not before; and the limit is
// whole at ResetAfter and not before.
func checkRetry(t *rapid.T, s *State, l *Limit, hits, now int64, o Outcome) {
	if early := Evaluate(s, l, hits, now+o.RetryAfter-1); !early.Over || early.RetryAfter != 1 {
		t.Fatalf("%+v: %+v a microsecond before", o, early)
	}
	if then := Evaluate(s, l, hits, now+o.RetryAfter); then.Over {
		t.Fatalf("%+v: %+v then", o, then)
	}
	if early := Evaluate(s, l, 0, now+o.ResetAfter-1); early.Remaining == l.Hits || early.ResetAfter != 1 {
		t.Fatalf("%+v: %+v a microsecond before it is whole", o, early)
	}
	if then := Evaluate(s, l, 0, now+o.ResetAfter); then != (Outcome{Remaining: l.Hits}) {
		t.Fatalf("%+v: %+v when it should be whole", o, then)
	}
}

// TestHardWithManyHitsAtOnce: charges of any size, and looks between them.
func TestHardWithManyHitsAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, s := hardTestLimit(t, "limit"), newState(Hard)
		now := testBase
		var log []event
		for range 150 {
			now += rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, window(l))).Draw(t, "pause")
			hits := rapid.OneOf(rapid.Int64Range(-2, 3), rapid.Int64Range(1, l.Hits)).Draw(t, "hits")
			look, before := Evaluate(&s, l, 0, now), copyState(&s)
			o := Evaluate(&s, l, hits, now)
			if *s.Ring != *before.Ring {
				t.Fatal("a look has changed the state")
			}
			hits = max(hits, 0)
			free := l.Hits - since(log, now-window(l)+1)
			switch counted := surelyCounted(log, l, now); {
			case hits > l.Hits:
				if !o.Over || o.RetryAfter != Never || o.Remaining != look.Remaining {
					t.Fatalf("%d hits of %d: %+v", hits, l.Hits, o)
				}
				continue
			case o.Over:
				checkRetry(t, &s, l, hits, now, o)
				if counted+lost(l)+hits <= l.Hits || o.Remaining != look.Remaining || o.ResetAfter != look.ResetAfter {
					t.Fatalf("%+v with %d of %d in the window", o, counted, l.Hits)
				}
				continue
			case hits > free || o.Remaining != look.Remaining-hits || look.Remaining > free || look.Remaining < l.Hits-counted-lost(l):
				t.Fatalf("%d hits: %+v after %+v with %d free", hits, o, look, free)
			}
			Apply(&s, l, hits, now)
			if got := Evaluate(&s, l, 0, now); got != o {
				t.Fatalf("%+v was said, %+v is", o, got)
			}
			log = append(log, event{now, hits})
		}
	})
}

// TestHardWithChangedLimits: whatever limits and windows follow each other, a
// hit counts at least as long as in a log that forgets what the window of each
// charge has left behind, and not longer than a window and a tick.
func TestHardWithChangedLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := []*Limit{hardTestLimit(t, "first"), hardTestLimit(t, "second"), hardTestLimit(t, "third")}
		l, s, now := limits[0], newState(Hard), testBase
		var log []event
		var expires int64
		for range 200 {
			if rapid.IntRange(0, 7).Draw(t, "edit") == 0 {
				l = rapid.SampledFrom(limits).Draw(t, "to")
			}
			now += rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, window(l)/4)).Draw(t, "pause")
			hits := rapid.OneOf(rapid.Int64Range(1, 3), rapid.Int64Range(1, l.Hits)).Draw(t, "hits")
			used := int64(0)
			if expires > now {
				used = since(log, now-window(l)+1)
			}
			o := Evaluate(&s, l, hits, now)
			if look := Evaluate(&s, l, 0, now); look.Remaining > max(l.Hits-used, 0) {
				t.Fatalf("%d left of %d with %d used", look.Remaining, l.Hits, used)
			}
			if o.Over {
				if o.RetryAfter != Never && (!Evaluate(&s, l, hits, now+o.RetryAfter-1).Over || Evaluate(&s, l, hits, now+o.RetryAfter).Over) {
					t.Fatalf("%d hits do not fit when they should: %+v", hits, o)
				}
				if rapid.IntRange(0, 9).Draw(t, "shadow") != 0 {
					continue
				}
			}
			Apply(&s, l, hits, now)
			checkRing(t, &s)
			if o.Over {
				hits = o.Remaining // what of them is counted
			}
			keep := 0
			for keep < len(log) && (expires <= now || log[keep].at <= now-window(l)) {
				keep++
			}
			log = log[keep:]
			if hits > 0 {
				log = append(log, event{now, hits})
			}
			if expires = 0; len(log) > 0 {
				expires = log[len(log)-1].at + window(l)
			}
			if s.Expires < expires || hits > 0 && s.Expires >= expires+hardTick(l) {
				t.Fatalf("the state expires at %d, the last hit at %d", s.Expires, expires)
			}
		}
	})
}

// TestHardOverCrashes kills a store that spends ahead of a record, at any
// point: never more than the limit in a trailing window, and a crash costs a
// block at most.
func TestHardOverCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := hardTestLimit(t, "limit")
		block := max(1, l.Hits/100)
		s, recorded, now := newState(Hard), newState(Hard), testBase
		var log []event
		var crashes []int64
		for range 400 {
			now += rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, 10*window(l)/l.Hits)).Draw(t, "pause")
			if rapid.IntRange(0, 19).Draw(t, "crash") == 0 {
				s, crashes = copyState(&recorded), append(crashes, now)
			}
			for range rapid.IntRange(1, 20).Draw(t, "hits") {
				if o := Evaluate(&s, l, 1, now); o.Over {
					checkRetry(t, &s, l, 1, now, o)
					break
				}
				if !Covers(&recorded, &s, l, 1, now) {
					Reserve(&recorded, &s, l, min(block, Evaluate(&s, l, 0, now).Remaining), now)
					checkRing(t, &recorded)
					if !Covers(&recorded, &s, l, 1, now) {
						t.Fatalf("a new record does not cover: %+v of %+v", recorded, s)
					}
					if rapid.IntRange(0, 49).Draw(t, "crash before it is spent") == 0 {
						s, crashes = copyState(&recorded), append(crashes, now)
						continue
					}
				}
				Apply(&s, l, 1, now)
				checkRing(t, &s)
				log = append(log, event{now, 1})
			}
			if sum := since(log, now-window(l)+1); sum > l.Hits {
				t.Fatalf("%d of %d in the window that ends at %d", sum, l.Hits, now)
			}
			lately := int64(0)
			for _, at := range crashes {
				if at > now-window(l)-window(l)/hardAhead-2*hardTick(l) {
					lately++
				}
			}
			left := Evaluate(&s, l, 0, now).Remaining
			if least := l.Hits - surelyCounted(log, l, now) - lost(l) - lately*block; left < least {
				t.Fatalf("%d left after %d crashes, want at least %d", left, lately, least)
			}
		}
	})
}

// TestHardCoversBlockOrSixtieth counts records: one for a block, and one for
// each 60th of the window in which something is spent.
func TestHardCoversBlockOrSixtieth(t *testing.T) {
	for _, c := range []struct{ pause, hits, want int64 }{
		{0, 1000, 100},               // blocks of 10
		{10 * testSecond, 300, 50},   // 3000 s, one a minute
		{120 * testSecond, 100, 100}, // each hit has a minute of its own
	} {
		l, s, recorded := testLimit(Hard, 1000, time.Hour), newState(Hard), newState(Hard)
		records := int64(0)
		for i := range c.hits {
			now := testBase + i*c.pause
			if !Covers(&recorded, &s, l, 1, now) {
				Reserve(&recorded, &s, l, 10, now)
				records++
			}
			if !spend(&s, l, 1, now) {
				t.Fatal("refused")
			}
		}
		if records > c.want || records < c.want*8/10 {
			t.Errorf("%d hits every %d s: %d records, want %d", c.hits, c.pause/testSecond, records, c.want)
		}
	}
}

func TestHardCoversNothingElse(t *testing.T) {
	day := testLimit(Hard, 100, 24*time.Hour)
	longer, larger := testLimit(Hard, 100, 48*time.Hour), testLimit(Hard, 200, 24*time.Hour)
	// A record of one window for another of the same tick: it is too early forgotten, or spent too late.
	second, more := testLimit(Hard, 100, time.Second), testLimit(Hard, 100, 1010*time.Millisecond)
	ahead := window(day) / hardAhead
	for _, c := range []struct {
		name            string
		reserved, spent *Limit
		hits, after     int64
		between         []*Limit
		want            bool
	}{
		{"what is left of the block", day, day, 7, 0, []*Limit{day, day, day}, true},
		{"at the end of its 60th", day, day, 7, ahead, []*Limit{day, day, day}, true},
		{"more than is left", day, day, 8, 0, []*Limit{day, day, day}, false},
		{"later", day, day, 7, ahead + 2*hardTick(day), []*Limit{day}, false},
		{"another window", day, longer, 1, 0, nil, false},
		{"larger segments", day, larger, 1, 0, nil, false},
		{"hits that were moved", day, day, 1, 0, []*Limit{day, longer, day}, false},
		{"a longer window of the same tick", second, more, 1, 9000, nil, false},
		{"a shorter window of the same tick", more, second, 1, 20_000, nil, false},
		{"the same window", second, second, 1, 9000, nil, true},
	} {
		s, recorded := newState(Hard), newState(Hard)
		Apply(&s, c.reserved, 50, testBase)
		Reserve(&recorded, &s, c.reserved, 10, testBase+1)
		for _, l := range c.between {
			Apply(&s, l, 1, testBase+2)
		}
		if got := Covers(&recorded, &s, c.spent, c.hits, testBase+1+c.after); got != c.want {
			t.Errorf("%s: covered %v, want %v", c.name, got, c.want)
		}
	}
}

// TestHardForgetsTheFutureAfterACrash: what was booked ahead came before the
// crash, so it is free a window after the restart.
func TestHardForgetsTheFutureAfterACrash(t *testing.T) {
	l, s, recorded := testLimit(Hard, 100, time.Hour), newState(Hard), newState(Hard)
	Reserve(&recorded, &s, l, 1, testBase)
	s = copyState(&recorded)
	if o := Evaluate(&s, l, 0, testBase); o.ResetAfter != 3660*testSecond {
		t.Errorf("before a charge: %+v", o)
	}
	restart := testBase + 30*testSecond // a whole tick
	Apply(&s, l, 1, restart)
	if o := Evaluate(&s, l, 0, restart); o.ResetAfter != 3600*testSecond || o.Remaining != 98 {
		t.Errorf("after a charge: %+v", o)
	}
	// A window of a second can't keep stamps of the days ahead that a 60th of a year is.
	year, short := testLimit(Hard, 100, MaxWindow), testLimit(Hard, 100, time.Second)
	s, recorded = newState(Hard), newState(Hard)
	Reserve(&recorded, &s, year, 1, testBase)
	Apply(&recorded, short, 1, testBase+1)
	checkRing(t, &recorded)
	if o := Evaluate(&recorded, short, 0, testBase+1); o.Remaining != 98 || o.ResetAfter > testSecond+hardTick(short) {
		t.Errorf("of a shorter window: %+v", o)
	}
}
