package redisstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// cpu is the time that a process has run, in user and kernel, in µs.
func cpu(t testing.TB, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	ns, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return ns / 1000
}

// BenchmarkRedisCPU prints what a decision costs the main thread of Redis, with 128
// callers, and as a ratio to a function that does nothing in pipelines of 32.
func BenchmarkRedisCPU(b *testing.B) {
	server := redistest.Start(b)
	s := openTest(b, Options{Client: connect(b, server.Addr)})
	const tenants = 10_000
	const reference = 32 // calls that share a pipeline
	var names atomic.Uint64
	charge := func(first uint64, algorithms ...ratelimit.Algorithm) func(n uint64) error {
		var limits []*ratelimit.Limit
		for _, a := range algorithms {
			limits = append(limits, limitOf(a, 1<<30, time.Hour))
		}
		return func(n uint64) error {
			charges, outcomes := make([]ratelimit.Charge, len(limits)), make([]ratelimit.Outcome, len(limits))
			cell := cellOf(first<<32 + n%tenants)
			for i, l := range limits {
				cell.Key[15] = byte(i)
				charges[i] = ratelimit.Charge{Limit: l, Cell: cell, Hits: 1}
			}
			var op ratelimit.Operation // as the gate's: a digest
			binary.BigEndian.PutUint64(op.ID[:], (n+1)*0x9e3779b97f4a7c15)
			_, err := s.Charge(op, charges, outcomes)
			return err
		}
	}
	plain := func(args ...any) func(uint64) error {
		return func(n uint64) error {
			if n%reference != 0 {
				return nil
			}
			pipe := s.o.Client.Pipeline()
			for range reference {
				pipe.Do(context.Background(), args...)
			}
			_, err := pipe.Exec(context.Background())
			return err
		}
	}
	const f, g, h = ratelimit.Fixed, ratelimit.GCRA, ratelimit.Hard
	noop := 0.0
	for _, c := range []struct {
		name string
		do   func(n uint64) error
	}{
		{"a function that does nothing", plain("FCALL", helloName, 0)},
		{"PING", plain("PING", "x")},
		{"fixed", charge(1, f)},
		{"gcra", charge(2, g)},
		{"hard", charge(3, h)},
		{"3 limits", charge(4, f, f, g)},
		{"8 limits", charge(5, f, f, f, f, g, g, g, g)},
	} {
		b.Run(c.name, func(b *testing.B) {
			before, pipelines := cpu(b, server.Pid()), s.Stats()
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range 128 {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := c.do(names.Add(1)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			each := (cpu(b, server.Pid()) - before) / float64(b.N)
			if noop == 0 || strings.HasPrefix(c.name, "a function") {
				noop = each
			}
			b.ReportMetric(each, "redis-µs/op")
			b.ReportMetric(each/noop, "of-noop")
			st := s.Stats()
			if calls := st.Commands - pipelines.Commands; calls > 0 {
				b.ReportMetric(float64(b.N)/float64(calls), "requests/call")
			}
		})
	}
}
