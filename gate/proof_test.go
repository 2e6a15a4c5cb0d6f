package gate_test

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/tenant"
)

// What a log entry brings back is asked about as a stream under ext_proc is, but for the rules.
func TestS01WhatIsBroughtBackStandsAsWhatIsHeld(t *testing.T) {
	const acme = "spiffe://mesh/ns/acme/sa/app"
	before := snapshot(t)
	byKey := func(id string) authz.Principal {
		k, _ := before.KeyOf(id)
		return authz.Principal{Scheme: authz.APIKey, Name: id, Voucher: k.Voucher, Roles: k.Scopes}
	}
	token := authz.Principal{Scheme: authz.JWT, Name: "idp/a b", Expires: now + 1, Voucher: before.Issuers.All()[0].Voucher(), Roles: []string{"a role", ""}}
	late := token
	late.Expires = now
	for _, c := range []struct {
		name   string
		tenant tenant.ID
		who    authz.Principal
		after  *quota.Snapshot
		want   gate.Reason
	}{
		{"a key", "acme", byKey("k1"), before, gate.ReasonAdmitted},
		{"a token", "acme", token, before, gate.ReasonAdmitted},
		{"a workload", "acme", authz.Principal{Scheme: authz.SPIFFE, Name: acme}, before, gate.ReasonAdmitted},
		{"a suspended tenant", "closed", byKey("k3"), before, gate.ReasonSuspended},
		{"a tenant that is gone", "gone", byKey("k1"), before, gate.ReasonUnauthenticated},
		{"a key that was revoked", "acme", authz.Principal{Scheme: authz.APIKey, Name: "k9"}, before, gate.ReasonUnauthenticated},
		{"a key that was exchanged", "acme", byKey("k1"), snapshotWith(t, "key-other", idp()), gate.ReasonUnauthenticated},
		{"a key with another scope", "acme", authz.Principal{Scheme: authz.APIKey, Name: "k1", Voucher: byKey("k1").Voucher, Roles: []string{"more"}}, before, gate.ReasonUnauthenticated},
		{"a token that has expired", "acme", late, before, gate.ReasonUnauthenticated},
		{"a token whose issuer is gone", "acme", token, snapshotWith(t, "key-acme"), gate.ReasonUnauthenticated},
		{"a token whose issuer was edited", "acme", token, snapshotWith(t, "key-acme", func() trust.Issuer { i := idp(); i.Audiences = []string{"other"}; return i }()), gate.ReasonUnauthenticated},
		{"nobody", "acme", authz.Principal{}, before, gate.ReasonUnauthenticated},
	} {
		t.Run(c.name+" is "+c.want.String(), func(t *testing.T) {
			g := gate.New(gate.Options{
				Snapshot: func() *quota.Snapshot { return c.after }, Authenticator: authn.New(authn.Options{Pepper: pepper}), Store: memstore.New(memstore.Options{}),
			})
			proof := string(gate.ProofOf(c.who))
			brought := gate.HeldBy(c.tenant, c.who.Name, proof)
			ok, reason := g.Stands(now, &brought)
			if ok != (c.want == gate.ReasonAdmitted) || reason != c.want {
				t.Errorf("brought back %q: %v, %v", proof, ok, reason)
			}
			held := gate.Held{Tenant: c.tenant, Principal: c.who}
			if ok, reason := g.Recheck(now, &held); ok != (c.want == gate.ReasonAdmitted) || reason != c.want {
				t.Errorf("held: %v, %v", ok, reason)
			}
		})
	}
	t.Run("what was not written by a decision stands for nobody", func(t *testing.T) {
		g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
		good := string(gate.ProofOf(byKey("k1")))
		brought := gate.HeldBy("acme", "k1", good)
		if ok, _ := g.Stands(now, &brought); !ok {
			t.Fatal("the proof itself")
		}
		for _, bad := range []string{"", good[:len(good)-1], good + "0", good + " ", " " + good, strings.ToUpper(good), strings.Replace(good, "api_key", "nobody", 1), strings.Replace(good, " 0 ", " x ", 1)} {
			brought := gate.HeldBy("acme", "k1", bad)
			if ok, reason := g.Stands(now, &brought); ok || reason != gate.ReasonUnauthenticated {
				t.Errorf("%q: %v, %v", bad, ok, reason)
			}
		}
	})
	t.Run("it is as long as docs/guide/streams.md says", func(t *testing.T) {
		of2026 := token
		of2026.Expires = 1_790_000_000_000_000
		if key, jwt := len(gate.ProofOf(byKey("k1"))), len(gate.ProofOf(of2026)); key != 42 || jwt != 53 {
			t.Errorf("%d bytes for a key, %d for a token", key, jwt)
		}
	})
	t.Run("a refusal has none", func(t *testing.T) {
		if proof := new(gate.Decision).AppendProof(nil); len(proof) != 0 {
			t.Errorf("%q", proof)
		}
	})
}
