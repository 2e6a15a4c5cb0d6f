package telemetry

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit"
)

const (
	envoysTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientsTrace = "22222222222222222222222222222222"
	someSpan     = "b7ad6b7169203331"
)

// recorded is a Doors whose spans are kept, with the bounds that exported ones have.
func recorded(t *testing.T) (*Doors, *tracetest.SpanRecorder) {
	t.Helper()
	kept := tracetest.NewSpanRecorder()
	spans := &Spans{provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(kept), sdktrace.WithRawSpanLimits(spanLimits()), sampler())}
	return NewDoors(spans), kept
}

// called is the context of a call whose metadata has these names and values.
func called(t *testing.T, pairs ...string) context.Context {
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs(pairs...))
}

// told decides a request at a door, and returns the span that it left; nil for none.
func told(ctx context.Context, doors *Doors, kept *tracetest.SpanRecorder, config answertest.Config, headers ...authz.Header) sdktrace.ReadOnlySpan {
	door := doors.Door("ext_authz", "envoy.service.auth.v3.Authorization/Check")
	r := gate.Request{Peer: answertest.Peer, Action: answertest.Action(), Credentials: authz.Credentials{APIKeys: []string{answertest.Key}}}
	r.Action.Headers = headers
	var d gate.Decision
	before := len(kept.Ended())
	began := time.Now()
	ctx, r.Trace = door.Begin(ctx)
	answertest.Gate(config).Admit(ctx, began.UnixMicro(), &r, &d)
	door.Decided(ctx, began, &r, &d)
	if ended := kept.Ended(); len(ended) > before {
		return ended[before]
	}
	return nil
}

func attributes(s sdktrace.ReadOnlySpan) map[attribute.Key]string {
	all := map[attribute.Key]string{}
	for _, a := range s.Attributes() {
		all[a.Key] = a.Value.String()
	}
	return all
}

func TestASpanHasWhatWasDecidedAndNoMore(t *testing.T) {
	doors, kept := recorded(t)
	envoys := called(t, "traceparent", "00-"+envoysTrace+"-"+someSpan+"-01", "baggage", "tenant.id=umbrella")
	span := told(envoys, doors, kept, answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()})
	if span == nil || span.SpanContext().TraceID().String() != envoysTrace || span.Parent().SpanID().String() != someSpan {
		t.Fatalf("%+v", span)
	}
	got := attributes(span)
	for name, want := range map[attribute.Key]string{
		"tenant.id": "acme", "authz.allowed": "false", "authz.reason": "over_limit", "authz.rule": "tenants-may",
		"rpc.method": "envoy.service.auth.v3.Authorization/Check", "rpc.system.name": "grpc",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if id := got["sluice.decision_id"]; len(id) < 20 {
		t.Errorf("the decision's id is %q", id)
	}
	if names := got["sluice.limits"]; got["sluice.limit"] == "" || !strings.Contains(names, got["sluice.limit"]) {
		t.Errorf("limit %q of %s", got["sluice.limit"], names)
	}
	for name, value := range got {
		if strings.Contains(value, answertest.Key) || strings.Contains(value, "umbrella") || strings.Contains(value, answertest.Action().Path) {
			t.Errorf("%s is %q", name, value)
		}
	}
}

func TestTheContextsOfACall(t *testing.T) {
	parent := func(trace, flags string) string { return "00-" + trace + "-" + someSpan + "-" + flags }
	header := func(value string) authz.Header {
		return authz.Header{Name: []byte("traceparent"), Value: []byte(value)}
	}
	for _, c := range []struct {
		name     string
		metadata []string
		headers  []authz.Header
		trace    string // "" for no span
		link     string
	}{
		{"what Envoy sampled is the parent", []string{"traceparent", parent(envoysTrace, "01")}, nil, envoysTrace, ""},
		{"what Envoy did not sample leaves no span", []string{"traceparent", parent(envoysTrace, "00")}, []authz.Header{header(parent(clientsTrace, "01"))}, "", ""},
		{"a header of the request leaves none", nil, []authz.Header{header(parent(clientsTrace, "01"))}, "", ""},
		{"a header with another trace is a link", []string{"traceparent", parent(envoysTrace, "01")}, []authz.Header{header(parent(clientsTrace, "00"))}, envoysTrace, clientsTrace},
		{"one with the same trace is not", []string{"traceparent", parent(envoysTrace, "01")}, []authz.Header{header(parent(envoysTrace, "01"))}, envoysTrace, ""},
		{"of two contexts in the metadata none counts", []string{"traceparent", parent(envoysTrace, "01"), "traceparent", parent(clientsTrace, "01")}, nil, "", ""},
		{"of two headers none is a link", []string{"traceparent", parent(envoysTrace, "01")}, []authz.Header{header(parent(clientsTrace, "01")), header(parent(clientsTrace, "01"))}, envoysTrace, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			doors, kept := recorded(t)
			span := told(called(t, c.metadata...), doors, kept, answertest.Config{}, c.headers...)
			if c.trace == "" {
				if span != nil {
					t.Errorf("a span of trace %s", span.SpanContext().TraceID())
				}
				return
			}
			if span == nil || span.SpanContext().TraceID().String() != c.trace {
				t.Fatalf("%+v, want one of trace %s", span, c.trace)
			}
			var links string
			for _, l := range span.Links() {
				links += l.SpanContext.TraceID().String()
				if l.SpanContext.TraceState().Len() != 0 || len(l.Attributes) != 0 {
					t.Errorf("the link carries %q", l.SpanContext.TraceState())
				}
			}
			if links != c.link {
				t.Errorf("links to %q, want %q", links, c.link)
			}
		})
	}
}

func TestASpanIsBoundedWhateverLimitsAreCalled(t *testing.T) {
	doors, kept := recorded(t)
	limits, outcomes := make([]ratelimit.Limit, gate.MaxLimits), make([]ratelimit.Outcome, gate.MaxLimits)
	for i := range limits {
		limits[i] = answertest.Limits()[0]
		limits[i].Name = fmt.Sprint(i, strings.Repeat("x", 10_000))
		outcomes[i] = answertest.Over()[0]
	}
	outcomes[0].Over = true
	span := told(called(t, "traceparent", "00-"+envoysTrace+"-"+someSpan+"-01"), doors, kept, answertest.Config{Limits: limits, Outcomes: outcomes})
	if span == nil {
		t.Fatal("no span")
	}
	if n := len(span.Attributes()); n > spanAttributes {
		t.Errorf("%d attributes", n)
	}
	size := 0
	for _, value := range attributes(span) {
		size += len(value)
	}
	if most := (gate.MaxLimits + spanAttributes) * (spanAttributeBytes + 8); size > most || size < gate.MaxLimits*spanAttributeBytes {
		t.Errorf("%d bytes of attributes, want %d at most and the names that fit", size, most)
	}
}

func TestATraceStateIsBounded(t *testing.T) {
	member := func(i int) string { return fmt.Sprintf("k%d=%s", i, strings.Repeat("v", 200)) }
	for _, c := range []struct {
		members int
		want    bool
	}{{2, true}, {3, false}, {32, false}} {
		var members []string
		for i := range c.members {
			members = append(members, member(i))
		}
		doors, kept := recorded(t)
		ctx := called(t, "traceparent", "00-"+envoysTrace+"-"+someSpan+"-01", "tracestate", strings.Join(members, ","))
		span := told(ctx, doors, kept, answertest.Config{})
		if span == nil || span.SpanContext().TraceID().String() != envoysTrace {
			t.Fatalf("%d members: %+v", c.members, span)
		}
		if got := span.SpanContext().TraceState().Len(); (got > 0) != c.want || c.want && got != c.members {
			t.Errorf("of %d members the span has %d", c.members, got)
		}
	}
}

func TestDecisionsThatAreTracedLeaveExemplars(t *testing.T) {
	doors, kept := recorded(t)
	sampled := called(t, "traceparent", "00-"+envoysTrace+"-"+someSpan+"-01")
	told(sampled, doors, kept, answertest.Config{})
	told(sampled, doors, kept, answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()})
	for decision, want := range map[string]string{"allow": envoysTrace, "deny": envoysTrace} {
		if got := exemplars(t, doors, decision); len(got) != 1 || got[0] != want {
			t.Errorf("%s has exemplars %q", decision, got)
		}
	}
	quiet, kept := recorded(t)
	told(called(t, "traceparent", "00-"+envoysTrace+"-"+someSpan+"-00"), quiet, kept, answertest.Config{})
	told(t.Context(), quiet, kept, answertest.Config{})
	told(sampled, NewDoors(nil), kept, answertest.Config{})
	if got := exemplars(t, quiet, "allow"); len(got) != 0 {
		t.Errorf("exemplars %q of what nobody traces", got)
	}
}

// exemplars are the traces that the buckets of a decision have.
func exemplars(t *testing.T, doors *Doors, decision string) (traces []string) {
	t.Helper()
	var m dto.Metric
	if err := doors.seconds.WithLabelValues("ext_authz", decision).(prometheus.Metric).Write(&m); err != nil {
		t.Fatal(err)
	}
	if m.GetHistogram().GetSampleCount() == 0 {
		t.Errorf("%s was never observed", decision)
	}
	for _, b := range m.GetHistogram().GetBucket() {
		for _, l := range b.GetExemplar().GetLabel() {
			if l.GetName() == "trace_id" {
				traces = append(traces, l.GetValue())
			}
		}
	}
	return traces
}
