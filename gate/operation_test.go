package gate

import (
	"testing"

	"github.com/voicecore-ai/sluice/ratelimit"
)

func TestOperation(t *testing.T) {
	shared, alone := &Gate{o: Options{Shared: true}}, &Gate{}
	of := func(g *Gate, peer, stream string) [16]byte {
		return g.operation(5, &Request{Peer: peer, Stream: stream}).ID
	}
	first := of(shared, "spiffe://mesh/ns/edge/sa/gateway", "17")
	for _, c := range []struct {
		name string
		got  [16]byte
		same bool
	}{
		{"the same stream of the same peer is the same operation", of(shared, "spiffe://mesh/ns/edge/sa/gateway", "17"), true},
		{"another stream is another", of(shared, "spiffe://mesh/ns/edge/sa/gateway", "18"), false},
		{"another peer's stream of that number is another", of(shared, "spiffe://mesh/ns/calls/sa/a", "17"), false},
		{"no byte can move from the peer to the stream", of(shared, "spiffe://mesh/ns/edge/sa/gateway1", "7"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if (c.got == first) != c.same {
				t.Errorf("%x and %x", c.got, first)
			}
		})
	}
	t.Run("who names no stream asks once, and so does who has a store of his own", func(t *testing.T) {
		for _, id := range [][16]byte{of(shared, "peer", ""), of(alone, "peer", "17")} {
			if id != [16]byte{} {
				t.Errorf("%x", id)
			}
		}
	})
	t.Run("it allocates nothing", func(t *testing.T) {
		r, op := &Request{Peer: "spiffe://mesh/ns/edge/sa/gateway", Stream: "1234567890123456789"}, ratelimit.Operation{}
		if n := testing.AllocsPerRun(100, func() { op = shared.operation(5, r) }); n != 0 {
			t.Errorf("%v allocations of %x", n, op.ID)
		}
	})
}
