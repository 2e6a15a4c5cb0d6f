package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// stated is how soon after a change a running stream is ended (docs/guide/streams.md).
const stated = 2 * time.Second

// stall is what a machine may add to any time that is promised, when it builds something beside the tests.
const stall = 5 * time.Second

// delayedClose is how long Envoy leaves an HTTP/1.1 connection open after its last byte.
const delayedClose = time.Second

// talker is a service whose answers last until somebody ends them: it says
// something every 50 ms and counts whom it talks to.
type talker struct {
	healthpb.UnimplementedHealthServer
	port string
	live atomic.Int64
}

func startTalker(t *testing.T) *talker {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &talker{}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, s)
	mux := http.NewServeMux()
	mux.HandleFunc("/sse", s.events)
	mux.HandleFunc("/ws", s.socket)
	mux.HandleFunc("/slow", s.slow)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 10_000}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("content-type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})}
	go server.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// talk says something until it fails or the caller is gone.
func (s *talker) talk(gone <-chan struct{}, say func() error) {
	s.live.Add(1)
	defer s.live.Add(-1)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for say() == nil {
		select {
		case <-gone:
			return
		case <-tick.C:
		}
	}
}

func (s *talker) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("content-type", "text/event-stream")
	s.talk(r.Context().Done(), func() error {
		if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	})
}

func (s *talker) slow(_ http.ResponseWriter, r *http.Request) {
	s.live.Add(1)
	defer s.live.Add(-1)
	<-r.Context().Done()
}

func (s *talker) socket(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // it is over
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
	_ = rw.Flush()
	gone := make(chan struct{})
	go func() { defer close(gone); _, _ = io.Copy(io.Discard, rw) }()
	s.talk(gone, func() error { _, err := conn.Write([]byte("\x81\x01x")); return err })
}

// Watch is a gRPC stream that anybody's client can ask for.
func (s *talker) Watch(_ *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	s.talk(stream.Context().Done(), func() error { return stream.Send(&healthpb.HealthCheckResponse{}) })
	return nil
}

// streams starts the wiring for streams before a talker.
func streams(t *testing.T, args ...string) (*world, *talker) {
	t.Helper()
	s := startTalker(t)
	return start(t, stack.Options{Config: strings.ReplaceAll(deploy.Streams, "${UPSTREAM_PORT}", s.port), Args: args}), s
}

// opened is a running stream as its client sees it.
type opened struct {
	pieces atomic.Int64
	last   atomic.Int64   // when the newest piece came, Unix µs
	end    chan time.Time // when the client learned of the end
	how    string         // what it learned; set before end
}

func (o *opened) piece() { o.pieces.Add(1); o.last.Store(time.Now().UnixMicro()) }

func (o *opened) finish(how string) { o.how = how; o.end <- time.Now() }

// kinds are the ways to have a long stream.
func kinds() map[string]func(*testing.T, *world, string) *opened {
	return map[string]func(*testing.T, *world, string) *opened{
		"a WebSocket":                    openSocket,
		"server-sent events":             func(t *testing.T, w *world, key string) *opened { return openEvents(t, w, key, "/sse", h1()) },
		"server-sent events over HTTP/2": func(t *testing.T, w *world, key string) *opened { return openEvents(t, w, key, "/sse", h2()) },
		"an answer that has not begun":   func(t *testing.T, w *world, key string) *opened { return openEvents(t, w, key, "/slow", h1()) },
		"a gRPC stream":                  openRPC,
	}
}

func h1() *http.Client { return &http.Client{Transport: &http.Transport{}} }

func h2() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

func openEvents(t *testing.T, w *world, key, path string, client *http.Client) *opened {
	o := &opened{end: make(chan time.Time, 1)}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-api-key", key)
	go func() {
		defer client.CloseIdleConnections()
		response, err := client.Do(request)
		if err != nil {
			o.finish(err.Error())
			return
		}
		defer response.Body.Close() //nolint:errcheck // read to the end
		b := make([]byte, 4096)
		for {
			n, err := response.Body.Read(b)
			if n > 0 && response.StatusCode == http.StatusOK {
				o.piece()
			}
			if err != nil {
				o.finish(fmt.Sprintf("%d, %v", response.StatusCode, err))
				return
			}
		}
	}()
	return o
}

func openSocket(t *testing.T, w *world, key string) *opened {
	o := &opened{end: make(chan time.Time, 1)}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nx-api-key: %s\r\n\r\n", key)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols { // nor has it waited for what sluiced does not answer: that would be a 504
		t.Fatalf("E-06 the handshake gave %d", response.StatusCode)
	}
	go func() {
		b := make([]byte, 4096)
		for {
			_, err := r.Read(b)
			if err != nil {
				o.finish(err.Error())
				return
			}
			o.piece()
		}
	}()
	return o
}

func openRPC(t *testing.T, w *world, key string) *opened {
	o := &opened{end: make(chan time.Time, 1)}
	conn, err := grpc.NewClient(strings.TrimPrefix(w.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := healthpb.NewHealthClient(conn).Watch(metadata.AppendToOutgoingContext(t.Context(), "x-api-key", key), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				o.finish(status.Code(err).String())
				return
			}
			o.piece()
		}
	}()
	return o
}

func (w *world) suspend(t *testing.T, name string) {
	t.Helper()
	if _, err := w.quota.UpdateTenant(w.admin(t), &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: "tenants/" + name, Suspended: true}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) revoke(t *testing.T, name string) {
	t.Helper()
	list, err := w.quota.ListApiKeys(w.admin(t), &quotav1.ListApiKeysRequest{Parent: "tenants/" + name})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list.GetApiKeys() {
		if _, err := w.quota.DeleteApiKey(w.admin(t), &quotav1.DeleteApiKeyRequest{Name: k.GetName()}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRunningStreamsAreEnded is what docs/guide/streams.md promises.
func TestRunningStreamsAreEnded(t *testing.T) {
	w, service := streams(t)
	for kind, open := range kinds() {
		for _, change := range []struct {
			name, reason string
			make         func(*testing.T, string)
		}{{"the tenant is suspended", "suspended", w.suspend}, {"the key is revoked", "unauthenticated", w.revoke}} {
			t.Run("S-01 "+kind+" is ended when "+change.name, func(t *testing.T) {
				name := fmt.Sprintf("t%d", time.Now().UnixNano())
				o := open(t, w, w.tenant(t, name, limit("per-minute", fixed, 1000, time.Minute)))
				bystander := open(t, w, w.tenant(t, name+"-other", limit("per-minute", fixed, 1000, time.Minute)))
				await.That(t, "both run", func() bool { return service.live.Load() == 2 })
				wait(t, 700*time.Millisecond) // beyond a sweep, while nothing has changed
				select {
				case <-o.end:
					t.Fatalf("it ended before the change: %s", o.how)
				default:
				}
				change.make(t, name)
				changed := time.Now()
				await.Within(t, stated+stall, "the service is let go", func() bool { return service.live.Load() == 1 })
				var end time.Time
				select {
				case end = <-o.end:
				case <-time.After(stated + delayedClose + stall):
					t.Fatalf("it goes on %v after the change", time.Since(changed))
				}
				if late := time.UnixMicro(o.last.Load()).Sub(changed); late > stated+stall {
					t.Errorf("the client got something %v after the change", late)
				}
				t.Logf("the client learned of the end after %v: %s", end.Sub(changed).Round(time.Millisecond), o.how)
				if end.Sub(changed) > stated+delayedClose+stall {
					t.Errorf("the client learned of it after %v", end.Sub(changed))
				}
				if kind == "an answer that has not begun" && !strings.HasPrefix(o.how, "403") && !strings.HasPrefix(o.how, "401") {
					t.Errorf("the caller was told %s", o.how)
				}
				if len(bystander.end) != 0 {
					t.Errorf("another tenant's stream ended too: %s", bystander.how)
				}
				await.That(t, "the end is one record, with the reason", func() bool {
					return fmt.Sprint(w.endings(t, name)) == fmt.Sprint(map[string]int{change.reason: 1}) && len(w.endings(t, name+"-other")) == 0
				})
				w.suspend(t, name+"-other")
				await.Within(t, stated+stall, "the other is let go", func() bool { return service.live.Load() == 0 })
			})
		}
	}
	t.Run("the access log says why each ended", func(t *testing.T) {
		for _, path := range []string{"/ws", "/sse", "/slow", "/grpc.health.v1.Health/Watch"} {
			for _, details := range []string{"sluice_suspended", "sluice_unauthenticated"} {
				await.That(t, path+" with "+details, func() bool {
					text, _ := os.ReadFile(filepath.Join(w.logs, "sluiced.log"))
					for entry := range strings.Lines(string(text)) {
						if strings.Contains(entry, "path="+path+" ") && strings.Contains(entry, "details="+details+" ") {
							return true
						}
					}
					return false
				})
			}
		}
	})
	if stuck := w.metric(t, "sluice_streams_stuck_total"); stuck != "0" {
		t.Errorf("%s streams were left open", stuck)
	}
	await.That(t, "no stream is watched", func() bool { return w.metric(t, "sluice_streams_live") == "0" })
}

// TestStreamsEndWhenNobodyWatchesThem: failing open would let them run on.
func TestStreamsEndWhenNobodyWatchesThem(t *testing.T) {
	w, service := streams(t)
	o := openSocket(t, w, w.tenant(t, "acme", limit("per-minute", fixed, 1000, time.Minute)))
	await.That(t, "it runs", func() bool { return service.live.Load() == 1 && o.pieces.Load() > 2 })
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	await.Within(t, stated+stall, "the service is let go", func() bool { return service.live.Load() == 0 })
	if err := w.StartSluiced(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestAStoppingServerStillWatches is what docs/guide/streams.md says of restarts.
func TestAStoppingServerStillWatches(t *testing.T) {
	w, service := streams(t, "--drain-timeout", "30s")
	o := openSocket(t, w, w.tenant(t, "acme", limit("per-minute", fixed, 1000, time.Minute)))
	await.That(t, "it runs", func() bool { return service.live.Load() == 1 && o.pieces.Load() > 2 })
	if err := w.Sluiced().Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await.That(t, "it says that it is not ready", func() bool {
		response, err := w.client.Get(w.HTTP + "/readyz")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusServiceUnavailable
	})
	wait(t, time.Second)
	if service.live.Load() != 1 || len(o.end) != 0 {
		t.Fatalf("the stream did not outlast the signal: %s", o.how)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, w.HTTP+"/v1/tenants/acme", strings.NewReader(`{"suspended":true}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("authorization", "Bearer "+w.AdminToken)
	request.Header.Set("content-type", "application/json")
	response, err := w.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("suspended: %d", response.StatusCode)
	}
	await.Within(t, stated+stall, "the service is let go", func() bool { return service.live.Load() == 0 })
}

// TestTwoThousandStreamsAtOnce is E-12 and S-02: the shipped circuit breakers hold them, and a
// suspension ends them all in the stated time.
func TestTwoThousandStreamsAtOnce(t *testing.T) {
	const n, connections = 2000, 20
	w, service := streams(t)
	key := w.tenant(t, "acme", limit("per-minute", fixed, 1_000_000, time.Minute))
	all := make([]*opened, n)
	clients := make([]*http.Client, connections)
	for i := range clients {
		clients[i] = h2()
	}
	// Few at a time: of all that are begun at once, a slow machine would let the last wait longer than Envoy waits for sluiced.
	for i := range n {
		await.That(t, "those before have begun, but for a few", func() bool { return int64(i)-service.live.Load() < 5*connections })
		all[i] = openEvents(t, w, key, "/slow", clients[i%connections])
	}
	await.That(t, "all run", func() bool { return service.live.Load() == n })
	if live := w.metric(t, "sluice_streams_live"); live != fmt.Sprint(n) {
		t.Errorf("%s are watched", live)
	}
	for _, stat := range []string{"cluster.sluice.upstream_rq_pending_overflow", "cluster.sluice.circuit_breakers.default.rq_open", "cluster.upstream.upstream_rq_pending_overflow"} {
		if v := w.stat(t, stat); v != "0" {
			t.Errorf("E-12 %s is %s", stat, v)
		}
	}
	// By the clock it takes as long as four processes wait for each other on this machine, so that is held against the half minute
	// after which streams are asked about without a change; what sluiced itself makes of it, against the time that is stated.
	before := ran(t, w.Sluiced().Pid)
	w.suspend(t, "acme")
	took := await.Within(t, 4*stall, "S-02 all are let go", func() bool { return service.live.Load() == 0 })
	spent := ran(t, w.Sluiced().Pid) - before
	if t.Logf("2,000 streams were ended within %v of the change, for which sluiced ran %v", took, spent); spent > stated {
		t.Errorf("S-02 sluiced ran %v for it", spent)
	}
	await.That(t, "each end is one record", func() bool {
		return fmt.Sprint(w.endings(t, "acme")) == fmt.Sprint(map[string]int{"suspended": n})
	})
	for _, o := range all {
		<-o.end
		if !strings.HasPrefix(o.how, "403") {
			t.Fatalf("a caller was told %s", o.how)
		}
	}
}

// endings are the records of streams of a tenant that were ended, by reason.
func (w *world) endings(t *testing.T, tenant string) map[string]int {
	t.Helper()
	reasons := map[string]int{}
	for _, r := range w.audited(t) {
		if r.Kind == "stream_end" && r.Tenant == tenant {
			reasons[r.Reason]++
		}
	}
	return reasons
}

// TestALocalReplyIsChargedOnce is E-09: whoever answers, a request is charged once, at its headers.
func TestALocalReplyIsChargedOnce(t *testing.T) {
	for name, config := range map[string]string{"headers": deploy.ExtProc, "streams": deploy.Streams} {
		t.Run("E-09 with "+name+" a 503 and a 404 of Envoy's own are charged once each", func(t *testing.T) {
			config := strings.NewReplacer("${UPSTREAM_PORT}", "1", "match: {prefix: /}", "match: {prefix: /v1}").Replace(config)
			w := start(t, stack.Options{Config: config})
			key := w.tenant(t, "acme", limit("per-hour", hard, 4, time.Hour))
			var got []int
			for _, path := range []string{"/v1/calls", "/nowhere", "/v1/calls", "/nowhere", "/v1/calls", "/nowhere"} {
				s := w.get(t.Context(), key, func(r *http.Request) { r.URL.Path = path })
				if s.err != nil {
					t.Fatal(s.err)
				}
				got = append(got, s.status)
			}
			if want := []int{503, 404, 503, 404, 429, 429}; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestEnvoyAcceptsEveryConfiguration(t *testing.T) {
	for name, config := range map[string]string{
		"demo": deploy.Demo, "sidecar": deploy.Sidecar, "rls": deploy.RLS, "extproc": deploy.ExtProc, "streams": deploy.Streams,
	} {
		t.Run(name+" is valid", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "envoy.yaml")
			text := strings.NewReplacer("${LISTEN_PORT}", "1", "${ADMIN_PORT}", "2", "${UPSTREAM_PORT}", "3", "${SLUICE_PORT}", "4").Replace(config)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if out, err := exec.CommandContext(ctx, envoy(), "--mode", "validate", "--config-path", path).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// metric is the value of one of sluiced's own metrics; "" if there is none.
func (w *world) metric(t *testing.T, name string) string {
	t.Helper()
	return line(t, w.HTTP+"/metrics", name+" ")
}

// stat is one of Envoy's counters.
func (w *world) stat(t *testing.T, name string) string {
	t.Helper()
	return line(t, w.EnvoyAdmin+"/stats?filter=^"+name+"$", name+": ")
}

func line(t *testing.T, url, prefix string) string {
	t.Helper()
	response, err := http.Get(url) //nolint:gosec // one of ours
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read to the end
	for s := bufio.NewScanner(response.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), prefix); ok {
			return value
		}
	}
	return ""
}
