package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// flushTimeout bounds what a collector that is down adds to a stop.
const flushTimeout = 2 * time.Second

// Tracing exports spans to an OTLP collector (gRPC, plain text) at endpoint.
// A span's parent is the context that Envoy put in the gRPC metadata, whose
// sampling decision it keeps; the client's own HTTP headers are never believed.
// The option belongs on the gRPC server. A collector that is down costs its spans and a line in the log, nothing else.
// The SDK has one place for errors in a process, which is pointed at log.
func Tracing(ctx context.Context, endpoint, version string, log *slog.Logger) (option grpc.ServerOption, spans *Spans, err error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were lost", "error", err) }))
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, nil, fmt.Errorf("otlp-endpoint: %w", err)
	}
	spans = &Spans{log: log}
	spans.SpanProcessor = sdktrace.NewBatchSpanProcessor(counted{exporter, spans}, sdktrace.WithMaxQueueSize(spanQueue))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(spans),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sluiced"), attribute.String("service.version", version))),
	)
	handler := otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagation.TraceContext{}))
	spans.provider = provider
	return grpc.StatsHandler(handler), spans, nil
}

// spanQueue is how many spans wait for the collector before new ones are dropped.
const spanQueue = 2048

// Spans counts what becomes of spans. The SDK drops without a word.
type Spans struct {
	sdktrace.SpanProcessor
	provider *sdktrace.TracerProvider
	log      *slog.Logger

	waiting               atomic.Int64
	sent, failed, dropped atomic.Uint64
}

// OnEnd implements sdktrace.SpanProcessor.
func (s *Spans) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if s.waiting.Add(1) > spanQueue {
		s.waiting.Add(-1)
		s.dropped.Add(1)
		return
	}
	s.SpanProcessor.OnEnd(span)
}

// Stop has two seconds to send what is left.
func (s *Spans) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := s.provider.Shutdown(ctx); err != nil {
		s.log.Warn("the last spans were lost", "error", err)
	}
	return nil
}

// counted is an exporter that tells Spans.
type counted struct {
	sdktrace.SpanExporter
	spans *Spans
}

// ExportSpans implements sdktrace.SpanExporter.
func (c counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.spans.waiting.Add(-int64(len(spans)))
	if err != nil {
		c.spans.failed.Add(uint64(len(spans)))
		return err
	}
	c.spans.sent.Add(uint64(len(spans)))
	return nil
}

var spansDesc = prometheus.NewDesc("sluice_spans_total", "Spans that ended, by what became of them: sent, failed (the collector did not take them), dropped (too many waited).", []string{"result"}, nil)

// Collector exports the counts.
func (s *Spans) Collector() prometheus.Collector { return spanCounts{s} }

type spanCounts struct{ spans *Spans }

// Describe implements prometheus.Collector.
func (s spanCounts) Describe(c chan<- *prometheus.Desc) { c <- spansDesc }

// Collect implements prometheus.Collector.
func (s spanCounts) Collect(c chan<- prometheus.Metric) {
	for result, n := range map[string]uint64{"sent": s.spans.sent.Load(), "failed": s.spans.failed.Load(), "dropped": s.spans.dropped.Load()} {
		c <- prometheus.MustNewConstMetric(spansDesc, prometheus.CounterValue, float64(n), result)
	}
}
