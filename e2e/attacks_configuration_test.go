package e2e

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/testca"
)

// C-05: the built server does not start on a secret that is empty or known, nor where strangers could reach it.
func TestC05TheServerDoesNotStartUnsafely(t *testing.T) {
	safe := []string{"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"}
	for name, c := range map[string]struct {
		prepare func(data string) error
		args    []string
		says    string
	}{
		"without a secret":     {func(data string) error { return os.Remove(filepath.Join(data, "secret")) }, safe, "sluiced init"},
		"with an empty secret": {func(data string) error { return os.WriteFile(filepath.Join(data, "secret"), nil, 0o600) }, safe, "sluiced init"},
		"with a secret of zeros": {func(data string) error {
			return os.WriteFile(filepath.Join(data, "secret"), []byte(base64.RawURLEncoding.EncodeToString(make([]byte, 32))), 0o600)
		}, safe, "sluiced init"},
		"without an admin token": {func(data string) error { return os.Remove(filepath.Join(data, "admin.token.sha256")) }, safe, "admin.token.sha256"},
		"with the admin token empty": {func(data string) error {
			return os.WriteFile(filepath.Join(data, "admin.token.sha256"), []byte("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), 0o600)
		}, safe, "token"},
		"with doors for everybody":   {nil, []string{"--grpc-listen", "0.0.0.0:0", "--http-listen", "127.0.0.1:0"}, "claim any principal"},
		"with the API for everybody": {nil, []string{"--grpc-listen", "127.0.0.1:0", "--http-listen", ":0"}, "not loopback"},
		"with mTLS and no peers":     {nil, append([]string{"--tls-cert", "a", "--tls-key", "b", "--tls-client-ca", "c"}, safe...), "peers"},
	} {
		t.Run("C-05 "+name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			if _, err := app.Init(data); err != nil {
				t.Fatal(err)
			}
			if c.prepare != nil {
				if err := c.prepare(data); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, binary, append([]string{"serve", "--data", data}, c.args...)...).CombinedOutput()
			if err == nil || ctx.Err() != nil || !strings.Contains(string(out), c.says) || strings.Contains(string(out), "serving") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// C-06: whoever may change Envoy's configuration can take our filter out. A probe that must be refused
// sees it, and so does the access log, which goes on being sent.
func TestC06ACanaryFindsThatTheFilterIsGone(t *testing.T) {
	from, to := strings.Index(deploy.Demo, "                  - name: envoy.filters.http.ext_authz\n"), strings.Index(deploy.Demo, "                  - name: envoy.filters.http.router\n")
	disabled := strings.Replace(deploy.Demo, "route: {cluster: upstream, timeout: 15s}", `route: {cluster: upstream, timeout: 15s}
                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              disabled: true`, 1)
	for name, c := range map[string]struct {
		config string
		gone   bool
	}{
		"is in place": {deploy.Demo, false}, "was taken out": {deploy.Demo[:from] + deploy.Demo[to:], true}, "was switched off on a route": {disabled, true},
	} {
		t.Run("C-06 the filter "+name, func(t *testing.T) {
			s := stage(t, c.config, stack.Options{Catalog: catalogue(t, classes)})
			canary := s.raw(t, http1("GET", "/may/canary")) // without a credential: nothing may let it pass
			id := canary.header.Get("x-sluice-decision-id")
			refused := canary.status == http.StatusUnauthorized && id != ""
			if refused == c.gone {
				t.Errorf("the canary got %d under decision %q", canary.status, id)
			}
			if c.gone {
				await.That(t, "the access log's entries without a decision are counted", func() bool {
					return s.metric(t, `sluice_access_log_entries_total{result="missing"}`) == "1"
				})
				return
			}
			await.That(t, "the canary is on record", func() bool { return len(s.recordsOf(t, id)) == 1 })
			if s.witness.contacts() != 0 || s.metric(t, `sluice_access_log_entries_total{result="missing"}`) != "0" {
				t.Error("the upstream was contacted, or an entry had no decision")
			}
		})
	}
}

// C-10: no door answers a workload that is not a listed sidecar, whichever it asks.
func TestC10DoorsAnswerListedPeersAlone(t *testing.T) {
	ca := testca.New(t)
	later := time.Now().Add(time.Hour)
	server, gateway := ca.Workload(t, later, serverID), ca.Workload(t, later, envoyID)
	operator, stranger := ca.Workload(t, later, operatorID), ca.Workload(t, later, "spiffe://demo/ns/acme/sa/app")
	as := func(certificates ...tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: certificates,
			VerifyConnection: func(s tls.ConnectionState) error { return isServer(s, ca.Pool()) },
		})
	}
	w := start(t, stack.Options{
		Config: mutual(ca, gateway), Catalog: catalogue(t, classes),
		Args: []string{"--tls-cert", server.CertFile, "--tls-key", server.KeyFile, "--tls-client-ca", ca.File, "--peers", envoyID + "," + operatorID},
	}, way{"", as(operator.Certificate)})
	key := w.key(t, "acme")
	doors := map[string]func(*grpc.ClientConn) error{
		"ext_authz": func(c *grpc.ClientConn) error { _, err := check(t.Context(), c, key); return err },
		"ext_proc": func(c *grpc.ClientConn) error {
			stream, err := extprocv3.NewExternalProcessorClient(c).Process(t.Context())
			if err == nil {
				_ = stream.Send(processingRequest(key, "/may/x"))
				_, err = stream.Recv()
			}
			return err
		},
		"the rate limit service": func(c *grpc.ClientConn) error {
			_, err := rlsv3.NewRateLimitServiceClient(c).ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "x"})
			return err
		},
		"the access log": func(c *grpc.ClientConn) error {
			stream, err := accesslogv3.NewAccessLogServiceClient(c).StreamAccessLogs(t.Context())
			if err == nil {
				_, err = stream.CloseAndRecv()
			}
			return err
		},
		"the quota API": func(c *grpc.ClientConn) error {
			_, err := quotav1.NewQuotaServiceClient(c).ListTenants(w.admin(t), &quotav1.ListTenantsRequest{})
			return err
		},
	}
	for who, by := range map[string]way{
		"a workload of the mesh": {"", as(stranger.Certificate)}, "nobody": {"", as()}, "plain text": {"", insecure.NewCredentials()},
	} {
		for door, ask := range doors {
			t.Run("C-10 "+who+" gets no answer from "+door, func(t *testing.T) {
				before := len(w.decisions(t))
				if err := ask(w.dial(t, by)); err == nil {
					t.Error("it was answered")
				}
				if n := len(w.decisions(t)) - before; n != 0 {
					t.Errorf("%d decisions were made for it", n)
				}
			})
		}
	}
	t.Run("C-10 the log names the workload, since there is no request to record", func(t *testing.T) {
		if log := w.log(t); !strings.Contains(log, "spiffe://demo/ns/acme/sa/app") {
			t.Errorf("%s", log)
		}
	})
	t.Run("C-10 the listed sidecar is answered all the while", func(t *testing.T) {
		if shot := w.at(t.Context(), key, "/must/be"); shot.status != http.StatusOK {
			t.Errorf("%d, %v", shot.status, shot.err)
		}
		await.That(t, "on record, under its name", func() bool {
			all := w.decisions(t)
			return len(all) > 0 && all[len(all)-1].Peer == envoyID
		})
	})
}

// S-01: a stream ends with the token that opened it, and the end is on record.
func TestS01AStreamEndsWithItsTokenThroughEnvoy(t *testing.T) {
	const life = 6 * time.Second // the token's, of which a second is cut off at most, and in which a machine that stalls must ask with it
	began := time.Now()
	w, service, request, _ := streamByToken(t, life)
	await.Within(t, life+time.Second+stated+stall, "S-01 the service is let go", func() bool { return service.live.Load() == 0 })
	if lasted := time.Since(began); lasted < life-time.Second {
		t.Errorf("S-01 it ended after %v, before its token", lasted)
	}
	w.streamIsOver(t, request)
}

// S-01 through Envoy: and with the issuer that vouched, within the stated time of the edit that removes it or
// gives its audience to others.
func TestS01AStreamEndsWithItsIssuerThroughEnvoy(t *testing.T) {
	for name, edit := range map[string]func(string) string{
		"S-01 its issuer is removed":              func(text string) string { text, _, _ = strings.Cut(text, "issuers:"); return text },
		"S-01 its issuer is for another audience": func(text string) string { return strings.Replace(text, "audiences: [api]", "audiences: [other]", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w, service, request, file := streamByToken(t, time.Hour)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			rewrite(t, file, edit(string(text)))
			await.Within(t, stated+2*time.Second+stall, "the service is let go", func() bool { return service.live.Load() == 0 }) // the file is read within a second or two
			w.streamIsOver(t, request)
		})
	}
}

// streamByToken is a stream of events that a token has opened, and the file of the catalogue.
func streamByToken(t *testing.T, life time.Duration) (w *world, service *talker, request *http.Request, file string) {
	t.Helper()
	k := startKeyServer(t)
	close(k.open)
	service = startTalker(t)
	dir := catalogue(t, strings.Replace(classes, "/plain/**", "/sse", 1)+k.issuer())
	w = start(t, stack.Options{Config: strings.ReplaceAll(deploy.Streams, "${UPSTREAM_PORT}", service.port), Catalog: dir})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("authorization", "Bearer "+k.token(t, life))
	response, err := h1().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		t.Fatalf("S-01 %d", response.StatusCode)
	}
	await.That(t, "it runs", func() bool { return service.live.Load() == 1 })
	return w, service, request, filepath.Join(dir, "catalogue.yaml")
}

// streamIsOver wants one record of the end, and the same request refused.
func (w *world) streamIsOver(t *testing.T, request *http.Request) {
	t.Helper()
	await.That(t, "S-01 the end is one record", func() bool {
		return fmt.Sprint(w.endings(t, "acme")) == fmt.Sprint(map[string]int{unauthenticated: 1})
	})
	if shot := w.get(t.Context(), "", func(r *http.Request) { r.URL.Path = "/sse"; r.Header = request.Header }); shot.status != http.StatusUnauthorized {
		t.Errorf("S-01 the token opens another: %d, %v", shot.status, shot.err)
	}
}
