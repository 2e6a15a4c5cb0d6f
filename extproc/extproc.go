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
	"sync"
	"sync/atomic"
	"time"

	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/gate"
)

// Admitter is the gate as this door sees it; its contract is [gate.Gate.Admit].
type Admitter interface {
	Admit(ctx context.Context, now int64, r *gate.Request, d *gate.Decision)
}

// Options are what a door is made of.
type Options struct {
	Gate    Admitter       // required
	Answers *answer.Writer // required
	// Peer names who calls, from the transport; false refuses the stream, and the name is its address then, if that
	// is known. Required.
	Peer func(context.Context) (string, bool)
	// Trace begins a span: the context has it, and the id is its trace's. Observe is told what was decided, with that
	// context, and ends it, however long the stream lasts. Optional, each.
	Trace   func(context.Context) (context.Context, [16]byte)
	Observe func(ctx context.Context, began time.Time, r *gate.Request, d *gate.Decision)
	// Refused is told of each refusal that the door makes itself, without asking; its contract is
	// gate.Gate.Refuse. Nil: nobody records them.
	Refused func(now int64, r *gate.Request, d *gate.Decision)
	Log     *slog.Logger     // panics; default slog.Default()
	Now     func() time.Time // default time.Now

	// Recheck says whether a request that was admitted may go on. It is asked when Revision
	// has changed and twice a minute, for each request that is under way; a panic is a no. nil
	// leaves running streams alone. reason is what the caller is told; now is Unix µs.
	//
	// Stands is the half of it that is cheap whatever the rules cost: of all requests that is asked first, and again if
	// the revision changes while Recheck is still being asked. Optional. Both are asked about the end of the credential, too.
	Stands  func(now int64, h *gate.Held) (ok bool, reason gate.Reason)
	Recheck func(now int64, h *gate.Held) (ok bool, reason gate.Reason)
	// Revision is that of the snapshot which decides now, as gate.Decision has it.
	// Required with Recheck.
	Revision func() uint64
	// Ended is told of each stream that was ended, for the audit log. It must not
	// block, and may be called from several goroutines. Optional.
	Ended func(now int64, h *gate.Held, reason gate.Reason)
}

// Server is the door. It is safe for concurrent use.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer

	o        Options
	live     live
	ended    []atomic.Uint64 // by reason
	stuck    atomic.Uint64
	panics   atomic.Uint64
	refused  atomic.Uint64
	observed atomic.Uint64
	took     [2]atomic.Int64 // of Sweeps, ns
}

// New returns a door. It panics if a required option is missing.
func New(o Options) *Server {
	if o.Gate == nil || o.Answers == nil || o.Peer == nil {
		panic("extproc: Gate, Answers and Peer are required")
	}
	if o.Recheck != nil && o.Revision == nil {
		panic("extproc: Recheck needs Revision")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Server{o: o, ended: make([]atomic.Uint64, len(gate.Reasons()))}
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

// Live is how many admitted requests are under way.
func (s *Server) Live() int { return s.live.len() }

// Ended is how many streams were ended for that reason after they were admitted.
func (s *Server) Ended(r gate.Reason) uint64 {
	if int(r) >= len(s.ended) {
		return 0
	}
	return s.ended[r].Load()
}

// Stuck is how many streams Envoy left open for five seconds after it was told
// to end them. It should be 0.
func (s *Server) Stuck() uint64 { return s.stuck.Load() }

// Sweeps is how long it took, when all streams were asked last, to ask for the tenant and the credential of each, and
// for the rules. 0 before the first.
func (s *Server) Sweeps() (credentials, rules time.Duration) {
	return time.Duration(s.took[0].Load()), time.Duration(s.took[1].Load())
}

// errDone ends a stream whose request was refused: Envoy has its answer.
var errDone = errors.New("extproc: answered for good")

// Process serves one stream, which is one HTTP request.
func (s *Server) Process(stream grpc.BidiStreamingServer[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse]) (err error) {
	x := &exchange{server: s, stream: stream}
	defer func() {
		if p := recover(); p != nil {
			if n := s.panics.Add(1); n&(n-1) == 0 {
				s.o.Log.Error("ext_proc: a stream panicked and was ended", "panics", n, "stack", string(debug.Stack()))
			}
			if d := &x.decision; d.Allowed() || d.ID == ([16]byte{}) { // else the refusal is on record
				x.refused(gate.ReasonInternal, "the door failed")
			}
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	peer, known := s.o.Peer(stream.Context())
	if !known {
		x.source = peer
		x.refused(gate.ReasonForbidden, "this peer may not ask")
		return status.Error(codes.PermissionDenied, "this peer may not ask")
	}
	x.peer = peer
	defer x.finish()
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
		out, err := x.step(stream.Context(), in)
		if err != nil && !errors.Is(err, errDone) {
			s.refused.Add(1)
			why := status.Convert(err)
			if why.Code() == codes.InvalidArgument {
				x.refused(gate.ReasonMalformed, why.Message())
			} else {
				x.refused(gate.ReasonInternal, why.Message())
			}
			return err
		}
		if out == nil { // Envoy was told already
			return nil
		}
		sent, sendErr := x.send(out)
		switch {
		case sendErr != nil:
			return sendErr
		case !sent: // it was ended meanwhile, and Envoy's message crossed that
			return status.Error(codes.PermissionDenied, "the request may not go on")
		case err != nil:
			return nil
		}
	}
}

// refused has a refusal of the door's own recorded. Of a request that was admitted before, the detail says which.
func (x *exchange) refused(reason gate.Reason, detail string) {
	s := x.server
	if s.o.Refused == nil {
		return
	}
	if x.decision.Allowed() {
		detail += ", after decision " + gate.FormatID(x.decision.ID)
	}
	r := gate.Request{Peer: x.peer, Credentials: authz.Credentials{Source: x.source}}
	s.o.Refused(s.o.Now().UnixMicro(), &r, &gate.Decision{Reason: reason, Detail: detail})
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

// exchange is the state of one stream. Process alone touches it, but for what is marked.
type exchange struct {
	server   *Server
	peer     string
	source   string // the client's address, or that of a peer that may not ask
	phase    phase
	decision gate.Decision
	answer   answer.Answer

	requestTrailers, responseTrailers bool

	// Of the sweeper too. held is not changed once the exchange is live.
	held  gate.Held
	shard *liveShard
	index int // of shard.mu

	mu     sync.Mutex // held while sending
	stream grpc.BidiStreamingServer[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse]
	over   bool // of mu; nothing may be sent any more
	sent   atomic.Int32
	done   atomic.Bool

	endingAt atomic.Int64 // when Envoy was told to end it; 0 for not
	stuck    bool         // the sweeper's alone
}

// step answers one message, or says why the stream must end. A message that has
// no place here is an error, never an answer: Envoy would take it for that of another message.
func (x *exchange) step(ctx context.Context, in *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	if streamed(in.GetProtocolConfig()) {
		return nil, status.Error(codes.FailedPrecondition,
			"body mode FULL_DUPLEX_STREAMED is not served: set request_body_mode and response_body_mode to NONE")
	}
	switch request := in.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		if x.phase != phaseStart {
			return nil, outOfOrder("request headers")
		}
		if bodies(in.GetProtocolConfig()) && upgrades(request.RequestHeaders) {
			return nil, status.Error(codes.FailedPrecondition,
				"an upgrade (WebSocket) is served without bodies only: set request_body_mode and response_body_mode to NONE on this route")
		}
		return x.admit(ctx, in, request.RequestHeaders)
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

// bodies reports a mode in which Envoy sends bodies at all.
func bodies(c *extprocv3.ProtocolConfiguration) bool {
	return c.GetRequestBodyMode() != modev3.ProcessingMode_NONE || c.GetResponseBodyMode() != modev3.ProcessingMode_NONE
}

// upgrades reports a request that becomes a stream of bytes. Envoy shows the extended
// CONNECT of HTTP/2 as an upgrade too.
func upgrades(h *extprocv3.HttpHeaders) bool {
	for _, header := range h.GetHeaders().GetHeaders() {
		switch header.GetKey() {
		case "upgrade", ":protocol":
			return true
		case ":method":
			if string(header.GetRawValue()) == "CONNECT" || header.GetValue() == "CONNECT" {
				return true
			}
		}
	}
	return false
}

// streamed reports a body mode that wants answers of a kind that this door does not give.
func streamed(c *extprocv3.ProtocolConfiguration) bool {
	const full = modev3.ProcessingMode_FULL_DUPLEX_STREAMED
	return c.GetRequestBodyMode() == full || c.GetResponseBodyMode() == full
}
