package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Shape of one round of calls.
const (
	callsPerRound = 40_000
	inFlight      = 32
)

// call is one method and the recorded bytes that both servers are sent.
type call struct {
	name, method string
	target       float64  // most that ours may cost, as a multiple of the reference
	requests     [][]byte // sent in turn
}

// checkRequest is what Envoy asks about a typical request that has one more header.
func checkRequest(name, value string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address("10.1.2.3", 41234)},
		Destination: &authv3.AttributeContext_Peer{Address: address("10.1.2.4", 8080)},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1234567890123456789", Method: "GET", Path: "/v1/calls/42", Host: "api.voicecore.example", Scheme: "https", Protocol: "HTTP/2",
			Headers: map[string]string{
				":authority": "api.voicecore.example", ":method": "GET", ":path": "/v1/calls/42", ":scheme": "https",
				name: value, "user-agent": "voicecore-sdk/3.0", "accept": "application/json",
				"x-forwarded-proto": "https", "x-request-id": "b5b2c9a0-8a3e-4a57-9a43-0f8b8f0d3c11",
			},
		}},
	}}
}

func calls(key string) []call {
	limit := &rlsv3.RateLimitRequest{Domain: "bench", Descriptors: []*rlv3.RateLimitDescriptor{
		{Entries: []*rlv3.RateLimitDescriptor_Entry{{Key: "tenant", Value: "acme"}}},
		{Entries: []*rlv3.RateLimitDescriptor_Entry{{Key: "tenant", Value: "acme"}, {Key: "route", Value: "calls"}}},
	}}
	return []call{
		{"rls", rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, 0.85, [][]byte{marshal(limit)}},
		{"ext_authz", authv3.Authorization_Check_FullMethodName, 1.25, [][]byte{marshal(checkRequest("x-api-key", key))}},
	}
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // a message of ours that can't be written is a bug here
	}
	return b
}

// RLSConfig is the descriptor file that our server answers the RLS call by.
const rlsConfig = `domain: bench
descriptors:
  - key: tenant
    rate_limit: {unit: second, requests_per_unit: 1000000000}
    descriptors:
      - key: route
        rate_limit: {unit: second, requests_per_unit: 1000000000}
`

// reference serves both methods as a newcomer would: grpc-go with its defaults
// and generated types, deciding nothing.
type reference struct {
	authv3.UnimplementedAuthorizationServer
	rlsv3.UnimplementedRateLimitServiceServer
}

// Check allows.
func (reference) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{}, nil
}

// ShouldRateLimit allows.
func (reference) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK,
		Statuses:    make([]*rlsv3.RateLimitResponse_DescriptorStatus, len(r.GetDescriptors())),
	}, nil
}

func serveReference() error {
	l, err := listenLoopback()
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, reference{})
	rlsv3.RegisterRateLimitServiceServer(s, reference{})
	return s.Serve(l)
}

// startReference runs serveReference in a process of its own, whose CPU can be told apart.
func startReference() (*exec.Cmd, string, error) {
	cmd := exec.Command(os.Args[0], "-reference") //nolint:gosec // this very program
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	var addr string
	_, err = fmt.Fscanln(out, &addr)
	return cmd, addr, err
}

// raw passes bytes through: the generator spends nothing on protobuf.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil //nolint:errcheck // only called by load
}
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = append((*v.(*[]byte))[:0], data.Materialize()...) //nolint:errcheck // only called by load
	return nil
}

// load sends callsPerRound calls and returns the server's CPU per call in µs.
func load(ctx context.Context, conn *grpc.ClientConn, pid int, c call) (float64, error) {
	before, err := cpu(pid)
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	failed := make(chan error, inFlight)
	for caller := range inFlight {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var reply []byte
			for i := range callsPerRound / inFlight {
				request := c.requests[(i*inFlight+caller)%len(c.requests)]
				if err := conn.Invoke(ctx, c.method, request, &reply); err != nil {
					failed <- err
					return
				}
			}
			if err := c.admitted(reply); err != nil {
				failed <- err
			}
		}()
	}
	wg.Wait()
	close(failed)
	if err := <-failed; err != nil {
		return 0, fmt.Errorf("%s: %w", c.name, err)
	}
	after, err := cpu(pid)
	return float64((after - before).Microseconds()) / callsPerRound, err
}

// admitted looks at a caller's last answer: a refusal would be cheap and not what is measured.
func (c call) admitted(reply []byte) error {
	if c.method != authv3.Authorization_Check_FullMethodName {
		return nil
	}
	var answer authv3.CheckResponse
	if err := proto.Unmarshal(reply, &answer); err != nil {
		return err
	}
	if answer.GetStatus().GetCode() != 0 {
		return fmt.Errorf("refused: %s", answer.GetDeniedResponse().GetBody())
	}
	return nil
}

// cpu is what all threads of a process have run, in ns resolution (Linux, /proc/PID/task/*/schedstat).
func cpu(pid int) (total time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("process %d: no schedstat in /proc", pid)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path) //nolint:gosec // /proc
		if err != nil {
			continue // a thread that ended meanwhile
		}
		var ran int64
		if _, err := fmt.Fscan(strings.NewReader(string(text)), &ran); err != nil {
			return 0, err
		}
		total += time.Duration(ran)
	}
	return total, nil
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
}
