package redisstore

import (
	"context"
	"encoding/binary"
	"errors"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/redistest"
)

func cellOf(n uint64) (c ratelimit.Cell) {
	binary.BigEndian.PutUint64(c.Key[:], n)
	c.Shard = n * 0x9e3779b97f4a7c15
	return c
}

func limitOf(a ratelimit.Algorithm, hits int64, window time.Duration) *ratelimit.Limit {
	return &ratelimit.Limit{Name: "test", Algorithm: a, Hits: hits, Window: window, Burst: max(hits, 1)}
}

func chargeOne(s *Store, c ratelimit.Cell, l *ratelimit.Limit, hits int64) (ratelimit.Outcome, error) {
	var o [1]ratelimit.Outcome
	_, err := s.Charge(ratelimit.Operation{}, []ratelimit.Charge{{Limit: l, Cell: c, Hits: hits}}, o[:])
	return o[0], err
}

// calls is how often Redis ran our function.
func calls(t testing.TB, c redis.UniversalClient) (n int64) {
	t.Helper()
	text, err := c.Info(context.Background(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`cmdstat_fcall:calls=(\d+)`).FindStringSubmatch(text); m != nil {
		n, _ = strconv.ParseInt(m[1], 10, 64)
	}
	return n
}

// used is how many hits a cell counts.
func used(t testing.TB, s *Store, c ratelimit.Cell, l *ratelimit.Limit) int64 {
	t.Helper()
	o, err := chargeOne(s, c, l, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l.Hits - o.Remaining
}

func TestOneCallForARequest(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: client})
	algorithms := []ratelimit.Algorithm{ratelimit.Fixed, ratelimit.GCRA, ratelimit.Hard}
	for n := 1; n <= 8; n++ {
		charges, outcomes := make([]ratelimit.Charge, n), make([]ratelimit.Outcome, n)
		for i := range charges {
			charges[i] = ratelimit.Charge{Limit: limitOf(algorithms[i%3], 100, time.Hour), Cell: cellOf(uint64(100*n + i)), Hits: 1}
			charges[i].Cell.Shard = 1
		}
		before, stats := calls(t, client), s.Stats()
		for range 10 {
			if ok, err := s.Charge(ratelimit.Operation{}, charges, outcomes); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		if got := calls(t, client) - before; got != 10 {
			t.Errorf("10 requests of %d limits took %d calls", n, got)
		}
		if got := s.Stats().Pipelines - stats.Pipelines; got != 10 {
			t.Errorf("10 requests of %d limits took %d round trips", n, got)
		}
	}
}

func TestCallersShareRoundTrips(t *testing.T) {
	s := openTest(t, Options{Client: connect(t, redistest.Start(t).Addr)})
	l := limitOf(ratelimit.Fixed, 1<<30, 24*time.Hour)
	var wg sync.WaitGroup
	for w := range 128 {
		wg.Go(func() {
			for range 50 {
				if _, err := chargeOne(s, cellOf(uint64(w)), l, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Commands*8 > 6400 || st.Pipelines*8 > 6400 {
		t.Errorf("6400 requests of 128 callers took %d calls in %d round trips", st.Commands, st.Pipelines)
	}
}

func TestLimitsOfZeroAndNoLimitAskNobody(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: client})
	before := calls(t, client)
	if o, err := chargeOne(s, cellOf(1), limitOf(ratelimit.GCRA, 0, time.Hour), 1); err != nil || !o.Over || o.RetryAfter != ratelimit.Never {
		t.Errorf("a limit of 0: %+v, %v", o, err)
	}
	if o, err := chargeOne(s, cellOf(1), limitOf(ratelimit.GCRA, ratelimit.Unlimited, time.Hour), 1); err != nil || o.Over {
		t.Errorf("no limit: %+v, %v", o, err)
	}
	if n := calls(t, client) - before; n != 0 {
		t.Errorf("they took %d calls", n)
	}
}

func TestClusterRefusesSeveralShards(t *testing.T) {
	s := openTest(t, Options{Client: connectCluster(t)})
	if !s.OneShard() {
		t.Error("a cluster takes several shards")
	}
	l := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour)
	charges := []ratelimit.Charge{{Limit: l, Cell: cellOf(1), Hits: 1}, {Limit: l, Cell: cellOf(2), Hits: 1}}
	if _, err := s.Charge(ratelimit.Operation{}, charges, make([]ratelimit.Outcome, 2)); !errors.Is(err, ErrShards) {
		t.Errorf("two shards: %v", err)
	}
	if n := used(t, s, cellOf(1), l); n != 0 {
		t.Errorf("the refused request was charged %d", n)
	}
	for i := range uint64(500) { // over all slots
		if _, err := chargeOne(s, cellOf(i), l, 1); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(500) {
		if n := used(t, s, cellOf(i), l); n != 1 {
			t.Fatalf("cell %d counts %d", i, n)
		}
	}
}

// A10: whoever asks again, wherever, with the same id is charged once.
func TestAnOperationCountsOnce(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	stores := []*Store{openTest(t, Options{Client: client}), openTest(t, Options{Client: client}), openTest(t, Options{Client: client})}
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		l, cell := limitOf(a, 500, 366*24*time.Hour), cellOf(uint64(a))
		var asked, ok atomic.Int64
		var wg sync.WaitGroup
		for id := range uint64(600) {
			for _, s := range stores {
				wg.Go(func() {
					op := ratelimit.Operation{ID: [16]byte{byte(a), 1}}
					binary.BigEndian.PutUint64(op.ID[8:], id)
					var o [1]ratelimit.Outcome
					admitted, err := s.Charge(op, []ratelimit.Charge{{Limit: l, Cell: cell, Hits: 1}}, o[:])
					if err != nil {
						t.Error(err)
					}
					if asked.Add(1); admitted {
						ok.Add(1)
					}
				})
			}
			if id%20 == 19 { // the 500th among them: whoever refuses for the cell has nothing left to admit there
				wg.Wait()
			}
		}
		wg.Wait()
		if asked.Load() != 1800 || ok.Load() != 1500 {
			t.Errorf("algorithm %d: %d of %d calls were admitted, want 3 for each of 500", a, ok.Load(), asked.Load())
		}
		if n := used(t, stores[0], cell, l); n != 500 {
			t.Errorf("algorithm %d: %d are charged, want 500", a, n)
		}
	}
}

func TestReapply(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: client, CallerTime: true})
	const now = int64(1_700_000_000_000_000)
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		l, cell := limitOf(a, 10, time.Hour), cellOf(uint64(a))
		charges := []ratelimit.Charge{{Limit: l, Cell: cell, Hits: 3}}
		op := func(n byte) ratelimit.Operation { return ratelimit.Operation{Now: now, ID: [16]byte{byte(a), n}} }
		if ok, err := s.Charge(op(1), charges, make([]ratelimit.Outcome, 1)); !ok || err != nil {
			t.Fatal(ok, err)
		}
		var journal []Applied
		for n := range byte(5) { // the first is known
			journal = append(journal, Applied{op(n + 1), charges})
		}
		for round, want := range []int64{6, 9, 10, 10} { // what does not fit counts to the brim
			if missing, err := s.Reapply(context.Background(), journal[:round+2]); err != nil || missing != 1 {
				t.Fatalf("%d were missing, %v; want one", missing, err)
			}
			var o [1]ratelimit.Outcome
			look := []ratelimit.Charge{{Limit: l, Cell: cell}}
			if _, err := s.Charge(ratelimit.Operation{Now: now}, look, o[:]); err != nil || 10-o[0].Remaining != want {
				t.Errorf("algorithm %d, after %d operations: %d are charged, %v, want %d", a, round+2, 10-o[0].Remaining, err, want)
			}
		}
	}
	if _, err := s.Reapply(context.Background(), []Applied{{Operation: ratelimit.Operation{Now: now}}}); err == nil {
		t.Error("an operation without an id was taken")
	}
}

// However long a failover takes, within what was asked for: what it kept is known, what it lost is not.
func TestReapplyKnowsAnOperationForAsLongAsItIsToldTo(t *testing.T) {
	const now = int64(1_700_000_000_000_000)
	l := limitOf(ratelimit.Fixed, 100, 24*time.Hour)
	client := connect(t, redistest.Start(t).Addr)
	for n, c := range []struct {
		remember, later time.Duration
		counted         int64
	}{
		{0, 9 * time.Second, 3}, {0, 25 * time.Second, 6},
		{50 * time.Second, 49 * time.Second, 3}, {45 * time.Second, 49 * time.Second, 3}, {50 * time.Second, 65 * time.Second, 6},
		{10 * time.Minute, 599 * time.Second, 3}, {time.Hour, 599 * time.Second, 3},
	} {
		s := openTest(t, Options{Client: client, CallerTime: true, Remember: c.remember})
		charges := []ratelimit.Charge{{Limit: l, Cell: cellOf(uint64(n)), Hits: 3}}
		op := ratelimit.Operation{Now: now, ID: [16]byte{byte(n), 1}}
		if ok, err := s.Charge(op, charges, make([]ratelimit.Outcome, 1)); !ok || err != nil {
			t.Fatal(ok, err)
		}
		later := ratelimit.Operation{Now: now + c.later.Microseconds(), ID: op.ID}
		for range 2 {
			if _, err := s.Reapply(t.Context(), []Applied{{later, charges}}); err != nil {
				t.Fatal(err)
			}
		}
		var o [1]ratelimit.Outcome
		if _, err := s.Charge(ratelimit.Operation{Now: now}, []ratelimit.Charge{{Limit: l, Cell: charges[0].Cell}}, o[:]); err != nil || 100-o[0].Remaining != c.counted {
			t.Errorf("told %v, after %v: %d are charged, %v, want %d", c.remember, c.later, 100-o[0].Remaining, err, c.counted)
		}
	}
}

// Redis forgets what need not be known any more, and not before.
func TestOperationsExpire(t *testing.T) {
	for name, client := range map[string]redis.UniversalClient{"on one server": connect(t, redistest.Start(t).Addr), "on a cluster": connectCluster(t)} {
		t.Run(name, func(t *testing.T) {
			for n, remember := range []time.Duration{0, 50 * time.Second, 20 * time.Second} { // the longest holds for a set that they share
				s := openTest(t, Options{Client: client, Remember: remember})
				if _, err := chargeOne(s, cellOf(uint64(n)), limitOf(ratelimit.Fixed, 100, 366*24*time.Hour), 1); err != nil { // its cell stays for days
					t.Fatal(err)
				}
			}
			var mu sync.Mutex // servers are asked at once
			var ids, longest int
			if err := each(t.Context(), client, func(ctx context.Context, c *redis.Client) error {
				mu.Lock()
				defer mu.Unlock()
				keys, err := c.Keys(ctx, "q:*").Result()
				for _, k := range keys {
					if ttl := c.PTTL(ctx, k).Val(); ttl < 0 {
						t.Errorf("%q does not expire", k)
					} else if ttl < 2*time.Minute { // not a cell
						ids++
						longest = max(longest, int(ttl/time.Second))
					}
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if ids < 1 || longest < 40 || longest > 61 {
				t.Errorf("%d keys of operations, of which one stays for %d s, want 50 to 61", ids, longest)
			}
		})
	}
}

// Redis would do nothing else while a large set expires. Whoever may not unlink has it so, and nothing fails.
func TestOperationsThatNobodyAsksForGoInTheBackground(t *testing.T) {
	const now = int64(1_700_000_000_000_000)
	for _, c := range []struct {
		right string
		sets  int
	}{{"+unlink", 1}, {"-unlink", 2}} {
		t.Run(c.right, func(t *testing.T) {
			client := connect(t, redistest.Start(t).Addr)
			s := openTest(t, Options{Client: client, CallerTime: true})
			if err := client.Do(t.Context(), "ACL", "SETUSER", "default", c.right).Err(); err != nil {
				t.Fatal(err)
			}
			for _, later := range []time.Duration{0, 9 * time.Second, 25 * time.Second} {
				charges := []ratelimit.Charge{{Limit: limitOf(ratelimit.Fixed, 100, 24*time.Hour), Cell: cellOf(1), Hits: 1}}
				if ok, err := s.Charge(ratelimit.Operation{Now: now + later.Microseconds()}, charges, make([]ratelimit.Outcome, 1)); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			if keys, err := client.Keys(t.Context(), "q:!*").Result(); err != nil || len(keys) != c.sets {
				t.Errorf("after 25 s there are sets of %d periods, %v, want %d", len(keys), err, c.sets)
			}
		})
	}
}

// What was admitted in a window that is over must not count in the next one.
func TestReapplyKnowsWhen(t *testing.T) {
	s := openTest(t, Options{Client: connect(t, redistest.Start(t).Addr)})
	l := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour)
	charges := []ratelimit.Charge{{Limit: l, Cell: cellOf(1), Hits: 3}}
	now := time.Now()
	if _, err := s.Reapply(context.Background(), []Applied{
		{ratelimit.Operation{Now: now.Add(-2 * l.Window).UnixMicro(), ID: [16]byte{1}}, charges},
		{ratelimit.Operation{Now: now.Add(time.Minute).UnixMicro(), ID: [16]byte{2}}, charges}, // a clock ahead is not believed
	}); err != nil {
		t.Fatal(err)
	}
	if n := used(t, s, cellOf(1), l); n != 3 {
		t.Errorf("%d are charged, want 3", n)
	}
}

// What is given back again is heard by those who remember a denial, with no right to another channel.
func TestReapplyTellsOfWhatIsGivenBack(t *testing.T) {
	server := redistest.Start(t)
	admin := connect(t, server.Addr)
	l, charge := limitOf(ratelimit.Fixed, 5, 366*24*time.Hour), []ratelimit.Charge{{Cell: cellOf(1), Hits: 1}}
	charge[0].Limit = l
	here, there := openTest(t, Options{Client: admin}), openTest(t, Options{Client: admin})
	await.That(t, "the channel is heard", func() bool { return there.Stats().Listening })
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "default", "resetchannels", "&sluice:*").Err(); err != nil {
		t.Fatal(err)
	}
	ask := func() bool {
		ok, err := there.Charge(ratelimit.Operation{}, charge, make([]ratelimit.Outcome, 1))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for ask() {
	}
	back := charge[0]
	back.Hits = -1
	if _, err := here.Reapply(t.Context(), []Applied{{ratelimit.Operation{Now: time.Now().UnixMicro(), ID: [16]byte{1}}, []ratelimit.Charge{back}}}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "what was given back is there", ask)
	if ask() {
		t.Error("more was given back than one")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	if err := Migrate(context.Background(), Options{Client: client}); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	s, err := Open(context.Background(), Options{Client: client, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for range 20 {
				if _, err := chargeOne(s, cellOf(uint64(w)), limitOf(ratelimit.GCRA, 5, time.Hour), 1); err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	_ = s.Close()
	wg.Wait()
	if _, err := chargeOne(s, cellOf(1), limitOf(ratelimit.GCRA, 500, time.Hour), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	await.That(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+1 }) // the client may keep one
}

// answered is a call by the clock of this machine, which is that of Redis.
type answered struct{ asked, came time.Time }

// TestAccuracy: three replicas, 128 in flight, across edges of the window, by the clock of Redis. However slow the machine is: no
// more is admitted than may be, and nobody is refused but after as much was admitted within a window.
func TestAccuracy(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	var stores []*Store
	for range 3 {
		stores = append(stores, openTest(t, Options{Client: client}))
	}
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		l, cell := limitOf(a, 200, time.Second), cellOf(uint64(a))
		start, err := client.Time(context.Background()).Result()
		if err != nil {
			t.Fatal(err)
		}
		var ok atomic.Int64
		var mu sync.Mutex
		var admitted, refused []answered
		var wg sync.WaitGroup
		stop := time.Now().Add(2500 * time.Millisecond)
		for w := range 128 {
			wg.Go(func() {
				for time.Now().Before(stop) || ok.Load() < 3*l.Hits {
					var o [1]ratelimit.Outcome
					asked := time.Now()
					may, err := stores[w%3].Charge(ratelimit.Operation{}, []ratelimit.Charge{{Limit: l, Cell: cell, Hits: 1}}, o[:])
					if err != nil {
						t.Error(err)
						return
					}
					answer := answered{asked, time.Now()}
					mu.Lock()
					if may {
						ok.Add(1)
						admitted = append(admitted, answer)
					} else {
						refused = append(refused, answer)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		end, err := client.Time(context.Background()).Result()
		if err != nil {
			t.Fatal(err)
		}
		took := end.Sub(start)
		bound := map[ratelimit.Algorithm]int64{
			ratelimit.GCRA:  l.Burst + took.Microseconds()*l.Hits/1e6,
			ratelimit.Hard:  l.Hits * (took.Microseconds()/1e6 + 1),
			ratelimit.Fixed: l.Hits * (end.Unix() - start.Unix() + 1),
		}[a]
		r, n := leastReason(admitted, refused, l.Window+l.Window/60)
		t.Logf("algorithm %d: %d admitted in %v and %d refused, the bound is %d; %d or more in the window before a refusal", a, ok.Load(), took, len(refused), bound, n)
		if ok.Load() > bound {
			t.Errorf("algorithm %d: %d were admitted in %v, at most %d may be", a, ok.Load(), took, bound)
		}
		if len(refused) == 0 {
			t.Errorf("algorithm %d: nobody was refused", a)
		}
		if n < int(l.Hits)-1 {
			t.Errorf("algorithm %d: %v after the start somebody was refused, and %d were admitted in the window before", a, r.came.Sub(admitted[0].asked), n)
		}
	}
}

// leastReason is the refusal before which the fewest may have been admitted within that time.
func leastReason(admitted, refused []answered, within time.Duration) (least answered, n int) {
	n = len(admitted)
	asked, came := slices.Clone(admitted), slices.Clone(admitted)
	slices.SortFunc(asked, func(a, b answered) int { return a.asked.Compare(b.asked) })
	slices.SortFunc(came, func(a, b answered) int { return a.came.Compare(b.came) })
	for _, r := range refused {
		begun, _ := slices.BinarySearchFunc(asked, r.came, func(a answered, t time.Time) int { return a.asked.Compare(t) })
		over, _ := slices.BinarySearchFunc(came, r.asked.Add(-within), func(a answered, t time.Time) int { return a.came.Compare(t) })
		if begun-over < n {
			least, n = r, begun-over
		}
	}
	return least, n
}

// TestTwoLimits: 100/s and 1000/min at 500/s for 9 s, over three replicas, admit 900.
func TestTwoLimits(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	var stores []*Store
	for range 3 {
		stores = append(stores, openTest(t, Options{Client: client, CallerTime: true}))
	}
	const base, second = int64(19675) * 86400 * 1e6, int64(1e6)
	charges := []ratelimit.Charge{
		{Limit: limitOf(ratelimit.Fixed, 100, time.Second), Cell: cellOf(1), Hits: 1},
		{Limit: limitOf(ratelimit.Fixed, 1000, time.Minute), Cell: cellOf(2), Hits: 1},
	}
	admitted := 0
	for i := int64(0); i*2000 < 9*second; i++ {
		ok, err := stores[i%3].Charge(ratelimit.Operation{Now: base + i*2000}, charges, make([]ratelimit.Outcome, 2))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			admitted++
		}
	}
	if admitted != 900 {
		t.Errorf("admitted %d, want 900", admitted)
	}
}

// A tenant with one fixed limit costs at most what it costs envoyproxy/ratelimit.
func TestMemory(t *testing.T) {
	const noSlowLog = "-1" // on a busy machine it keeps the arguments of 128 calls
	client := connect(t, redistest.Start(t, "--slowlog-log-slower-than", noSlowLog).Addr)
	s := openTest(t, Options{Client: client})
	memory := func() float64 {
		info, err := redisconn.Info(context.Background(), client.(*redis.Client))
		if err != nil {
			t.Fatal(err)
		}
		all, err := strconv.ParseFloat(info["used_memory"], 64)
		clients, err2 := strconv.ParseFloat(info["mem_clients_normal"], 64)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return all - clients
	}
	const cells = 4000 * MaxCharges // nearly 2^18, so that the tables of Redis are as full as with a million
	// cost is the bytes for each of n cells, without what is remembered of operations.
	cost := func(a ratelimit.Algorithm, n uint64) float64 {
		t.Helper()
		if err := client.FlushDB(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		before, l := memory(), limitOf(a, 1000, 365*24*time.Hour)
		charges, outcomes := make([]ratelimit.Charge, MaxCharges), make([]ratelimit.Outcome, MaxCharges)
		for first := uint64(0); first < n; first += MaxCharges {
			for i := range charges {
				charges[i] = ratelimit.Charge{Limit: l, Cell: cellOf(first + uint64(i)), Hits: 1}
			}
			if ok, err := s.Charge(ratelimit.Operation{}, charges, outcomes); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		const forget = "for _, k in ipairs(redis.call('KEYS', 'q:!*')) do redis.call('DEL', k) end"
		if err := client.Eval(context.Background(), forget, nil).Err(); err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		return (memory() - before) / float64(n)
	}
	cost(ratelimit.Fixed, cells/16) // what Redis needs once
	for _, c := range []struct {
		name string
		alg  ratelimit.Algorithm
		most float64
	}{
		{"fixed", ratelimit.Fixed, 129},
		{"gcra", ratelimit.GCRA, 145},
	} {
		t.Run("a cell that is "+c.name, func(t *testing.T) {
			got := cost(c.alg, cells)
			t.Logf("%.1f bytes for each of %d cells", got, cells)
			if got > c.most {
				t.Errorf("a cell costs %.1f bytes, want at most %.0f", got, c.most)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	s := openTest(t, Options{Client: connect(t, redistest.Start(t).Addr)})
	charges := []ratelimit.Charge{
		{Limit: limitOf(ratelimit.Fixed, 1<<30, time.Hour), Cell: cellOf(1), Hits: 1},
		{Limit: limitOf(ratelimit.GCRA, 1<<30, time.Hour), Cell: cellOf(1), Hits: 1},
		{Limit: limitOf(ratelimit.Fixed, 1<<30, 24*time.Hour), Cell: cellOf(1), Hits: 1},
	}
	outcomes := make([]ratelimit.Outcome, len(charges))
	n := testing.AllocsPerRun(500, func() {
		if ok, err := s.Charge(ratelimit.Operation{}, charges, outcomes); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	t.Logf("%.0f allocations for a request alone", n)
	if n > 45 {
		t.Errorf("a request costs %.0f allocations", n)
	}
}
