package app

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// What a client may do to the server: grpc-go's own defaults are 16 MiB of
// headers, unlimited streams and connections that live for ever.
const (
	maxHeaderList = 64 << 10
	maxMessage    = 1 << 20
	maxStreams    = 10_000
)

// longestStream is how long a stream may outlive the connection age. What is cut
// here is a caller's WebSocket: the ext_proc door has one stream for each request, as long as
// the request, and Envoy ends the one with the other. Dead connections are found by pings, not by this.
const longestStream = 24 * time.Hour

// streamWorkers is how many goroutines wait for calls with a stack that has
// grown already. A call that finds none gets a new goroutine, and growing its
// stack was a quarter of the server's CPU with one worker a core.
const streamWorkers = 64

func grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: longestStream,
			Time:                  30 * time.Second,
			Timeout:               10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
	}
}
