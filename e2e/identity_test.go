package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

func TestIdentityThroughEnvoy(t *testing.T) {
	for wiring, config := range map[string]string{
		"at the gateway": deploy.Demo, "in a sidecar": deploy.Sidecar, "by ext_proc": deploy.ExtProc, "by ext_proc for streams": deploy.Streams,
	} {
		t.Run(wiring, func(t *testing.T) { testIdentity(t, config) })
	}
}

func testIdentity(t *testing.T, config string) {
	w := start(t, stack.Options{Config: config})
	key := w.tenant(t, "acme", limit("per-minute", fixed, 1_000_000, time.Minute))
	other := w.tenant(t, "umbrella", limit("per-minute", fixed, 1_000_000, time.Minute))

	for _, c := range []struct {
		name string
		want int
		edit func(*http.Request)
	}{
		{"no key", 401, func(r *http.Request) { r.Header.Del("x-api-key") }},
		{"an empty key", 401, func(r *http.Request) { r.Header.Set("x-api-key", "") }},
		{"an unknown key", 401, func(r *http.Request) { r.Header.Set("x-api-key", "slk_00000000_"+strings.Repeat("A", 43)) }},
		{"two keys of one tenant", 401, func(r *http.Request) { r.Header["X-Api-Key"] = []string{key, key} }},
		{"keys of two tenants", 401, func(r *http.Request) { r.Header["X-Api-Key"] = []string{key, other} }},
		{"the key twice in one value", 401, func(r *http.Request) { r.Header.Set("x-api-key", key+","+key) }},
		{"a key in each place", 401, func(r *http.Request) { r.Header.Set("authorization", "Bearer "+other) }},
		{"a key as bearer token", 200, func(r *http.Request) {
			r.Header.Del("x-api-key")
			r.Header.Set("authorization", "Bearer "+key)
		}},
		{"the right key", 200, func(*http.Request) {}},
	} {
		t.Run(c.name+fmt.Sprintf(" gets %d", c.want), func(t *testing.T) {
			if s := w.get(t.Context(), key, c.edit); s.err != nil || s.status != c.want {
				t.Errorf("got %d, %v", s.status, s.err)
			}
		})
	}

	t.Run("a revoked key is refused at the next request", func(t *testing.T) {
		revoked := w.tenant(t, "revoked", limit("per-minute", fixed, 100, time.Minute))
		if s := w.get(t.Context(), revoked); s.status != http.StatusOK {
			t.Fatalf("before: %d", s.status)
		}
		list, err := w.quota.ListApiKeys(w.admin(t), &quotav1.ListApiKeysRequest{Parent: "tenants/revoked"})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range list.GetApiKeys() {
			if _, err := w.quota.DeleteApiKey(w.admin(t), &quotav1.DeleteApiKeyRequest{Name: k.GetName()}); err != nil {
				t.Fatal(err)
			}
		}
		if s := w.get(t.Context(), revoked); s.status != http.StatusUnauthorized {
			t.Errorf("after: %d, want 401", s.status)
		}
	})

	t.Run("the upstream sees the tenant once and none of the client's spellings, nor the key", func(t *testing.T) {
		spellings := []string{"x-tenant-id", "X-TENANT-ID", "x.tenant.id", "xtenantid", "x-tenant", "tenant-id", "tenant", "x-sluice-tenant", "x-sluice-plan"}
		s := w.get(t.Context(), key, func(r *http.Request) {
			for _, name := range spellings {
				r.Header[textproto.CanonicalMIMEHeaderKey(name)] = append(r.Header[textproto.CanonicalMIMEHeaderKey(name)], "umbrella")
			}
		})
		if s.status != http.StatusOK {
			t.Fatalf("status %d", s.status)
		}
		got := w.Upstream.Headers()
		if v := got.Values("x-tenant-id"); len(v) != 1 || v[0] != "acme" {
			t.Errorf("x-tenant-id at the upstream: %q, want acme once", v)
		}
		for name, values := range got {
			for _, v := range values {
				if v == "umbrella" || strings.Contains(v, key) {
					t.Errorf("the upstream got %s: %s", name, v)
				}
			}
		}
	})

	t.Run("bytes that no client library sends get a decision", func(t *testing.T) {
		for _, c := range []struct{ name, headers string }{
			{"a non-UTF-8 key", "x-api-key: \xff\xfe\xfd"},
			{"a non-UTF-8 header beside a good key", "x-api-key: " + key + "\r\nx-note: \xff\xfe"},
			{"a 64 KiB header", "x-api-key: " + key + "\r\nx-big: " + strings.Repeat("a", 64<<10)},
			{"an underscore spelling", "x-api-key: " + key + "\r\nx_tenant_id: umbrella"},
		} {
			status := rawStatus(t, w.URL, c.headers)
			if status != 200 && (status < 400 || status > 499) {
				t.Errorf("%s: %d, want a decision (200 or 4xx)", c.name, status)
			}
		}
	})

	t.Run("a refusal says why, in problem+json, and which decision it was", func(t *testing.T) {
		tight := w.tenant(t, "tight", limit("per-hour", fixed, 0, time.Hour))
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/v1/calls", nil)
		request.Header.Set("x-api-key", tight)
		response, err := w.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		var problem map[string]any
		if response.StatusCode != http.StatusTooManyRequests || json.Unmarshal(body, &problem) != nil {
			t.Fatalf("%d %s", response.StatusCode, body)
		}
		if ct := response.Header.Get("content-type"); ct != "application/problem+json" {
			t.Errorf("content-type %q", ct)
		}
		for _, name := range []string{"RateLimit", "RateLimit-Policy"} {
			if response.Header.Get(name) == "" {
				t.Errorf("no %s", name)
			}
		}
	})

	t.Run("a gRPC caller gets RESOURCE_EXHAUSTED, never a status that Istio retries", func(t *testing.T) {
		tight := w.tenant(t, "tight-grpc", limit("per-hour", fixed, 0, time.Hour))
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+"/voicecore.Call/Start", http.NoBody)
		request.Header.Set("x-api-key", tight)
		request.Header.Set("content-type", "application/grpc")
		response, err := w.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if got := response.Header.Get("grpc-status"); got != "8" {
			t.Errorf("grpc-status %q, want 8", got)
		}
	})

	t.Run("every outcome came back over the access log under its decision id", func(t *testing.T) {
		await.That(t, "an access log entry is settled", func() bool {
			return strings.Contains(w.metrics(t), `sluice_access_log_entries_total{result="settled"}`) &&
				!strings.Contains(w.metrics(t), `sluice_access_log_entries_total{result="settled"} 0`)
		})
	})
}

// rawStatus sends header bytes as they are and returns the status of the
// answer. Envoy closes a connection whose headers it does not accept, which may
// overtake its 4xx, and with ext_proc comes without one: that counts as 400.
func rawStatus(t *testing.T, url, headers string) int {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // read to the end
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = fmt.Fprintf(conn, "GET /v1/calls HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n%s\r\n\r\n", headers)
	var response *http.Response
	if err == nil {
		response, err = http.ReadResponse(bufio.NewReader(conn), nil)
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) {
		return http.StatusBadRequest
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}
