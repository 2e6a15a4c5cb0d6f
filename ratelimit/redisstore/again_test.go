package redisstore

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
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

// The client of a cluster sends a pipeline again whose answer was lost, and leaves the error that this ends in.
func TestARefusalByAClusterAfterALostAnswerIsNoAnswer(t *testing.T) {
	client, admin, proxies := connectLossy(t)
	s := openTest(t, Options{Client: client, beat: time.Hour})
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
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
	l := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour)
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

// The client of a cluster sends a pipeline again whose answer was lost, and the pilot never hears of it.
func TestWhatAClusterClientSendsAgainByItselfIsKnown(t *testing.T) {
	client := connectCluster(t)
	s := openTest(t, Options{Client: client})
	charges := []ratelimit.Charge{{Limit: limitOf(ratelimit.Fixed, 1, 366*24*time.Hour), Cell: cellOf(1), Hits: 1}}
	var r request
	r.collect(charges)
	c := s.encode(&r, ratelimit.Operation{}, charges)
	for i, want := range []byte{admitted, repeated} {
		got, err := client.Do(context.Background(), s.arguments([]*call{c})...).Text()
		if err != nil || got == "" || got[0] != want {
			t.Errorf("sent %d times, the last hit of a limit is answered %.1q, %v; want %q", i+1, got, err, want)
		}
	}
}

// What a node's client says of a try, and what that leaves open.
func TestATryThatMayHaveBeenCarriedOutIsNoted(t *testing.T) {
	refusal := func(text string) func([]redis.Cmder) error {
		return func(cmds []redis.Cmder) error {
			for _, c := range cmds {
				c.SetErr(proto(text))
			}
			return proto(text)
		}
	}
	broken := func(err error) func([]redis.Cmder) error {
		return func(cmds []redis.Cmder) error {
			for _, c := range cmds {
				if c.Err() == nil {
					c.SetErr(err)
				}
			}
			return err
		}
	}
	for _, c := range []struct {
		name string
		try  func([]redis.Cmder) error
		ran  bool
	}{
		{"an error reply says that it was not carried out", refusal("NOPERM no"), false},
		{"a redirect says that it was not", refusal("MOVED 1 127.0.0.1:1"), false},
		{"where nobody could be dialled it was not", broken(&net.OpError{Op: "dial", Err: errors.New("refused")}), false},
		{"a connection that broke leaves it open", broken(io.EOF), true},
		{"and so it does where the error is still that of a redirect before", func(cmds []redis.Cmder) error {
			cmds[0].SetErr(proto("MOVED 1 127.0.0.1:1"))
			return broken(io.EOF)(cmds)
		}, true},
		{"time that ran out leaves it open", broken(context.DeadlineExceeded), true},
		{"a reply that another try will replace says that it was", func([]redis.Cmder) error { return proto("TRYAGAIN of another one") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ran := false
			cmds := []redis.Cmder{noted{redis.NewStringCmd(t.Context()), &ran}, redis.NewStringCmd(t.Context())}
			hook := witness{}.ProcessPipelineHook(func(_ context.Context, cmds []redis.Cmder) error { return c.try(cmds) })
			if _ = hook(t.Context(), cmds); ran != c.ran {
				t.Errorf("it is noted that it may have been carried out: %v, want %v", ran, c.ran)
			}
		})
	}
}

// proto is an error reply.
type proto string

func (p proto) Error() string { return string(p) }
func (proto) RedisError()     {}
