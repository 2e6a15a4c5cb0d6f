package e2e

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/await"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/tenant"
	"github.com/voicecore-ai/sluice/testca"
)

const isSuspended = "suspended"

// alongside are a tenant's limits: one that the edge charges, one that every hop does.
func alongside() []*quotav1.Limit {
	edge, service := limit("calls", fixed, 1000, ever), limit("hops", fixed, 1000, ever)
	service.At = "service"
	return []*quotav1.Limit{edge, service}
}

// threeHops is a mesh in which acme has sent one request through all of it, hop
// by hop; in between, the test is the service.
type threeHops struct {
	*mesh
	a, b   *hop
	key    string // acme's
	tokenA string // as service A got it
}

func startThreeHops(t *testing.T) *threeHops {
	t.Helper()
	m := startMesh(t, "--edge-peers", envoyID)
	h := &threeHops{mesh: m, a: m.service(t, "a", serviceA), b: m.service(t, "b", serviceB)}
	m.witness = h.a.witness // the gateway's upstream is A's Envoy, and behind it A
	m.rule(t, everything, &quotav1.Rule{})
	h.key = m.tenant(t, "acme", alongside()...)
	return h
}

// told wants an upstream to see who the tenant is exactly once, and no credential
// of the caller's; it returns the tenant token.
func told(t *testing.T, s sighting, name, key string) string {
	t.Helper()
	for _, header := range []string{tenant.Header, tenant.TokenHeader, tenant.PrincipalHeader, tenant.PlanHeader, tenant.DecisionHeader} {
		if v := s.values(header); len(v) != 1 {
			t.Errorf("the upstream got %s %d times: %q", header, len(v), v)
		}
	}
	if v := s.values(tenant.Header); len(v) == 1 && v[0] != name {
		t.Errorf("the upstream got tenant %q, want %q", v, name)
	}
	for _, f := range s.headers {
		if key != "" && strings.Contains(f.value, key) {
			t.Errorf("the upstream got the caller's key in %s", f.name)
		}
	}
	if v := s.values(tenant.TokenHeader); len(v) == 1 {
		return v[0]
	}
	return ""
}

// bearing is a request of a service that shows a tenant token.
func bearing(tokens ...string) string {
	return bearingToo(tokens)
}

func bearingToo(tokens []string, lines ...string) string {
	for _, t := range tokens {
		lines = append(lines, tenant.TokenHeader+": "+t)
	}
	return http1("GET", "/v1/calls", lines...)
}

// TestTheTenantGoesThroughThreeHops is the tenant contract: a gateway, service A and service B,
// an Envoy and a certificate each, mutual TLS between them.
func TestTheTenantGoesThroughThreeHops(t *testing.T) {
	h := startThreeHops(t)

	t.Run("one request is charged once at the edge, and at each hop for what a service limits", func(t *testing.T) {
		_, _, atA := throughGateway(t, h, passes, http1("GET", "/v1/calls", "x-api-key: "+h.key))
		h.tokenA = told(t, atA, "acme", h.key)
		if got, want := h.used(t, "acme"), map[string]int64{"calls": 1, "hops": 2}; !maps.Equal(got, want) {
			t.Errorf("gateway and A used %v, want %v", got, want)
		}
		_, record, atB := h.b.judged(t, passes, func() reply { return plainly(t, h.a.out, bearing(h.tokenA)) })
		tokenB := told(t, atB, "acme", h.key)
		if got, want := h.used(t, "acme"), map[string]int64{"calls": 1, "hops": 3}; !maps.Equal(got, want) {
			t.Errorf("all three used %v, want %v", got, want)
		}
		if record.Peer != serviceB || record.Service != serviceB || record.Scheme != "api_key" {
			t.Errorf("B's record is %+v", record)
		}
		if tokenB == h.tokenA {
			t.Error("B got A's token, which it can't show")
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	testStolenTokens(t, h)
	testRevocations(t, h)
	testStolenKey(t, h)
}

// testStolenKey has somebody with a service's key ask sluiced without an Envoy, in the
// name of whom he likes.
func testStolenKey(t *testing.T, h *threeHops) {
	const agent = "spiffe://demo/ns/acme/sa/agent"
	_, err := h.quota.UpdateTenant(h.admin(t), &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: "tenants/acme", Plan: "plans/acme", Principals: []string{agent}}})
	if err != nil {
		t.Fatal(err)
	}
	claim := func(id, from string, headers ...string) *authv3.CheckResponse {
		request := checkRequest(h.key, headers...)
		fields := request.GetAttributes().GetRequest().GetHttp().GetHeaderMap()
		fields.Headers = slices.DeleteFunc(fields.Headers, func(v *corev3.HeaderValue) bool { return v.GetKey() == "x-api-key" })
		request.Attributes.Source = &authv3.AttributeContext_Peer{Principal: from}
		request.Attributes.Destination = &authv3.AttributeContext_Peer{Principal: id}
		before := len(h.decisions(t))
		r, err := authv3.NewAuthorizationClient(h.dialAs(t, h.ca.Workload(t, h.until, id))).Check(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if record := h.oneRecord(t, before); record.Peer != id || *record.Allowed != (r.GetOkResponse() != nil) {
			t.Errorf("the record is %+v", record)
		}
		return r
	}
	t.Run("tenant token: who has stolen a service's key gets none in the name of a tenant's workload", func(t *testing.T) {
		if r := claim(serviceB, agent); r.GetOkResponse() != nil {
			t.Errorf("admitted: %v", r)
		}
		if r := claim(serviceB, agent, tenant.TokenHeader, h.tokenA); r.GetOkResponse() != nil {
			t.Errorf("admitted by a token of A: %v", r)
		}
	})
	t.Run("tenant token: the gateway, at which requests begin, is believed", func(t *testing.T) {
		if r := claim(envoyID, agent); r.GetOkResponse() == nil {
			t.Errorf("refused: %v", r)
		}
	})
}

func testStolenTokens(t *testing.T, h *threeHops) {
	a, c := h.ca.Workload(t, h.until, serviceA), h.ca.Workload(t, h.until, serviceC)
	gateway := h.ca.Workload(t, h.until, envoyID)
	other := h.tenant(t, "umbrella", alongside()...)
	forUmbrella := mint(t, h.world, time.Now(), token.Claims{Tenant: "umbrella", Holder: serviceA})
	unlisted := h.service(t, "unlisted", "spiffe://demo/ns/shadow/sa/x") // its Envoy may not ask
	permissive, plain := h.service(t, "permissive", serviceB, noDemand), h.service(t, "plain", serviceB, noTLS)
	name := tenant.TokenHeader + ": "
	for _, at := range []struct {
		name   string
		at     *hop
		leaf   *testca.Leaf
		plain  bool
		want   verdict
		detail string
		ask    string
	}{
		{"the workload that holds the token may show it", h.b, &a, false, passes, "", bearing(h.tokenA)},
		{"it may show it again: each is a hop, none is an edge", h.b, &a, false, passes, "", bearing(h.tokenA)},
		{"with other spellings of the tenant beside it the token decides", h.b, &a, false, passes, "", bearingToo([]string{h.tokenA}, "x-tenant-id: umbrella", "x.tenant.id: umbrella", "x-sluice-plan: gold")},
		{"a key of the same tenant beside it is fine, and not charged as an edge", h.b, &a, false, passes, "", bearingToo([]string{h.tokenA}, "x-api-key: "+h.key)},
		{"a connection header that names it as hop-by-hop takes it away, and so the request is nobody's", h.b, &a, false, isNobody, "", strings.Replace(bearing(h.tokenA), "connection: close", "connection: close, x-tenant-id, x-sluice-tenant-token, x-sluice-plan, x-sluice-principal, x-sluice-decision-id", 1)},
		{"replayed by workload C it is refused", h.b, &c, false, isNobody, "another workload", bearing(h.tokenA)},
		{"replayed by the gateway it is refused", h.b, &gateway, false, isNobody, "another workload", bearing(h.tokenA)},
		{"C that says in x-forwarded-client-cert that it is A is refused", h.b, &c, false, isNobody, "another workload", bearingToo([]string{h.tokenA}, "x-forwarded-client-cert: By="+serviceB+";URI="+serviceA)},
		{"C that also has a key of that tenant is refused", h.b, &c, false, isNobody, "another workload", bearingToo([]string{h.tokenA}, "x-api-key: "+h.key)},
		{"without a certificate it is refused", permissive, nil, false, isNobody, "another workload", bearing(h.tokenA)},
		{"in plain text it is refused", plain, nil, true, isNobody, "another workload", bearing(h.tokenA)},
		{"in plain text with a forged x-forwarded-client-cert it is refused", plain, nil, true, isNobody, "another workload", bearingToo([]string{h.tokenA}, "x-forwarded-client-cert: URI="+serviceA)},
		{"where mutual TLS is required plain text never gets as far as a question", h.b, nil, true, byEnvoy, "", bearing(h.tokenA)},
		{"where mutual TLS is required a caller without certificate never gets as far as a question", h.b, nil, false, byEnvoy, "", bearing(h.tokenA)},
		{"shown twice it is refused", h.b, &a, false, isNobody, "more than one", bearing(h.tokenA, h.tokenA)},
		{"two tokens of two tenants are refused", h.b, &a, false, isNobody, "more than one", bearing(h.tokenA, forUmbrella)},
		{"two tokens that a proxy joined are refused", h.b, &a, false, isNobody, "", bearing(h.tokenA + "," + forUmbrella)},
		{"an empty token is refused, and not ignored beside a good key", h.b, &a, false, isNobody, "", bearingToo([]string{""}, "x-api-key: "+h.key)},
		{"a broken token beside a good key is refused", h.b, &a, false, isNobody, "", bearingToo([]string{h.tokenA[:len(h.tokenA)-2]}, "x-api-key: "+h.key)},
		{"beside a key of another tenant it is refused", h.b, &a, false, isNobody, "", bearingToo([]string{h.tokenA}, "x-api-key: "+other)},
		{"beside a bad key it is refused", h.b, &a, false, isNobody, "", bearingToo([]string{h.tokenA}, "x-api-key: slk_00000000_none")},
		{"beside a bearer that nobody knows it is refused", h.b, &a, false, isNobody, "", bearingToo([]string{h.tokenA}, "authorization: Bearer ey.b.c")},
		{"as a bearer it is no credential", h.b, &a, false, isNobody, "", http1("GET", "/v1/calls", "authorization: Bearer "+h.tokenA)},
		{"as an API key it is no credential", h.b, &a, false, isNobody, "", http1("GET", "/v1/calls", "x-api-key: "+h.tokenA)},
		{"under another spelling of its header it is no credential", h.b, &a, false, isNobody, "", http1("GET", "/v1/calls", "x-sluice.tenant-token: "+h.tokenA)},
		{"A without any token speaks for nobody", h.b, &a, false, isNobody, "", http1("GET", "/v1/calls", "x-tenant-id: acme")},
		{"a token that has expired is refused", h.b, &a, false, isNobody, "expired", bearing(mint(t, h.world, time.Now().Add(-10*time.Minute), token.Claims{Tenant: "acme", Holder: serviceA}))},
		{"a token from the future is refused", h.b, &a, false, isNobody, "future", bearing(mint(t, h.world, time.Now().Add(2*time.Hour), token.Claims{Tenant: "acme", Holder: serviceA}))},
		{"a token of a tenant that does not exist is refused", h.b, &a, false, isNobody, "", bearing(mint(t, h.world, time.Now(), token.Claims{Tenant: "nobody", Holder: serviceA}))},
		{"a token that another secret signed is refused", h.b, &a, false, isNobody, "", bearing(mintBy(t, token.New(token.Options{Secret: [32]byte{1}}), time.Now(), token.Claims{Tenant: "acme", Holder: serviceA}))},
		{"a service whose Envoy is not a peer gets nothing decided", unlisted, &a, false, verdict{http.StatusServiceUnavailable, unasked}, "", bearing(h.tokenA)},
	} {
		t.Run("tenant token: "+at.name, func(t *testing.T) {
			if at.at == unlisted { // Envoy asks, and sluiced ends the handshake
				before := len(h.decisions(t))
				if got := h.as(t, at.leaf, at.at.in, at.ask); got.status != at.want.status || at.at.witness.contacts() != 0 || len(h.decisions(t)) != before {
					t.Errorf("status %d, %d contacts", got.status, at.at.witness.contacts())
				}
				return
			}
			edge := h.used(t, "acme")["calls"]
			_, record, seen := at.at.judged(t, at.want, func() reply {
				if at.plain {
					return plainly(t, at.at.in, at.ask)
				}
				return h.as(t, at.leaf, at.at.in, at.ask)
			})
			if !strings.Contains(record.Detail, at.detail) {
				t.Errorf("the record says %q, want %q", record.Detail, at.detail)
			}
			if at.want == passes {
				told(t, seen, "acme", h.key)
			}
			if n := h.used(t, "acme")["calls"] - edge; n != 0 {
				t.Errorf("the edge's limit was charged %d times", n)
			}
		})
	}
	t.Run("tenant token: shown to the gateway it is taken away, and the caller's own credential decides", func(t *testing.T) {
		_, _, seen := throughGateway(t, h, verdict{http.StatusOK, admitted}, http1("GET", "/v1/calls", name+h.tokenA, "x-api-key: "+other))
		if v := seen.values(tenant.Header); len(v) != 1 || v[0] != "umbrella" {
			t.Errorf("the upstream got %q", v)
		}
		h.judge(t, isNobody, func() reply { return h.raw(t, http1("GET", "/v1/calls", name+h.tokenA)) })
	})
}

// throughGateway sends a request through gateway and A, of which each makes a record.
func throughGateway(t *testing.T, h *threeHops, want verdict, request string) (reply, audit.Record, sighting) {
	t.Helper()
	before, contacts := len(h.decisions(t)), h.witness.contacts()
	got := h.raw(t, request)
	if got.status != want.status || h.witness.contacts() != contacts+1 {
		t.Errorf("status %d, %d contacts", got.status, h.witness.contacts()-contacts)
	}
	await.That(t, "gateway and A have a record each", func() bool { return len(h.decisions(t)) >= before+2 })
	records := h.decisions(t)[before:]
	if len(records) != 2 || records[0].Peer != envoyID || records[1].Peer != serviceA || records[0].Reason != want.reason || records[1].Reason != want.reason {
		t.Errorf("the records are %+v", records)
	}
	return got, records[1], h.witness.newest()
}

func testRevocations(t *testing.T, h *threeHops) {
	a := h.ca.Workload(t, h.until, serviceA)
	show := func(tok string) func() reply {
		return func() reply { return h.as(t, &a, h.b.in, bearing(tok)) }
	}
	through := func(key string) string {
		_, _, seen := throughGateway(t, h, passes, http1("GET", "/v1/calls", "x-api-key: "+key))
		return told(t, seen, "acme", key)
	}
	t.Run("tenant token: a suspended tenant is refused at the inner hop, and served again afterwards", func(t *testing.T) {
		h.b.judge(t, passes, show(h.tokenA))
		h.setSuspended(t, "acme", true)
		h.b.judge(t, verdict{http.StatusForbidden, isSuspended}, show(h.tokenA))
		h.setSuspended(t, "acme", false)
		h.b.judge(t, passes, show(h.tokenA))
	})
	newKey := func(until *timestamppb.Timestamp) *quotav1.CreateApiKeyResponse {
		made, err := h.quota.CreateApiKey(h.admin(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme", ApiKey: &quotav1.ApiKey{ExpireTime: until}})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	t.Run("tenant token: a revoked key ends the tokens that it led to", func(t *testing.T) {
		made := newKey(nil)
		tok := through(made.GetSecret())
		h.b.judge(t, passes, show(tok))
		if _, err := h.quota.DeleteApiKey(h.admin(t), &quotav1.DeleteApiKeyRequest{Name: made.GetApiKey().GetName()}); err != nil {
			t.Fatal(err)
		}
		h.b.judge(t, isNobody, show(tok))
	})
	t.Run("tenant token: a key that expires ends them at its end", func(t *testing.T) {
		end := time.Now().Add(6 * time.Second)
		tok := through(newKey(timestamppb.New(end)).GetSecret())
		h.b.judge(t, passes, show(tok))
		await.That(t, "the key has expired", func() bool { return time.Now().After(end) })
		h.b.judge(t, isNobody, show(tok))
	})
	t.Run("a service's limit that is used up refuses at the inner hop, and costs the edge nothing", func(t *testing.T) {
		few := limit("hops", fixed, 2, ever)
		few.At = "service"
		key := h.tenant(t, "small", limit("calls", fixed, 100, ever), few)
		_, _, seen := throughGateway(t, h, passes, http1("GET", "/v1/calls", "x-api-key: "+key))
		h.b.judge(t, verdict{http.StatusTooManyRequests, "over_limit"}, show(told(t, seen, "small", key)))
		if got, want := h.used(t, "small"), map[string]int64{"calls": 1, "hops": 2}; !maps.Equal(got, want) {
			t.Errorf("used %v, want %v", got, want)
		}
	})
	t.Run("tenant token: a deleted tenant is nobody", func(t *testing.T) {
		gone := h.tenant(t, "gone", alongside()...)
		_, _, seen := throughGateway(t, h, passes, http1("GET", "/v1/calls", "x-api-key: "+gone))
		tok := told(t, seen, "gone", gone)
		if _, err := h.quota.DeleteTenant(h.admin(t), &quotav1.DeleteTenantRequest{Name: "tenants/gone", Force: true}); err != nil {
			t.Fatal(err)
		}
		h.b.judge(t, isNobody, show(tok))
	})
}

func mint(t *testing.T, w *world, at time.Time, c token.Claims) string {
	t.Helper()
	return mintBy(t, w.tokens(t), at, c)
}

func mintBy(t *testing.T, by *token.Tokens, at time.Time, c token.Claims) string {
	t.Helper()
	c.Principal, c.Plan, c.Decision = authz.Principal{Scheme: authz.SPIFFE, Name: "spiffe://demo/ns/x/sa/y"}, "acme", [16]byte{1}
	text, err := by.Mint(nil, at.UnixMicro(), &c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
