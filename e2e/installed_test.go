package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/installer/profile"
	asks "github.com/voicecore-ai/sluice/installer/wiring"
	"github.com/voicecore-ai/sluice/installer/wiring/istiodtest"
	"github.com/voicecore-ai/sluice/tenant"
)

// meshed is a mesh with every door: ext_authz and descriptors at the gateway, ext_proc at one service.
func meshed(t *testing.T) *profile.Values {
	t.Helper()
	v := &profile.Values{}
	v.Istio.Namespace, v.Istio.TrustDomain, v.Istio.ClusterDomain = "istio-system", "cluster.local", "cluster.local"
	v.Istio.Ingress.Enabled = true
	v.Mesh.Namespace, v.Sluice.Namespace = "voicecore-ai", "sluice-system"
	v.Mesh.Services = []profile.Service{{Name: "call-service", Port: 8080}}
	v.Sluice.ExcludedPaths = []string{"/healthz", "/static/*"}
	d := &v.Sluice.Doors
	d.AccessLog, d.ExtAuthz.Enabled, d.ExtProc.Enabled, d.RateLimit.Enabled = true, true, true, true
	d.ExtAuthz.Timeout.Duration, d.ExtProc.Timeout.Duration, d.RateLimit.Timeout.Duration = 5*time.Second, 5*time.Second, 5*time.Second
	d.ExtProc.Services = []string{"call-service"}
	d.RateLimit.Services, d.RateLimit.Domain = []string{profile.Ingress}, "mesh"
	d.RateLimit.Descriptors = []profile.Descriptor{{{Key: "path", Path: true}, {Key: "method", Method: true}}}
	return v
}

// local makes a listener of a mesh one of this machine: its port, and routes that lead to the upstream.
func local(listener map[string]any) {
	listener["address"] = map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": 20001}}
	for _, name := range []string{"bind_to_port", "use_original_dst", "traffic_direction"} {
		delete(listener, name)
	}
	chain := listener["filter_chains"].([]any)[0].(map[string]any)
	delete(chain, "filter_chain_match")
	manager := chain["filters"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)
	delete(manager, "rds")
	manager["route_config"] = map[string]any{"name": "local", "virtual_hosts": []any{map[string]any{
		"name": "all", "domains": []any{"*"},
		"routes": []any{map[string]any{"match": map[string]any{"prefix": "/"}, "route": map[string]any{"cluster": "upstream", "timeout": "15s"}}},
	}}}
}

// wired is an Envoy's configuration as istiod would make it of what the installer renders: the
// listener that istiod itself made, with the EnvoyFilters that select the proxy.
func wired(t *testing.T, p istiodtest.Proxy) string {
	t.Helper()
	return wiredAs(t, p, meshed(t))
}

func wiredAs(t *testing.T, p istiodtest.Proxy, v *profile.Values) string {
	t.Helper()
	name := "service"
	if p.Gateway {
		name = "gateway"
	}
	text, err := os.ReadFile(filepath.Join("..", "installer", "wiring", "istiodtest", "testdata", name+"-before.json"))
	if err != nil {
		t.Fatal(err)
	}
	var listener map[string]any
	if err := json.Unmarshal(bytes.ReplaceAll(text, []byte(`"timeout": "1s"`), []byte(`"timeout": "5s"`)), &listener); err != nil {
		t.Fatal(err)
	}
	local(listener)
	raw, err := json.Marshal(listener)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := asks.Objects(v)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := istiodtest.Apply(raw, objects, p)
	if err != nil {
		t.Fatal(err)
	}
	return `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: ${ADMIN_PORT}}}}
static_resources:
  listeners:
    - ` + regexp.MustCompile(`"port_value":\s*20001`).ReplaceAllString(string(patched), `"port_value": $${LISTEN_PORT}`) + `
  clusters:
    - name: outbound|9090||sluice.sluice-system.svc.cluster.local
      type: STATIC
      connect_timeout: 0.25s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: sluice
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${SLUICE_PORT}}}}}]}]
    - name: upstream
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: upstream
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${UPSTREAM_PORT}}}}}]}]
`
}

var (
	atGateway = istiodtest.Proxy{Gateway: true, Labels: map[string]string{"istio": "ingressgateway"}}
	atService = istiodtest.Proxy{Labels: map[string]string{"app": "call-service"}}
)

// spoofed is what a client would like to be believed.
const spoofed = "x-tenant-id: evil\r\nX-Ten~ant-Id: evil\r\nx-sluice-principal: evil\r\nx.tenant.id: evil\r\n"

func TestTheInstallersWiringAtTheGateway(t *testing.T) {
	descriptors := t.TempDir()
	const limits = "domain: mesh\ndescriptors:\n  - key: path\n    value: /may/limited\n    descriptors:\n      - {key: method, value: GET, rate_limit: {unit: year, requests_per_unit: 2}}\n"
	if err := os.WriteFile(filepath.Join(descriptors, "mesh.yaml"), []byte(limits), 0o600); err != nil {
		t.Fatal(err)
	}
	s := stage(t, wired(t, atGateway), stack.Options{Catalog: catalogue(t, classes), RLS: descriptors})
	key := "x-api-key: " + s.key(t, "acme") + "\r\n"
	get := func(path, headers string) func() reply {
		return func() reply {
			return s.raw(t, "GET "+path+" HTTP/1.1\r\nhost: api.example.com:444\r\nconnection: close\r\n"+headers+"\r\n")
		}
	}
	t.Run("a caller with a key passes, and the service sees the tenant once", func(t *testing.T) {
		s.judge(t, passes, get("/may/x", key+spoofed+"x-forwarded-host: evil\r\n"))
	})
	t.Run("a caller without one is refused", func(t *testing.T) { s.judge(t, isNobody, get("/may/x", spoofed)) })
	t.Run("a header with an underscore is refused before anybody is asked", func(t *testing.T) {
		s.judge(t, byEnvoy, get("/may/x", key+"x_tenant_id: evil\r\n"))
	})
	t.Run("an escaped slash is refused before anybody is asked", func(t *testing.T) { s.judge(t, byEnvoy, get("/may%2fx", key)) })
	for _, path := range []string{"/healthz", "/healthz?a=b", "/static/a/b.css", "//static//c"} {
		t.Run("an excluded path is not asked about and carries no tenant: "+path, func(t *testing.T) {
			e := s.observe(t, get(path, key+spoofed+"x-forwarded-for: 6.6.6.6\r\ntraceparent: 00-1-2-00\r\n"))
			if e.status != http.StatusOK || e.asked != 0 || e.contacts != 1 {
				t.Fatalf("status %d, asked %d times, %d contacts", e.status, e.asked, e.contacts)
			}
			for _, h := range e.seen.headers {
				if tenant.IsReservedHeader(h.name) || strings.Contains(h.value, "6.6.6.6") || strings.EqualFold(h.name, "traceparent") {
					t.Errorf("the service saw %s: %s", h.name, h.value)
				}
			}
		})
	}
	for _, path := range []string{"/healthzz", "/healthz/x", "/static", "/a?/healthz", "/healthz/../may/no"} {
		t.Run("a path that only looks excluded is asked about: "+path, func(t *testing.T) {
			if e := s.observe(t, get(path, spoofed)); e.status != http.StatusUnauthorized || e.asked != 1 {
				t.Errorf("status %d, asked %d times", e.status, e.asked)
			}
		})
	}
	t.Run("a descriptor is the path without its query", func(t *testing.T) {
		var got []int
		for _, query := range []string{"", "?a=1", "?a=2"} {
			got = append(got, get("/may/limited"+query, key)().status)
		}
		if got[0] != http.StatusOK || got[1] != http.StatusOK || got[2] != http.StatusTooManyRequests {
			t.Errorf("%v, want 200 200 429", got)
		}
	})
	t.Run("the access log settles what was decided", func(t *testing.T) {
		settled := regexp.MustCompile(`sluice_access_log_entries_total\{[^}]*result="settled"[^}]*\} [1-9]`)
		await.That(t, "an entry is settled", func() bool { return settled.MatchString(s.metrics(t)) })
	})
	t.Run("without Sluice nobody passes, but on the excluded paths", func(t *testing.T) {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		before := s.witness.contacts()
		if got := get("/may/x", key)(); got.status != http.StatusServiceUnavailable || s.witness.contacts() != before {
			t.Errorf("status %d", got.status)
		}
		if got := get("/healthz", "")(); got.status != http.StatusOK {
			t.Errorf("an excluded path: %d", got.status)
		}
	})
}

// TestBehindATrustedProxy: what the balancer writes is believed, one address of it, and what a client adds is not.
func TestBehindATrustedProxy(t *testing.T) {
	v := meshed(t)
	v.Istio.Ingress.TrustedProxies = 1
	s := stage(t, wiredAs(t, atGateway, v), stack.Options{Catalog: catalogue(t, classes)})
	sees := func(t *testing.T, headers string) map[string]string {
		t.Helper()
		e := s.observe(t, func() reply {
			return s.raw(t, "GET /may/x HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\nx-api-key: "+s.key(t, "acme")+"\r\n"+headers+"\r\n")
		})
		if e.status != http.StatusOK {
			t.Fatalf("status %d", e.status)
		}
		out := map[string]string{}
		for _, h := range e.seen.headers {
			out[strings.ToLower(h.name)] += h.value
		}
		return out
	}
	t.Run("the address that it saw is the client's, and its protocol is the request's", func(t *testing.T) {
		got := sees(t, "x-forwarded-for: 198.51.100.7\r\nx-forwarded-proto: https\r\n")
		if got["x-envoy-external-address"] != "198.51.100.7" || !strings.HasPrefix(got["x-forwarded-for"], "198.51.100.7,") || got["x-forwarded-proto"] != "https" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("an address that the client wrote before it is not", func(t *testing.T) {
		if got := sees(t, "x-forwarded-for: 6.6.6.6, 198.51.100.7\r\n"); got["x-envoy-external-address"] != "198.51.100.7" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the rest of what says where a request came from is nobody's to write", func(t *testing.T) {
		got := sees(t, "x-forwarded-for: 198.51.100.7\r\nx-forwarded-host: evil\r\nx-forwarded-port: evil\r\nx-forwarded-prefix: evil\r\nx-forwarded-fo: evil\r\n"+
			"x-forwarded-forx: evil\r\nx-forwarded-protocol: evil\r\nx-forwarded-client-cert: evil\r\nforwarded: for=evil\r\nx-real-ip: evil\r\nx-original-url: /evil\r\n")
		for name, value := range got {
			if strings.Contains(value, "evil") {
				t.Errorf("the service saw %s: %s", name, value)
			}
		}
	})
}

func TestTheInstallersWiringByExtProcAtAService(t *testing.T) {
	s := stage(t, wired(t, atService), stack.Options{Catalog: catalogue(t, classes)})
	key := "x-api-key: " + s.key(t, "acme") + "\r\n"
	get := func(path, headers string) func() reply {
		return func() reply {
			return s.raw(t, "GET "+path+" HTTP/1.1\r\nhost: call-service\r\nconnection: close\r\n"+headers+"\r\n")
		}
	}
	t.Run("a caller with a key passes", func(t *testing.T) { s.judge(t, passes, get("/may/x", key+spoofed)) })
	t.Run("a caller without one is refused", func(t *testing.T) { s.judge(t, isNobody, get("/may/x", spoofed)) })
	t.Run("an excluded path is not asked about and carries no tenant", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/healthz?a=b", "/static/x"} {
			e := s.observe(t, get(path, key+spoofed))
			if e.status != http.StatusOK || e.asked != 0 {
				t.Errorf("%s: status %d, asked %d times", path, e.status, e.asked)
			}
			for _, h := range e.seen.headers {
				if tenant.IsReservedHeader(h.name) {
					t.Errorf("%s: the service saw %s: %s", path, h.name, h.value)
				}
			}
		}
	})
	t.Run("a path that only looks excluded is asked about", func(t *testing.T) {
		for _, path := range []string{"/healthzz", "/static", "/a?/healthz"} {
			if got := get(path, "")(); got.status != http.StatusUnauthorized {
				t.Errorf("%s: status %d", path, got.status)
			}
		}
	})
	t.Run("without Sluice nobody passes", func(t *testing.T) {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if got := get("/may/x", key)(); got.status != http.StatusServiceUnavailable {
			t.Errorf("status %d", got.status)
		}
	})
}
