package gate_test

import (
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

func TestRecheck(t *testing.T) {
	const acme = "spiffe://mesh/ns/acme/sa/app"
	key := func(id string) authz.Principal { return authz.Principal{Scheme: authz.APIKey, Name: id} }
	for _, c := range []struct {
		name string
		held gate.Held
		want gate.Reason
	}{
		{"nothing held", gate.Held{}, gate.ReasonUnauthenticated},
		{"S-01 a suspended tenant", gate.Held{Tenant: "closed", Principal: key("k3")}, gate.ReasonSuspended},
		{"S-01 a tenant that is gone", gate.Held{Tenant: "gone", Principal: key("k1")}, gate.ReasonUnauthenticated},
		{"S-01 a key that was revoked", gate.Held{Tenant: "acme", Principal: key("k9")}, gate.ReasonUnauthenticated},
		{"S-01 a key that has expired since", gate.Held{Tenant: "acme", Principal: key("k4")}, gate.ReasonUnauthenticated},
		{"a key that now belongs to another tenant", gate.Held{Tenant: "acme", Principal: key("k2")}, gate.ReasonUnauthenticated},
		{"a workload that is no longer the tenant's", gate.Held{Tenant: "umbrella", Principal: authz.Principal{Scheme: authz.SPIFFE, Name: acme}}, gate.ReasonUnauthenticated},
		{"S-01 a token that has expired", gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.JWT, Name: "idp/a", Expires: now}}, gate.ReasonUnauthenticated},
		{"a scheme that proves nothing", gate.Held{Tenant: "acme", Principal: authz.Principal{Name: "a"}}, gate.ReasonUnauthenticated},
		{"a key that stands", gate.Held{Tenant: "acme", Principal: key("k1")}, gate.ReasonAdmitted},
		{"a workload that stands", gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.SPIFFE, Name: acme}}, gate.ReasonAdmitted},
		{"a token that stands", gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.JWT, Name: "idp/a", Expires: now + 1}}, gate.ReasonAdmitted},
	} {
		t.Run(c.name+" is "+c.want.String(), func(t *testing.T) {
			g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
			ok, reason := g.Recheck(now, &c.held)
			if ok != (c.want == gate.ReasonAdmitted) || reason != c.want {
				t.Errorf("%v, %v", ok, reason)
			}
		})
	}
	t.Run("a tenant is served if it is there and not suspended", func(t *testing.T) {
		g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
		if !g.Serves("acme") || g.Serves("closed") || g.Serves("gone") || g.Revision() != 42 {
			t.Error("acme should be served, closed and gone should not, by revision 42")
		}
	})
	t.Run("it allocates nothing", func(t *testing.T) {
		g, h := newGate(t, memstore.New(memstore.Options{MaxCells: 1000})), &gate.Held{Tenant: "acme", Principal: key("k1")}
		if n := testing.AllocsPerRun(100, func() { g.Recheck(now, h) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func BenchmarkRecheck(b *testing.B) {
	g := newGate(b, memstore.New(memstore.Options{MaxCells: 1000}))
	h := &gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.APIKey, Name: "k1"}}
	b.ReportAllocs()
	for b.Loop() {
		g.Recheck(now, h)
	}
}
