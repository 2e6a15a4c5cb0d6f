package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"time"

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
// The option belongs on the gRPC server; stop has two seconds to flush what is
// left. A collector that is down costs its spans and a line in the log, nothing else.
// The SDK has one place for errors in a process, which is pointed at log.
func Tracing(ctx context.Context, endpoint, version string, log *slog.Logger) (option grpc.ServerOption, stop func(context.Context) error, err error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were lost", "error", err) }))
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, nil, fmt.Errorf("otlp-endpoint: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sluiced"), attribute.String("service.version", version))),
	)
	handler := otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagation.TraceContext{}))
	stop = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("the last spans were lost", "error", err)
		}
		return nil
	}
	return grpc.StatsHandler(handler), stop, nil
}
