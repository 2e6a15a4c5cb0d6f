package audit

import (
	"crypto/ed25519"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
)

func BenchmarkEntry(b *testing.B) {
	e := entry(authz.BestEffort)
	body := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		body = testEncoder.append(body[:0], e)
	}
	b.SetBytes(int64(len(body)))
}

func BenchmarkSeal(b *testing.B) {
	body := testEncoder.append(nil, entry(authz.BestEffort))
	var s state
	line := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		line = s.seal(line[:0], body)
	}
}

func BenchmarkRecordBestEffort(b *testing.B) {
	l := open(b, options(b))
	e := entry(authz.BestEffort)
	b.ReportAllocs()
	sent := 0
	for b.Loop() {
		if err := l.Record(e); err != nil {
			b.Fatal(err)
		}
		if sent++; sent%4096 == 0 { // what is measured is the caller, not a full queue
			b.StopTimer()
			e.Class = authz.Required
			record(b, l, e)
			e.Class = authz.BestEffort
			b.StartTimer()
		}
	}
	if n := l.Stats().Dropped; n > 0 {
		b.Errorf("%d were dropped", n)
	}
}

// BenchmarkRecordRequired has 64 callers; an operation is one record on disk.
func BenchmarkRecordRequired(b *testing.B) {
	l := open(b, options(b))
	const callers = 64
	took := make([][]time.Duration, callers)
	var group sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	began := time.Now()
	for c := range callers {
		group.Go(func() {
			e := entry(authz.Required)
			for range (b.N + callers - 1) / callers {
				start := time.Now()
				if err := l.Record(e); err != nil {
					b.Error(err)
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	group.Wait()
	seconds := time.Since(began).Seconds()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(len(all))/seconds, "records/s")
	b.ReportMetric(float64(l.Stats().Fsyncs)/seconds, "fsyncs/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkRecordAnonymousFlood(b *testing.B) {
	l := open(b, options(b))
	e := stranger("203.0.113.7")
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Record(e)
	}
}

func BenchmarkVerify(b *testing.B) {
	o := options(b)
	o.QueueBytes = 1 << 30
	l := open(b, o)
	const n = 200_000
	for range n {
		record(b, l, entry(authz.BestEffort))
	}
	closeLog(b, l)
	b.ReportAllocs()
	for b.Loop() {
		r, err := Verify(os.DirFS(o.Dir), VerifyOptions{Keys: []ed25519.PublicKey{public(testSeed)}})
		if err != nil || r.Problem != nil || r.Last < n {
			b.Fatal(r, err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
