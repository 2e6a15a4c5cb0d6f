// Package storetest is the contract of ratelimit.Store as tests: every store
// runs it. It is not for servers. Time is made up, so a run costs seconds.
package storetest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

const (
	second = int64(1_000_000)
	// base is midnight UTC, so that aligned windows begin there.
	base = 19675 * 86400 * second
)

// Run tests the stores that open returns: each is new, or holds no cell of
// another sub-test.
func Run(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	t.Run("stories", func(t *testing.T) { testStories(t, open) })
	t.Run("all charges or none", func(t *testing.T) { testAtomic(t, open) })
	t.Run("all charges or none, concurrently", func(t *testing.T) { testAtomicConcurrent(t, open) })
	t.Run("a cell charged twice in one request pays the sum", func(t *testing.T) { testSameCell(t, open) })
	t.Run("one hot key admits exactly the limit to 64 callers", func(t *testing.T) { testHotKey(t, open) })
	t.Run("hard holds across every edge", func(t *testing.T) { testBoundaryBurst(t, open) })
	t.Run("two limits admit what the tighter leaves", func(t *testing.T) { testTwoLimits(t, open) })
	t.Run("a shadow limit never refuses", func(t *testing.T) { testShadow(t, open) })
	t.Run("a clock that goes backwards gives nothing back", func(t *testing.T) { testBackwards(t, open) })
	t.Run("properties", func(t *testing.T) { testProperties(t, open) })
}

var cells atomic.Uint64

// newCell is a cell that no other test has used.
func newCell(shard uint64) ratelimit.Cell {
	c := ratelimit.Cell{Shard: shard * 0x9e3779b97f4a7c15}
	binary.BigEndian.PutUint64(c.Key[:], cells.Add(1))
	binary.BigEndian.PutUint64(c.Key[8:], 0x5eed)
	return c
}

func newLimit(a ratelimit.Algorithm, hits int64, window time.Duration) *ratelimit.Limit {
	return &ratelimit.Limit{Name: "test", Algorithm: a, Hits: hits, Window: window, Burst: max(hits, 1)}
}

// fataler is a testing.T or a rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func charge(t fataler, s ratelimit.Store, now int64, charges ...ratelimit.Charge) (bool, []ratelimit.Outcome) {
	t.Helper()
	outcomes := make([]ratelimit.Outcome, len(charges))
	admitted, err := s.Charge(ratelimit.Operation{Now: now}, charges, outcomes)
	if err != nil {
		t.Fatalf("charge at %d: %v", now-base, err)
	}
	return admitted, outcomes
}

// step is n charges of hits each at a time, and what they come to.
type step struct {
	at       int64 // µs after base
	hits     int64
	n        int64
	admitted int64
	limit    *ratelimit.Limit   // changes the limit from here on, if set
	want     *ratelimit.Outcome // of the last charge, if set
}

type story struct {
	name  string
	limit *ratelimit.Limit
	steps []step
}

func testStories(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			s := open(t)
			cell, limit := newCell(1), st.limit
			for i, step := range st.steps {
				if step.limit != nil {
					limit = step.limit
				}
				var got int64
				var last ratelimit.Outcome
				for range step.n {
					ok, o := charge(t, s, base+step.at, ratelimit.Charge{Limit: limit, Cell: cell, Hits: step.hits})
					if last = o[0]; ok {
						got++
					}
				}
				if got != step.admitted {
					t.Fatalf("step %d: admitted %d of %d, want %d", i, got, step.n, step.admitted)
				}
				if step.want != nil && last != *step.want {
					t.Fatalf("step %d: outcome %+v, want %+v", i, last, *step.want)
				}
			}
		})
	}
}

func testAtomic(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, spread := range []uint64{0, 1} {
		t.Run(fmt.Sprintf("over shards %d apart", spread), func(t *testing.T) {
			s := open(t)
			var charges []ratelimit.Charge
			for i, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
				charges = append(charges, ratelimit.Charge{Limit: newLimit(a, 100, time.Minute), Cell: newCell(7 + spread*uint64(i)), Hits: 1})
			}
			for i := range charges {
				tight := append([]ratelimit.Charge{}, charges...)
				tight[i].Limit = newLimit(tight[i].Limit.Algorithm, 0, time.Minute)
				ok, o := charge(t, s, base, tight...)
				if ok || !o[i].Over {
					t.Fatalf("limit 0 at %d: admitted %v, outcomes %+v", i, ok, o)
				}
				for j := range o {
					if j != i && (o[j].Over || o[j].Remaining != 100 || o[j].ResetAfter != 0) {
						t.Errorf("limit %d was charged by a refused request: %+v", j, o[j])
					}
				}
			}
			if ok, o := charge(t, s, base, charges...); !ok || o[0].Remaining != 99 || o[1].Remaining != 99 || o[2].Remaining != 99 {
				t.Errorf("after the refusals: %v %+v", ok, o)
			}
		})
	}
}

// testAtomicConcurrent is A7: of three limits one is used up; the other two
// must be charged by exactly the admitted requests.
func testAtomicConcurrent(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	s := open(t)
	const workers, each, tight = 8, 2500, 700
	charges := []ratelimit.Charge{
		{Limit: newLimit(ratelimit.Fixed, 1<<30, time.Hour), Cell: newCell(1), Hits: 1},
		{Limit: newLimit(ratelimit.Hard, tight, time.Hour), Cell: newCell(2), Hits: 1},
		{Limit: newLimit(ratelimit.Fixed, 1<<30, time.Hour), Cell: newCell(3), Hits: 1},
	}
	if got := hammer(t, s, workers, each, charges); got != tight {
		t.Errorf("admitted %d, want %d", got, tight)
	}
	for i := range charges {
		charges[i].Hits = 0
	}
	_, o := charge(t, s, base, charges...)
	if o[0].Remaining != 1<<30-tight || o[2].Remaining != 1<<30-tight {
		t.Errorf("refused requests were charged: %+v", o)
	}
}

// hammer charges from many goroutines, half of them in reverse order, and
// returns how many requests were admitted.
func hammer(t *testing.T, s ratelimit.Store, workers, each int, charges []ratelimit.Charge) int64 {
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			mine := append([]ratelimit.Charge{}, charges...)
			if w%2 == 1 {
				for i, j := 0, len(mine)-1; i < j; i, j = i+1, j-1 {
					mine[i], mine[j] = mine[j], mine[i]
				}
			}
			outcomes := make([]ratelimit.Outcome, len(mine))
			for range each {
				ok, err := s.Charge(ratelimit.Operation{Now: base}, mine, outcomes)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return admitted.Load()
}

func testSameCell(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		s := open(t)
		c := ratelimit.Charge{Limit: newLimit(a, 10, time.Minute), Cell: newCell(1), Hits: 4}
		if ok, _ := charge(t, s, base, c, c, c); ok {
			t.Errorf("algorithm %d: 12 of 10 were admitted", a)
		}
		if ok, o := charge(t, s, base, c, c); !ok || o[1].Remaining != 2 {
			t.Errorf("algorithm %d: 8 of 10: %v %+v", a, ok, o)
		}
		c.Hits = 0
		if _, o := charge(t, s, base, c); o[0].Remaining != 2 {
			t.Errorf("algorithm %d: charged %d, want 8", a, 10-o[0].Remaining)
		}
	}
}

func testHotKey(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		s := open(t)
		c := []ratelimit.Charge{{Limit: newLimit(a, 500, time.Hour), Cell: newCell(1), Hits: 1}}
		if got := hammer(t, s, 64, 50, c); got != 500 {
			t.Errorf("algorithm %d: admitted %d, want 500", a, got)
		}
	}
}

// testBoundaryBurst offers 2000/s for 0.4 s across the edge of a second.
func testBoundaryBurst(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, edge := range []int64{0, 300_000, 999_999} {
		s := open(t)
		c := ratelimit.Charge{Limit: newLimit(ratelimit.Hard, 100, time.Second), Cell: newCell(1), Hits: 1}
		var log []int64
		start := base + 10*second + edge
		for burst := range int64(4) {
			for at := start + burst*second - 200_000; at < start+burst*second+200_000; at += 500 {
				if ok, _ := charge(t, s, at, c); ok {
					log = append(log, at)
				}
			}
		}
		if most := trailingMax(log, second); most != 100 {
			t.Errorf("edge %d: %d in a trailing second, want 100", edge, most)
		}
	}
}

// trailingMax is the most events in any (t-window, t]. The log ascends.
func trailingMax(log []int64, window int64) (most int) {
	first := 0
	for i, at := range log {
		for log[first] <= at-window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// testTwoLimits: 100/s and 1000/min at 500/s for 9 s admit 900.
func testTwoLimits(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	s := open(t)
	charges := []ratelimit.Charge{
		{Limit: newLimit(ratelimit.Fixed, 100, time.Second), Cell: newCell(1), Hits: 1},
		{Limit: newLimit(ratelimit.Fixed, 1000, time.Minute), Cell: newCell(1), Hits: 1},
	}
	admitted := 0
	for at := int64(0); at < 9*second; at += 2000 {
		if ok, _ := charge(t, s, base+at, charges...); ok {
			admitted++
		}
	}
	if admitted != 900 {
		t.Errorf("admitted %d, want 900", admitted)
	}
}

func testShadow(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		for _, by := range []ratelimit.Charge{{Limit: newLimit(a, 3, time.Minute), Shadow: true}, {Limit: shadowed(newLimit(a, 3, time.Minute))}} {
			testShadowBy(t, open(t), by)
		}
	}
}

func shadowed(l *ratelimit.Limit) *ratelimit.Limit { l.Shadow = true; return l }

func testShadowBy(t *testing.T, s ratelimit.Store, c ratelimit.Charge) {
	a := c.Limit.Algorithm
	c.Limit.Durable, c.Cell, c.Hits = true, newCell(1), 1
	for i := range 6 {
		ok, o := charge(t, s, base, c)
		if !ok || o[0].Over != (i >= 3) || o[0].Remaining != max(2-int64(i), 0) || (o[0].RetryAfter > 0) != (i >= 3) {
			t.Fatalf("algorithm %d, hit %d: %v %+v", a, i, ok, o)
		}
	}
	// Enforced from now on: it is exactly full, not beyond.
	c.Limit, c.Shadow = newLimit(a, 3, time.Minute), false
	ok, o := charge(t, s, base, c)
	if ok || o[0].RetryAfter > 62*second {
		t.Errorf("algorithm %d, enforced: %v %+v", a, ok, o)
	}
	if ok, _ := charge(t, s, base+o[0].RetryAfter, c); !ok {
		t.Errorf("algorithm %d: refused after RetryAfter", a)
	}
}

func testBackwards(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		s := open(t)
		c := ratelimit.Charge{Limit: newLimit(a, 10, time.Second), Cell: newCell(1), Hits: 1}
		admitted := 0
		for i := range int64(100) {
			if ok, _ := charge(t, s, base+10*second-i*second/10, c); ok {
				admitted++
			}
		}
		if admitted != 10 {
			t.Errorf("algorithm %d: %d admitted while the clock went backwards, want 10", a, admitted)
		}
		ok, o := charge(t, s, base, c)
		if ok {
			t.Errorf("algorithm %d: admitted in the past", a)
		}
		if ok, _ := charge(t, s, base+o[0].RetryAfter, c); !ok {
			t.Errorf("algorithm %d: refused after RetryAfter of %d", a, o[0].RetryAfter)
		}
	}
}
