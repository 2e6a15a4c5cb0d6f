package redis_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/redistest"
)

// network carries every connection of a cluster, and can be cut in two. Who dials is known by his
// address: the smaller part has some of its own.
type network struct {
	t *testing.T

	mu    sync.Mutex
	cut   bool
	small map[string]bool // addresses of the smaller part
	open  map[net.Conn]bool
}

// gate listens in place of one port of a server.
type gate struct {
	port  string
	to    string // where it leads; under the network's mutex
	small bool   // that is in the smaller part
}

func (n *network) gate(small bool) *gate {
	n.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	g := &gate{port: port, small: small}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go n.carry(c, g)
		}
	}()
	return g
}

// crosses reports whether a connection leads from one part to the other.
func (n *network) crosses(c net.Conn, g *gate) bool {
	from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return n.small[from] != g.small
}

func (n *network) carry(c net.Conn, g *gate) {
	defer func() { _ = c.Close() }()
	crosses := n.crosses(c, g)
	n.mu.Lock()
	to, refused := g.to, n.cut && crosses
	if !refused && crosses {
		n.open[c] = true
	}
	n.mu.Unlock()
	if refused || to == "" {
		return
	}
	server, err := (&net.Dialer{}).DialContext(n.t.Context(), "tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, c)
		_ = server.Close()
	}()
	_, _ = io.Copy(c, server)
	n.mu.Lock()
	delete(n.open, c)
	n.mu.Unlock()
}

// parted cuts the network, or mends it.
func (n *network) parted(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = yes
	for c := range n.open {
		_ = c.Close()
		delete(n.open, c)
	}
}

// node starts a server of a cluster whose connections, both ways, go through the network.
func (n *network) node(address string) *node {
	n.t.Helper()
	clients, bus := n.gate(n.small[address]), n.gate(n.small[address])
	s := redistest.Start(n.t, append(slices.Clone(quick), "--bind-source-addr", address,
		"--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", clients.port, "--cluster-announce-bus-port", bus.port)...)
	d := describe(n.t, s)
	real, err := d.c.ConfigGet(n.t.Context(), "cluster-port").Result()
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	clients.to, bus.to = s.Addr, "127.0.0.1:"+real["cluster-port"]
	return d
}

// from dials from an address.
func from(address string) func(dialer) dialer {
	return func(dialer) dialer {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		return d.DialContext
	}
}

// TestF13Partition cuts one primary and one of our servers off from the rest, in which that primary has a replica.
func TestF13Partition(t *testing.T) {
	const smallNode, smallServer = "127.0.0.11", "127.0.0.12"
	n := &network{t: t, small: map[string]bool{smallNode: true, smallServer: true}, open: map[net.Conn]bool{}}
	nodes := []*node{n.node(smallNode), n.node("127.0.0.21"), n.node("127.0.0.22"), n.node("127.0.0.23")}
	for i, d := range nodes[:3] {
		if err := errors.Join(
			d.c.Do(t.Context(), "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(),
			d.c.ClusterAddSlotsRange(t.Context(), 16384*i/3, 16384*(i+1)/3-1).Err(),
		); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range nodes[1:] {
		nodes[0].meet(t, d)
	}
	nodes[3].replicate(t, nodes[0], len(nodes))
	for _, d := range nodes {
		d.knows(t, len(nodes))
	}
	all := open(t, "redis+cluster://127.0.0.1:"+nodes[1].port, budget, nil)
	all[0] = openOne(t, connect(t, "redis+cluster://127.0.0.1:"+nodes[0].port, from(smallServer)), budget)

	// Of a limit, the shares of all replicas may be admitted once more, and on the smaller part what its primary
	// takes until it knows that it is alone.
	const narrow, hits, bound = 20, 300, 2 * 300
	late := lateness(t)
	tenants := newTenants(t, 30, plenty)
	for i := range tenants[:narrow] {
		tenants[i] = newTenant(t, i, hits)
	}
	var cut, mended time.Time
	var converged time.Duration
	var minority answers
	have := load{all[1:], tenants, 5, 10 * time.Millisecond}.run(func() {
		minority = load{all[:1], tenants, 10, 3 * time.Millisecond}.run(func() {
			wait(t.Context(), time.Second/2)
			cut = time.Now()
			n.parted(true)
			wait(t.Context(), time.Duration(volume(4, 60))*time.Second)
			n.parted(false)
			mended = time.Now()
			before := all[0].Stats()
			until(t, "what the smaller part owed is counted, and Redis asked again", 5*soon, func() bool {
				now := all[0].Stats()
				return !now.Open && done(now)-done(before) >= uint64(before.Owed)
			})
			converged = time.Since(mended)
		})
	})
	settled(t, all)
	apart := minority.between(cut, mended)
	both := slices.Concat(have, minority)
	share := int64(0)
	for _, k := range apart.degradedAdmissions(tenants)[:narrow] {
		share = max(share, k)
	}
	var over int64
	for i, k := range both.of(tenants)[:narrow] {
		over = max(over, k-hits)
		if used := counted(t, all[1].shared, tenants[i])[0]; used > hits {
			t.Errorf("%d are counted of a limit of %d", used, hits)
		}
	}
	var more, less int64
	for i, k := range both.of(tenants)[narrow:] {
		used := counted(t, all[1].shared, tenants[narrow+i])[0]
		more, less = more+max(used-k, 0), less+max(k-used, 0)
	}
	t.Logf("F13: apart for %v, whole again %v after; the smaller part: %d answers, %d failed, %d without Redis, at most %d admitted of a share of %d; p99 %v",
		mended.Sub(cut).Round(time.Millisecond), converged.Round(time.Millisecond), len(apart), apart.failed(), apart.degraded(), share, hits/replicas, apart.slow(99))
	t.Logf("F13: of a limit of %d, %d more were admitted at most, of a bound of %d; of other admissions %d were counted too much and %d too little", hits, over, bound, more, less)
	if share > hits/replicas || both.failed() > 0 || over > bound || apart.degraded() == 0 {
		t.Errorf("a share of %d, %d failed, %d more than the limit", share, both.failed(), over)
	}
	both.inTime(t, late)
}
