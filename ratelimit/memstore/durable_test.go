package memstore

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
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
	start, before := time.Now(), processorTime(t)
	s := New(Options{Journal: openTestJournal(t, path)})
	took := processorTime(t) - before // others may have the processor meanwhile
	t.Logf("ready after %v with %d cells, %v of it processor time", time.Since(start), s.Len(), took)
	if got := admittedOf(t, s, base, one(durableLimit(algorithms[0], 1000, 24*time.Hour), 4711, 1), 1); got != 0 || s.Len() != cells {
		t.Errorf("%d cells, admitted %d", s.Len(), got)
	}
	if restartBudget > 0 && took > restartBudget {
		t.Errorf("ready after %v of processor time, want at most %v", took, restartBudget)
	}
}

// processorTime is what the process has used so far.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A stop writes each counter's true state. Batches of cells that lie far apart would write most of the file anew each.
func TestAStopWritesAPageOnce(t *testing.T) {
	const cells, most = 20_000, 8 << 20 // bytes; of cells in no order it was 30 MB
	path := journalPath(t)
	j := openTestJournal(t, path)
	l := durableLimit(algorithms[0], 1000, 24*time.Hour)
	var records []record
	for i := range uint64(cells) {
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
	j = openTestJournal(t, path)
	if s := New(Options{Journal: j}); s.Len() != cells {
		t.Fatalf("%d cells", s.Len())
	}
	before := written(t)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if n := written(t) - before; n > most || n < 50*cells {
		t.Errorf("%d bytes were written, want at most %d, and the cells", n, most)
	} else {
		t.Logf("%d bytes", n)
	}
}

// written is what the process has written so far, in bytes.
func written(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "wchar: ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
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
