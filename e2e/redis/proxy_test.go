package redis_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

type conn = net.Conn

// proxy stands between replicas and one Redis, and is told to lose what that answers.
type proxy struct {
	addr string
	lost atomic.Int64
	// loses is how many of ten thousand answers are lost, of which half come in part, and the connection with them.
	loses atomic.Int64
	rng   *rand.Rand
	mu    sync.Mutex // over rng
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &proxy{addr: l.Addr().String(), rng: rand.New(rand.NewPCG(1, 2))}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			go p.copy(server, client, false)
			go p.copy(client, server, true)
		}
	}()
	return p
}

// copy carries bytes one way; answers are those of Redis.
func (p *proxy) copy(to, from net.Conn, answers bool) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		lost := false
		if answers {
			if keep, yes := p.lose(n); yes {
				n, lost = keep, true
			}
		}
		if _, err := to.Write(b[:n]); err != nil || lost {
			return
		}
	}
}

// lose decides whether n bytes are lost, and how many come all the same.
func (p *proxy) lose(n int) (keep int, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rng.Int64N(10_000) >= p.loses.Load() {
		return n, false
	}
	p.lost.Add(1)
	return p.rng.IntN(2) * p.rng.IntN(n), true
}

// through dials the proxy of an address instead.
func through(proxies map[string]*proxy) func(dialer) dialer {
	return func(next dialer) dialer {
		return func(ctx context.Context, network, address string) (conn, error) {
			if p := proxies[address]; p != nil {
				address = p.addr
			}
			return next(ctx, network, address)
		}
	}
}
