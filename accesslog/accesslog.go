// Package accesslog is the access-log door: Envoy streams what became of each
// request (envoy.service.accesslog.v3), and by the decision id that came back with it, the
// door hands the outcome to a Recorder, once.
//
// It is not on the request path and promises Envoy nothing but to keep reading:
// an entry that is broken, foreign or seen before is counted and skipped. An id counts only if
// this server minted it for the peer that brings it.
//
// An entry costs about 10 µs, most of it decoding; the ids that were
// settled are remembered in a bounded set, 64 Ki to 128 Ki of them by default (4 MB).
package accesslog

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/authz/rawpb"
	"github.com/voicecore-ai/sluice/tenant"
)

// Entry is what became of one admitted or refused request. Its strings are the
// proxy's words, cut to a bounded length; the path has no query, which may hold a secret.
type Entry struct {
	ID        [16]byte // decision id, verified
	Peer      string   // the Envoy that asked and now reports
	Tenant    string
	Plan      string
	Principal string

	Final     bool   // the request is over; false: a long one goes on, and a lease is renewed
	Outlived  string // why it may no longer go on, which it does; "" if it may, and of what is Final
	Start     time.Time
	Duration  time.Duration // to the last byte, or until now
	Method    string
	Authority string
	Path      string
	RequestID string // x-request-id: for correlation only, a client can choose it
	Route     string
	Cluster   string
	Attempts  uint32 // of the upstream; 0 means that no service saw the request

	Code       uint32 // HTTP status; 200 for a gRPC call whatever came of it
	GRPC       bool   // a gRPC call: judge it by GRPCStatus
	GRPCStatus uint32 // Unknown (2) if the call ended without one
	Flags      Flags
	Details    string // response_code_details
	BytesIn    uint64 // bodies and headers on the wire, from the client
	BytesOut   uint64 // and to it
}

// Recorder gets each outcome. Record must not block: Envoy drops log entries
// while a stream is full. It may be called by several streams at once.
type Recorder interface {
	Record(e Entry)
}

// Verifier tells whether a decision id is one of ours, given to that peer; its
// contract is gate.Gate.VerifyID.
type Verifier interface {
	VerifyID(text, peer string) (id [16]byte, ok bool)
}

// Result says what the door did with an entry.
type Result uint8

// The results.
const (
	Settled   Result = iota // final, recorded
	Renewed                 // periodic, recorded
	Ignored                 // a type that settles nothing (TCP, upstream, start)
	Missing                 // no decision id: the route does not ask ext_authz
	Forged                  // an id that this server did not give to this peer
	Duplicate               // settled before
	Malformed               // not readable as a log entry
	Failed                  // the recorder panicked
	Outlived                // periodic, recorded, of one whose tenant or credential stands no more
	resultCount
)

var resultNames = [resultCount]string{
	"settled", "renewed", "ignored", "missing", "forged", "duplicate", "malformed", "failed", "outlived",
}

// String is the result's name in metrics.
func (r Result) String() string {
	if r < resultCount {
		return resultNames[r]
	}
	return "unknown"
}

// Results lists every result, for metrics.
func Results() []Result {
	all := make([]Result, resultCount)
	for i := range all {
		all[i] = Result(i)
	}
	return all
}

// Options are what a door is made of.
type Options struct {
	Verifier Verifier // required
	Recorder Recorder // required
	// Peer names who calls, from the transport, exactly as the ext_authz door
	// names it; false refuses the stream. Required.
	Peer func(context.Context) (string, bool)
	Log  *slog.Logger // panics; default slog.Default()
	// Stands says whether a request that goes on still may, by what its entry brings back of the decision, and if not, why;
	// its contract is that of gate.HeldBy and gate.Gate.Stands. This door can't end one, but it says so. Optional.
	Stands func(tenant, principal, proof string) (ok bool, why string)
	// Remember is how many settled ids are remembered at least; default 65536.
	// A peer that repeats an older one settles it twice.
	Remember int
}

// Server is the door. It is safe for concurrent use.
type Server struct {
	o        Options
	settled  *recent
	draining chan struct{}
	counts   [resultCount]atomic.Uint64
}

// New returns a door. It panics if a required option is missing.
func New(o Options) *Server {
	if o.Verifier == nil || o.Recorder == nil || o.Peer == nil {
		panic("accesslog: Verifier, Recorder and Peer are required")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Remember <= 0 {
		o.Remember = 1 << 16
	}
	return &Server{o: o, settled: newRecent(o.Remember), draining: make(chan struct{})}
}

// Register serves the door on r.
func (s *Server) Register(r grpc.ServiceRegistrar) { r.RegisterService(&serviceDesc, s) }

// Count is how many entries ended that way since New.
func (s *Server) Count(r Result) uint64 { return s.counts[r].Load() }

// serviceDesc is the generated one, but takes the bytes: a string that is no
// UTF-8, from a client's path, would make the generated types fail the whole batch.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: alsv3.AccessLogService_ServiceDesc.ServiceName,
	HandlerType: (*streamer)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "StreamAccessLogs",
		ClientStreams: true,
		Handler:       func(srv any, s grpc.ServerStream) error { return srv.(streamer).stream(s) }, //nolint:errcheck // gRPC checks HandlerType
	}},
	Metadata: alsv3.AccessLogService_ServiceDesc.Metadata,
}

type streamer interface {
	stream(s grpc.ServerStream) error
}

// Drain ends every stream, with UNAVAILABLE, which Envoy answers by reporting to
// another server. Call it once, when this one has stopped taking new streams.
func (s *Server) Drain() { close(s.draining) }

// stream reads until the peer or the server ends it. Nothing in a message can end it.
func (s *Server) stream(stream grpc.ServerStream) error {
	peer, known := s.o.Peer(stream.Context())
	if !known {
		return status.Error(codes.PermissionDenied, "this peer may not report")
	}
	ended := make(chan error, 1)
	go func() { ended <- s.read(stream, peer) }()
	select {
	case err := <-ended:
		return err
	case <-s.draining:
		return status.Error(codes.Unavailable, "this server is stopping; report to another")
	}
}

// read takes messages until there are no more, or the stream has ended.
func (s *Server) read(stream grpc.ServerStream, peer string) error {
	in := rawpb.New(nil)
	for {
		switch err := stream.RecvMsg(in); {
		case errors.Is(err, io.EOF):
			return stream.SendMsg(&alsv3.StreamAccessLogsResponse{})
		case err != nil:
			return err
		}
		s.message(peer, in.Bytes)
		if cap(in.Bytes) > maxKept {
			in.Bytes = nil
		}
	}
}

// maxKept is the largest buffer that a stream keeps between messages.
const maxKept = 256 << 10

// Field numbers of StreamAccessLogsMessage.
const (
	messageHTTP = 2
	httpEntry   = 1
)

func (s *Server) message(peer string, message []byte) {
	top := rawpb.Walk(message)
	for number, logs, ok := top.Next(); ok; number, logs, ok = top.Next() {
		if number != messageHTTP {
			continue
		}
		w := rawpb.Walk(logs)
		for number, entry, ok := w.Next(); ok; number, entry, ok = w.Next() {
			if number == httpEntry {
				s.counts[s.entry(peer, entry)].Add(1)
			}
		}
		if w.Bad() {
			s.counts[Malformed].Add(1)
		}
	}
	if top.Bad() {
		s.counts[Malformed].Add(1)
	}
}

// entry handles one entry. A panic, in the recorder most likely, is this entry's alone.
func (s *Server) entry(peer string, encoded []byte) (result Result) {
	defer func() {
		if p := recover(); p != nil {
			if n := s.counts[Failed].Load() + 1; n&(n-1) == 0 {
				s.o.Log.Error("access log: an entry panicked", "stack", string(debug.Stack()))
			}
			result = Failed
		}
	}()
	log, ok := decode(encoded)
	if !ok {
		return Malformed
	}
	result, relevant := phase(log)
	if !relevant {
		return Ignored
	}
	text := decisionID(log)
	if text == "" {
		return Missing
	}
	id, ours := s.o.Verifier.VerifyID(text, peer)
	if !ours {
		return Forged
	}
	if result == Settled && !s.settled.add(id) || result == Renewed && s.settled.has(id) {
		return Duplicate
	}
	e := newEntry(id, peer, result == Settled, log)
	if result == Renewed && s.o.Stands != nil {
		if ok, why := s.o.Stands(e.Tenant, e.Principal, fields(log)[tenant.MetadataProof].GetStringValue()); !ok {
			e.Outlived, result = why, Outlived
		}
	}
	s.o.Recorder.Record(e)
	return result
}
