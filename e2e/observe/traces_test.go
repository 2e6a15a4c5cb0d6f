package observe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

const (
	canary       = "zq7canary" // of a client, in every place that it can write to
	clientsTrace = "22222222222222222222222222222222"
	clientsSpan  = "b7ad6b7169203331"

	patience = 3 * time.Minute // until what was sent can be read
)

// door is one way in which Envoy asks.
type door struct {
	name, config, method string
	attributes           map[string]string
}

var doors = []door{
	{
		name: "ext_authz", config: deploy.Demo, method: "envoy.service.auth.v3.Authorization/Check",
		attributes: map[string]string{"authz.allowed": "true", "authz.reason": "admitted", "authz.rule": "tenants-may", "tenant.id": "acme", "sluice.limits": `["per-second","per-hour"]`},
	},
	{
		name: "ext_proc", config: deploy.ExtProc, method: "envoy.service.ext_proc.v3.ExternalProcessor/Process",
		attributes: map[string]string{"authz.allowed": "true", "authz.reason": "admitted", "authz.rule": "tenants-may", "tenant.id": "acme", "sluice.limits": `["per-second","per-hour"]`},
	},
	{
		name: "rls", config: deploy.RLS, method: "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
		attributes: map[string]string{"ratelimit.allowed": "true", "ratelimit.result": "ok", "ratelimit.domain": "demo", "sluice.limits": `["demo.user"]`},
	},
}

// party is a program with OpenTelemetry's SDK: a client, or the service behind Envoy.
type party struct{ tracer trace.Tracer }

func newParty(t *testing.T, j *jaeger, name string) *party {
	t.Helper()
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpoint(j.otlp), otlptracegrpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
	t.Cleanup(func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) })
	return &party{provider.Tracer("test")}
}

// ServeHTTP is a service that continues the trace it is told of.
func (p *party) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	_, span := p.tracer.Start(ctx, "serve", trace.WithSpanKind(trace.SpanKindServer))
	span.SetAttributes(attribute.String("saw.baggage", r.Header.Get("baggage")))
	span.End()
}

// wiring is how an Envoy is told to trace.
type wiring struct {
	sampling int  // per cent
	trusting bool // leaves the clients' contexts
}

// traced is a configuration of deploy/envoy with what docs/guide/tracing.md says, before the given service.
func traced(t *testing.T, config string, j *jaeger, upstream string, w wiring) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/guide/tracing.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(page), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) < 2 {
		t.Fatalf("docs/guide/tracing.md has %d blocks of YAML, want the tracing and the cluster first", len(blocks))
	}
	indent := func(block string, by int) string {
		return strings.TrimSuffix(strings.ReplaceAll(strings.Repeat(" ", by)+block, "\n", "\n"+strings.Repeat(" ", by)), strings.Repeat(" ", by))
	}
	_, port, _ := net.SplitHostPort(j.otlp)
	_, service, _ := net.SplitHostPort(upstream)
	replace := func(old, with string) {
		t.Helper()
		if strings.Count(config, old) == 0 {
			t.Fatalf("the configuration has no %q", old)
		}
		config = strings.ReplaceAll(config, old, with)
	}
	replace("                stat_prefix: gateway\n", "                stat_prefix: gateway\n"+indent(blocks[0], 16))
	replace("    - name: upstream\n      type", indent(blocks[1], 4)+"\n    - name: upstream\n      type")
	replace("random_sampling: {value: 100}", fmt.Sprintf("random_sampling: {value: %d}", w.sampling))
	replace("port_value: 4317", "port_value: "+port)
	replace("${UPSTREAM_PORT}", service)
	if w.trusting {
		replace("traceparent|tracestate|baggage|b3|", "b3|")
	}
	return config + "\nlayered_runtime:\n  layers:\n    - name: test\n      static_layer: {tracing.opentelemetry.flush_interval_ms: 50}\n"
}

// gateway is the stack of a door: a client's headers, a traced Envoy, sluiced and a service.
func (d door) gateway(t *testing.T, j *jaeger, w wiring) (*world, map[string]string) {
	t.Helper()
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms between exports
	service := httptest.NewServer(newParty(t, j, "service"))
	t.Cleanup(service.Close)
	// Envoy sends a span once, and gives up a collector that takes longer; a busy machine may need the second to wake it.
	const sends = "{cluster_name: otel_collector}, timeout: "
	config := traced(t, d.config, j, service.Listener.Addr().String(), w)
	if strings.Count(config, sends+"1s}") != 1 {
		t.Fatal("docs/guide/tracing.md gives the collector another time than a second")
	}
	o := stack.Options{Config: strings.Replace(config, sends+"1s}", sends+"60s}", 1), Args: []string{"--otlp-endpoint", j.otlp}}
	if d.name == "rls" {
		o.RLS = t.TempDir()
		const file = "domain: demo\ndescriptors:\n  - key: user\n    rate_limit: {unit: hour, requests_per_unit: 100000}\n  - {key: user, value: banned, rate_limit: {unit: hour, requests_per_unit: 0}}\n"
		if err := os.WriteFile(filepath.Join(o.RLS, "demo.yaml"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, o)
	return s, map[string]string{
		"x-api-key": s.key, "x-user": canary, "user-agent": canary, "cookie": "a=" + canary,
		"baggage": "tenant.id=umbrella," + canary + "=1", "tracestate": "evil=" + canary,
	}
}

// find waits for the only trace that the service has a span of, until it is whole.
func (j *jaeger) find(t *testing.T, service string, whole func([]*span) bool) []*span {
	t.Helper()
	var last [][]*span
	defer func() {
		for i := range last {
			for _, s := range last[i] {
				if t.Failed() {
					t.Logf("trace %s: %s's %q is %s, on %s", s.Trace, s.service, s.Name, s.ID, s.parent())
				}
			}
		}
	}()
	await.Within(t, patience, "a whole trace of "+service+" is in Jaeger", func() bool {
		traces, err := j.traces(service)
		last = traces
		return err == nil && len(traces) == 1 && whole(traces[0])
	})
	return last[0]
}

// of is the span of a service with that name; nil for none or several.
func of(all []*span, service, name string) (found *span) {
	for _, s := range all {
		if s.service == service && strings.Contains(s.Name, name) {
			if found != nil {
				return nil
			}
			found = s
		}
	}
	return found
}

// complete reports whether all is there that a span hangs on. Spans come from three programs, and Envoy's own not all at once.
func complete(all []*span) bool {
	return !slices.ContainsFunc(all, func(s *span) bool {
		return s.parent() != "" && !slices.ContainsFunc(all, func(p *span) bool { return p.ID == s.parent() })
	})
}

// chain are the services of a span and of what it hangs on, up to the root.
func chain(all []*span, from *span) (services []string) {
	for s := from; s != nil; {
		services = append(services, s.service)
		next := slices.IndexFunc(all, func(p *span) bool { return p.ID == s.parent() })
		if next < 0 || len(services) > len(all) {
			if s.parent() != "" {
				services = append(services, "nobody: "+s.parent())
			}
			break
		}
		s = all[next]
	}
	return services
}

func TestOneTraceGoesThroughGatewayDecisionAndService(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name+" at the edge, whatever the client says", func(t *testing.T) {
			j := startJaeger(t)
			w, headers := d.gateway(t, j, wiring{sampling: 100})
			headers["traceparent"] = "00-" + clientsTrace + "-" + clientsSpan + "-00" // "don't trace me"
			if status := w.get(t.Context(), t, headers); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			all := j.find(t, "gateway", func(all []*span) bool {
				return of(all, "sluiced", d.method) != nil && of(all, "service", "serve") != nil && complete(all)
			})
			d.judge(t, w, all, []string{"sluiced", "gateway", "gateway"}, []string{"service", "gateway", "gateway"})
			if all[0].Trace == clientsTrace {
				t.Error("the trace is the client's")
			}
			for _, s := range all {
				for name, value := range s.tags() {
					// Envoy's own span has the path and the user agent.
					if s.service != "gateway" && strings.Contains(value, canary) || strings.Contains(value, "umbrella") || strings.Contains(value, clientsTrace) {
						t.Errorf("%s's %q has %s = %q", s.service, s.Name, name, value)
					}
				}
			}
		})
		t.Run(d.name+" behind callers of one's own, whose trace it is", func(t *testing.T) {
			j := startJaeger(t)
			w, headers := d.gateway(t, j, wiring{sampling: 100, trusting: true})
			ctx, asked := newParty(t, j, "client").tracer.Start(t.Context(), "ask", trace.WithSpanKind(trace.SpanKindClient))
			carrier := propagation.MapCarrier{}
			propagation.TraceContext{}.Inject(ctx, carrier)
			headers["traceparent"] = carrier["traceparent"]
			delete(headers, "tracestate") // which goes with a trace wherever that goes
			if status := w.get(ctx, t, headers); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			asked.End()
			all := j.find(t, "client", func(all []*span) bool {
				return of(all, "sluiced", d.method) != nil && of(all, "service", "serve") != nil && of(all, "client", "ask") != nil && complete(all)
			})
			d.judge(t, w, all, []string{"sluiced", "gateway", "gateway", "client"}, []string{"service", "gateway", "gateway", "client"})
			if all[0].Trace != asked.SpanContext().TraceID().String() {
				t.Errorf("the trace is %s, want the client's", all[0].Trace)
			}
		})
	}
}

// judge looks at sluiced's span and at what it and the service's hang on.
func (d door) judge(t *testing.T, w *world, all []*span, decision, service []string) {
	t.Helper()
	ours := of(all, "sluiced", d.method)
	if got := chain(all, ours); !slices.Equal(got, decision) {
		t.Errorf("the decision hangs on %q, want %q", got, decision)
	}
	if got := chain(all, of(all, "service", "serve")); !slices.Equal(got, service) {
		t.Errorf("the service hangs on %q, want %q", got, service)
	}
	for _, s := range all {
		if s.Trace != ours.Trace {
			t.Errorf("%s's %q is of trace %s", s.service, s.Name, s.Trace)
		}
	}
	if ours.Name != d.method || len(ours.References) != 1 {
		t.Errorf("the span is %q with %d references", ours.Name, len(ours.References))
	}
	tags := ours.tags()
	for name, want := range d.attributes {
		if tags[name] != want {
			t.Errorf("%s is %q, want %q", name, tags[name], want)
		}
	}
	if d.name != "rls" && len(tags["sluice.decision_id"]) < 20 {
		t.Errorf("the decision's id is %q", tags["sluice.decision_id"])
	}
	for name, value := range tags {
		if strings.Contains(value, w.key) || strings.Contains(value, canary) || len(value) > 512 {
			t.Errorf("%s is %q", name, value)
		}
	}
}

func TestOfWhatTheGatewayDoesNotSampleThereIsNoSpan(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name+", though the client asks for one", func(t *testing.T) {
			j := startJaeger(t)
			w, headers := d.gateway(t, j, wiring{sampling: 0})
			headers["traceparent"] = "00-" + clientsTrace + "-" + clientsSpan + "-01"
			headers["x-envoy-force-trace"], headers["x-client-trace-id"] = "true", "1"
			for range 5 {
				if status := w.get(t.Context(), t, headers); status != http.StatusOK {
					t.Fatalf("status %d", status)
				}
			}
			// One that is sampled, which is exported after all of the above would have been.
			w.process(t, "0af7651916cd43dd8448eb211c80319c").end()
			all := j.find(t, "sluiced", func([]*span) bool { return true })
			if len(all) != 1 || all[0].Trace != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("%d spans, the first of trace %s", len(all), all[0].Trace)
			}
			if names, err := j.services(); err != nil || !slices.Equal(names, []string{"sluiced"}) {
				t.Errorf("spans of %q, %v", names, err)
			}
		})
	}
}

func TestARefusalIsOnItsSpan(t *testing.T) {
	j := startJaeger(t)
	w, headers := doors[2].gateway(t, j, wiring{sampling: 100})
	headers["x-user"] = "banned"
	if status := w.get(t.Context(), t, headers); status != http.StatusTooManyRequests {
		t.Fatalf("status %d", status)
	}
	all := j.find(t, "gateway", func(all []*span) bool { return of(all, "sluiced", doors[2].method) != nil })
	tags := of(all, "sluiced", doors[2].method).tags()
	if tags["ratelimit.result"] != "over_limit" || tags["ratelimit.allowed"] != "false" || tags["sluice.limit"] != "demo.user_banned" {
		t.Errorf("%v", tags)
	}
}

// processed is a stream of ext_proc, as Envoy opens it, that was answered and lasts.
type processed struct{ end func() }

// process opens one that Envoy sampled in that trace.
func (w *world) process(t *testing.T, traceID string) *processed {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+traceID+"-"+clientsSpan+"-01"))
	t.Cleanup(cancel)
	stream, err := extprocv3.NewExternalProcessorClient(w.conn).Process(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var headers []*corev3.HeaderValue
	for _, h := range [][2]string{{":method", "GET"}, {":path", "/v1/calls"}, {":authority", "api.example.com"}, {":scheme", "http"}, {"x-api-key", w.key}} {
		headers = append(headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
	}
	if err := stream.Send(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: headers}},
	}}); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); err != nil || answer.GetRequestHeaders() == nil {
		t.Fatalf("%v, %v", answer, err)
	}
	return &processed{cancel}
}

func TestAStreamThatLastsHasASpanOfItsDecisionAlone(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	j := startJaeger(t)
	w := start(t, stack.Options{Args: []string{"--otlp-endpoint", j.otlp}})
	stream := w.process(t, "0af7651916cd43dd8448eb211c80319c")
	// It can be read while the request is under way.
	all := j.find(t, "sluiced", func([]*span) bool { return true })
	if len(all) != 1 || all[0].parent() != "" && all[0].parent() != clientsSpan {
		t.Errorf("%d spans, the first on %q", len(all), all[0].parent())
	}
	stream.end()
}
