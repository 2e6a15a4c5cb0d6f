package voicecore

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

func TestVoiceCore(t *testing.T) {
	m := install(t, "")
	m.Outside(t, "partner.example.net", 80, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = fmt.Fprint(w, host)
	}))
	m.Outside(t, "elsewhere.example.net", 80, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "elsewhere") }))
	for _, s := range []string{
		service("gateway-service", "v1", 1), service("tenant-service", "v1", 2), service("call-service", "v1", 2), service("ai-service", "v1", 2),
		service("crm-service", "v1", 1), service("crm-service", "v2", 1), service("integration-service", "v1", 1), service("billing-service", "v1", 1),
		// This one's certificates live forty seconds, so that a test sees one renewed.
		strings.Replace(service("analytics-service", "v1", 1), "metadata: {labels:",
			`metadata: {annotations: {proxy.istio.io/config: '{"proxyMetadata": {"SECRET_TTL": "40s", "SECRET_GRACE_PERIOD_RATIO": "0.5"}}'}, labels:`, 1),
	} {
		m.Apply(t, s)
	}
	m.Kubectl(t, "", "-n", apps, "wait", "deployment", "--all", "--for=condition=Available", "--timeout=5m")
	gateway := m.Pod(t, apps, "app=gateway-service")
	t.Run("M-01 the whole mesh is there, and ready", func(t *testing.T) {
		out := m.command(t, "status", "-o", "json")
		var status struct {
			Components []struct {
				Name           string
				Ready, Objects int
			}
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil || len(status.Components) < 12 {
			t.Fatalf("%v: %s", err, out)
		}
		for _, c := range status.Components {
			if c.Ready != c.Objects || c.Objects == 0 {
				t.Errorf("%s: %d of %d objects are ready", c.Name, c.Ready, c.Objects)
			}
		}
	})
	t.Run("M-02 a second install changes nothing", func(t *testing.T) {
		before := m.atRest(t)
		m.command(t, "install", "--yes")
		if after := m.versions(t); after != before {
			t.Errorf("objects were written again:\n%s", differing(before, after))
		}
	})
	t.Run("M-03 diff is empty after an install, and 2 after an edit by hand", func(t *testing.T) {
		m.command(t, "diff")
		m.Kubectl(t, "", "-n", apps, "patch", "destinationrule", "call-service", "--type=json", "-p",
			`[{"op": "replace", "path": "/spec/trafficPolicy/outlierDetection/maxEjectionPercent", "value": 99}]`)
		out, status := m.try(t, "diff")
		if status != 2 || !strings.Contains(out, "maxEjectionPercent") {
			t.Errorf("diff: exit status %d, want 2, with the field\n%s", status, out)
		}
		m.command(t, "install", "--yes", "--take-ownership", "kubectl-patch")
		m.command(t, "diff")
	})
	t.Run("M-04 pods have their sidecar, with the resources of the description", func(t *testing.T) {
		for _, c := range gateway.Object().Spec.InitContainers {
			if c.Name == "istio-proxy" {
				got := fmt.Sprint(c.Resources.Requests.Cpu(), c.Resources.Requests.Memory(), c.Resources.Limits.Cpu(), c.Resources.Limits.Memory())
				if want := "100m 128Mi 2 1Gi"; got != want {
					t.Errorf("resources %s, want %s", got, want)
				}
				return
			}
		}
		t.Error("no istio-proxy among the init containers")
	})
	key := m.tenant(t, "acme", 1_000_000)
	m.token(t, key) // the edge knows Sluice and the service
	t.Run("M-06 a tenant gets its 200s and then 429s, charged once at the edge", func(t *testing.T) { m.limits(t, gateway) })
	t.Run("M-08 who is not a caller of a service gets 403", func(t *testing.T) {
		token := m.token(t, key)
		if status, _ := between(t, gateway, "http://call-service:8080/", token); status != http.StatusOK {
			t.Errorf("the gateway-service may call the call-service: %d", status)
		}
		// A token is bound to who got it: the crm-service has its own, and still is no caller.
		_, answer := between(t, gateway, "http://crm-service:8080/", token)
		own := answer.Header.Get("X-Sluice-Tenant-Token")
		for _, crm := range m.Pods(t, apps, "app=crm-service", 2) {
			if status, _ := between(t, crm, "http://call-service:8080/", token); status != http.StatusUnauthorized {
				t.Errorf("the crm-service shows a token of the gateway-service: %d, want 401", status)
			}
			if status, _ := between(t, crm, "http://call-service:8080/", own); status != http.StatusForbidden {
				t.Errorf("the crm-service calls the call-service: %d, want 403", status)
			}
		}
	})
	t.Run("M-05 mutual TLS is seen from both sides, and plain text is refused", func(t *testing.T) {
		_, answer := between(t, gateway, "http://call-service:8080/", m.token(t, key))
		seen := answer.Header.Get("X-Forwarded-Client-Cert")
		for _, id := range []string{"By=spiffe://cluster.local/ns/voicecore-ai/sa/call-service", "URI=spiffe://cluster.local/ns/voicecore-ai/sa/gateway-service"} {
			if !strings.Contains(seen, id) {
				t.Errorf("%q has no %s", seen, id)
			}
		}
		call := m.Pods(t, apps, "app=call-service", 2)[0]
		if status, _, err := lab.Ask(m.Client(), "http://"+call.IP+":8080/", nil); err == nil {
			t.Errorf("plain text is answered with %d", status)
		}
	})
	t.Run("M-09 a listed host is reached by whom it lists, through the gateway, and no other", func(t *testing.T) { m.egress(t, gateway) })
	t.Run("M-11 what may be repeated is, what may not is not", func(t *testing.T) { m.retries(t, gateway, key) })
	t.Run("M-12 a service has its time", func(t *testing.T) { m.timeouts(t, gateway, key) })
	t.Run("M-13 ROUND_ROBIN takes turns, LEAST_REQUEST avoids who is busy", func(t *testing.T) { m.balancing(t, gateway, key) })
	t.Run("M-14 a canary takes a tenth", func(t *testing.T) { m.canary(t, gateway, key) })
	t.Run("M-15 a fault meets who asks for it", func(t *testing.T) {
		token := m.token(t, key)
		if status, _ := between(t, gateway, "http://billing-service:8080/", token, "X-Sluice-Fault", "please"); status != http.StatusTeapot {
			t.Errorf("status %d, want 418", status)
		}
		if status, _ := between(t, gateway, "http://billing-service:8080/", token); status != http.StatusOK {
			t.Errorf("status %d without the header, want 200", status)
		}
	})
	t.Run("M-10 a circuit breaker opens, and an endpoint that fails is taken out", func(t *testing.T) { m.breaks(t, gateway, key) })
	t.Run("M-16 a local limit refuses what is over, in each pod", func(t *testing.T) { m.local(t, gateway, key) })
	t.Run("M-17 a request is one trace, and an entry of the access log", func(t *testing.T) { m.observed(t, key) })
	t.Run("M-18 a certificate is renewed without a failed request", func(t *testing.T) { m.rotates(t, gateway, key) })
	t.Run("M-21 doctor finds each fault, and nothing in a healthy mesh", func(t *testing.T) { m.seeded(t) })
	// After M-21, which takes away the workload whose certificates live forty seconds: verify rightly fails it.
	t.Run("M-22 verify gets its 200, 401 and 429, and no forged tenant through", func(t *testing.T) { m.verified(t) })
	t.Run("M-25 a replica that is scaled up by hand does not start: it would count for itself", func(t *testing.T) { m.scaled(t) })
	t.Run("M-26 replicas on a Redis count together", func(t *testing.T) { m.shared(t) })
	t.Run("M-19 uninstall leaves what it lists, and nothing else", func(t *testing.T) { m.uninstall(t) })
}
