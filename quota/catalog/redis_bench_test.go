package catalog

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
)

// pauses measures the longest time between two look-ups of one who asks without end, as requests do.
func pauses(c *Catalog) (longest func() time.Duration) {
	var worst atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			default:
			}
			c.Snapshot().Account("t7")
			now := time.Now()
			worst.Store(max(worst.Load(), int64(now.Sub(last))))
			last = now
			runtime.Gosched()
		}
	}()
	return func() time.Duration { close(stop); <-done; return time.Duration(worst.Load()) }
}

// BenchmarkAmong100kTenantsInRedis is a cold load, and one change by another replica until it holds here, among
// 100 000 tenants with a key each on a plan of three limits.
func BenchmarkAmong100kTenantsInRedis(b *testing.B) {
	s := redistest.Start(b)
	client := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1})
	b.Cleanup(func() { _ = client.Close() })
	must(b, Migrate(b.Context(), client, prefix))
	o := Options{Redis: client, RedisPrefix: prefix}
	writer := open(b, o)
	must(b, writer.Update(put100k, false))
	report := func(b *testing.B, begin time.Duration) {
		b.ReportMetric(float64((cpu(b)-begin).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
	}
	b.Run("cold load", func(b *testing.B) {
		begin := cpu(b)
		for b.Loop() {
			if c := open(b, o); len(c.View().Tenants) != 100_000 {
				b.Fatal("not all")
			}
		}
		report(b, begin)
	})
	ctx, stop := context.WithCancel(b.Context())
	reader := open(b, o)
	done := make(chan struct{})
	go func() { defer close(done); _ = reader.Watch(ctx) }()
	defer func() { stop(); <-done }()
	wait := func(b *testing.B, is func() bool) {
		for end := time.Now().Add(patient); !is(); {
			if time.Now().After(end) {
				b.Fatal("the change does not come")
			}
			<-time.After(100 * time.Microsecond)
		}
	}
	planOfAll := func(b *testing.B) {
		must(b, writer.Update(func(e *Edit) error {
			p, _ := e.Plans.Find("gold")
			p.Value.Limits[0].Limit++
			e.Plans.Put(p.Value)
			return nil
		}, false))
		wait(b, func() bool { return reader.Snapshot().Revision >= writer.Snapshot().Revision })
	}
	b.Run("a tenant, here and there", func(b *testing.B) {
		begin := cpu(b)
		suspended := false
		for b.Loop() {
			suspended = !suspended
			must(b, writer.Update(func(e *Edit) error {
				e.Tenants.Put(quota.Tenant{ID: "t7", Plan: "gold", Suspended: suspended})
				return nil
			}, false))
			wait(b, func() bool { return reader.Snapshot().Account("t7").Suspended == suspended })
		}
		report(b, begin)
	})
	b.Run("the plan of all, here and there", func(b *testing.B) {
		begin := cpu(b)
		for b.Loop() {
			planOfAll(b)
		}
		report(b, begin)
	})
	b.Run("pauses of who asks while nothing changes", func(b *testing.B) { // what the machine itself does
		longest := pauses(reader)
		for b.Loop() {
			<-time.After(200 * time.Millisecond)
		}
		b.ReportMetric(float64(longest().Microseconds())/1e3, "longest-ms")
	})
	b.Run("pauses of who asks while a plan changes", func(b *testing.B) {
		longest := pauses(reader)
		for b.Loop() {
			planOfAll(b)
		}
		b.ReportMetric(float64(longest().Microseconds())/1e3, "longest-ms")
	})
	b.Run("pauses of who asks while all is loaded", func(b *testing.B) {
		longest := pauses(reader)
		for b.Loop() {
			_ = open(b, o)
		}
		b.ReportMetric(float64(longest().Microseconds())/1e3, "longest-ms")
	})
}
