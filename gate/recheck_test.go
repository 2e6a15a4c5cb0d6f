package gate_test

import (
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

func TestRecheck(t *testing.T) {
	const acme = "spiffe://mesh/ns/acme/sa/app"
	s := snapshot(t)
	key := func(id string) authz.Principal {
		c, _ := s.KeyOf(id)
		return authz.Principal{Scheme: authz.APIKey, Name: id, Voucher: c.Voucher}
	}
	token := func(expires int64) authz.Principal {
		return authz.Principal{Scheme: authz.JWT, Name: "idp/a", Expires: expires, Voucher: s.Issuers.All()[0].Voucher()}
	}
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
		{"S-01 a token that has expired", gate.Held{Tenant: "acme", Principal: token(now)}, gate.ReasonUnauthenticated},
		{"S-01 a token of nobody's issuer", gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.JWT, Name: "idp/a", Expires: now + 1}}, gate.ReasonUnauthenticated},
		{"a scheme that proves nothing", gate.Held{Tenant: "acme", Principal: authz.Principal{Name: "a"}}, gate.ReasonUnauthenticated},
		{"a key that stands", gate.Held{Tenant: "acme", Principal: key("k1")}, gate.ReasonAdmitted},
		{"a workload that stands", gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.SPIFFE, Name: acme}}, gate.ReasonAdmitted},
		{"a token that stands", gate.Held{Tenant: "acme", Principal: token(now + 1)}, gate.ReasonAdmitted},
	} {
		t.Run(c.name+" is "+c.want.String(), func(t *testing.T) {
			g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
			ok, reason := g.Recheck(now, &c.held)
			if ok != (c.want == gate.ReasonAdmitted) || reason != c.want {
				t.Errorf("%v, %v", ok, reason)
			}
		})
	}
	t.Run("it allocates nothing", func(t *testing.T) {
		g, h := newGate(t, memstore.New(memstore.Options{MaxCells: 1000})), &gate.Held{Tenant: "acme", Principal: key("k1")}
		if ok, reason := g.Recheck(now, h); !ok {
			t.Fatal(reason)
		}
		if n := testing.AllocsPerRun(100, func() { g.Recheck(now, h) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// What was admitted is held to the issuer, or the key, that vouched for it, as it was.
func TestRecheckAfterAnEdit(t *testing.T) {
	before := snapshot(t)
	k1, _ := before.KeyOf("k1")
	byToken := authz.Principal{Scheme: authz.JWT, Name: "idp/a", Expires: now + 1, Voucher: before.Issuers.All()[0].Voucher()}
	byKey := authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: k1.Voucher}
	edit := func(change func(*trust.Issuer)) *quota.Snapshot {
		i := idp()
		change(&i)
		return snapshotWith(t, "key-acme", i)
	}
	for _, c := range []struct {
		name  string
		who   authz.Principal
		after *quota.Snapshot
		want  bool
	}{
		{"S-01 its issuer was removed", byToken, snapshotWith(t, "key-acme"), false},
		{"S-01 its issuer was replaced by one of another name", byToken, edit(func(i *trust.Issuer) { i.Name = "other" }), false},
		{"S-01 its issuer is for another audience", byToken, edit(func(i *trust.Issuer) { i.Audiences = []string{"other"} }), false},
		{"S-01 its issuer speaks for another tenant", byToken, edit(func(i *trust.Issuer) { i.Tenant = "umbrella" }), false},
		{"S-01 its issuer names the tenant by a claim", byToken, edit(func(i *trust.Issuer) { i.Tenant, i.TenantClaim = "", "org" }), false},
		{"S-01 its issuer has its keys elsewhere", byToken, edit(func(i *trust.Issuer) { i.JWKSURI = "https://other.example.com/keys" }), false},
		{"S-01 its key was exchanged under the same id", byKey, snapshotWith(t, "key-other", idp()), false},
		{"another issuer came", byToken, snapshotWith(t, "key-acme", idp(), trust.Issuer{
			Name: "more", Issuer: "https://more", Audiences: []string{"api"}, JWKSURI: "https://more/keys", Tenant: "umbrella",
		}), true},
		{"another key was exchanged", byToken, snapshotWith(t, "key-other", idp()), true},
		{"an issuer that did not vouch was removed", byKey, snapshotWith(t, "key-acme"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := before
			g := gate.New(gate.Options{
				Snapshot: func() *quota.Snapshot { return s }, Authenticator: authn.New(authn.Options{Pepper: pepper}), Store: memstore.New(memstore.Options{}),
			})
			held := &gate.Held{Tenant: "acme", Principal: c.who}
			if ok, reason := g.Recheck(now, held); !ok {
				t.Fatalf("before the edit: %v", reason)
			}
			s = c.after
			if ok, reason := g.Recheck(now, held); ok != c.want || !ok && reason != gate.ReasonUnauthenticated {
				t.Errorf("after it: %v, %v", ok, reason)
			}
		})
	}
}

func BenchmarkRecheck(b *testing.B) {
	g := newGate(b, memstore.New(memstore.Options{MaxCells: 1000}))
	k1, _ := snapshot(b).KeyOf("k1")
	h := &gate.Held{Tenant: "acme", Principal: authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: k1.Voucher}}
	if ok, reason := g.Recheck(now, h); !ok {
		b.Fatal(reason)
	}
	b.ReportAllocs()
	for b.Loop() {
		g.Recheck(now, h)
	}
}
