package gate_test

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

// Whichever door asks, the gate names the service, so that a rule about one means the same at each.
func TestTheServiceOfARequest(t *testing.T) {
	const holder = "spiffe://mesh/ns/voicecore/sa/call"
	for _, c := range []struct{ name, service, holder, want string }{
		{"the route's name, whoever the holder is", "billing", holder, "billing"},
		{"the holder where the route says nothing", "", holder, holder},
		{"no holder that is no SPIFFE id", "", "api.example.com", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request("", "key-acme")
			r.Action.Service, r.Holder = c.service, c.holder
			var d gate.Decision
			newGate(t, memstore.New(memstore.Options{MaxCells: 1000})).Admit(t.Context(), now, r, &d)
			if !d.Allowed() || r.Action.Service != c.want {
				t.Errorf("%v, service %q", d.Reason, r.Action.Service)
			}
		})
	}
	t.Run("a name that is too long is malformed, and never cut to another's", func(t *testing.T) {
		r := request("", "key-acme")
		r.Action.Service = strings.Repeat("a", 2049)
		var d gate.Decision
		newGate(t, memstore.New(memstore.Options{MaxCells: 1000})).Admit(t.Context(), now, r, &d)
		if d.Allowed() || d.Reason != gate.ReasonMalformed {
			t.Errorf("%v", d.Reason)
		}
	})
}
