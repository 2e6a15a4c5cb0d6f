package redis_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/voicecore-ai/sluice/redistest"
)

type conn = net.Conn

// proxy stands between replicas and one Redis, and is told to lose what that answers.
type proxy struct {
	addr string
	lost atomic.Int64
	// loses is how many of ten thousand answers are lost, of which half come in part, and the connection with them.
	loses  atomic.Int64
	mu     sync.Mutex
	rng    *rand.Rand
	spared int64 // answers that come yet before another may be lost
}

// spared come after each answer that is lost. A store sends a call four times: with losses anywhere one call in some millions would lose
// all four, and be answered without Redis, as it should.
const spared = 50

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{rng: rand.New(rand.NewPCG(1, 2))}
	p.addr = redistest.Proxy(t, to, func() redistest.Piece {
		return func(b []byte, answers bool) (int, bool) {
			if answers {
				return p.lose(len(b))
			}
			return len(b), false
		}
	})
	return p
}

// lose decides whether n bytes are lost, and how many come all the same.
func (p *proxy) lose(n int) (keep int, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spared > 0 {
		p.spared--
		return n, false
	}
	loses := p.loses.Load()
	if p.rng.Int64N(10_000-spared*loses) >= loses {
		return n, false
	}
	p.lost.Add(1)
	p.spared = spared
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
