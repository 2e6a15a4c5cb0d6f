// Package redis_test breaks a real Redis under three replicas' ledgers, composed as sluiced composes them, and
// counts: what was admitted, what Redis has counted of it, which answers bear the mark, and how long each took.
// The tests' names are those of the faults; each prints its figures.
package redis_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/outage"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/redistest"
)

const (
	replicas = 3
	// budget is sluiced's default. Where a test is about numbers alone, patient lets no slow machine degrade an answer.
	budget  = 100 * time.Millisecond
	patient = 5 * time.Second
	// slack is how many budgets the 99th percentile of answers may take on a machine that does other things as well.
	slack = 3
	// window is the longest, so that no test meets its edge.
	window = ratelimit.MaxWindow
	// remembered is for how long sluiced has Redis know an operation by default.
	remembered = 50 * time.Second
	// soon is for what must come true, and how fast is not the point.
	soon = time.Minute
)

// volume is few, or, with SLUICE_FULL set ('make test-faults FULL=1'), as many as research has asked for.
func volume(few, full int) int {
	if os.Getenv("SLUICE_FULL") != "" {
		return full
	}
	return few
}

// quiet keeps go-redis, which logs each connection that fails, from hiding the figures.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

// replica is the ledger of one sluiced.
type replica struct {
	*outage.Store
	shared *redisstore.Store
}

// open opens replicas on a Redis; dial changes how they reach it.
func open(t *testing.T, url string, within time.Duration, dial func(dialer) dialer) []*replica {
	t.Helper()
	if err := redisstore.Migrate(t.Context(), redisstore.Options{Client: connect(t, url, nil)}); err != nil {
		t.Fatal(err)
	}
	all := make([]*replica, replicas)
	for i := range all {
		all[i] = openOne(t, connect(t, url, dial), within)
	}
	return all
}

func openOne(t *testing.T, client redis.UniversalClient, within time.Duration) *replica {
	t.Helper()
	shared, err := redisstore.Open(t.Context(), redisstore.Options{Client: client, Timeout: outage.PatienceOf(within), Remember: remembered})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shared.Close() })
	r := &replica{outage.New(outage.Options{
		Shared: shared, Slot: shared.Slot, Replicas: func() int { return replicas }, Budget: within, Remembered: remembered,
	}), shared}
	t.Cleanup(r.Close)
	return r
}

type dialer = func(ctx context.Context, network, address string) (conn, error)

// connect makes a client with sluiced's settings.
func connect(t *testing.T, url string, dial func(dialer) dialer) redis.UniversalClient {
	t.Helper()
	target, err := redisconn.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	client, err := redisconn.New(redisconn.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	if dial != nil { // only a Cluster needs it: it says itself where its servers are
		o := *client.(*redis.ClusterClient).Options()
		_ = client.Close()
		o.MaxRetries, o.Dialer = -1, dial(o.Dialer)
		client = redis.NewClusterClient(&o)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// alone connects to one server, for a test that tells it something, however busy the machine and its disk are.
func alone(t *testing.T, s *redistest.Server) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, MaxRetries: -1, ReadTimeout: time.Minute, WriteTimeout: time.Minute, PoolTimeout: time.Minute})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// tenant is what one tenant's requests are charged.
type tenant []ratelimit.Charge

// newTenant has a limit of each number of hits, all local in an outage.
func newTenant(t *testing.T, n int, hits ...int64) tenant {
	var charges tenant
	for i, h := range hits {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte(t.Name()), uint64(n)), uint64(i)))
		owner := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(t.Name()), uint64(n)))
		charges = append(charges, ratelimit.Charge{
			Limit: &ratelimit.Limit{Name: "l", Algorithm: ratelimit.Fixed, Hits: h, Window: window, OnOutage: ratelimit.OutageLocal},
			Cell:  ratelimit.Cell{Key: [16]byte(sum[:16]), Shard: binary.BigEndian.Uint64(owner[:])},
			Hits:  1,
		})
	}
	return charges
}

func newTenants(t *testing.T, n int, hits ...int64) []tenant {
	all := make([]tenant, n)
	for i := range all {
		all[i] = newTenant(t, i, hits...)
	}
	return all
}

// plenty is a limit that nobody reaches here.
const plenty = int64(1) << 30

// counted is what Redis has counted of each limit of c, also of one that was lowered since.
func counted(t *testing.T, s ratelimit.Store, c tenant) []int64 {
	t.Helper()
	look := slices.Clone(c)
	for i := range look {
		l := *look[i].Limit
		l.Hits = plenty
		look[i].Limit, look[i].Hits = &l, 0
	}
	outcomes := make([]ratelimit.Outcome, len(c))
	until(t, "Redis says what it has counted", soon, func() bool {
		_, err := s.Charge(ratelimit.Operation{Now: time.Now().UnixMicro()}, look, outcomes)
		return err == nil
	})
	used := make([]int64, len(c))
	for i, o := range outcomes {
		if used[i] = plenty - o.Remaining; used[i] < 0 {
			t.Errorf("a counter is negative: %d", used[i])
		}
	}
	return used
}

// sample is one answer.
type sample struct {
	tenant             int
	at                 time.Time // when it was asked
	took               time.Duration
	admitted, degraded bool
	err                error
}

// load asks for tenants at random, from some workers of each replica, until the story ends.
type load struct {
	replicas []*replica
	tenants  []tenant
	workers  int           // of each replica
	pause    time.Duration // of each worker between two questions
}

func (l load) run(story func()) answers {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		have answers
	)
	for i := range len(l.replicas) * l.workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			var mine answers
			for ctx.Err() == nil {
				n := rng.IntN(len(l.tenants))
				mine = append(mine, l.replicas[i%len(l.replicas)].ask(n, l.tenants[n], ratelimit.Operation{}))
				if l.pause > 0 {
					wait(ctx, l.pause)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			have = append(have, mine...)
		})
	}
	story()
	stop()
	all.Wait()
	return have
}

// ask charges c.
func (r *replica) ask(n int, c tenant, op ratelimit.Operation) sample {
	outcomes := make([]ratelimit.Outcome, len(c))
	began := time.Now()
	if op.Now == 0 {
		op.Now = began.UnixMicro()
	}
	s := sample{tenant: n, at: began}
	s.admitted, s.err = r.Charge(op, c, outcomes)
	s.took, s.degraded = time.Since(began), outcomes[0].Degraded
	return s
}

type answers []sample

func (a answers) count(is func(*sample) bool) (n int) {
	for i := range a {
		if is(&a[i]) {
			n++
		}
	}
	return n
}

func (a answers) admitted() int { return a.count(func(s *sample) bool { return s.admitted }) }
func (a answers) degraded() int { return a.count(func(s *sample) bool { return s.degraded }) }
func (a answers) failed() int   { return a.count(func(s *sample) bool { return s.err != nil }) }

// of are the admissions of each tenant.
func (a answers) of(tenants []tenant) []int64 {
	out := make([]int64, len(tenants))
	for i := range a {
		if a[i].admitted {
			out[a[i].tenant]++
		}
	}
	return out
}

// slow is how long the slowest answers took, but for a few percent of them.
func (a answers) slow(percent int) time.Duration {
	took := make([]time.Duration, len(a))
	for i := range a {
		took[i] = a[i].took
	}
	slices.Sort(took)
	if len(took) == 0 {
		return 0
	}
	return took[min(len(took)*percent/100, len(took)-1)]
}

// inTime checks that answers came within the budget, as far as this machine lets us see.
func (a answers) inTime(t *testing.T, late func() time.Duration) {
	t.Helper()
	if p99 := a.slow(99); p99 > slack*budget+late() {
		t.Errorf("the 99th percentile of %d answers took %v, with a budget of %v, where this machine makes one %v late", len(a), p99, budget, late())
	}
}

// lateness watches this machine from now on. The function that it returns says how late it can have made an answer:
// by the worst that a goroutine has waited to run, in each of the processes and goroutines on the answer's way.
func lateness(t *testing.T) func() time.Duration {
	t.Helper()
	const naps, hops = time.Millisecond, 4
	ctx, stop := context.WithCancel(context.Background())
	var worst atomic.Int64
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			wait(ctx, naps)
			worst.Store(max(worst.Load(), int64(time.Since(began)-naps)))
		}
	})
	t.Cleanup(func() { stop(); watch.Wait() })
	return func() time.Duration { return hops * time.Duration(worst.Load()) }
}

// clean checks that no answer failed, or came without Redis.
func (a answers) clean(t *testing.T) {
	t.Helper()
	if n, m := a.failed(), a.degraded(); n+m > 0 || len(a) == 0 {
		t.Errorf("of %d answers %d failed and %d came without Redis", len(a), n, m)
		for _, s := range a {
			if s.err != nil {
				t.Errorf("for example: %v", s.err)
				return
			}
		}
	}
}

// exact checks that Redis has counted, of every limit of every tenant, what was admitted.
func (a answers) exact(t *testing.T, s ratelimit.Store, tenants []tenant) {
	t.Helper()
	admitted, wrong := a.of(tenants), 0
	for i, c := range tenants {
		for j, used := range counted(t, s, c) {
			if used != admitted[i] {
				if wrong++; wrong <= 5 {
					t.Errorf("limit %d of tenant %d: %d were admitted, %d are counted", j, i, admitted[i], used)
				}
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d counters are wrong", wrong, len(tenants)*len(tenants[0]))
	}
}

// done is how many operations a replica owes no more.
func done(s outage.Stats) uint64 { return s.Reapplied + s.Dropped + s.Unsure }

// settled waits until no replica owes Redis anything, as long as there is ever less of it, and says for how long.
func settled(t *testing.T, all []*replica) time.Duration {
	t.Helper()
	const still = 500 * time.Millisecond // what is on its way is neither owed nor counted yet
	start, before := time.Now(), uint64(0)
	last, moved := start, start
	for time.Since(last) <= still {
		sum, owed := uint64(0), 0
		open := false
		for _, r := range all {
			s := r.Stats()
			sum, owed, open = sum+done(s), owed+s.Owed, open || s.Open
		}
		if sum != before {
			before, moved, last = sum, time.Now(), time.Now()
		}
		if owed > 0 || open {
			last = time.Now()
		}
		if time.Since(moved) > soon {
			t.Fatalf("for %v nothing was counted of %d operations that are owed to Redis; a replica does not ask it: %v", soon, owed, open)
		}
		wait(t.Context(), 5*time.Millisecond)
	}
	return last.Sub(start)
}

// until waits for what must come true within d, and says when it did. A look every few milliseconds is what makes d:
// on a machine that does not let us look, those under test did not get on either.
func until(t *testing.T, what string, d time.Duration, ok func() bool) time.Duration {
	t.Helper()
	const pause = 5 * time.Millisecond
	start := time.Now()
	for left := d / pause; !ok(); left-- {
		if left <= 0 {
			t.Fatalf("after %v it is not so: %s", time.Since(start), what)
		}
		wait(t.Context(), pause)
	}
	return time.Since(start)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// between are the questions that were asked after one moment and before another.
func (a answers) between(from, to time.Time) (out answers) {
	for _, s := range a {
		if s.at.After(from) && s.at.Before(to) {
			out = append(out, s)
		}
	}
	return out
}

// degradedAdmissions are those of each tenant that came without Redis.
func (a answers) degradedAdmissions(tenants []tenant) []int64 {
	var without answers
	for _, s := range a {
		if s.degraded {
			without = append(without, s)
		}
	}
	return without.of(tenants)
}
