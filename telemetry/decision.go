package telemetry

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

// Doors tell of each decision how long it took, and of those that Envoy traces what it was.
type Doors struct {
	tracer  trace.Tracer // nil: nobody traces
	seconds *prometheus.HistogramVec
}

// NewDoors returns the tellers of all doors. spans may be nil: nobody traces.
func NewDoors(spans *Spans) *Doors {
	d := &Doors{seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sluice_decision_seconds",
		Help: "How long decisions took, by door, without the transport. Those that Envoy traces leave the ids of their traces as exemplars.",
		Buckets: []float64{
			10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1,
		},
	}, []string{"door", "decision"})}
	if spans != nil {
		d.tracer = spans.provider.Tracer("github.com/voicecore-ai/sluice")
	}
	return d
}

// Collector exports how long decisions took.
func (d *Doors) Collector() prometheus.Collector { return d.seconds }

// Door tells of one door's decisions: name is its name in metrics, and method the gRPC method that Envoy
// calls, after which its spans are called.
func (d *Doors) Door(name, method string) *Door {
	return &Door{
		tracer: d.tracer, method: method,
		options: []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("rpc.system.name", "grpc"), attribute.String("rpc.method", method))},
		allowed: d.seconds.WithLabelValues(name, "allow"), denied: d.seconds.WithLabelValues(name, "deny"),
	}
}

// Door is what one door's options want. It is safe for concurrent use.
type Door struct {
	tracer          trace.Tracer // nil: nobody traces
	method          string
	options         []trace.SpanStartOption
	allowed, denied prometheus.Observer
}

// Begin begins the span of a decision, and returns the id of its trace; zero if nobody traces. Its parent is the context that
// Envoy put into the call's metadata, whose sampling it keeps. Without one it is not exported, and of a
// trace that nobody else knows: the request's own headers begin nothing.
func (d *Door) Begin(ctx context.Context) (context.Context, [16]byte) {
	if d.tracer == nil {
		return ctx, [16]byte{}
	}
	ctx = propagation.TraceContext{}.Extract(ctx, callers{ctx})
	ctx, span := d.tracer.Start(ctx, d.method, d.options...)
	return ctx, span.SpanContext().TraceID()
}

// BeginCall is Begin for the rate limit service, which keeps no record.
func (d *Door) BeginCall(ctx context.Context) context.Context {
	ctx, _ = d.Begin(ctx)
	return ctx
}

// Decided writes what was decided on the span of ctx and ends it. A traceparent that the
// request itself carried becomes a link where it names another trace: a client may have made
// it up, so it is never the parent. The client's baggage is not read at all.
func (d *Door) Decided(ctx context.Context, began time.Time, r *gate.Request, decision *gate.Decision) {
	span := trace.SpanFromContext(ctx)
	d.took(span, began, decision.Allowed())
	if !span.IsRecording() {
		return
	}
	defer span.End()
	describe(span, decision)
	theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier{r}))
	if theirs.IsValid() && theirs.TraceID() != span.SpanContext().TraceID() {
		span.AddLink(trace.Link{SpanContext: theirs.WithTraceState(trace.TraceState{})})
	}
}

// describe writes a decision on its span. Nothing there is a text of the caller's: no path, no header, no address, no name
// of a principal.
func describe(span trace.Span, d *gate.Decision) {
	attributes := append(make([]attribute.KeyValue, 0, 12),
		attribute.Bool("authz.allowed", d.Allowed()),
		attribute.String("authz.reason", d.Reason.String()),
		attribute.String("authz.rule", d.Verdict.Rule),
		attribute.Int64("authz.revision", int64(d.Revision)),
		attribute.String("sluice.decision_id", gate.FormatID(d.ID)),
		attribute.String("tenant.id", string(d.Tenant)),
	)
	charges, outcomes := d.Limits()
	names, refused := make([]string, len(charges)), ""
	for i := range charges {
		names[i] = charges[i].Limit.Name
		if refused == "" && outcomes[i].Over && !charges[i].Shadowed() {
			refused = names[i]
		}
	}
	attributes = appendLimits(attributes, names, refused)
	if r, soft := d.Shadowed(); soft {
		attributes = append(attributes, attribute.String("authz.shadow_reason", r.String()))
	}
	if d.Degraded() {
		attributes = append(attributes, attribute.Bool("sluice.degraded", true))
	}
	span.SetAttributes(attributes...)
	if d.Reason == gate.ReasonInternal || d.Reason == gate.ReasonUnavailable {
		span.SetStatus(codes.Error, d.Reason.String())
	}
}

func appendLimits(to []attribute.KeyValue, met []string, refused string) []attribute.KeyValue {
	if len(met) > 0 {
		to = append(to, attribute.StringSlice("sluice.limits", met))
	}
	if refused != "" {
		to = append(to, attribute.String("sluice.limit", refused))
	}
	return to
}

// Called writes what a call of the rate limit service came to on the span of ctx and ends it. Envoy shows that
// service no headers, so there is no link.
func (d *Door) Called(ctx context.Context, began time.Time, a rls.Answer) {
	span := trace.SpanFromContext(ctx)
	d.took(span, began, a.Passes())
	if !span.IsRecording() {
		return
	}
	defer span.End()
	attributes := append(make([]attribute.KeyValue, 0, 8),
		attribute.Bool("ratelimit.allowed", a.Passes()),
		attribute.String("ratelimit.result", a.Result().String()),
	)
	if domain := a.Domain(); domain != "" {
		attributes = append(attributes, attribute.String("ratelimit.domain", domain))
	}
	names, refused := a.Limits(gate.MaxLimits)
	span.SetAttributes(appendLimits(attributes, names, refused)...)
	if a.Result() == rls.StoreFailed {
		span.SetStatus(codes.Error, a.Result().String())
	}
}

func (d *Door) took(span trace.Span, began time.Time, allowed bool) {
	seconds, in := time.Since(began).Seconds(), d.denied
	if allowed {
		in = d.allowed
	}
	if c := span.SpanContext(); c.IsSampled() {
		id := c.TraceID()
		in.(prometheus.ExemplarObserver).ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": hex.EncodeToString(id[:])}) //nolint:errcheck // a histogram is one
		return
	}
	in.Observe(seconds)
}

// mostContext is the longest value of a trace context that is read, in bytes: of a tracestate, which may be a client's where
// Envoy trusts those, each span that waits for the collector has a copy. The specification wants no more to be passed on.
const mostContext = 512

// callers reads the trace context among the metadata of a call: the one value of a name, and nothing where there are several.
type callers struct{ ctx context.Context }

// Get implements propagation.TextMapCarrier.
func (c callers) Get(name string) string {
	if values := metadata.ValueFromIncomingContext(c.ctx, name); len(values) == 1 && len(values[0]) <= mostContext {
		return values[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is ever written.
func (callers) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (callers) Keys() []string { return nil }

// carrier reads the trace context among a request's own headers: the one value
// of a header, and nothing where there are several.
type carrier struct{ r *gate.Request }

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(name string) (value string) {
	seen := false
	for _, h := range c.r.Action.Headers {
		if string(h.Name) != name {
			continue
		}
		if seen || len(h.Value) > mostContext {
			return ""
		}
		seen, value = true, string(h.Value)
	}
	return value
}

// Set implements propagation.TextMapCarrier; nothing is ever written.
func (carrier) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (carrier) Keys() []string { return nil }
