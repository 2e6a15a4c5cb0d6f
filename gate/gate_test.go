package gate_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
)

var pepper = [32]byte{7}

const now = int64(1_800_000_000_000_000)

func snapshot(t testing.TB) *quota.Snapshot { return snapshotWith(t, "key-acme", idp()) }

// idp is an issuer that speaks for acme.
func idp() trust.Issuer {
	return trust.Issuer{Name: "idp", Issuer: "https://id.example.com", Audiences: []string{"api"}, JWKSURI: "https://id.example.com/keys", Tenant: "acme"}
}

// snapshotWith has another k1, or other issuers.
func snapshotWith(t testing.TB, k1 string, issuers ...trust.Issuer) *quota.Snapshot {
	t.Helper()
	digest := func(key string) string {
		d := authn.Digest(pepper, key)
		return hex.EncodeToString(d[:])
	}
	s, err := quota.Compile(42, quota.Catalogue{
		Plans: []quota.Plan{{Name: "gold", Limits: []quota.Limit{
			{Name: "rps", Algorithm: "gcra", Limit: 1_000_000, Window: time.Second},
			{Name: "minute", Algorithm: "fixed", Limit: 3, Window: 10 * time.Second},
			{Name: "ten", Algorithm: "hard", Limit: 1_000_000, Window: 10 * time.Second},
		}}, {Name: "wide", Limits: []quota.Limit{
			{Name: "rps", Algorithm: "gcra", Limit: 1_000_000, Window: time.Second},
			{Name: "ten", Algorithm: "fixed", Limit: 1_000_000_000, Window: 10 * time.Second},
			{Name: "hour", Algorithm: "gcra", Limit: 1_000_000_000, Window: 30 * time.Second},
		}}},
		Tenants: []quota.Tenant{
			{ID: "acme", Plan: "gold", Principals: []string{"spiffe://mesh/ns/acme/sa/app"}},
			{ID: "umbrella", Plan: "gold"},
			{ID: "closed", Plan: "gold", Suspended: true},
			{ID: "wide", Plan: "wide"},
		},
		Rules:   []authz.Rule{{Name: "tenants-may", Effect: "allow"}},
		Issuers: issuers,
		APIKeys: []quota.APIKey{
			{ID: "k1", Tenant: "acme", Digest: digest(k1)},
			{ID: "k2", Tenant: "umbrella", Digest: digest("key-umbrella")},
			{ID: "k3", Tenant: "closed", Digest: digest("key-closed")},
			{ID: "k4", Tenant: "acme", Digest: digest("key-old"), Expires: time.UnixMicro(now)},
			{ID: "k5", Tenant: "wide", Digest: digest("key-wide")},
		},
	}, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newGate(t testing.TB, store ratelimit.Store) *gate.Gate {
	s := snapshot(t)
	return gate.New(gate.Options{
		Snapshot:      func() *quota.Snapshot { return s },
		Authenticator: authn.New(authn.Options{Pepper: pepper}),
		Store:         store,
	})
}

func request(spiffe string, keys ...string) *gate.Request {
	return &gate.Request{
		Credentials: authz.Credentials{SPIFFE: spiffe, APIKeys: keys}, Peer: "loopback",
		Action: authz.Action{Method: "GET", Host: "api.example.com", Path: "/v1/calls"},
	}
}

func TestAdmit(t *testing.T) {
	const acme = "spiffe://mesh/ns/acme/sa/app"
	for _, c := range []struct {
		name    string
		request *gate.Request
		want    gate.Reason
	}{
		{"nothing to show is unauthenticated", request(""), gate.ReasonUnauthenticated},
		{"an unknown key is unauthenticated", request("", "key-nobody"), gate.ReasonUnauthenticated},
		{"an empty key is unauthenticated", request("", ""), gate.ReasonUnauthenticated},
		{"a key of a megabyte is unauthenticated", request("", string(make([]byte, 1<<20))), gate.ReasonUnauthenticated},
		{"an expired key is unauthenticated", request("", "key-old"), gate.ReasonUnauthenticated},
		{"two keys are unauthenticated, even of one tenant", request("", "key-acme", "key-acme"), gate.ReasonUnauthenticated},
		{"a good key beside a bad one is unauthenticated", request("", "key-acme", "x"), gate.ReasonUnauthenticated},
		{"a principal and a key of another tenant are unauthenticated", request(acme, "key-umbrella"), gate.ReasonUnauthenticated},
		{"a principal that nobody listed is unauthenticated", request("spiffe://mesh/ns/x/sa/y"), gate.ReasonUnauthenticated},
		{"a good principal beside a bad key is unauthenticated", request(acme, "key-nobody"), gate.ReasonUnauthenticated},
		{"what can't be read one way is malformed", &gate.Request{Malformed: "two hosts", Credentials: authz.Credentials{APIKeys: []string{"key-acme"}}}, gate.ReasonMalformed},
		{"a suspended tenant is refused", request("", "key-closed"), gate.ReasonSuspended},
		{"a good key is admitted", request("", "key-acme"), gate.ReasonAdmitted},
		{"a good principal is admitted", request(acme), gate.ReasonAdmitted},
		{"a principal and a key of the same tenant are admitted", request(acme, "key-acme"), gate.ReasonAdmitted},
		{"a gateway's principal lets the key speak", request("spiffe://mesh/ns/istio-system/sa/ingress", "key-acme"), gate.ReasonAdmitted},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
			var d gate.Decision
			g.Admit(t.Context(), now, c.request, &d)
			if d.Reason != c.want || d.Allowed() != (c.want == gate.ReasonAdmitted) {
				t.Errorf("%v, allowed %v: %s", d.Reason, d.Allowed(), d.Detail)
			}
			if d.Allowed() && (d.Tenant != "acme" || d.Revision != 42) {
				t.Errorf("tenant %q, revision %d", d.Tenant, d.Revision)
			}
			if _, ok := g.VerifyID(gate.FormatID(d.ID), c.request.Peer); !ok {
				t.Error("the decision id does not verify")
			}
			if g.Count(c.want) != 1 {
				t.Errorf("counted %d times", g.Count(c.want))
			}
		})
	}
}

func TestAdmitChargesAllLimitsOrNone(t *testing.T) {
	g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
	var d gate.Decision
	for i := range 5 {
		g.Admit(t.Context(), now, request("", "key-acme"), &d)
		want := gate.ReasonAdmitted
		if i >= 3 {
			want = gate.ReasonOverLimit
		}
		if d.Reason != want {
			t.Fatalf("request %d: %v", i, d.Reason)
		}
	}
	charges, outcomes := d.Limits()
	for i, c := range charges {
		if over := c.Limit.Name == "minute"; outcomes[i].Over != over {
			t.Errorf("%s: over %v", c.Limit.Name, outcomes[i].Over)
		}
		if c.Limit.Name == "ten" && outcomes[i].Remaining != 1_000_000-3 {
			t.Errorf("the refused requests were charged: %d remain", outcomes[i].Remaining)
		}
	}
}

type broken struct{}

func (broken) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	return true, errors.New("the disk is gone")
}

func TestAdmitDeniesWhenTheStoreCannotAnswer(t *testing.T) {
	var d gate.Decision
	newGate(t, broken{}).Admit(t.Context(), now, request("", "key-acme"), &d)
	if d.Allowed() || d.Reason != gate.ReasonUnavailable {
		t.Errorf("%v, allowed %v", d.Reason, d.Allowed())
	}
}

func TestTheZeroDecisionDenies(t *testing.T) {
	var d gate.Decision
	if d.Allowed() || d.Reason != gate.ReasonInternal {
		t.Error("the zero value allows")
	}
	// A decision that is used again keeps nothing of the one before.
	g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
	g.Admit(t.Context(), now, request("", "key-acme"), &d)
	g.Admit(t.Context(), now, request(""), &d)
	if charges, _ := d.Limits(); d.Allowed() || d.Tenant != "" || d.Plan != "" || d.Principal.Name != "" || len(charges) != 0 {
		t.Errorf("left over: %+v", d)
	}
}

func TestAdmitAllocatesNothing(t *testing.T) {
	g := newGate(t, memstore.New(memstore.Options{MaxCells: 1000}))
	r, d := request("", "key-wide"), new(gate.Decision)
	if n := testing.AllocsPerRun(1000, func() { g.Admit(t.Context(), now, r, d) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if !d.Allowed() {
		t.Error(d.Detail)
	}
}

func BenchmarkAdmit(b *testing.B) {
	for _, r := range []*gate.Request{request("", "key-wide"), request("spiffe://mesh/ns/acme/sa/app"), request("", "key-nobody")} {
		b.Run(fmt.Sprintf("%d keys %t spiffe", len(r.Credentials.APIKeys), r.Credentials.SPIFFE != ""), func(b *testing.B) {
			g := newGate(b, memstore.New(memstore.Options{MaxCells: 1000}))
			var d gate.Decision
			b.ReportAllocs()
			for b.Loop() {
				g.Admit(b.Context(), now, r, &d)
			}
		})
	}
}

func TestTheTokenIsBoundToWhoGetsTheRequest(t *testing.T) {
	const service, peer = "spiffe://mesh/ns/calls/sa/a", "spiffe://mesh/ns/edge/sa/gateway"
	tokens := token.New(token.Options{Secret: [32]byte{1}})
	s := snapshot(t)
	fresh := func() *gate.Gate {
		return gate.New(gate.Options{
			Snapshot:      func() *quota.Snapshot { return s },
			Authenticator: authn.New(authn.Options{Pepper: pepper}),
			Store:         memstore.New(memstore.Options{MaxCells: 1000}), Tokens: tokens,
		})
	}
	for _, c := range []struct{ name, holder, peer, want string }{
		{"to the workload whose certificate the caller saw", service, peer, service},
		{"else to the one whose Envoy asks", "", peer, peer},
		{"else, where clients see a public name, to the one whose Envoy asks", "api.example.com", peer, peer},
		{"to nobody where neither has a SPIFFE id", "", "loopback", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request("", "key-acme")
			r.Holder, r.Peer = c.holder, c.peer
			var d gate.Decision
			fresh().Admit(t.Context(), now, r, &d)
			if !d.Allowed() || (len(d.Token) > 0) != (c.want != "") {
				t.Fatalf("%v, a token of %d bytes", d.Reason, len(d.Token))
			}
			if c.want == "" {
				return
			}
			if claims, err := tokens.Verify(now, string(d.Token), c.want); err != nil || claims.Holder != c.want {
				t.Errorf("%+v, %v", claims, err)
			}
		})
	}
	t.Run("I-05 a peer with several ids is nobody, whatever it shows", func(t *testing.T) {
		for _, r := range []*gate.Request{request("spiffe://mesh/ns/acme/sa/app"), request("spiffe://mesh/ns/acme/sa/app", "key-acme")} {
			r.Credentials.XFCC = []string{"By=x;URI=" + r.Credentials.SPIFFE + ";URI=spiffe://mesh/ns/umbrella/sa/app"}
			var d gate.Decision
			fresh().Admit(t.Context(), now, r, &d)
			if d.Reason != gate.ReasonUnauthenticated {
				t.Errorf("%v", d.Reason)
			}
		}
	})
}

func TestRequestsBeginAtEdgesAlone(t *testing.T) {
	const edge, service = "spiffe://mesh/ns/edge/sa/gateway", "spiffe://mesh/ns/calls/sa/a"
	tokens := token.New(token.Options{Secret: [32]byte{1}})
	s := snapshot(t)
	admit := func(r *gate.Request, peer string) gate.Decision {
		g := gate.New(gate.Options{
			Snapshot:      func() *quota.Snapshot { return s },
			Authenticator: authn.New(authn.Options{Pepper: pepper}),
			Store:         memstore.New(memstore.Options{MaxCells: 1000}), Tokens: tokens, Edges: []string{edge},
		})
		r.Peer, r.Holder = peer, peer
		var d gate.Decision
		g.Admit(t.Context(), now, r, &d)
		return d
	}
	for _, c := range []struct {
		name, peer, spiffe string
		keys               []string
		want               gate.Reason
	}{
		{"at an edge a key speaks for its tenant", edge, "", []string{"key-acme"}, gate.ReasonAdmitted},
		{"at a service the same key speaks for nobody", service, "", []string{"key-acme"}, gate.ReasonUnauthenticated},
		{"at a service nobody can say that a tenant's workload called", service, "spiffe://mesh/ns/acme/sa/app", nil, gate.ReasonUnauthenticated},
		{"an id that an edge's begins is no edge", edge + "2", "", []string{"key-acme"}, gate.ReasonUnauthenticated},
		{"who has no name is no edge", "", "", []string{"key-acme"}, gate.ReasonUnauthenticated},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := admit(request(c.spiffe, c.keys...), c.peer); d.Reason != c.want {
				t.Errorf("%v: %s", d.Reason, d.Detail)
			}
		})
	}
	t.Run("at a service the token of the hop before is enough", func(t *testing.T) {
		first := admit(request("", "key-acme"), edge)
		r := request(edge)
		r.Credentials.Tenant = []string{string(first.Token)}
		if d := admit(r, service); d.Reason != gate.ReasonAdmitted || d.Tenant != "acme" {
			t.Errorf("%v: %s", d.Reason, d.Detail)
		}
	})
}

// degraded is a store that judges without the shared one.
type degraded struct{}

func (degraded) Charge(_ ratelimit.Operation, _ []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	outcomes[0].Degraded = true
	return true, nil
}

func TestADegradedDecisionIsMarked(t *testing.T) {
	var d gate.Decision
	newGate(t, degraded{}).Admit(t.Context(), now, request("", "key-acme"), &d)
	if !d.Allowed() || !d.Degraded() {
		t.Errorf("allowed %v, degraded %v", d.Allowed(), d.Degraded())
	}
	newGate(t, memstore.New(memstore.Options{})).Admit(t.Context(), now, request("", "key-acme"), &d)
	if !d.Allowed() || d.Degraded() {
		t.Errorf("the mark stays: allowed %v, degraded %v", d.Allowed(), d.Degraded())
	}
}
