package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// plenty is a limit that no test meets, and that waits for no disk.
const plenty = 1_000_000

// check asks the ext_authz door as Envoy would ask about a request with this key.
func check(ctx context.Context, conn *grpc.ClientConn, key string, headers ...string) (*authv3.CheckResponse, error) {
	return authv3.NewAuthorizationClient(conn).Check(ctx, checkRequest(key, headers...))
}

func checkRequest(key string, headers ...string) *authv3.CheckRequest {
	list := []*corev3.HeaderValue{
		{Key: ":method", RawValue: []byte("GET")}, {Key: ":path", RawValue: []byte("/v1/calls")},
		{Key: ":authority", RawValue: []byte("api.example.com")}, {Key: "x-api-key", RawValue: []byte(key)},
	}
	for i := 0; i+1 < len(headers); i += 2 {
		list = append(list, &corev3.HeaderValue{Key: headers[i], RawValue: []byte(headers[i+1])})
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Id: "1", Method: "GET", Path: "/v1/calls", Host: "api.example.com", HeaderMap: &corev3.HeaderMap{Headers: list}},
	}}}
}

// twins makes two data folders that know the same API key, which is what a
// shared store would do for them.
func twins(t *testing.T) (folders [2]string, key string) {
	t.Helper()
	w := alone(t, stack.Options{})
	key = w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	for i := range folders {
		folders[i] = filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(folders[i], os.DirFS(w.Data)); err != nil {
			t.Fatal(err)
		}
	}
	return folders, key
}

// pair is the demo's configuration with a second sluiced in the cluster, and the
// health checks by which Envoy learns that one is draining.
func pair(second string) string {
	_, port, _ := strings.Cut(second, ":")
	const endpoint = "socket_address: {address: 127.0.0.1, port_value: ${SLUICE_PORT}}\n"
	return strings.NewReplacer(
		"    - name: sluice\n      type: STATIC\n", `    - name: sluice
      type: STATIC
      health_checks:
        - {timeout: 5s, interval: 0.25s, no_traffic_interval: 0.25s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}
`,
		endpoint, endpoint+`              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: `+port+"}\n",
	).Replace(deploy.Demo)
}

func (w *world) healthy(t *testing.T) int {
	t.Helper()
	response, err := http.Get(w.EnvoyAdmin + "/stats?format=json&filter=cluster.sluice.membership_healthy")
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Stats []struct{ Value int }
	}
	err = errors.Join(json.NewDecoder(response.Body).Decode(&page), response.Body.Close())
	if err != nil || len(page.Stats) != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	return page.Stats[0].Value
}

func TestDrainingFailsNoRequest(t *testing.T) {
	folders, key := twins(t)
	second := alone(t, stack.Options{Data: folders[1]})
	// Envoy looks four times a second, and all that is looked at here comes before the delay is over: a machine may stall in it.
	first := start(t, stack.Options{Data: folders[0], Config: pair(second.GRPC), Args: []string{"--drain-delay", "10s"}})
	await.That(t, "Envoy finds both healthy", func() bool { return first.healthy(t) == 2 })

	over, done := make(chan struct{}), make(chan []shot, 1)
	go func() {
		var all []shot
		for t.Context().Err() == nil {
			select {
			case <-over:
				done <- all
				return
			default:
				all = append(all, first.offer(t, key, time.Now(), 200, 500*time.Millisecond)...)
			}
		}
	}()
	wait(t, time.Second)
	ended, err := first.Terminate()
	if err != nil {
		t.Fatal(err)
	}

	health := healthpb.NewHealthClient(first.conn)
	await.That(t, "health says NOT_SERVING", func() bool {
		r, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err == nil && r.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING
	})
	if response, err := http.Get(first.HTTP + "/readyz"); err != nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz while draining: %v, %v, want 503", response, err)
	}
	// Readiness says no, and whoever has not heard it is still served, on a new connection too.
	if r, err := check(t.Context(), first.dial(t), key); err != nil || r.GetStatus().GetCode() != 0 {
		t.Errorf("a call after NOT_SERVING: %v, %v", r, err)
	}
	await.That(t, "Envoy stops sending to the first", func() bool { return first.healthy(t) == 1 })
	select {
	case err := <-ended:
		t.Fatalf("ended before the delay was over: %v", err)
	default:
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("exit: %v, want status 0", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("still there after a minute")
	}
	if conn, err := net.Dial("tcp", first.GRPC); err == nil {
		_ = conn.Close()
		t.Error("the listener is open after the end")
	}

	wait(t, time.Second) // with one server that has gone
	close(over)
	counts := map[int]int{}
	for _, s := range <-done {
		if s.err != nil {
			t.Errorf("no answer: %v", s.err)
		}
		counts[s.status]++
	}
	if len(counts) != 1 || counts[http.StatusOK] == 0 {
		t.Errorf("answers by status: %v, want 200 alone", counts)
	}
	t.Logf("answers by status: %v", counts)
}

// half is a call whose headers have reached the server and whose message has not been sent.
func half(t *testing.T, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// finish sends the message and wants one answer and then a clean end.
func finish(s grpc.ClientStream, in, out proto.Message) error {
	if err := errors.Join(s.SendMsg(in), s.CloseSend(), s.RecvMsg(out)); err != nil {
		return err
	}
	if err := s.RecvMsg(out); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func TestCallsInFlightAtSIGTERMAreAnswered(t *testing.T) {
	w := alone(t, stack.Options{})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	const each = 100
	var checks, streams []grpc.ClientStream
	for range each {
		checks = append(checks, half(t, w.conn, authv3.Authorization_Check_FullMethodName))
		streams = append(streams, half(t, w.conn, extprocv3.ExternalProcessor_Process_FullMethodName))
	}
	health := healthpb.NewHealthClient(w.conn)
	watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// Its answer comes after the server has read all that was sent before it.
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", r, err)
	}

	ended, err := w.Terminate()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("a watcher of health is told: %v, %v, want NOT_SERVING", r, err)
	}
	await.That(t, "the listener closes", func() bool {
		conn, err := net.Dial("tcp", w.GRPC)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})

	request := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
		Headers: checkRequest(key).GetAttributes().GetRequest().GetHttp().GetHeaderMap(), EndOfStream: true,
	}}}
	answered := 0
	for i := range each {
		var answer authv3.CheckResponse
		if err := finish(checks[i], checkRequest(key), &answer); err != nil || answer.GetStatus().GetCode() != 0 {
			t.Errorf("check %d: %v, %v", i, &answer, err)
			continue
		}
		var processed extprocv3.ProcessingResponse
		if err := finish(streams[i], request, &processed); err != nil || processed.GetRequestHeaders() == nil {
			t.Errorf("stream %d: %v, %v", i, &processed, err)
			continue
		}
		answered += 2
	}
	t.Logf("%d of %d calls in flight answered after SIGTERM", answered, 2*each)
	begin := time.Now()
	if err := <-ended; err != nil {
		t.Errorf("exit: %v, want status 0", err)
	}
	// A watcher never ends by itself, and must not hold up the end.
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("ended %v after the last answer", took)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("the watch ended with %v", err)
	}
}
