package catalog

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/redistest"
)

// asked counts what a client is asked to do.
type asked struct{ n atomic.Int64 }

func (*asked) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (a *asked) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		a.n.Add(1)
		return next(ctx, cmd)
	}
}

func (*asked) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A client that is closed before its catalogue ends the subscription: the loop goes on at its own pace.
func TestAClosedClientDoesNotMakeTheFollowerSpin(t *testing.T) {
	o := inRedis(t, redistest.Start(t))
	startReplica(t, o)
	var a asked
	o.Redis.(*redis.Client).AddHook(&a)
	must(t, o.Redis.Close())
	began := time.Now()
	await.That(t, "the next question", func() bool { return a.n.Load() > 0 })
	<-time.After(3 * askEvery)
	n := a.n.Load()
	if most := 2 * (int64(time.Since(began)/askEvery) + 2); n > most {
		t.Errorf("asked %d times where about %d would do", n, most/2)
	}
}
