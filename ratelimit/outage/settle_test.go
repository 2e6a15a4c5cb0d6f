package outage

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

func TestAdmissionsWithoutTheStoreAreCountedAfterwardsOnce(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		c, free := charge(limitOf(ratelimit.OutageLocal, 1000), 1), charge(limitOf(ratelimit.OutageAllow, 1000), 2)
		for range 10 {
			_, _, _ = w.ask(c, free)
		}
		w.open(errSilent)
		for range 20 {
			_, _, _ = w.ask(c, free)
		}
		back := free
		back.Hits = -1
		if ok, o, err := w.ask(back); !ok || err != nil || !o[0].Degraded { // a give-back asks for nothing
			t.Errorf("%v %+v %v", ok, o, err)
		}
		w.fake.set(func(f *fake) { f.reapply = errSilent })
		w.recover()
		w.fake.set(func(f *fake) { f.reapply = nil })
		pass(3 * time.Second)
		synctest.Wait()
		if a, b := w.used(c), w.used(free); a != 30 || b != 29 {
			t.Errorf("%d and %d are counted, want 30 and 29", a, b)
		}
		if s := w.Stats(); s.Owed != 0 || s.Dropped != 0 || s.Reapplied != 21 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAFailoverThatLostAcknowledgedHitsGetsThemBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		lasts time.Duration
		back  int64 // of the 40 acknowledged before
	}{
		{"when connections broke", errGone, 0, 40},
		{"when it was silent for as long as a failover takes", errSilent, 2 * time.Second, 40},
		{"but a silence that is shorter is none", errSilent, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{}, func(w *world) {
				hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
				for range 10 { // too old by the time of the failover
					_, _, _ = w.ask(hit)
				}
				pass(8 * time.Second)
				for range 40 {
					_, _, _ = w.ask(hit)
				}
				w.fake.forget()
				w.open(c.err)
				for range 20 {
					_, _, _ = w.ask(hit)
				}
				pass(c.lasts)
				w.recover()
				if got := w.used(hit); got != c.back+20 {
					t.Errorf("%d are counted, want %d of before and 20 of the outage", got, c.back)
				}
				if s := w.Stats(); s.Dropped != 0 || s.Unsure != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A server that was behind, or comes back with an old snapshot, may become the primary: then more is lost than any replication lags.
func TestWhatAServerThatWasBehindLacksIsGotBackWhileItWouldBeKnown(t *testing.T) {
	gcra := &ratelimit.Limit{Name: "smooth", Algorithm: ratelimit.GCRA, Hits: 1, Burst: 1000, Window: 24 * time.Hour, OnOutage: ratelimit.OutageLocal}
	for _, c := range []struct {
		name         string
		limit        *ratelimit.Limit
		old, counted int64 // of 30 and 10
	}{
		{"of a window all is counted again", limitOf(ratelimit.OutageLocal, 1000), 30, 40},
		{"of a rate what is not so old that it would have run out of its bucket by now", gcra, 30, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{Remembered: time.Minute}, func(w *world) {
				hit := charge(c.limit, 1)
				for _, n := range []int64{10, c.old, 10} { // the first are too old, and nobody misses them
					pass(40 * time.Second)
					for range n {
						_, _, _ = w.ask(hit)
					}
				}
				w.fake.forget()
				w.open(errGone)
				w.recover()
				if got, s := counted(w, hit), w.Stats(); got != c.counted || s.Unsure != 0 || s.Dropped != 0 || s.Owed != 0 {
					t.Errorf("%d are counted, want %d; %+v", got, c.counted, s)
				}
			})
		})
	}
}

// A connection that broke costs the shared store no more than what it may have lost.
func TestAServerThatLacksNothingIsNotToldEverythingAgain(t *testing.T) {
	bubble(t, Options{Remembered: time.Minute}, func(w *world) {
		hit := charge(limitOf(ratelimit.OutageLocal, 1<<20), 1)
		const old, young = 10 * chunk, 40
		for range old {
			_, _, _ = w.ask(hit)
			pass(10 * time.Millisecond)
		}
		pass(20 * time.Second)
		for range young {
			_, _, _ = w.ask(hit)
		}
		w.open(errGone)
		w.recover()
		if got, handed := w.used(hit), w.fake.handed; got != old+young || handed > young+3*chunk {
			t.Errorf("%d are counted of %d; %d were handed over again of %d that it may have lost", got, old+young, handed, young)
		}
		w.fake.forget() // and what was not handed over is still there for the next time
		w.open(errGone)
		w.recover()
		if got := w.used(hit); got != old+young {
			t.Errorf("%d are counted of %d", got, old+young)
		}
	})
}

// counted is used, of a limit that has a rate as well.
func counted(w *world, c ratelimit.Charge) int64 {
	if c.Limit.Algorithm != ratelimit.GCRA {
		return w.used(c)
	}
	return c.Limit.Burst - c.Limit.Hits + w.used(c)
}

// A Sentinel waits for half a minute before it makes another server the primary, unless it is told otherwise.
func TestASlowFailoverIsWithinWhatTheStoreRemembers(t *testing.T) {
	for _, c := range []struct {
		name         string
		remembered   time.Duration
		back, unsure int64 // of 40
	}{
		{"all is counted again while the store would know what it has not lost", time.Minute, 40, 0},
		{"and later nothing, for it could be twice", 10 * time.Second, 0, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{Remembered: c.remembered}, func(w *world) {
				hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
				for range 40 {
					_, _, _ = w.ask(hit)
				}
				w.fake.forget()
				w.open(errSilent)
				for range 20 {
					_, _, _ = w.ask(hit)
				}
				pass(40 * time.Second)
				w.recover()
				if got, s := w.used(hit), w.Stats(); got != c.back+20 || s.Dropped != 0 || int64(s.Unsure) != c.unsure {
					t.Errorf("%d are counted, want %d of before and 20 of the outage; %+v", got, c.back, s)
				}
			})
		})
	}
}

// Whoever was admitted last need not come again for what he used to be counted.
func TestWhatIsOwedIsCountedThoughNobodyAsks(t *testing.T) {
	oom := fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal("OOM command not allowed"))
	for name, err := range map[string]error{"after a disorder": oom, "after an answer that was lost": errSilent} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{Remembered: time.Minute}, func(w *world) {
				hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
				w.fake.set(func(f *fake) { f.err = err })
				if ok, o, got := w.ask(hit); !ok || !o[0].Degraded || got != nil {
					t.Fatal(ok, o, got)
				}
				pass(20 * time.Second)
				w.fake.set(func(f *fake) { f.err = nil })
				pass(settleMost)
				synctest.Wait()
				if got, s := w.used(hit), w.Stats(); got != 1 || s.Owed != 0 || s.Reapplied != 1 {
					t.Errorf("%d counted; %+v", got, s)
				}
				pass(time.Second)
				asked := w.fake.count()
				pass(time.Minute)
				if w.settling.Load() || w.fake.count() != asked {
					t.Error("it goes on though nothing is owed")
				}
			})
		})
	}
}

// A replica that ends is the only one that knows what it is owed for.
func TestWhatIsOwedIsHandedOverBeforeTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		err  error // of the store while it is drained
		lost int64 // of what it had acknowledged
		used int64
		left bool
	}{
		"to a store that can count again":                            {nil, 0, 45, false},
		"with what a failover may have lost":                         {nil, 40, 45, false},
		"and what a store that is still gone can't take, is counted": {errGone, 0, 40, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(w *world) {
				hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
				for range 40 {
					_, _, _ = w.ask(hit)
				}
				if c.lost > 0 {
					w.fake.forget()
				}
				w.fake.set(func(f *fake) { f.err = errGone })
				for range failuresInARow {
					_, _, _ = w.ask(hit)
				}
				w.fake.set(func(f *fake) { f.err = c.err })
				ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
				defer cancel()
				left := w.Drain(ctx)
				w.Close()
				if got := w.used(hit); left > 0 != c.left || got != c.used {
					t.Errorf("%d are left and %d counted, want %v and %d", left, got, c.left, c.used)
				}
			})
		})
	}
}

// A store that can't count is not kept busy saying so, and what waits for it takes no more room than it may.
func TestALongDisorderCostsLittle(t *testing.T) {
	bubble(t, Options{Operations: 1024}, func(w *world) {
		hit := charge(limitOf(ratelimit.OutageAllow, 1<<30), 1)
		for range 1500 {
			_, _, _ = w.ask(hit)
		}
		loading := fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal("LOADING Redis is loading the dataset in memory"))
		w.fake.set(func(f *fake) { f.err = loading })
		asked, most := w.fake.count(), 0
		for range 60 {
			for range 100 {
				_, _, _ = w.ask(hit)
			}
			pass(time.Second)
			most = max(most, w.Stats().Owed)
		}
		if n := w.fake.count() - asked - 6000; n < 30 || n > 40 { // every 2 s, and at first more often
			t.Errorf("it was asked %d times in a minute", n)
		}
		if most > 2*1024 {
			t.Errorf("%d operations were kept, of 1024 that were acknowledged and 1024 that were not", most)
		}
		w.fake.set(func(f *fake) { f.err = nil })
		owed := w.Stats().Owed
		pass(5 * time.Second)
		synctest.Wait()
		s := w.Stats()
		if got := w.used(hit); s.Owed != 0 || int(s.Reapplied) != owed || int(s.Dropped)+owed != 6000 || got != 1500+int64(owed) {
			t.Errorf("%d counted of 1500 and %d; %+v", got, owed, s)
		}
	})
}

// Redis knows an operation from when it counted it, and that may be long before nobody waits for the answer any more.
func TestWhatMayBeForgottenIsNotSentAgain(t *testing.T) {
	for _, c := range []struct {
		after     time.Duration
		reapplied uint64
	}{{2 * time.Second, 1}, {5 * time.Second, 0}} {
		t.Run(fmt.Sprintf("%v after a call of five seconds was given up", c.after), func(t *testing.T) {
			bubble(t, Options{Budget: 5 * time.Second}, func(w *world) {
				w.fake.set(func(f *fake) { f.delay, f.reapply = 6*time.Second, errSilent })
				if ok, o, err := w.ask(charge(limitOf(ratelimit.OutageLocal, 10), 1)); !ok || !o[0].Degraded || err != nil {
					t.Fatal(ok, o, err)
				}
				pass(c.after - time.Second)
				w.fake.set(func(f *fake) { f.reapply = nil })
				pass(4 * time.Second)
				synctest.Wait()
				if s := w.Stats(); s.Owed != 0 || s.Reapplied != c.reapplied || s.Dropped != 1-c.reapplied {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A store that can count, and misses the time now and then, is soon told everything.
func TestAStoreThatFailsNowAndThenIsToldAllTheSame(t *testing.T) {
	bubble(t, Options{Remembered: time.Minute}, func(w *world) {
		w.open(errSilent)
		hit := charge(limitOf(ratelimit.OutageLocal, 1<<20), 1)
		for range 50 * chunk {
			_, _, _ = w.ask(hit)
		}
		batches := 0
		w.fake.set(func(f *fake) {
			f.err = nil
			f.refuse = func(op int) error {
				if op == 0 {
					batches++
				}
				if batches%3 == 0 && op == chunk/2 {
					return errSilent
				}
				return nil
			}
		})
		pass(10 * time.Second)
		synctest.Wait()
		if got, s := w.used(hit), w.Stats(); got != 50*chunk || s.Owed != 0 || s.Dropped != 0 {
			t.Errorf("after ten seconds %d are counted of %d; %+v", got, 50*chunk, s)
		}
	})
}

func TestWhatIsLostTwiceInAWhileIsGotBackTwice(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
		for range 40 {
			_, _, _ = w.ask(hit)
		}
		for range 3 {
			w.fake.forget()
			w.open(errGone)
			_, _, _ = w.ask(hit)
			w.recover()
		}
		if got := w.used(hit); got != 43 {
			t.Errorf("%d are counted, want 43", got)
		}
	})
}

// An answer that is lost is no charge that is lost: what was admitted in its place is the same operation.
func TestALostAnswerIsCountedOnce(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		c := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
		for i := range 100 {
			w.fake.set(func(f *fake) {
				if f.err, f.lose = nil, false; i%10 == 0 {
					f.err, f.lose = errSilent, true
				}
			})
			if ok, _, err := w.ask(c); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		pass(3 * time.Second)
		synctest.Wait()
		if got := w.used(c); got != 100 {
			t.Errorf("%d are counted, want 100", got)
		}
		for id, n := range w.fake.known {
			if n != 1 {
				t.Errorf("%x counted %d times", id, n)
			}
		}
	})
}

func TestTheJournalIsBoundedAndWhatItLosesIsCounted(t *testing.T) {
	bubble(t, Options{Operations: 1024}, func(w *world) {
		w.open(errSilent)
		c := charge(limitOf(ratelimit.OutageAllow, 1<<30), 1)
		for range 5000 {
			_, _, _ = w.ask(c)
		}
		s := w.Stats()
		if s.Owed > 1024 || s.Owed < 512 || s.Owed+int(s.Dropped) != 5000 {
			t.Errorf("%+v", s)
		}
		w.recover()
		if got := w.used(c); got != int64(s.Owed) {
			t.Errorf("%d are counted of %d", got, s.Owed)
		}
	})
}

// A store that says of each operation that it can't count has charged none, so it may be asked for as long as it says so.
func TestWhatWasRefusedInDisorderIsNeverTooOldToBeSent(t *testing.T) {
	loading := fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal("LOADING Redis is loading the dataset in memory"))
	for _, c := range []struct {
		name    string
		refuse  func(op int) error
		counted int64 // of 20
		dropped uint64
	}{
		{"all are counted where all were refused", func(int) error { return loading }, 20, 0},
		{"where some were counted it is not known which", func(op int) error {
			if op%2 == 0 {
				return nil
			}
			return loading
		}, 10, 20},
		{"nor where one was not answered", func(op int) error {
			if op == 7 {
				return errSilent
			}
			return loading
		}, 0, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{}, func(w *world) {
				w.open(errSilent)
				hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
				for range 20 {
					_, _, _ = w.ask(hit)
				}
				w.fake.set(func(f *fake) { f.refuse = c.refuse })
				w.recover()
				pass(20 * time.Second)
				w.fake.set(func(f *fake) { f.refuse = nil })
				pass(5 * time.Second)
				synctest.Wait()
				if got, s := w.used(hit), w.Stats(); got != c.counted || s.Dropped != c.dropped || s.Owed != 0 {
					t.Errorf("%d are counted, want %d; %+v", got, c.counted, s)
				}
			})
		})
	}
}

func TestAnOperationThatTheStoreCantTakeDoesNotKeepTheOthers(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		w.open(errSilent)
		for range 3 {
			_, _, _ = w.ask(charge(limitOf(ratelimit.OutageAllow, 10), 1))
		}
		w.fake.set(func(f *fake) { f.reapply = redisstore.ErrShards })
		w.recover()
		if s := w.Stats(); s.Owed != 0 || s.Dropped != 3 {
			t.Errorf("%+v", s)
		}
	})
}
