package memstore

import (
	"math/rand/v2"
	"os"
	"runtime"
	"sort"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// BenchmarkChargeHard: 100 per 10 s offered five times, by one tenant and by
// so many that no cell is in the cache; and a durable limit whose block covers
// nearly every charge.
func BenchmarkChargeHard(b *testing.B) {
	for _, c := range []struct {
		name    string
		limit   *ratelimit.Limit
		tenants uint64
		pause   uint64 // µs between two charges of a tenant
	}{
		{"1 tenant", testLimit(ratelimit.Hard, 100, 10*time.Second), 1, 20_000},
		{"100000 tenants", testLimit(ratelimit.Hard, 100, 10*time.Second), 100_000, 20_000},
		{"durable", durableLimit(ratelimit.Hard, 1<<31, time.Hour), 1, 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s := New(Options{Journal: openTestJournal(b, journalPath(b))})
			charges, outcomes := one(c.limit, 0, 1), make([]ratelimit.Outcome, 1)
			n := uint64(0)
			for ; n < c.tenants; n++ { // every cell is there
				charges[0].Cell = tenantCell(n, 0)
				admittedOf(b, s, base, charges, 1)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportAllocs()
			for b.Loop() {
				n++
				charges[0].Cell = tenantCell(n*40503%c.tenants, 0)
				if _, err := s.Charge(ratelimit.Operation{Now: base + int64(n*c.pause/c.tenants)}, charges, outcomes); err != nil {
					b.Fatal(err)
				}
			}
			if c.tenants > 1 {
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(c.tenants), "bytes/key")
			}
		})
	}
}

// TestHardHoldsOverCrashes offers five times the limit to a store that is
// killed again and again: what it recorded is opened by the next one. No
// trailing window holds more than the limit, and each crash costs a block.
func TestHardHoldsOverCrashes(t *testing.T) {
	const limit, block, lost = 1000, 10, 8 // a 120th, rounded up, less one
	window := time.Minute.Microseconds()
	charges, outcomes := one(durableLimit(ratelimit.Hard, limit, time.Minute), 1, 1), make([]ratelimit.Outcome, 1)
	path := journalPath(t)
	s := New(Options{Journal: openTestJournal(t, path)})
	rnd := rand.New(rand.NewPCG(1, 1))
	after := func(log []int64, at int64) int {
		return len(log) - sort.Search(len(log), func(i int) bool { return log[i] > at })
	}
	var log, crashes []int64
	most, least := 0, limit
	for now := base; len(crashes) < 20; {
		for end := now + 1 + rnd.Int64N(3*window); now < end; now += window / limit / 5 {
			ok, err := s.Charge(ratelimit.Operation{Now: now}, charges, outcomes)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				log = append(log, now)
			}
			most = max(most, after(log, now-window))
			if in, lately := after(log, now-window-1000), after(crashes, now-window-window/50); !ok && in < limit-lost-lately*block {
				t.Fatalf("refused with %d in the window and %d crashes", in, lately)
			}
			if after(crashes, now-2*window) == 0 && now > base+2*window {
				least = min(least, after(log, now-window))
			}
		}
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		path = journalPath(t)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		s, crashes = New(Options{Journal: openTestJournal(t, path)}), append(crashes, now)
	}
	t.Logf("%d admitted over %d crashes; %d in the fullest trailing window, %d in the emptiest two windows after a crash", len(log), len(crashes), most, least)
	if most != limit || least < limit*98/100 {
		t.Errorf("%d to %d in a trailing window of %d", least, most, limit)
	}
}

func TestBytesPerHardCell(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := New(Options{})
	l := testLimit(ratelimit.Hard, 100, time.Minute)
	for i := range uint64(100_000) {
		admittedOf(t, s, base, one(l, i, 1), 1)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	bytes := float64(after.HeapAlloc-before.HeapAlloc) / float64(s.Len())
	t.Logf("%d live keys: %.1f bytes each", s.Len(), bytes)
	if bytes > 500 {
		t.Errorf("%.1f bytes per live key, want at most 500", bytes)
	}
	runtime.KeepAlive(s)
}
