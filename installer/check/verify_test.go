package check

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// gateway is an ingress gateway with Sluice behind it, as far as a caller can tell.
type gateway struct {
	open    bool // nobody is asked
	limit   int  // requests that a tenant has
	leaks   bool // the caller's tenant header gets to the upstream, which echoes
	down    bool
	lawless bool // who has a credential may everything
	admits  int
	excused int
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		g.excused++
	} else if !g.open {
		switch {
		case r.Header.Get("Authorization") != "Bearer good":
			w.WriteHeader(http.StatusUnauthorized)
			return
		case r.URL.Path == "/admin" && !g.lawless:
			w.WriteHeader(http.StatusForbidden)
			return
		case g.limit > 0 && g.admits >= g.limit:
			w.WriteHeader(http.StatusTooManyRequests)
			return
		case g.down:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
	g.admits++
	got := "acme"
	if g.leaks {
		got = r.Header.Get("x-tenant-id")
	}
	_, _ = fmt.Fprintf(w, `{"headers": {"x-tenant-id": %q}}`, got)
}

func TestVerifyAsksThroughTheGateway(t *testing.T) {
	for _, c := range []struct {
		name    string
		gateway gateway
		soft    bool
		codes   []string
		fails   bool
	}{
		{"a mesh that acts", gateway{limit: 5}, false, nil, false},
		{"a mesh in which nobody is asked", gateway{open: true}, false, []string{"SV232", "SV233"}, true},
		{"the same in the soft stage is only a warning", gateway{open: true}, true, []string{"SV216", "SV232", "SV233"}, false},
		{"a mesh in which a tenant may everything", gateway{limit: 5, lawless: true}, false, []string{"SV232"}, true},
		{"a plan that limits nothing", gateway{}, false, []string{"SV233"}, true},
		{"a tenant header that gets through", gateway{limit: 5, leaks: true}, false, []string{"SV234"}, true},
		{"a Sluice that does not answer", gateway{limit: 5, down: true}, false, []string{"SV231", "SV233"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := healthy(t)
			server := httptest.NewServer(&c.gateway)
			defer server.Close()
			if c.soft {
				f.values.Mesh.Stage = profile.Soft
				for _, e := range f.envoys {
					if len(e.listeners) > 0 && e.listeners[0]["name"] == inbound {
						delete(e.listeners[0]["filter_chains"].([]any)[3].(map[string]any), "transport_socket")
					}
				}
			}
			f.probe = &Probe{
				URL: "http://voicecore.example.com/v1/calls", Address: server.Listener.Addr().String(), Headers: []string{"authorization: Bearer good"},
				Forbidden: "/admin", Excluded: "/healthz", Limit: 8,
			}
			r := Verify(context.Background(), f.open(t))
			if got := codes(r.Findings()); !slices.Equal(got, c.codes) || r.Failed() != c.fails {
				t.Errorf("%v, failed %v: %+v", got, r.Failed(), r.Findings())
			}
			for _, x := range r.Findings() {
				if strings.Contains(fmt.Sprint(x), "good") {
					t.Errorf("the credential is told: %+v", x)
				}
			}
			if c.gateway.excused == 0 {
				t.Error("the excluded path was not asked for")
			}
		})
	}
}

func TestVerifySaysWhatItDidNotProbe(t *testing.T) {
	r := Verify(context.Background(), healthy(t).open(t))
	if got, want := codes(r.Findings()), []string{"SV231", "SV232", "SV233", "SV234"}; !slices.Equal(got, want) || r.Failed() {
		t.Errorf("%v: %+v", got, r.Findings())
	}
}

func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name, code string
		seed       func(t *testing.T, f *fixture)
	}{
		{"a webhook that does not inject", "SV221", func(_ *testing.T, f *fixture) { f.cluster.injects = false }},
		{"a console without endpoints", "SV241", func(t *testing.T, f *fixture) { f.remove(t, "EndpointSlice istio-system/grafana-1") }},
		{"a console that does not answer", "SV241", func(_ *testing.T, f *fixture) { f.envoys["istio-system/kiali-1"].unanswered = true }},
		{"a gateway's certificate that ends tomorrow", "SV253", func(t *testing.T, f *fixture) {
			f.set(t, "Secret istio-system/edge", base64Of(certificatePEM(t, at.Add(-80*24*time.Hour), at.Add(20*time.Hour))), "data", "tls.crt")
		}},
		{"a gateway's certificate that is missing", "SV253", func(t *testing.T, f *fixture) { f.remove(t, "Secret istio-system/edge") }},
	} {
		t.Run(c.name+" is "+c.code, func(t *testing.T) {
			f := healthy(t)
			c.seed(t, f)
			r := Verify(context.Background(), f.open(t))
			got := slices.DeleteFunc(codes(r.Findings()), func(code string) bool { return strings.HasPrefix(code, "SV23") })
			if !slices.Equal(got, []string{c.code}) || !r.Failed() {
				t.Errorf("%v: %+v", got, r.Findings())
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	f := healthy(t)
	day := 24 * time.Hour
	f.envoys[billing].certs = []map[string]any{entry("b1", "spiffe://cluster.local/ns/voicecore-ai/sa/billing-service", at.Add(-87*day), at.Add(3*day))}
	f.envoys[ai].unanswered = true
	f.remove(t, "Secret istio-system/edge")
	f.cluster.denied = func(_, resource, _ string) bool { return resource == "secrets" }
	all, err := Certificates(context.Background(), f.open(t))
	if err != nil {
		t.Fatal(err)
	}
	find := func(kind, of string) Certificate {
		for _, c := range all {
			if c.Kind == kind && strings.HasSuffix(c.Of, of) {
				return c
			}
		}
		t.Fatalf("no %s of %s in %+v", kind, of, all)
		return Certificate{}
	}
	t.Run("one that should have been renewed is a warning", func(t *testing.T) {
		c := find(workload, billing)
		if c.Severity != Warn || c.Serial != "b1" || c.Left != "72h0m0s" || !c.RenewAt.Equal(at.Add(3*day-9*day)) {
			t.Errorf("%+v", c)
		}
	})
	t.Run("one that has time is none", func(t *testing.T) {
		if c := find(workload, ingress); c.Severity != "" || !strings.HasSuffix(c.ID, "sa/istio-ingressgateway") {
			t.Errorf("%+v", c)
		}
	})
	t.Run("a proxy that can't be read is a line", func(t *testing.T) {
		if c := find(workload, ai); c.Note == "" || c.Severity != Warn {
			t.Errorf("%+v", c)
		}
	})
	t.Run("a Secret that may not be read is a line", func(t *testing.T) {
		if c := find(edge, "istio-system/edge"); c.Note == "" || c.Severity != Info {
			t.Errorf("%+v", c)
		}
	})
	t.Run("the root of all proxies is told once", func(t *testing.T) {
		n := 0
		for _, c := range all {
			if c.Kind == root {
				n++
			}
		}
		if n != 1 || find(webhook, "MutatingWebhookConfiguration istio-sidecar-injector").To.IsZero() {
			t.Errorf("%d roots in %+v", n, all)
		}
	})
}

func TestOnePod(t *testing.T) {
	f := healthy(t)
	f.only = billing
	f.envoys[ai].unanswered = true
	delete(f.envoys[billing].listeners[0]["filter_chains"].([]any)[3].(map[string]any), "transport_socket")
	e, err := Explain(context.Background(), f.open(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := codes(e.Findings()); !slices.Equal(got, []string{"SV216"}) {
		t.Errorf("%v: %+v", got, e.Findings())
	}
	if e.Proxy != "Istio 1.31.4, Envoy 1.38.4-dev" || !strings.Contains(e.Wanted, "AuthorizationPolicy voicecore-ai/sluice-ask-billing-service") || len(e.Inbound) != 2 {
		t.Errorf("%+v", e)
	}
	f.only = "voicecore-ai/none"
	if _, err := Explain(context.Background(), f.open(t)); err == nil || !strings.Contains(err.Error(), "there is no Pod voicecore-ai/none") {
		t.Errorf("%v", err)
	}
}

// TestEveryCheckIsOnItsPage compares the table with docs/reference/checks.md, both ways.
func TestEveryCheckIsOnItsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/checks.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, have []string
	for _, m := range regexp.MustCompile(`(?m)^### (S[PVD]\d+)\n+(.+)$`).FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1]+" "+m[2])
	}
	seen := map[string]bool{}
	for _, c := range All() {
		if seen[c.Code] {
			t.Errorf("%s is there twice", c.Code)
		}
		seen[c.Code] = true
		if c.run == nil || c.Title == "" || c.Severity == "" {
			t.Errorf("%+v is not whole", c)
		}
		have = append(have, c.Code+" "+strings.ToUpper(c.Title[:1])+c.Title[1:]+".")
	}
	if !slices.Equal(documented, have) {
		t.Errorf("the page has\n%s\nand the table\n%s", strings.Join(documented, "\n"), strings.Join(have, "\n"))
	}
}
