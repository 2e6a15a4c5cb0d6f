package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"
)

const (
	flushTimeout = 2 * time.Second // what a collector that is down adds to a stop, at most
	spanQueue    = 2048            // spans that wait for the collector before new ones are dropped

	// What one span holds at most: names of limits and rules are an operator's, and may be long.
	spanAttributes     = 32
	spanAttributeBytes = 256 // of a text; a list's members each
	spanLinks          = 1
)

// Endpoint is an OTLP collector that speaks gRPC.
type Endpoint struct {
	Address     string // host:port
	Credentials credentials.TransportCredentials
}

// OpenSpans exports spans to an OTLP collector. Whether a call has one is decided by
// whoever calls, never here. A collector that is down costs its spans and a line in the log, nothing else.
// The SDK has one place for errors in a process, which is pointed at log.
func OpenSpans(ctx context.Context, to Endpoint, version string, log *slog.Logger) (*Spans, error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were lost", "error", err) }))
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(to.Address), otlptracegrpc.WithTLSCredentials(to.Credentials))
	if err != nil {
		return nil, fmt.Errorf("otlp-endpoint: %w", err)
	}
	spans := &Spans{log: log}
	spans.SpanProcessor = sdktrace.NewBatchSpanProcessor(counted{exporter, spans}, sdktrace.WithMaxQueueSize(spanQueue))
	spans.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(spans),
		sampler(),
		sdktrace.WithRawSpanLimits(spanLimits()),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sluiced"), attribute.String("service.version", version))),
	)
	return spans, nil
}

// sampler keeps what the caller decided: without a parent there is no span.
func sampler() sdktrace.TracerProviderOption {
	return sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample()))
}

func spanLimits() sdktrace.SpanLimits {
	return sdktrace.SpanLimits{AttributeCountLimit: spanAttributes, AttributeValueLengthLimit: spanAttributeBytes, LinkCountLimit: spanLinks}
}

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
func (s *Spans) Collector() prometheus.Collector {
	return exported{[]*prometheus.Desc{spansDesc}, func(m metrics) {
		for result, n := range map[string]uint64{"sent": s.sent.Load(), "failed": s.failed.Load(), "dropped": s.dropped.Load()} {
			m.count(spansDesc, n, result)
		}
	}}
}
