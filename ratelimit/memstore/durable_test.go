package memstore

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// TestRestartIsQuick: ready in a second with 100,000 durable cells. Building
// them is what takes its time.
func TestRestartIsQuick(t *testing.T) {
	const cells = restartCells
	path := journalPath(t)
	j := openTestJournal(t, path)
	var records []record
	for i := range uint64(cells) {
		l := durableLimit(algorithms[0], 1000, 24*time.Hour)
		c := testCell(i)
		records = append(records, record{key: keyOf(&c, l.Algorithm), shard: c.Shard, alg: l.Algorithm, state: usedUp(l, base)})
	}
	for chunk := range slices.Chunk(records, batchRecords) {
		if err := j.write(base, chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s := New(Options{Journal: openTestJournal(t, path)})
	took := time.Since(start)
	t.Logf("ready after %v with %d cells", took, s.Len())
	if got := admittedOf(t, s, base, one(durableLimit(algorithms[0], 1000, 24*time.Hour), 4711, 1), 1); got != 0 || s.Len() != cells {
		t.Errorf("%d cells, admitted %d", s.Len(), got)
	}
	if restartBudget > 0 && took > restartBudget {
		t.Errorf("ready after %v, want at most %v", took, restartBudget)
	}
}

// BenchmarkDurableLimitOf10 is the worst case: every hit is a block of its
// own and waits for the disk. Many tenants share a commit.
func BenchmarkDurableLimitOf10(b *testing.B) {
	for _, tenants := range []int{1, 64} {
		b.Run(map[int]string{1: "1 tenant", 64: "64 tenants"}[tenants], func(b *testing.B) {
			j := openTestJournal(b, journalPath(b))
			s := New(Options{Journal: j})
			l := durableLimit(ratelimit.Fixed, 10, time.Minute)
			var mu sync.Mutex
			var took []time.Duration
			var wg sync.WaitGroup
			b.ResetTimer()
			for tenant := range tenants {
				wg.Go(func() {
					var mine []time.Duration
					outcomes := make([]ratelimit.Outcome, 1)
					for i := tenant; i < b.N; i += tenants {
						now := base + int64(i/tenants)*6*second // ten a minute
						start := time.Now()
						if ok, err := s.Charge(ratelimit.Operation{Now: now}, one(l, uint64(tenant), 1), outcomes); !ok || err != nil {
							b.Error(ok, err)
							return
						}
						mine = append(mine, time.Since(start))
					}
					mu.Lock()
					took = append(took, mine...)
					mu.Unlock()
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(j.Stats().Fsyncs)/b.Elapsed().Seconds(), "fsyncs/s")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "charges/s")
		})
	}
}
