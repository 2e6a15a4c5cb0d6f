package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
)

// cutter is a proxy that drops the connection after EXEC has reached Redis, once armed, before its reply comes back.
type cutter struct {
	addr  string
	armed atomic.Bool
	cuts  atomic.Int64
}

func startCutter(t *testing.T, to string) *cutter {
	t.Helper()
	c := &cutter{}
	c.addr = redistest.Proxy(t, to, func() redistest.Piece {
		var cut atomic.Bool
		return func(b []byte, answers bool) (int, bool) {
			switch {
			case answers && cut.Load():
				c.cuts.Add(1)
				return 0, true // it was done, and nobody is told
			case !answers && strings.Contains(strings.ToLower(string(b)), "\r\nexec\r\n") && c.armed.CompareAndSwap(true, false):
				cut.Store(true)
			}
			return len(b), false
		}
	})
	return c
}

// A change whose reply is lost is found in the feed by its stamp: it is neither made twice nor told to have failed.
func TestAChangeWhoseReplyIsLostIsMadeOnce(t *testing.T) {
	s := redistest.Start(t)
	must(t, Migrate(t.Context(), dial(t, s, redis.Options{}), prefix))
	proxy := startCutter(t, s.Addr)
	client := redis.NewClient(&redis.Options{Addr: proxy.addr, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	c := open(t, Options{Redis: client, RedisPrefix: prefix})
	other := open(t, inRedis(t, s))
	must(t, c.Update(put(quota.Tenant{ID: "acme", DisplayName: "0"}), false))
	for i := range 20 {
		proxy.armed.Store(true)
		must(t, c.Update(func(e *Edit) error {
			now, _ := e.Tenants.Find("acme")
			n, _ := strconv.Atoi(now.Value.DisplayName)
			now.Value.DisplayName = strconv.Itoa(n + 1)
			e.Tenants.Put(now.Value)
			return nil
		}, false))
		must(t, other.Update(func(e *Edit) error { e.Plans.Put(quota.Plan{Name: fmt.Sprintf("p%d", i)}); return nil }, false))
	}
	if got := c.View().Tenants[0].Value.DisplayName; got != "20" || proxy.cuts.Load() != 20 {
		t.Errorf("counted %s after %d lost replies", got, proxy.cuts.Load())
	}
}
