package redis_test

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/outage"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/redistest"
)

// rig is a store on a real Redis, under load.
type rig struct {
	*outage.Store
	t      *testing.T
	shared *redisstore.Store
	limit  *ratelimit.Limit
	shards uint64
	within time.Duration // what the store has for an answer
	late   func() time.Duration
	next   atomic.Uint64

	mu    sync.Mutex
	calls []reply
}

type reply struct {
	at, took time.Duration // at: since the load began
	shard    uint64
	admitted bool
	degraded bool
	failed   bool
}

func newRig(t *testing.T, url string, shards uint64, within time.Duration) *rig {
	t.Helper()
	target, err := redisconn.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	client, err := redisconn.New(redisconn.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	o := redisstore.Options{Client: client, Timeout: within / 2, Remember: remembered}
	if err := redisstore.Migrate(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	shared, err := redisstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shared.Close() })
	s := outage.New(outage.Options{Shared: shared, Slot: shared.Slot, Budget: within, Remembered: remembered})
	t.Cleanup(s.Close)
	limit := &ratelimit.Limit{Name: "l", Algorithm: ratelimit.Fixed, Hits: 1 << 30, Window: 366 * 24 * time.Hour, OnOutage: ratelimit.OutageLocal}
	return &rig{Store: s, t: t, shared: shared, limit: limit, shards: shards, within: within, late: lateness(t)}
}

func (r *rig) charge(shard uint64) []ratelimit.Charge {
	return []ratelimit.Charge{{Limit: r.limit, Hits: 1, Cell: ratelimit.Cell{Key: [16]byte{byte(shard)}, Shard: shard}}}
}

// load asks 1000 times a second, whatever the answers, until the story ends.
func (r *rig) load(story func(since func() time.Duration)) {
	r.t.Helper()
	start := time.Now()
	ctx, stop := context.WithCancel(r.t.Context())
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				r.one(start)
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	story(func() time.Duration { return time.Since(start) })
	stop()
	all.Wait()
}

func (r *rig) one(start time.Time) {
	var o [1]ratelimit.Outcome
	shard := r.next.Add(1) % r.shards
	began := time.Now()
	ok, err := r.Charge(ratelimit.Operation{Now: began.UnixMicro()}, r.charge(shard), o[:])
	s := reply{began.Sub(start), time.Since(began), shard, ok, o[0].Degraded, err != nil}
	r.mu.Lock()
	r.calls = append(r.calls, s)
	r.mu.Unlock()
}

// used is what the shared store has counted.
func (r *rig) used() (sum int64) {
	r.t.Helper()
	for shard := range r.shards {
		look := r.charge(shard)
		look[0].Hits = 0
		var o [1]ratelimit.Outcome
		if _, err := r.shared.Charge(ratelimit.Operation{Now: time.Now().UnixMicro()}, look, o[:]); err != nil {
			r.t.Fatal(err)
		}
		sum += r.limit.Hits - o[0].Remaining
	}
	return sum
}

type figures struct {
	calls, admitted, degraded, failed, late int
	p50, p99, most                          time.Duration
	lastDegraded                            time.Duration
}

// figures are those of the calls made from one moment to another.
func (r *rig) figures(from, to time.Duration) figures {
	return r.figuresOf(from, to, func(uint64) bool { return true })
}

func (r *rig) figuresOf(from, to time.Duration, of func(shard uint64) bool) (f figures) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var took []time.Duration
	for _, s := range r.calls {
		if s.at < from || s.at >= to || !of(s.shard) {
			continue
		}
		f.calls++
		took = append(took, s.took)
		if s.took > r.within+20*time.Millisecond+r.late() { // the scheduler's
			f.late++
		}
		if s.admitted {
			f.admitted++
		}
		if s.degraded {
			f.degraded++
			f.lastDegraded = max(f.lastDegraded, s.at)
		}
		if s.failed {
			f.failed++
		}
	}
	slices.Sort(took)
	if n := len(took); n > 0 {
		f.p50, f.p99, f.most = took[n/2], took[n*99/100], took[n-1]
	}
	return f
}

const ever = time.Duration(math.MaxInt64)

// TestRedisIsGoneForSeconds: killed for 5 s and started again empty, and frozen for 6 s, at 1000 calls a second.
func TestRedisIsGoneForSeconds(t *testing.T) {
	for _, c := range []struct {
		name       string
		fail, heal func(*redistest.Server)
		gone       time.Duration
		counted    func(admitted, counted, unsure int64) bool
	}{
		{
			"frozen for six seconds, and everything admitted is counted once", (*redistest.Server).Freeze, (*redistest.Server).Thaw, 6 * time.Second,
			func(admitted, counted, _ int64) bool { return admitted == counted },
		},
		{
			"killed for five seconds, and what it lost of the last seconds is counted again", (*redistest.Server).Kill, (*redistest.Server).Restart, 5 * time.Second,
			func(admitted, counted, unsure int64) bool { return counted <= admitted && counted >= admitted-unsure },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := redistest.Start(t)
			// Patient: that all is counted is the point. A machine that stalls for a tenth of a second makes outages of its own.
			r := newRig(t, "redis://"+server.Addr, 1, time.Second)
			goroutines := runtime.NumGoroutine()
			var failed, healed time.Duration
			var opened, closed time.Duration
			r.load(func(since func() time.Duration) {
				wait(t.Context(), 3*time.Second)
				c.fail(server)
				failed = since()
				opened = until(t, "the breaker is open", soon, func() bool { return r.Stats().Open })
				wait(t.Context(), c.gone-opened)
				c.heal(server)
				healed = since()
				closed = until(t, "the breaker is closed", soon, func() bool { return !r.Stats().Open })
				wait(t.Context(), 2*time.Second)
			})
			settled := settled(t, []*replica{{r.Store, r.shared}})
			idle := until(t, "its goroutines have ended", soon, func() bool { return runtime.NumGoroutine() <= goroutines })

			during, after, all := r.figures(failed, healed), r.figures(healed, ever), r.figures(0, ever)
			counted := r.used()
			t.Logf("opened after %v, closed %v after, last degraded answer %v after; settled %v after the load, %d goroutines again after %v",
				opened, closed, after.lastDegraded-healed, settled, goroutines, idle)
			t.Logf("during: %d calls, %d degraded, p50 %v, p99 %v, longest %v; of all %d calls %d took longer than the budget", during.calls, during.degraded, during.p50, during.p99, during.most, all.calls, all.late)
			t.Logf("admitted %d, counted %d; %+v", all.admitted, counted, r.Stats())
			if all.failed > 0 || all.admitted != all.calls {
				t.Errorf("%d of %d calls failed, %d were admitted", all.failed, all.calls, all.admitted)
			}
			if during.calls < 1000 || during.late > during.calls/100 { // a machine that stalls makes all late that are under way
				t.Errorf("%d of %d calls took longer than the budget of %v", during.late, during.calls, r.within)
			}
			if float64(during.degraded) < 0.99*float64(during.calls) {
				t.Errorf("%d of %d answers have the mark", during.degraded, during.calls)
			}
			if after.degraded > 0 && after.lastDegraded > healed+closed+r.within+r.late() {
				t.Errorf("the last degraded answer came %v after Redis", after.lastDegraded-healed)
			}
			if !c.counted(int64(all.admitted), counted, int64(r.Stats().Unsure)) {
				t.Errorf("%d are counted of %d", counted, all.admitted)
			}
		})
	}
}

// TestF15: 200 ms more to Redis, and then nothing that ever comes back, at 1000 calls a second.
func TestF15(t *testing.T) {
	for _, c := range []struct {
		name  string
		delay time.Duration
		hole  bool
	}{
		{"two hundred milliseconds more", 200 * time.Millisecond, false},
		{"a black hole", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newLag(t, redistest.Start(t).Addr)
			r := newRig(t, "redis://"+p.addr, 1, budget)
			var failed, healed, opened, closed time.Duration
			r.load(func(since func() time.Duration) {
				wait(t.Context(), time.Second)
				p.delay.Store(int64(c.delay))
				p.hole.Store(c.hole)
				failed = since()
				opened = until(t, "the breaker is open", soon, func() bool { return r.Stats().Open })
				wait(t.Context(), 3*time.Second)
				until(t, "a thousand calls were made meanwhile", soon, func() bool { return r.figures(failed, ever).calls >= 1000 })
				p.delay.Store(0)
				p.hole.Store(false)
				healed = since()
				closed = until(t, "the breaker is closed", soon, func() bool { return !r.Stats().Open })
				wait(t.Context(), time.Second)
			})
			settled(t, []*replica{{r.Store, r.shared}})
			during, after, all := r.figures(failed, healed), r.figures(healed, ever), r.figures(0, ever)
			t.Logf("opened after %v, closed %v after, last degraded answer %v after", opened, closed, after.lastDegraded-healed)
			t.Logf("during: %d calls, %d degraded, p50 %v, p99 %v, longest %v", during.calls, during.degraded, during.p50, during.p99, during.most)
			t.Logf("admitted %d, counted %d; %+v", all.admitted, r.used(), r.Stats())
			if during.p99 > budget+r.late() || during.calls < 1000 {
				t.Errorf("%d calls, p99 %v", during.calls, during.p99)
			}
			if during.degraded < during.calls-50 { // those that were under way
				t.Errorf("%d of %d answers have the mark", during.degraded, during.calls)
			}
			if got := r.used(); got != int64(all.admitted) || all.failed > 0 {
				t.Errorf("%d are counted of %d, %d failed", got, all.admitted, all.failed)
			}
		})
	}
}

// TestAPrimaryThatIsGoneTakesItsSlotsOnly: of three primaries, one is frozen for 3 s, at 1000 calls a second on 60 shards.
func TestAPrimaryThatIsGoneTakesItsSlotsOnly(t *testing.T) {
	servers := redistest.Cluster(t, "--cluster-require-full-coverage", "no")
	// Patient: that the others are asked is the point, and not how fast they are.
	r := newRig(t, "redis+cluster://"+servers[0].Addr, 60, time.Second)
	third := func(shard uint64) bool { return r.shared.Slot(shard) < 5000 } // all on the first, and none of its neighbours' lanes
	others := func(shard uint64) bool { return r.shared.Slot(shard) >= 6144 }
	var failed, healed, closed time.Duration
	r.load(func(since func() time.Duration) {
		wait(t.Context(), time.Second)
		servers[0].Freeze()
		failed = since()
		wait(t.Context(), 3*time.Second)
		until(t, "some hundred calls were made meanwhile, on the frozen one and elsewhere", soon, func() bool {
			return r.figuresOf(failed, ever, third).calls >= 300 && r.figuresOf(failed, ever, others).calls >= 300
		})
		servers[0].Thaw()
		healed = since()
		closed = until(t, "every breaker is closed", soon, func() bool { return !r.Stats().Open })
		wait(t.Context(), time.Second)
	})
	settled(t, []*replica{{r.Store, r.shared}})
	gone, there, all := r.figuresOf(failed, healed, third), r.figuresOf(failed, healed, others), r.figures(0, ever)
	t.Logf("on the frozen one: %d calls, %d degraded, p99 %v, longest %v; elsewhere: %d calls, %d degraded, p99 %v; closed %v after",
		gone.calls, gone.degraded, gone.p99, gone.most, there.calls, there.degraded, there.p99, closed)
	t.Logf("admitted %d, counted %d; %+v", all.admitted, r.used(), r.Stats())
	if gone.calls < 300 || there.calls < 300 || gone.degraded < gone.calls*9/10 {
		t.Errorf("on the frozen one %d of %d answers have the mark; elsewhere are %d calls", gone.degraded, gone.calls, there.calls)
	}
	if there.degraded > there.calls/20 {
		t.Errorf("elsewhere %d of %d answers are degraded", there.degraded, there.calls)
	}
	if got := r.used(); got != int64(all.admitted) || all.failed > 0 {
		t.Errorf("%d are counted of %d, %d failed", got, all.admitted, all.failed)
	}
}

// lag stands between a store and Redis, and is told to be slow or deaf.
type lag struct {
	addr  string
	delay atomic.Int64 // of each piece
	hole  atomic.Bool
}

func newLag(t *testing.T, to string) *lag {
	t.Helper()
	p := &lag{}
	p.addr = redistest.Proxy(t, to, func() redistest.Piece {
		return func(b []byte, _ bool) (int, bool) {
			if d := time.Duration(p.delay.Load()); d > 0 {
				wait(context.Background(), d/2) // both ways
			}
			if p.hole.Load() {
				return 0, false
			}
			return len(b), false
		}
	})
	return p
}
