package redisstore

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// connectLossy is a client of a cluster of which each node is behind a lossy proxy.
func connectLossy(t *testing.T) (c redis.UniversalClient, admin []redis.UniversalClient, proxies map[string]*lossy) {
	t.Helper()
	var addrs []string
	proxies = map[string]*lossy{}
	for _, s := range redistest.Cluster(t) {
		addrs, admin = append(addrs, s.Addr), append(admin, connect(t, s.Addr))
		proxies[s.Addr] = newLossy(t, s.Addr)
	}
	c = redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: addrs, MaxRetries: -1, ContextTimeoutEnabled: true,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, proxies[addr].Addr)
		},
	})
	t.Cleanup(func() { _ = c.Close() })
	return c, admin, proxies
}

// The client of a cluster sends by itself what was answered by an error, and must not after a lost answer.
func TestARefusalByAClusterAfterALostAnswerIsNoAnswer(t *testing.T) {
	client, admin, proxies := connectLossy(t)
	s := openTest(t, Options{Client: client, beat: time.Hour})
	eventually(t, "the channel is heard", func() bool { return s.Stats().Listening })
	rights := func(rule string) {
		for _, c := range admin {
			if err := c.Do(context.Background(), "ACL", "SETUSER", "default", rule).Err(); err != nil {
				t.Error(err)
			}
		}
	}
	every := func(n int64) {
		for _, p := range proxies {
			atomic.StoreInt64(&p.every, n)
		}
	}
	l := limitOf(ratelimit.Fixed, 10, time.Hour)
	if _, err := chargeOne(s, cellOf(1), l, 1); err != nil { // from now on there is a connection
		t.Fatal(err)
	}
	for _, p := range proxies {
		p.then = func() {
			every(0)
			rights("-fcall")
		}
	}
	every(1)
	if _, err := chargeOne(s, cellOf(1), l, 1); !errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrRefused) {
		t.Errorf("%v", err)
	}
	every(0)
	rights("+fcall")
	if n := used(t, s, cellOf(1), l); n != 2 {
		t.Errorf("%d are charged, want 2", n)
	}
}
