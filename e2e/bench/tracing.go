package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// swallow is a collector that takes all spans and keeps none.
type swallow struct {
	collectorpb.UnimplementedTraceServiceServer
}

func (swallow) Export(context.Context, *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// flushedTogether is for Envoy, whose default is to send every five spans.
const flushedTogether = `
layered_runtime:
  layers:
    - name: static
      static_layer: {tracing.opentelemetry.min_flush_spans: 512, tracing.opentelemetry.flush_interval_ms: 1000}
`

// benchTracing compares the CPU of requests through the default wiring that are all traced, that Envoy traces and sluiced
// does not, and that nobody traces. The collector takes all spans and is not counted.
func benchTracing(ctx context.Context, envoy, sluiced, dir string, rounds int) (results []result, err error) {
	l, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, swallow{})
	go server.Serve(l) //nolint:errcheck // ends by Stop
	defer server.Stop()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	traced, err := stack.Traced(deploy.Demo, port)
	if err != nil {
		return nil, err
	}
	const all = "random_sampling: {value: 100}\n"
	traced = strings.Replace(traced, all, all+"                  spawn_upstream_span: true\n", 1) + flushedTogether
	names := [3]string{"all traced", "by Envoy alone", "none"}
	var stacks [3]*stack.Stack
	var keys [3]string
	defer func() {
		for _, s := range stacks {
			if s != nil {
				err = errors.Join(err, s.Stop())
			}
		}
	}()
	for i, o := range []stack.Options{{Config: traced, Args: []string{"--otlp-endpoint", l.Addr().String()}}, {Config: traced}, {Config: deploy.Demo}} {
		o.Sluiced, o.Envoy, o.Dir = sluiced, envoy, filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, err
		}
		if stacks[i], err = stack.Start(ctx, o); err != nil {
			return nil, err
		}
		if keys[i], err = wideTenant(ctx, stacks[i]); err != nil {
			return nil, err
		}
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: 30 * time.Second}
	fmt.Printf("CPU of Envoy and sluiced per request, through the default wiring, %d connections, %v a round\n", clients, roundTime)
	for _, pair := range []struct {
		ours, theirs int
		target       float64
	}{{0, 1, 1.15}, {1, 2, 0}, {0, 2, 0}} { // what Sluice's spans cost, Envoy's, and both
		measure := func(i int) func() (float64, error) {
			return func() (float64, error) { return perRequest(ctx, client, stacks[i], keys[i]) }
		}
		r, err := compare(rounds, measure(pair.ours), measure(pair.theirs))
		if err != nil {
			return nil, err
		}
		r.Name, r.Unit, r.Target = names[pair.ours]+" / "+names[pair.theirs], "µs", pair.target
		r.print()
		results = append(results, r)
	}
	return results, nil
}

// perRequest is what Envoy and sluiced use for one request in a round of a closed loop, in µs.
func perRequest(ctx context.Context, client *http.Client, s *stack.Stack, key string) (float64, error) {
	used := func() (all time.Duration, err error) {
		for _, pid := range []int{s.EnvoyProcess().Pid, s.Sluiced().Pid} {
			one, err := cpu(pid)
			if err != nil {
				return 0, err
			}
			all += one
		}
		return all, nil
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	var p50 []float64
	perSecond, err := throughput(ctx, client, s, key, &p50)
	if err != nil {
		return 0, err
	}
	after, err := used()
	return float64((after - before).Microseconds()) / (perSecond * roundTime.Seconds()), err
}
