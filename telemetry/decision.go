package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/voicecore-ai/sluice/gate"
)

// TraceID is the id of the trace that ctx belongs to; zero if it belongs to none.
func TraceID(ctx context.Context) [16]byte { return trace.SpanContextFromContext(ctx).TraceID() }

// Decision writes what was decided on the span of ctx. A traceparent that the
// request itself carried becomes a link where it names another trace: a client may have made
// it up, so it is never the parent. The client's baggage is not read at all.
func Decision(ctx context.Context, r *gate.Request, d *gate.Decision) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.Bool("authz.allowed", d.Allowed()),
		attribute.String("authz.reason", d.Reason.String()),
		attribute.String("authz.rule", d.Verdict.Rule),
		attribute.Int64("authz.revision", int64(d.Revision)),
		attribute.String("sluice.decision_id", gate.FormatID(d.ID)),
		attribute.String("tenant.id", string(d.Tenant)),
	)
	if r, soft := d.Shadowed(); soft {
		span.SetAttributes(attribute.String("authz.shadow_reason", r.String()))
	}
	if d.Degraded() {
		span.SetAttributes(attribute.Bool("sluice.degraded", true))
	}
	if d.Reason == gate.ReasonInternal || d.Reason == gate.ReasonUnavailable {
		span.SetStatus(codes.Error, d.Reason.String())
	}
	theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier{r}))
	if theirs.IsValid() && theirs.TraceID() != span.SpanContext().TraceID() {
		span.AddLink(trace.Link{SpanContext: theirs})
	}
}

// carrier reads the trace context among a request's own headers: the one value
// of a header, and nothing where there are several.
type carrier struct{ r *gate.Request }

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(name string) (value string) {
	const most = 512 // tracestate, as the specification bounds it
	seen := false
	for _, h := range c.r.Action.Headers {
		if string(h.Name) != name {
			continue
		}
		if seen || len(h.Value) > most {
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
