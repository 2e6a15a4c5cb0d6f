// Package extproc is the ext_proc door: Envoy opens a stream for each HTTP request
// (envoy.service.ext_proc.v3) and the door answers its messages, one for one. It is
// for what ext_authz can't do: being there while a response goes out.
//
// It decides nothing; package gate does, and package answer words it. What it does
// at each phase is a processor, one file each.
//
// To Envoy a stream that ends with OK before it answered means "go on", even where
// the filter is told to fail closed (measured on Envoy 1.40). So every way out of a stream
// that is not an answer is a gRPC error.
//
// A stream holds a few KiB and never a body. It costs about 1.4 times a Check.
package extproc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/gate"
)

// Admitter is the gate as this door sees it; its contract is [gate.Gate.Admit].
type Admitter interface {
	Admit(now int64, r *gate.Request, d *gate.Decision)
}

// Options are what a door is made of.
type Options struct {
	Gate    Admitter       // required
	Answers *answer.Writer // required
	// Peer names who calls, from the transport; false refuses the stream. Required.
	Peer func(context.Context) (string, bool)
	Log  *slog.Logger     // panics; default slog.Default()
	Now  func() time.Time // default time.Now
}

// Server is the door. It is safe for concurrent use.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer

	o        Options
	panics   atomic.Uint64
	refused  atomic.Uint64
	observed atomic.Uint64
}

// New returns a door. It panics if a required option is missing.
func New(o Options) *Server {
	if o.Gate == nil || o.Answers == nil || o.Peer == nil {
		panic("extproc: Gate, Answers and Peer are required")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Server{o: o}
}

// Register serves the door on r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	extprocv3.RegisterExternalProcessorServer(r, s)
}

// Panics is how many streams panicked and were ended with an error since New.
func (s *Server) Panics() uint64 { return s.panics.Load() }

// OutOfOrder is how many streams were ended because of what they sent, or when.
func (s *Server) OutOfOrder() uint64 { return s.refused.Load() }

// Observed is how many streams came in observability mode, where nothing is
// asked: they are closed without a charge.
func (s *Server) Observed() uint64 { return s.observed.Load() }

// errDone ends a stream whose request was refused: Envoy has its answer.
var errDone = errors.New("extproc: answered for good")

// Process serves one stream, which is one HTTP request.
func (s *Server) Process(stream grpc.BidiStreamingServer[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse]) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if n := s.panics.Add(1); n&(n-1) == 0 {
				s.o.Log.Error("ext_proc: a stream panicked and was ended", "panics", n, "stack", string(debug.Stack()))
			}
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	peer, known := s.o.Peer(stream.Context())
	if !known {
		return status.Error(codes.PermissionDenied, "this peer may not ask")
	}
	x := &exchange{server: s, peer: peer}
	for {
		in, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && x.phase == phaseStart:
			return status.Error(codes.InvalidArgument, "the stream ended before it asked")
		case errors.Is(err, io.EOF):
			return nil // all that was asked is answered
		case err != nil:
			return err // Envoy is done with the request: the usual end
		}
		if err := stream.Context().Err(); err != nil { // Envoy no longer waits; don't charge
			return status.FromContextError(err).Err()
		}
		if in.GetObservabilityMode() {
			s.observed.Add(1)
			return nil
		}
		out, err := x.step(in)
		if err != nil && !errors.Is(err, errDone) {
			s.refused.Add(1)
			return err
		}
		if sendErr := stream.Send(out); sendErr != nil {
			return sendErr
		}
		if err != nil {
			return nil
		}
	}
}

// phase is how far a stream is. Messages of one direction come in order; those of
// the two directions may interleave.
type phase uint8

const (
	phaseStart    phase = iota
	phaseRequest        // request headers were admitted
	phaseResponse       // response headers were seen
	phaseLocal          // a response that never was a request: a filter before us answered
)

// exchange is the state of one stream. Nothing of it is shared.
type exchange struct {
	server   *Server
	peer     string
	phase    phase
	decision gate.Decision
	answer   answer.Answer

	requestTrailers, responseTrailers bool
}

// step answers one message, or says why the stream must end. A message that has
// no place here is an error, never an answer: Envoy would take it for that of another message.
func (x *exchange) step(in *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	if streamed(in.GetProtocolConfig()) {
		return nil, status.Error(codes.FailedPrecondition,
			"body mode FULL_DUPLEX_STREAMED is not served: set request_body_mode and response_body_mode to NONE")
	}
	switch request := in.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		if x.phase != phaseStart {
			return nil, outOfOrder("request headers")
		}
		return x.admit(in, request.RequestHeaders)
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		switch x.phase {
		case phaseStart:
			x.phase = phaseLocal
		case phaseRequest:
			x.phase = phaseResponse
		default:
			return nil, outOfOrder("response headers")
		}
		return x.rateLimitHeaders(), nil
	case *extprocv3.ProcessingRequest_RequestBody:
		if x.phase != phaseRequest && x.phase != phaseResponse || x.requestTrailers {
			return nil, outOfOrder("a request body")
		}
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: &extprocv3.BodyResponse{},
		}}, nil
	case *extprocv3.ProcessingRequest_ResponseBody:
		if x.phase != phaseResponse && x.phase != phaseLocal || x.responseTrailers {
			return nil, outOfOrder("a response body")
		}
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
			ResponseBody: &extprocv3.BodyResponse{},
		}}, nil
	case *extprocv3.ProcessingRequest_RequestTrailers:
		if x.phase != phaseRequest && x.phase != phaseResponse || x.requestTrailers {
			return nil, outOfOrder("request trailers")
		}
		x.requestTrailers = true
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestTrailers{
			RequestTrailers: &extprocv3.TrailersResponse{},
		}}, nil
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		// Without response headers too: their mode may be SKIP, so that only the stream lasts.
		if x.phase == phaseStart || x.responseTrailers {
			return nil, outOfOrder("response trailers")
		}
		x.responseTrailers = true
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{
			ResponseTrailers: &extprocv3.TrailersResponse{},
		}}, nil
	default:
		return nil, status.Error(codes.InvalidArgument, "the message asks nothing that is known here")
	}
}

func outOfOrder(what string) error {
	return status.Error(codes.InvalidArgument, what+" came out of order")
}

// streamed reports a body mode that wants answers of a kind that this door does not give.
func streamed(c *extprocv3.ProtocolConfiguration) bool {
	const full = modev3.ProcessingMode_FULL_DUPLEX_STREAMED
	return c.GetRequestBodyMode() == full || c.GetResponseBodyMode() == full
}
