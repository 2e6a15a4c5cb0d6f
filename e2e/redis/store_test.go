package redis_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redistest"
)

// Redis frozen, or gone: every call ends in time, nothing stays behind, and it goes on afterwards.
func TestRedisInTrouble(t *testing.T) {
	for _, c := range []struct {
		name       string
		harm, mend func(s *redistest.Server)
	}{
		{"frozen", (*redistest.Server).Freeze, (*redistest.Server).Thaw},
		{"killed", (*redistest.Server).Kill, (*redistest.Server).Restart},
	} {
		t.Run("Redis is "+c.name, func(t *testing.T) {
			server := redistest.Start(t)
			client := connect(t, "redis://"+server.Addr, nil)
			const timeout = 200 * time.Millisecond
			o := redisstore.Options{Client: client, Timeout: timeout}
			if err := redisstore.Migrate(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			s, err := redisstore.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			l := &ratelimit.Limit{Name: "l", Algorithm: ratelimit.Fixed, Hits: plenty, Window: 24 * time.Hour}
			charge := func(key byte) error {
				var o [1]ratelimit.Outcome
				_, err := s.Charge(ratelimit.Operation{}, []ratelimit.Charge{{Limit: l, Hits: 1, Cell: ratelimit.Cell{Key: [16]byte{key}}}}, o[:])
				return err
			}
			until(t, "the channel is heard", soon, func() bool { return s.Stats().Listening })
			late := lateness(t)
			before := runtime.NumGoroutine()
			c.harm(server)
			var wg sync.WaitGroup
			var slowest atomic.Int64
			for range 50 {
				wg.Go(func() {
					for range 3 {
						start := time.Now()
						err := charge(1)
						if !errors.Is(err, redisstore.ErrNoAnswer) {
							t.Errorf("it said %v", err)
						}
						for d := int64(time.Since(start)); ; {
							if old := slowest.Load(); d <= old || slowest.CompareAndSwap(old, d) {
								break
							}
						}
					}
				})
			}
			wg.Wait()
			t.Logf("the slowest of 150 calls took %v of %v", time.Duration(slowest.Load()), timeout)
			if d := time.Duration(slowest.Load()); d > 5*timeout+late() {
				t.Errorf("a call took %v", d)
			}
			until(t, "silence is noticed", soon, func() bool { return !s.Stats().Listening })
			c.mend(server)
			until(t, "it goes on", soon, func() bool { return charge(2) == nil })
			until(t, "the channel is heard again", soon, func() bool { return s.Stats().Listening })
			until(t, "no call is parked", soon, func() bool { return runtime.NumGoroutine() <= before+2 })
		})
	}
}
