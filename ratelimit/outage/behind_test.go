package outage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// One failover after the other, to servers that lack what replication had not carried over, or that have
// a snapshot of seconds ago, of this history or another. Requests go on all the while.
func TestWhateverServersTakeOverEverythingIsCountedOnce(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("with seed %d", seed), func(t *testing.T) {
			bubble(t, Options{Remembered: 50 * time.Second}, func(w *world) {
				w.fake.slow = 30 * time.Millisecond   // so that requests come between what is handed over
				rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's
				hit, admitted := charge(limitOf(ratelimit.OutageLocal, 1<<30), 1), int64(0)
				type snapshot struct {
					at      time.Time
					history []redisstore.Applied
				}
				var snapshots []snapshot
				have := func() []redisstore.Applied {
					w.fake.mu.Lock()
					defer w.fake.mu.Unlock()
					return slices.Clone(w.fake.history)
				}
				serve := func(d time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); pass(10 * time.Millisecond) {
						if ok, _, err := w.ask(hit); err != nil {
							t.Fatal(err)
						} else if ok {
							admitted++
						}
					}
				}
				for range 12 {
					serve(time.Duration(rng.IntN(2000)) * time.Millisecond)
					snapshots = append(snapshots, snapshot{time.Now(), have()})
					serve(time.Duration(rng.IntN(2000)) * time.Millisecond)
					next := have()
					next = next[:max(len(next)-rng.IntN(20), 0)]
					if s := snapshots[rng.IntN(len(snapshots))]; rng.IntN(2) == 0 && time.Since(s.at) < 20*time.Second {
						next = s.history
					}
					w.fake.set(func(f *fake) { f.err = errGone })
					serve(time.Duration(rng.IntN(2000)) * time.Millisecond)
					w.fake.become(next)
					w.fake.set(func(f *fake) { f.err = nil })
				}
				serve(5 * time.Second)
				pass(30 * time.Second)
				synctest.Wait()
				if s, got := w.Stats(), w.used(hit); got != admitted || s.Owed != 0 || s.Dropped != 0 || s.Unsure != 0 {
					t.Errorf("%d are counted of %d: %+v", got, admitted, s)
				}
			})
		})
	}
}

// What was handed over again though it was there does not say that the store has what came just before it.
func TestWhatWasThereAllAlongHidesNothing(t *testing.T) {
	bubble(t, Options{Remembered: time.Minute}, func(w *world) {
		hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
		ask := func(n int) {
			for range n {
				_, _, _ = w.ask(hit)
			}
		}
		ask(3 * chunk)
		w.open(errGone)
		snapshot := slices.Clone(w.fake.history)
		w.fake.set(func(f *fake) { f.err, f.slow = nil, 20*time.Millisecond })
		for handed := 0; handed == 0; {
			pass(time.Millisecond)
			w.fake.set(func(f *fake) { handed = f.handed })
		}
		ask(10) // and what was there all along is handed over behind it
		pass(10 * time.Second)
		if n := w.fake.handed; n != 3*chunk {
			t.Fatalf("%d were handed over", n)
		}
		ask(5)
		w.fake.become(snapshot)
		w.open(errGone)
		w.recover()
		if got := w.used(hit); got != 3*chunk+15 {
			t.Errorf("%d are counted of %d", got, 3*chunk+15)
		}
	})
}

// A failover that comes before all that the one before lost is handed over does not make the rest forgotten.
func TestALookThatIsInterruptedGoesOn(t *testing.T) {
	bubble(t, Options{Remembered: time.Minute}, func(w *world) {
		hit, admitted := charge(limitOf(ratelimit.OutageLocal, 1<<20), 1), int64(0)
		serve := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); pass(10 * time.Millisecond) {
				if ok, _, _ := w.ask(hit); ok {
					admitted++
				}
			}
		}
		serve(25 * time.Second)
		w.fake.forget()
		w.fake.set(func(f *fake) { f.slow = 200 * time.Millisecond })
		w.open(errGone)
		w.fake.set(func(f *fake) { f.err = nil })
		serve(8 * time.Second)
		if got := w.used(hit); got >= admitted {
			t.Fatalf("%d are counted already of %d", got, admitted)
		}
		w.open(errGone)
		w.fake.set(func(f *fake) { f.err, f.slow = nil, 0 })
		serve(8 * time.Second)
		if got := w.used(hit); got != admitted {
			t.Errorf("%d are counted of %d", got, admitted)
		}
	})
}
