package gate

import (
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
)

const (
	callService = "spiffe://mesh/ns/voicecore/sa/call"
	aiService   = "spiffe://mesh/ns/voicecore/sa/ai"
	acmeApp     = "spiffe://mesh/ns/acme/sa/app"
	second      = int64(time.Second / time.Microsecond)
)

// catalogueOf is that of hops. Its other tenant has principals, if any are given.
func catalogueOf(t *testing.T, others ...string) *quota.Snapshot {
	t.Helper()
	snapshot, err := quota.Compile(1, quota.Catalogue{
		Plans: []quota.Plan{{Name: "gold", Limits: []quota.Limit{
			{Name: "edge", Algorithm: "fixed", Limit: 10, Window: time.Second},
			{Name: "service", Algorithm: "fixed", Limit: 10, Window: time.Second, At: "service"},
		}}},
		Tenants: []quota.Tenant{{ID: "acme", Plan: "gold", Principals: []string{acmeApp}}, {ID: "umbrella", Plan: "gold", Principals: others}},
		Rules:   []authz.Rule{anyone},
	}, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// hops is a gate with tenant tokens, before a catalogue with one tenant that has
// a limit at the edge and one at each service.
func hops(t *testing.T) (*Gate, *parts) {
	t.Helper()
	p := newParts(t, anyone)
	snapshot := catalogueOf(t)
	p.snapshot = snapshot
	p.identify = func() (authz.Principal, *quota.Account, error) {
		return authz.Principal{Scheme: authz.SPIFFE, Name: acmeApp}, snapshot.Account("acme"), nil
	}
	g := p.gate()
	g.o.Tokens = token.New(token.Options{Secret: [32]byte{7}})
	return g, p
}

// at asks about a request that presenter sends to holder, with a token if there is one.
func at(t *testing.T, g *Gate, now int64, presenter, holder, shown string) *Decision {
	t.Helper()
	r := ask()
	r.Holder, r.Credentials.SPIFFE = holder, presenter
	if shown != "" {
		r.Credentials.Tenant = []string{shown}
	}
	d := new(Decision)
	g.Admit(t.Context(), now, r, d)
	return d
}

func limitsOf(d *Decision) (names []string) {
	charges, _ := d.Limits()
	for i := range charges {
		names = append(names, charges[i].Limit.Name)
	}
	return names
}

func TestAHopBehindTheEdgeChargesServiceLimitsOnly(t *testing.T) {
	g, _ := hops(t)
	edge := at(t, g, second, acmeApp, callService, "")
	if !edge.Allowed() || len(limitsOf(edge)) != 2 || len(edge.Token) == 0 {
		t.Fatalf("at the edge: %v, limits %v", edge.Reason, limitsOf(edge))
	}
	inner := at(t, g, 2*second, callService, aiService, string(edge.Token))
	if !inner.Allowed() || len(limitsOf(inner)) != 1 || limitsOf(inner)[0] != "service" {
		t.Errorf("behind it: %v, limits %v", inner.Reason, limitsOf(inner))
	}
	if inner.Edge != edge.ID || inner.ID == edge.ID || inner.Tenant != "acme" {
		t.Errorf("the edge's decision %x is not carried on: %x", edge.ID, inner.Edge)
	}
}

func TestATokenIsWorthNothingInOtherHands(t *testing.T) {
	g, _ := hops(t)
	shown := string(at(t, g, second, acmeApp, callService, "").Token)
	for name, presenter := range map[string]string{"another workload": aiService, "nobody": "", "the tenant's own": acmeApp} {
		if d := at(t, g, 2*second, presenter, aiService, shown); d.Allowed() || d.Reason != ReasonUnauthenticated {
			t.Errorf("%s showed it and got %v", name, d.Reason)
		}
	}
}

// A workload that calls itself gets a token each time; the chain ends with the first.
func TestATokenDoesNotRenewItself(t *testing.T) {
	g, _ := hops(t)
	shown := string(at(t, g, second, acmeApp, callService, "").Token)
	life := int64(token.DefaultLife / time.Microsecond)
	admitted := 0
	for now := second; now < 10*life; now += life / 3 {
		d := at(t, g, now, callService, callService, shown)
		if !d.Allowed() {
			continue
		}
		admitted++
		if len(d.Token) > 0 {
			shown = string(d.Token)
		}
	}
	if admitted == 0 || admitted > 4 {
		t.Errorf("admitted %d times with a chain of tokens, want 1 to 4: within the first one's life", admitted)
	}
}

func TestATenantsOwnWorkloadPaysAtTheEdgeWhateverItShows(t *testing.T) {
	g, _ := hops(t)
	shown := string(at(t, g, second, acmeApp, acmeApp, "").Token) // it called itself
	if d := at(t, g, 2*second, acmeApp, callService, shown); !d.Allowed() || len(limitsOf(d)) != 2 {
		t.Errorf("%v, limits %v, want both", d.Reason, limitsOf(d))
	}
}

// A stream behind the edge is the caller's, whose tenant token a service showed. What becomes of the service
// is no ground to end it; the service's next request is refused.
func TestAServiceThatBecomesAnotherTenantsIsRefusedNext(t *testing.T) {
	g, p := hops(t)
	shown := string(at(t, g, second, acmeApp, callService, "").Token)
	inner := at(t, g, 2*second, callService, aiService, shown)
	if !inner.Allowed() {
		t.Fatal(inner.Reason)
	}
	held := &Held{Tenant: inner.Tenant, Principal: inner.Principal}
	p.snapshot = catalogueOf(t, callService)
	p.identify = func() (authz.Principal, *quota.Account, error) {
		return authz.Principal{Scheme: authz.SPIFFE, Name: callService}, p.snapshot.Account("umbrella"), nil
	}
	if ok, reason := g.Recheck(3*second, held); !ok {
		t.Errorf("the running stream is ended: %v", reason)
	}
	if d := at(t, g, 3*second, callService, aiService, shown); d.Allowed() || d.Reason != ReasonUnauthenticated {
		t.Errorf("the next request: %v", d.Reason)
	}
}

func TestADecisionKeepsNeitherTheCatalogueNorTheRequest(t *testing.T) {
	g, p := hops(t)
	for _, fail := range []bool{false, true} {
		p.charge = func() (bool, error) { return !fail, nil }
		d := at(t, g, second, acmeApp, callService, "")
		if d.Allowed() == fail || d.snapshot != nil || d.account != nil || d.input.Action != nil || d.entry.Path != "" {
			t.Errorf("allowed %v: kept %+v", d.Allowed(), d)
		}
	}
}

var _ ratelimit.Store = (*parts)(nil)
