package redis_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// TestF17StepOfRedisClock: the clock by which limits go, a real redis-server's, steps an hour ahead, two back, and is right again.
func TestF17StepOfRedisClock(t *testing.T) {
	dir := t.TempDir()
	library, ahead := filepath.Join(dir, "clock.so"), filepath.Join(dir, "ahead")
	if out, err := exec.CommandContext(t.Context(), "cc", "-shared", "-fPIC", "-O1", "-o", library, "testdata/clock.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.Create(ahead)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	set := func(d time.Duration) {
		if _, err := file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(d.Seconds()))), 0); err != nil { //nolint:gosec // as C reads it
			t.Fatal(err)
		}
	}
	set(0)
	t.Setenv("CLOCK_OFFSET", ahead)
	t.Setenv("LD_PRELOAD", library)
	server := redistest.Start(t)
	all, admin := open(t, "redis://"+server.Addr, patient, nil), alone(t, server)
	stepping(t, all, "Redis' clock stepped", 4*4*replicas*30, func(t *testing.T, step time.Duration, ask func(int, ratelimit.Operation)) {
		set(step)
		if at, err := admin.Time(t.Context()).Result(); err != nil || (time.Until(at)-step).Abs() > 10*time.Minute {
			t.Fatalf("Redis' clock says %v, %v; want it %v ahead", at, err, step)
		}
		var wg sync.WaitGroup
		for i := range 4 * replicas {
			wg.Go(func() {
				for range 30 {
					ask(i, ratelimit.Operation{})
				}
			})
		}
		wg.Wait()
	})
}

// stepping calls round for a clock that is right, an hour ahead, an hour behind and right again, for each algorithm, and wants exactly the
// limit admitted of what round asks, asked times in all.
func stepping(t *testing.T, all []*replica, what string, asked int, round func(t *testing.T, step time.Duration, ask func(i int, op ratelimit.Operation))) {
	t.Helper()
	const hits = 1000
	for _, l := range []ratelimit.Limit{
		{Name: "a fixed window", Algorithm: ratelimit.Fixed, Hits: hits, Window: window},
		{Name: "a trailing window", Algorithm: ratelimit.Hard, Hits: hits, Window: 24 * time.Hour},
		{Name: "a smooth rate", Algorithm: ratelimit.GCRA, Hits: 1, Window: 24 * time.Hour, Burst: hits},
	} {
		t.Run(l.Name+" admits exactly its limit", func(t *testing.T) {
			c := newTenant(t, 0, hits)
			c[0].Limit = &l
			var admitted, failed atomic.Int64
			for _, step := range []time.Duration{0, time.Hour, -time.Hour, 0} {
				round(t, step, func(i int, op ratelimit.Operation) {
					s := all[i%replicas].ask(0, c, op)
					if s.admitted {
						admitted.Add(1)
					}
					if s.err != nil || s.degraded {
						failed.Add(1)
					}
				})
			}
			t.Logf("F17: %s, %s of %d: %d were admitted of %d, %d failed", what, l.Name, hits, admitted.Load(), asked, failed.Load())
			if admitted.Load() != hits || failed.Load() > 0 {
				t.Errorf("%d were admitted, want %d; %d failed", admitted.Load(), hits, failed.Load())
			}
		})
	}
}
