package gate_test

import (
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/tenant"
)

// What is shown beside a tenant token must agree with it, and then the token decides.
func TestWhatIsShownBesideATenantToken(t *testing.T) {
	const (
		holder = "spiffe://mesh/ns/voicecore/sa/call"
		acme   = "spiffe://mesh/ns/acme/sa/app"
		proxy  = "spiffe://mesh/ns/edge/sa/proxy"
	)
	s := snapshot(t)
	tokens := token.New(token.Options{Secret: [32]byte{7}})
	of := func(id tenant.ID, key, holder string) []string {
		k, _ := s.KeyOf(key)
		text, err := tokens.Mint(nil, now, &token.Claims{
			Principal: authz.Principal{Scheme: authz.APIKey, Name: key, Voucher: k.Voucher},
			Tenant:    id, Plan: "gold", Decision: [16]byte{1}, Holder: holder,
		})
		if err != nil {
			t.Fatal(err)
		}
		return []string{string(text)}
	}
	good := of("acme", "k1", holder)
	for _, c := range []struct {
		name  string
		shown authz.Credentials
		want  gate.Reason
	}{
		{"nothing", authz.Credentials{SPIFFE: holder, Tenant: good}, gate.ReasonAdmitted},
		{"a key of the same tenant", authz.Credentials{SPIFFE: holder, Tenant: good, APIKeys: []string{"key-acme"}}, gate.ReasonAdmitted},
		{"a holder that is the same tenant", authz.Credentials{SPIFFE: acme, Tenant: of("acme", "k1", acme)}, gate.ReasonAdmitted},
		{"I-06 a key of another tenant", authz.Credentials{SPIFFE: holder, Tenant: good, APIKeys: []string{"key-umbrella"}}, gate.ReasonUnauthenticated},
		{"I-06 a holder that is another tenant", authz.Credentials{SPIFFE: acme, Tenant: of("umbrella", "k2", acme)}, gate.ReasonUnauthenticated},
		{"a workload of the same tenant, named by a proxy", authz.Credentials{SPIFFE: proxy, XFCC: []string{"URI=" + acme}, Tenant: of("acme", "k1", proxy)}, gate.ReasonAdmitted},
		{"a workload of no tenant, named by a proxy", authz.Credentials{SPIFFE: proxy, XFCC: []string{"URI=spiffe://mesh/ns/x/sa/y"}, Tenant: of("acme", "k1", proxy)}, gate.ReasonAdmitted},
		{"a workload of another tenant, named by who is no trusted proxy", authz.Credentials{SPIFFE: holder, XFCC: []string{"URI=" + acme}, Tenant: of("umbrella", "k2", holder)}, gate.ReasonAdmitted},
		{"I-06 a workload of another tenant, named by a proxy", authz.Credentials{SPIFFE: proxy, XFCC: []string{"URI=" + acme}, Tenant: of("umbrella", "k2", proxy)}, gate.ReasonUnauthenticated},
		{"I-06 two workloads, named by a proxy", authz.Credentials{SPIFFE: proxy, XFCC: []string{"URI=spiffe://mesh/ns/x/sa/y,URI=" + acme}, Tenant: of("acme", "k1", proxy)}, gate.ReasonUnauthenticated},
		{"an unknown key", authz.Credentials{SPIFFE: holder, Tenant: good, APIKeys: []string{"key-nobody"}}, gate.ReasonUnauthenticated},
		{"two keys", authz.Credentials{SPIFFE: holder, Tenant: good, APIKeys: []string{"key-acme", "key-acme"}}, gate.ReasonUnauthenticated},
		{"a token of an issuer that can't be verified", authz.Credentials{SPIFFE: holder, Tenant: good, Tokens: []string{"a.b.c"}}, gate.ReasonUnauthenticated},
		{"a good key, and the tenant token is bad", authz.Credentials{SPIFFE: holder, Tenant: []string{"x"}, APIKeys: []string{"key-acme"}}, gate.ReasonUnauthenticated},
		{"a good key, without mTLS", authz.Credentials{Tenant: good, APIKeys: []string{"key-acme"}}, gate.ReasonUnauthenticated},
		{"another tenant token", authz.Credentials{SPIFFE: holder, Tenant: append(good, good...)}, gate.ReasonUnauthenticated},
	} {
		t.Run(c.name+" beside it is "+c.want.String(), func(t *testing.T) {
			g := gate.New(gate.Options{
				Snapshot: func() *quota.Snapshot { return s }, Authenticator: authn.New(authn.Options{Pepper: pepper, XFCCForwarders: []string{proxy}}),
				Store: memstore.New(memstore.Options{}), Tokens: tokens,
			})
			r := request("")
			r.Credentials = c.shown
			var d gate.Decision
			g.Admit(t.Context(), now, r, &d)
			if d.Reason != c.want || d.Allowed() && (d.Principal.Scheme != authz.APIKey || d.Edge != [16]byte{1}) {
				t.Errorf("%v, %+v", d.Reason, d.Principal)
			}
		})
	}
}
