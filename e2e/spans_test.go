package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// collector is an OTLP receiver that keeps what it gets.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	address string

	mu    sync.Mutex
	spans []*tracepb.Span
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: l.Addr().String()}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return c
}

func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (c *collector) got() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

const (
	sampledTrace   = "0af7651916cd43dd8448eb211c80319c"
	sampledParent  = "b7ad6b7169203331"
	unsampledTrace = "11111111111111111111111111111111"
	clientTrace    = "22222222222222222222222222222222"
)

func traceparent(ctx context.Context, trace, parent, flags string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+trace+"-"+parent+"-"+flags)
}

func TestASpanHangsOnWhatEnvoySampledAndOnNothingElse(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms between exports
	c := startCollector(t)
	w := start(t, stack.Options{Args: []string{"--otlp-endpoint", c.address}})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	clients := "00-" + clientTrace + "-" + sampledParent + "-01"

	// What must leave no span: no context, one that is not sampled, a client's own
	// header in the request that Envoy asks about, and a client's header through an
	// Envoy that does not trace.
	for _, ctx := range []context.Context{t.Context(), traceparent(t.Context(), unsampledTrace, sampledParent, "00")} {
		if r, err := check(ctx, w.conn, key, "traceparent", clients); err != nil || r.GetStatus().GetCode() != 0 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	for range 10 {
		s := w.get(t.Context(), key, func(r *http.Request) { r.Header.Set("traceparent", clients) })
		if s.status != http.StatusOK {
			t.Fatalf("%d, %v", s.status, s.err)
		}
	}

	// One that Envoy sampled, which is exported after all of the above would have been.
	r, err := check(traceparent(t.Context(), sampledTrace, sampledParent, "01"), w.conn, key, "traceparent", clients)
	if err != nil || r.GetStatus().GetCode() != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	await.That(t, "a span is exported", func() bool { return len(c.got()) > 0 })
	for _, s := range c.got() {
		if hex.EncodeToString(s.GetTraceId()) != sampledTrace || hex.EncodeToString(s.GetParentSpanId()) != sampledParent {
			t.Errorf("span %q of trace %x under %x", s.GetName(), s.GetTraceId(), s.GetParentSpanId())
		}
		if !strings.HasSuffix(s.GetName(), "Authorization/Check") || s.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
			t.Errorf("span %q of kind %v", s.GetName(), s.GetKind())
		}
		if text := s.String(); strings.Contains(text, key) || !strings.Contains(text, "authz.allowed") {
			t.Errorf("the span tells the key, or not what was decided: %s", text)
		}
	}
	if n := len(c.got()); n != 1 {
		t.Errorf("%d spans, want 1", n)
	}
}

// traced is the demo's configuration with an Envoy that traces every request.
func traced(collector string) string {
	_, port, _ := strings.Cut(collector, ":")
	config, err := stack.Traced(deploy.Demo, port)
	if err != nil {
		panic(err) // the demo's configuration is ours
	}
	return config + `
layered_runtime:
  layers:
    - name: test
      static_layer: {tracing.opentelemetry.flush_interval_ms: 50}
`
}

func TestASpanHangsOnThatOfAnEnvoyThatTraces(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	c := startCollector(t)
	w := start(t, stack.Options{Config: traced(c.address), Args: []string{"--otlp-endpoint", c.address}})
	key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
	if s := w.get(t.Context(), key); s.status != http.StatusOK {
		t.Fatalf("%d, %v", s.status, s.err)
	}
	// ours is sluiced's span, whose parent must be one of Envoy's in the same trace.
	await.That(t, "Envoy's span and ours on it", func() bool {
		spans := c.got()
		return slices.ContainsFunc(spans, func(ours *tracepb.Span) bool {
			return ours.GetKind() == tracepb.Span_SPAN_KIND_SERVER && strings.HasSuffix(ours.GetName(), "Authorization/Check") &&
				slices.ContainsFunc(spans, func(envoys *tracepb.Span) bool {
					return string(envoys.GetTraceId()) == string(ours.GetTraceId()) && string(envoys.GetSpanId()) == string(ours.GetParentSpanId())
				})
		})
	})
}

func TestACollectorThatIsDownBlocksNothing(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says a word
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for name, l := range map[string]net.Listener{"nobody listens": closed, "somebody listens and is silent": silent} {
		t.Run("T-05 where "+name, func(t *testing.T) {
			w := alone(t, stack.Options{Args: []string{"--otlp-endpoint", l.Addr().String()}})
			key := w.tenant(t, "acme", limit("per-second", gcra, plenty, time.Second))
			ctx := traceparent(t.Context(), sampledTrace, sampledParent, "01")
			const calls = 5000 // more than the exporter's queue holds
			begin := time.Now()
			for range calls {
				if r, err := check(ctx, w.conn, key); err != nil || r.GetStatus().GetCode() != 0 {
					t.Fatalf("%v, %v", r, err)
				}
			}
			t.Logf("%d calls in %v", calls, time.Since(begin))
			const waiting = 2048 // at most
			await.That(t, "what found no room, or was not taken, is counted", func() bool {
				dropped, failed := 0, 0
				for line := range strings.Lines(w.metrics(t)) {
					_, _ = fmt.Sscanf(line, `sluice_spans_total{result="dropped"} %d`, &dropped)
					_, _ = fmt.Sscanf(line, `sluice_spans_total{result="failed"} %d`, &failed)
				}
				return dropped > 0 && dropped+failed >= calls-waiting
			})
			ended, err := w.Terminate()
			if err != nil {
				t.Fatal(err)
			}
			begin = time.Now()
			if err := <-ended; err != nil {
				t.Errorf("exit: %v, want status 0", err)
			}
			if took := time.Since(begin); took > 5*time.Second+stall {
				t.Errorf("the spans that nobody wants held up the end for %v", took)
			}
		})
	}
}
