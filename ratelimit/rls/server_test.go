package rls

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/voicecore-ai/sluice/authz/rawpb"
)

// serve runs a server on loopback with the door, health and reflection on it.
func serve(t testing.TB, d *Door, options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	s := grpc.NewServer(options...)
	d.Register(s)
	healthpb.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

var setups = map[string][]grpc.ServerOption{
	"with the codec":         {grpc.ForceServerCodecV2(Codec())},
	"with grpc-go's codec":   nil,
	"codec and workers":      {grpc.ForceServerCodecV2(Codec()), grpc.NumStreamWorkers(2)},
	"codec and interceptors": {grpc.ForceServerCodecV2(Codec()), grpc.UnaryInterceptor(passOn)},
}

func passOn(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(ctx, req)
}

func TestAGeneratedClientIsAnswered(t *testing.T) {
	for name, options := range setups {
		t.Run(name, func(t *testing.T) {
			f := open(t, nil)
			client := ratelimitv3.NewRateLimitServiceClient(serve(t, f.Door, options...))
			for i, want := range []ratelimitv3.RateLimitResponse_Code{1, 1, 2, 2} {
				r, err := client.ShouldRateLimit(t.Context(), ask("messaging", []string{"kind", "marketing"}))
				if err != nil {
					t.Fatal(err)
				}
				if r.OverallCode != want || len(r.Statuses) != 1 || r.Statuses[0].CurrentLimit.RequestsPerUnit != 2 {
					t.Errorf("call %d: %v", i, r)
				}
			}
		})
	}
}

// What a generated server would answer with INTERNAL, so that the client's
// bytes chose Envoy's failure mode.
func TestBytesThatAreNoRequestAreOverLimitOnTheWireToo(t *testing.T) {
	for name, options := range setups {
		t.Run(name, func(t *testing.T) {
			conn := serve(t, open(t, nil).Door, options...)
			for _, b := range [][]byte{nil, []byte("garbage"), {0x0a, 0x01, 0xff}, make([]byte, 1<<20)} {
				reply := rawpb.New(nil)
				err := conn.Invoke(t.Context(), ratelimitv3.RateLimitService_ShouldRateLimit_FullMethodName, rawpb.New(b), reply)
				if err != nil || string(reply.Bytes) != string(appendOverall(nil, true)) {
					t.Errorf("%d bytes: %x, %v", len(b), reply.Bytes, err)
				}
			}
		})
	}
}

func TestOtherServicesOfTheServerKeepWorking(t *testing.T) {
	for name, options := range setups {
		t.Run(name, func(t *testing.T) {
			conn := serve(t, open(t, nil).Door, options...)
			h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("health: %v, %v", h, err)
			}
			stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
				if err := stream.Send(r); err != nil {
					t.Fatal(err)
				}
				answer, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				return answer
			}
			service := "envoy.service.ratelimit.v3.RateLimitService"
			list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
			if !slices.ContainsFunc(list.GetListServicesResponse().Service, func(s *reflectionpb.ServiceResponse) bool { return s.Name == service }) {
				t.Errorf("not listed: %v", list)
			}
			file := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
			if len(file.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
				t.Errorf("not described: %v", file)
			}
			if err := stream.CloseSend(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestACancelledCallLeavesTheDoorWhole(t *testing.T) {
	f := open(t, nil)
	client := ratelimitv3.NewRateLimitServiceClient(serve(t, f.Door, setups["with the codec"]...))
	for i := range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
		_, _ = client.ShouldRateLimit(ctx, ask("messaging", []string{"free", "x"})) //nolint:errcheck // it may or may not be in time
		cancel()
	}
	r, err := client.ShouldRateLimit(t.Context(), ask("messaging", []string{"kind", "marketing"}))
	if err != nil || r.OverallCode != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("got %v, %v", r, err)
	}
}
