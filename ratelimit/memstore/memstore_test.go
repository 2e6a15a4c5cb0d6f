package memstore

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

const (
	second = int64(1_000_000)
	base   = 19675 * 86400 * second // midnight UTC
)

func testCell(n uint64) ratelimit.Cell {
	c := ratelimit.Cell{Shard: (n + 1) * 0x2545f4914f6cdd1d}
	binary.BigEndian.PutUint64(c.Key[:], n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(c.Key[8:], n+1)
	return c
}

func testLimit(a ratelimit.Algorithm, hits int64, window time.Duration) *ratelimit.Limit {
	return &ratelimit.Limit{Name: "test", Algorithm: a, Hits: hits, Window: window, Burst: max(hits, 1)}
}

func durableLimit(a ratelimit.Algorithm, hits int64, window time.Duration) *ratelimit.Limit {
	l := testLimit(a, hits, window)
	l.Durable = true
	return l
}

func one(l *ratelimit.Limit, cell uint64, hits int64) []ratelimit.Charge {
	return []ratelimit.Charge{{Limit: l, Cell: testCell(cell), Hits: hits}}
}

// admittedOf charges n times and counts. Errors end the test.
func admittedOf(t testing.TB, s *Store, now int64, charges []ratelimit.Charge, n int) (admitted int) {
	t.Helper()
	outcomes := make([]ratelimit.Outcome, len(charges))
	for range n {
		ok, err := s.Charge(ratelimit.Operation{Now: now}, charges, outcomes)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			admitted++
		}
	}
	return admitted
}

func TestFullStoreAdmitsNobodyUntilCellsExpire(t *testing.T) {
	s := New(Options{MaxCells: 100})
	l := testLimit(ratelimit.Fixed, 5, time.Second)
	outcomes := make([]ratelimit.Outcome, 2)
	for i := range uint64(100) {
		admittedOf(t, s, base, one(l, i, 1), 1)
	}
	two := append(one(l, 1, 1), one(l, 1000, 1)...)
	if _, err := s.Charge(ratelimit.Operation{Now: base}, two, outcomes); !errors.Is(err, ErrFull) {
		t.Fatalf("the 101st cell: %v", err)
	}
	if got := admittedOf(t, s, base, one(l, 1, 1), 9); got != 4 {
		t.Errorf("cell 1 admitted %d more, want 4: a request that met ErrFull was charged, or one with a cell was refused", got)
	}
	for i := range uint64(100) {
		if got := admittedOf(t, s, base+second, one(l, 5000+i, 1), 1); got != 1 {
			t.Fatalf("new cell %d was refused after the old ones had expired", i)
		}
	}
	if n := s.Len(); n > 100 {
		t.Errorf("%d cells, want at most 100", n)
	}
	if removed := s.Sweep(base + 10*second); removed == 0 || s.Len() != 0 {
		t.Errorf("swept %d, %d left", removed, s.Len())
	}
}

func TestSweepForgetsNothingThatCounts(t *testing.T) {
	s := New(Options{})
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		l := testLimit(a, 10, time.Minute)
		admittedOf(t, s, base, one(l, 1, 1), 10)
		s.Sweep(base + 5*second)
		if got := admittedOf(t, s, base+5*second, one(l, 1, 1), 10); got != 0 {
			t.Errorf("algorithm %d: %d admitted after a sweep", a, got)
		}
	}
	if s.Sweep(base + 200*second); s.Len() != 0 {
		t.Errorf("%d cells left", s.Len())
	}
}

func TestExpiredCellsGoAsNewOnesCome(t *testing.T) {
	s := New(Options{})
	l := testLimit(ratelimit.Fixed, 5, time.Second)
	for i := range uint64(200_000) {
		admittedOf(t, s, base+int64(i)*100, one(l, i, 1), 1) // 10,000 live at any time
	}
	if n := s.Len(); n > 40_000 {
		t.Errorf("%d cells kept for at most 20,000 live ones", n)
	}
}

func TestDurableAndBackKeepsUsage(t *testing.T) {
	j := openTestJournal(t, t.TempDir()+"/journal")
	s := New(Options{Journal: j})
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		plain, durable := testLimit(a, 100, time.Hour), durableLimit(a, 100, time.Hour)
		total := admittedOf(t, s, base, one(plain, 1, 1), 30) + admittedOf(t, s, base, one(durable, 1, 1), 30) +
			admittedOf(t, s, base, one(plain, 1, 1), 30) + admittedOf(t, s, base, one(durable, 1, 1), 30)
		if total != 100 {
			t.Errorf("algorithm %d: %d admitted, want 100", a, total)
		}
	}
}

func TestTable(t *testing.T) {
	var tb table[uint64]
	live := map[key]uint64{}
	rnd := uint64(1)
	for i := range uint64(100_000) {
		rnd = rnd*6364136223846793005 + 1442695040888963407
		k := key{hi: rnd >> 54, lo: 1} // 1024 keys
		tb.reserve(1)
		if v := tb.find(k); v == nil {
			*tb.insert(k) = i
		} else if *v != live[k] {
			t.Fatalf("key %v: %d, want %d", k, *v, live[k])
		} else {
			*v = i
		}
		live[k] = i
		if i%3 == 0 {
			tb.sweep(5, func(k key, v *uint64) bool {
				if *v%2 == 0 {
					delete(live, k)
					return true
				}
				return false
			})
		}
		if i%1000 == 0 {
			tb.shrink()
		}
		if tb.n != len(live) {
			t.Fatalf("step %d: %d in the table, want %d", i, tb.n, len(live))
		}
	}
	for k, v := range live {
		if got := tb.find(k); got == nil || *got != v {
			t.Fatalf("key %v is lost", k)
		}
	}
}

// fill puts n tenants with three limits each into the store.
func fill(t testing.TB, s *Store, tenants uint64) []*ratelimit.Limit {
	limits := []*ratelimit.Limit{
		testLimit(ratelimit.GCRA, 1<<31, time.Second), testLimit(ratelimit.GCRA, 1<<31, time.Hour), testLimit(ratelimit.Fixed, 1<<31, 24*time.Hour),
	}
	limits[0].Hits = 1 // slow, so that the cells live
	outcomes := make([]ratelimit.Outcome, 3)
	for i := range tenants {
		if ok, err := s.Charge(ratelimit.Operation{Now: base}, threeOf(limits, i), outcomes); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	return limits
}

// tenantCell is the cell of a tenant's i-th limit, named as the catalogue
// names it: the first half of the key is the tenant's.
func tenantCell(tenant, i uint64) ratelimit.Cell {
	c := ratelimit.Cell{Shard: tenant * 0x2545f4914f6cdd1d}
	binary.BigEndian.PutUint64(c.Key[:], tenant*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(c.Key[8:], (tenant*3+i+1)*0xda942042e4dd58b5)
	return c
}

// refill names another tenant in the charges.
func refill(charges []ratelimit.Charge, tenant uint64) []ratelimit.Charge {
	for i := range charges {
		charges[i].Cell = tenantCell(tenant, uint64(i))
	}
	return charges
}

func threeOf(limits []*ratelimit.Limit, tenant uint64) []ratelimit.Charge {
	charges := make([]ratelimit.Charge, len(limits))
	for i, l := range limits {
		charges[i] = ratelimit.Charge{Limit: l, Hits: 1, Cell: tenantCell(tenant, uint64(i))}
	}
	return charges
}

const million = 1_000_000

func TestBytesPerLiveKey(t *testing.T) {
	var before, after runtime.MemStats
	worst := 0.0
	for _, tenants := range []uint64{100_000, 140_000, 200_000} { // at several loads of the tables
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := New(Options{})
		fill(t, s, tenants)
		runtime.GC()
		runtime.ReadMemStats(&after)
		bytes := float64(after.HeapAlloc-before.HeapAlloc) / float64(s.Len())
		t.Logf("%d live keys: %.1f bytes each", s.Len(), bytes)
		worst = max(worst, bytes)
		runtime.KeepAlive(s)
	}
	if worst > 160 {
		t.Errorf("%.1f bytes per live key, want at most 160", worst)
	}
}

func TestChargeAllocatesNothing(t *testing.T) {
	s := New(Options{})
	limits := fill(t, s, 1000)
	limits = append(limits, testLimit(ratelimit.Hard, 1<<20, time.Minute))
	charges := threeOf(limits, 7)
	outcomes := make([]ratelimit.Outcome, len(charges))
	now := base
	if n := testing.AllocsPerRun(2000, func() {
		now += 1000
		if ok, err := s.Charge(ratelimit.Operation{Now: now}, charges, outcomes); !ok || err != nil {
			t.Fatal(ok, err, outcomes)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	charges[0].Limit = testLimit(ratelimit.GCRA, 0, time.Second)
	if n := testing.AllocsPerRun(2000, func() {
		if ok, err := s.Charge(ratelimit.Operation{Now: now}, charges, outcomes); ok || err != nil {
			t.Fatal(ok, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations when refused, want 0", n)
	}
}

func BenchmarkCharge3Limits1MKeys(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := New(Options{})
	const tenants = million / 3
	limits := fill(b, s, tenants)
	runtime.GC()
	runtime.ReadMemStats(&after)
	bytesPerKey := float64(after.HeapAlloc-before.HeapAlloc) / float64(s.Len())
	var worker atomic.Uint64
	b.Run("one core", func(b *testing.B) {
		b.ReportAllocs()
		charges, outcomes := threeOf(limits, 0), make([]ratelimit.Outcome, 3)
		n := uint64(0)
		for b.Loop() {
			n += 40503
			if ok, err := s.Charge(ratelimit.Operation{Now: base + int64(n)}, refill(charges, n%tenants), outcomes); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
		b.ReportMetric(float64(s.Len()), "live_keys")
		b.ReportMetric(bytesPerKey, "bytes/key")
	})
	b.Run("all cores", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			charges, outcomes := threeOf(limits, 0), make([]ratelimit.Outcome, 3)
			n := worker.Add(7919)
			for pb.Next() {
				n += 40503
				if _, err := s.Charge(ratelimit.Operation{Now: base}, refill(charges, n%tenants), outcomes); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
