package app

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// watchedHealth is grpc-go's health service, whose watches end when the server
// drains. Left alone they go on for ever, and one watcher would hold up every
// stop for the whole of --drain-timeout.
type watchedHealth struct {
	*health.Server
	draining <-chan struct{}
}

// Watch streams what Check would say, until the client or the drain ends it.
func (h watchedHealth) Watch(in *healthpb.HealthCheckRequest, out grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx, cancel := context.WithCancel(out.Context())
	ended := make(chan struct{})
	defer func() { cancel(); <-ended }()
	go func() {
		defer close(ended)
		select {
		case <-h.draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	return h.Server.Watch(in, watchStream{out, ctx})
}

type watchStream struct {
	grpc.ServerStreamingServer[healthpb.HealthCheckResponse]
	ctx context.Context
}

func (s watchStream) Context() context.Context { return s.ctx }
