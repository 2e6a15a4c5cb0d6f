package outage

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

func TestAHangingStoreIsLeftWithinTheBudget(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		c := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
		_, _, _ = w.ask(c)
		before, _ := goroutines()
		hang := make(chan struct{})
		w.fake.set(func(f *fake) { f.hang = hang })
		start := time.Now()
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if ok, o, err := w.ask(c); !ok || !o[0].Degraded || err != nil {
					t.Errorf("%v %+v %v", ok, o, err)
				}
			})
		}
		all.Wait()
		if !w.Stats().Open || time.Since(start) > time.Second {
			t.Errorf("open %v after %v", w.Stats().Open, time.Since(start))
		}
		asked := w.fake.count()
		for range 100 {
			_, _, _ = w.ask(c)
		}
		if got := w.fake.count() - asked; got > 1 { // a probe
			t.Errorf("%d calls of a store that hangs", got)
		}
		pass(6 * time.Second)
		w.fake.set(func(f *fake) { f.hang = nil })
		close(hang)
		w.recover()
		if ok, o, err := w.ask(c); !ok || o[0].Degraded || err != nil {
			t.Errorf("after it all: %v %+v %v", ok, o, err)
		}
		pass(2 * time.Second)
		synctest.Wait()
		if now, stacks := goroutines(); now > before {
			t.Errorf("%d goroutines, %d before:\n%s", now, before, stacks)
		}
	})
}

// goroutines are those that have a stack: runtime.NumGoroutine counts, for a moment, one that has just ended, too.
func goroutines() (n int, stacks string) {
	b := make([]byte, 1<<20)
	stacks = string(b[:runtime.Stack(b, true)])
	return strings.Count("\n"+stacks, "\ngoroutine "), stacks
}

// A store that never comes back to a call is bounded all the same.
func TestNoMoreCallsHangThanMayBeUnderWay(t *testing.T) {
	bubble(t, Options{InFlight: 8}, func(w *world) {
		hang := make(chan struct{})
		defer close(hang)
		w.fake.set(func(f *fake) { f.hang = hang })
		var all sync.WaitGroup
		var admitted atomic.Int64
		for range 100 {
			all.Go(func() {
				if ok, _, _ := w.ask(charge(limitOf(ratelimit.OutageAllow, 5), 1)); ok {
					admitted.Add(1)
				}
			})
		}
		all.Wait()
		w.fake.mu.Lock()
		most := w.fake.most
		w.fake.mu.Unlock()
		if most > 8+1 {
			t.Errorf("%d calls at once", most)
		}
		if s := w.Stats(); s.Crowded != 92 || s.Silences != 8 || s.Degraded[ratelimit.OutageAllow] != 8 || s.Degraded[ratelimit.OutageLocal] != 92 || admitted.Load() != 8+5 {
			t.Errorf("%d admitted, %+v", admitted.Load(), s)
		}
	})
}

func TestProbesComeOneAtATimeAndEndTheOutageWithinASecond(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		w.open(errSilent)
		asked := w.fake.count()
		w.fake.set(func(f *fake) { f.most = 0 })
		pass(10 * time.Second)
		got := w.fake.count() - asked
		if got < 50 || got > 110 {
			t.Errorf("%d probes in 10 s", got)
		}
		w.fake.mu.Lock()
		if w.fake.most > 1 {
			t.Errorf("%d probes at once", w.fake.most)
		}
		w.fake.mu.Unlock()
		w.recover()
		if s := w.Stats(); s.Opened != 1 {
			t.Errorf("opened %d times", s.Opened)
		}
	})
}

func TestASlowStoreIsNoStore(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		w.fake.set(func(f *fake) { f.delay = 200 * time.Millisecond })
		c := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
		start := time.Now()
		for !w.Stats().Open {
			if _, o, _ := w.ask(c); !o[0].Degraded {
				t.Error("an answer without a mark")
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v to open", took)
		}
		pass(5 * time.Second)
		if !w.Stats().Open {
			t.Error("a probe that is too slow has closed it")
		}
		w.fake.set(func(f *fake) { f.delay = 0 })
		w.recover()
	})
}

func TestFewCallsOpenItTooAndFewFailuresDoNot(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		c := charge(limitOf(ratelimit.OutageLocal, 1<<20), 1)
		for range 200 { // one in three fails
			w.fake.set(func(f *fake) { f.err = errSilent })
			_, _, _ = w.ask(c)
			w.fake.set(func(f *fake) { f.err = nil })
			_, _, _ = w.ask(c)
			_, _, _ = w.ask(c)
			pass(10 * time.Millisecond)
		}
		if w.Stats().Open {
			t.Error("open, though two thirds are answered")
		}
		w.fake.set(func(f *fake) { f.err = errSilent })
		for range 2 {
			_, _, _ = w.ask(c)
			pass(600 * time.Millisecond)
		}
		if s := w.Stats(); s.Opened != 1 {
			t.Errorf("two calls failed and none was answered: %+v", s)
		}
	})
}

// A part of the shared store that is gone has a breaker of its own; what is owed to it waits, and what is owed to the others does not.
func TestEachPartOfAClusterHasItsBreaker(t *testing.T) {
	bubble(t, Options{Slot: func(shard uint64) int { return int(shard % slots) }}, func(w *world) {
		on := func(shard uint64) ratelimit.Charge {
			c := charge(limitOf(ratelimit.OutageLocal, 1000), byte(shard>>8))
			c.Cell.Shard = shard
			return c
		}
		here, there := on(100), on(9000)
		w.fake.set(func(f *fake) { f.gone = func(shard uint64) bool { return shard < 5000 } })
		for range 100 {
			if _, o, _ := w.ask(here); !o[0].Degraded {
				t.Fatal("an answer of a part that is gone")
			}
			if _, o, _ := w.ask(there); o[0].Degraded {
				t.Fatal("a part that is there is not asked")
			}
		}
		if got := w.lanes[0].opened.Load() + w.lanes[17].opened.Load(); got != 1 || w.Stats().Opened != 1 {
			t.Errorf("opened %d times, all %d", got, w.Stats().Opened)
		}
		w.fake.set(func(f *fake) { f.gone = func(uint64) bool { return true } })
		_, _, _ = w.ask(there)
		w.fake.set(func(f *fake) { f.gone = func(shard uint64) bool { return shard < 5000 } })
		_, _, _ = w.ask(there)
		pass(5 * time.Second)
		if got := w.used(there); got != 102 {
			t.Errorf("%d are counted, want 102 while another part is gone", got)
		}
		if s := w.Stats(); s.Owed != 100 {
			t.Errorf("%+v", s)
		}
		pass(5 * time.Second)
		w.fake.set(func(f *fake) { f.gone = nil })
		pass(5 * time.Second)
		// Of the first five it is not known whether they were charged, and it is too late to ask.
		if got, s := w.used(here), w.Stats(); got != 95 || s.Dropped != 5 || s.Owed != 0 {
			t.Errorf("%d are counted, %+v", got, s)
		}
	})
}
