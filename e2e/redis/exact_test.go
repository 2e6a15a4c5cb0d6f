package redis_test

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// TestF10FlushedFunctions: the functions vanish each second under load.
func TestF10FlushedFunctions(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	all := open(t, "redis://"+server.Addr, patient, nil)
	tenants := newTenants(t, 100, plenty, plenty, plenty)
	admin, flushed := alone(t, server), 0
	have := load{all, tenants, 8, 2 * time.Millisecond}.run(func() {
		for range volume(4, 60) {
			wait(t.Context(), time.Second)
			if err := admin.FunctionFlush(t.Context()).Err(); err != nil {
				t.Error(err)
			}
			if err := admin.ScriptFlush(t.Context()).Err(); err != nil {
				t.Error(err)
			}
			flushed++
		}
		wait(t.Context(), time.Second/2)
	})
	var reloads int64
	for _, r := range all {
		reloads += r.shared.Stats().Reloads
	}
	t.Logf("F10: %d flushes of functions and scripts, %d times loaded again; %d answers, %d failed, %d without Redis; p99 %v",
		flushed, reloads, len(have), have.failed(), have.degraded(), have.slow(99))
	have.clean(t)
	have.exact(t, all[0].shared, tenants)
	if have.admitted() != len(have) || reloads < int64(flushed) {
		t.Errorf("%d of %d were admitted; %d reloads", have.admitted(), len(have), reloads)
	}
}

// TestF11LostReplies: a proxy loses the answer after Redis has counted, of one call in a hundred. Half the tenants run dry meanwhile.
func TestF11LostReplies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		cluster bool
	}{{"by one server", false}, {"by a cluster", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			proxies := map[string]*proxy{}
			var all []*replica
			if c.cluster {
				servers := redistest.Cluster(t)
				for _, s := range servers {
					proxies[s.Addr] = newProxy(t, s.Addr)
				}
				all = open(t, "redis+cluster://"+servers[0].Addr, patient, through(proxies))
			} else {
				server := redistest.Start(t)
				proxies[server.Addr] = newProxy(t, server.Addr)
				all = open(t, "redis://"+proxies[server.Addr].addr, patient, nil)
			}
			tenants := newTenants(t, 30, plenty, plenty)
			for i := range tenants[:15] {
				tenants[i] = newTenant(t, i, 60, plenty)
			}
			for _, p := range proxies {
				p.loses.Store(100)
			}
			have := load{all, tenants, 8, time.Millisecond}.run(func() {
				wait(t.Context(), time.Duration(volume(3, 60))*time.Second)
				until(t, "enough answers are lost", soon, func() bool {
					var lost int64
					for _, p := range proxies {
						lost += p.lost.Load()
					}
					return lost >= 10
				})
				for _, c := range tenants[:15] {
					until(t, "a tenant has run dry", soon, func() bool { return counted(t, all[0].shared, c)[0] == 60 })
				}
			})
			var lost, resends int64
			for _, p := range proxies {
				p.loses.Store(0)
				lost += p.lost.Load()
			}
			for _, r := range all {
				resends += r.shared.Stats().Resends
			}
			t.Logf("F11: %d answers lost, %d calls sent again by the store; %d answers, %d admitted, %d failed, %d without Redis",
				lost, resends, len(have), have.admitted(), have.failed(), have.degraded())
			have.clean(t)
			have.exact(t, all[0].shared, tenants)
			for i, n := range have.of(tenants) {
				if i < 15 && n != 60 {
					t.Errorf("tenant %d: %d of a limit of 60 were admitted", i, n)
				}
			}
			if lost < 10 {
				t.Errorf("%d answers were lost: that proves nothing", lost)
			}
		})
	}
}

// TestF17StepOfAClock: the clock of one of three replicas steps an hour ahead, then an hour back.
func TestF17StepOfAClock(t *testing.T) {
	all := open(t, "redis://"+redistest.Start(t).Addr, patient, nil)
	stepping(t, all, "the clock of one of three stepped", 300+600+600+300, func(t *testing.T, step time.Duration, ask func(int, ratelimit.Operation)) {
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				for range 20 {
					now := time.Now()
					if i%replicas == 1 {
						now = now.Add(step)
					}
					ask(i, ratelimit.Operation{Now: now.UnixMicro()})
				}
			})
			if i == 14 && step == 0 {
				break // at first not all of it, so that all steps find something left
			}
		}
		wg.Wait()
	})
}

// TestA6ChangedLimits: a limit is raised, lowered and given back to in mid-window while all replicas ask, and refuse from memory.
func TestA6ChangedLimits(t *testing.T) {
	const wellBelow = 10 * time.Second // the half minute for which a refusal is remembered that nobody took back; Redis may stall
	all := open(t, "redis://"+redistest.Start(t).Addr, patient, nil)
	first := newTenant(t, 0, 100)
	var (
		limit    atomic.Pointer[ratelimit.Limit]
		admitted [replicas]atomic.Int64
		wrong    atomic.Int64
	)
	limit.Store(first[0].Limit)
	total := func() (n int64) {
		for i := range admitted {
			n += admitted[i].Load()
		}
		return n
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, r := range all {
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c := tenant{first[0]}
					c[0].Limit = limit.Load()
					outcomes := make([]ratelimit.Outcome, 1)
					ok, err := r.Charge(ratelimit.Operation{Now: time.Now().UnixMicro()}, c, outcomes)
					if ok {
						admitted[i].Add(1)
					}
					if o := outcomes[0]; err != nil || o.Degraded || o.Remaining < 0 || o.Over == ok {
						wrong.Add(1)
					}
					wait(t.Context(), time.Millisecond)
				}
			})
		}
	}
	want := int64(100)
	until(t, "the first limit is reached", soon, func() bool { return total() == want })
	wait(t.Context(), 300*time.Millisecond) // refusals are remembered by now
	for _, hits := range []int64{400, 250, 401, 0, 900} {
		l := *first[0].Limit
		l.Hits = hits
		var before [replicas]int64
		for i := range before {
			before[i] = admitted[i].Load()
		}
		more := max(hits-want, 0)
		if more > replicas {
			c := tenant{first[0]}
			c[0].Limit = &l
			for i, r := range all { // before the others take what is new
				if s := r.ask(0, c, ratelimit.Operation{}); !s.admitted {
					t.Fatalf("to replica %d a limit of %d was nothing new: %v", i, hits, s.err)
				}
				admitted[i].Add(1)
			}
		}
		limit.Store(&l)
		took := until(t, "what is new is admitted", wellBelow, func() bool { return total() == want+more })
		want += more
		wait(t.Context(), 200*time.Millisecond)
		shares := make([]int64, replicas)
		for i := range shares {
			shares[i] = admitted[i].Load() - before[i]
		}
		t.Logf("A6: a limit of %d: %d more were admitted within %v, by replica %v", hits, more, took, shares)
		if used := counted(t, all[0].shared, first)[0]; used != want || total() != want {
			t.Errorf("%d are counted and %d admitted, want %d", used, total(), want)
		}
	}
	refund := tenant{first[0]}
	refund[0].Limit, refund[0].Hits = limit.Load(), -30
	if s := all[2].ask(0, refund, ratelimit.Operation{}); s.err != nil || s.degraded {
		t.Errorf("given back: %+v", s)
	}
	took := until(t, "what was given back is admitted", wellBelow, func() bool { return total() == want+30 })
	t.Logf("A6: of 30 hits given back all were admitted within %v", took)
	close(stop)
	wg.Wait()
	if used := counted(t, all[0].shared, first)[0]; used != want {
		t.Errorf("%d are counted after a refund, want %d", used, want)
	}
	var remembered int64
	for _, r := range all {
		remembered += r.shared.Stats().DeniedHits
	}
	t.Logf("A6: %d answers came from what is remembered, %d answers were wrong", remembered, wrong.Load())
	if wrong.Load() > 0 {
		t.Errorf("%d answers failed, or said what can't be", wrong.Load())
	}
}

// TestA7OneOfThreeDenies: the limit in the middle refuses two of three requests, and the others are charged for none of those.
func TestA7OneOfThreeDenies(t *testing.T) {
	all := open(t, "redis://"+redistest.Start(t).Addr, patient, nil)
	const asks, hits = 60, 20
	tenants := volume(400, 16_700)
	group := newTenants(t, tenants, plenty, hits, plenty)
	var (
		mu   sync.Mutex
		have answers
		wg   sync.WaitGroup
	)
	for i := range 96 {
		wg.Go(func() {
			var mine answers
			for k := i; k < tenants*asks; k += 96 { // 96 at once, of two tenants
				n := k / asks
				mine = append(mine, all[k%replicas].ask(n, group[n], ratelimit.Operation{}))
			}
			mu.Lock()
			defer mu.Unlock()
			have = append(have, mine...)
		})
	}
	wg.Wait()
	t.Logf("A7: %d requests of three limits, %d admitted, %d refused by one, %d failed", len(have), have.admitted(), len(have)-have.admitted(), have.failed())
	have.clean(t)
	have.exact(t, all[0].shared, group)
	if have.admitted() != tenants*hits {
		t.Errorf("%d were admitted, want %d", have.admitted(), tenants*hits)
	}
}

// TestA10SameOperation: an operation is asked for at several replicas at once, and again when it was answered. It is charged once.
// When the last hits of a limit are admitted, a replica that remembers a refusal already may refuse what another one has
// admitted: that can be so for the operations under way at that moment, and no more.
func TestA10SameOperation(t *testing.T) {
	all := open(t, "redis://"+redistest.Start(t).Addr, patient, nil)
	const together = 32
	operations, hits := volume(3000, 300_000), int64(volume(2000, 200_000))
	group := newTenants(t, 1, hits, plenty)
	var admitted, torn, failed atomic.Int64
	var wg sync.WaitGroup
	next := make(chan int)
	for range together {
		wg.Go(func() {
			for range next {
				var op ratelimit.Operation
				rand.Read(op.ID[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
				var hedges [4]sample
				var both sync.WaitGroup
				for h := range 3 {
					both.Go(func() { hedges[h] = all[h].ask(0, group[0], op) })
				}
				both.Wait()
				hedges[3] = all[op.ID[0]%replicas].ask(0, group[0], op) // the retry
				yes := answers(hedges[:]).admitted()
				if yes > 0 {
					admitted.Add(1)
				}
				if yes%len(hedges) != 0 {
					torn.Add(1)
				}
				failed.Add(int64(answers(hedges[:]).failed() + answers(hedges[:]).degraded()))
			}
		})
	}
	for i := range operations {
		next <- i
	}
	close(next)
	wg.Wait()
	used := counted(t, all[0].shared, group[0])
	t.Logf("A10: %d operations asked four times each: %d admitted, counted %v, %d answered both ways, %d failed", operations, admitted.Load(), used, torn.Load(), failed.Load())
	if admitted.Load() != hits || used[0] != hits || used[1] != hits || torn.Load() > together || failed.Load() > 0 {
		t.Errorf("%d admitted and %v counted, want %d; %d answered both ways, %d failed", admitted.Load(), used, hits, torn.Load(), failed.Load())
	}
}
