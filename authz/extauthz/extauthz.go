// Package extauthz is the ext_authz door: Envoy asks it with
// envoy.service.auth.v3.Authorization/Check before a request goes on, and gets
// one answer: allow with headers and metadata, or a refusal ready for the caller.
//
// It decides nothing; package gate does. Whatever the input, the answer is a
// decision and never a gRPC error, so that input can't choose Envoy's failure mode.
//
// To Envoy an empty CheckResponse is an ALLOW. Here only one function writes a
// response without an error status, and it asks the gate's Decision first.
//
// A Check reads and writes the wire itself: about 3 µs, the gate included, and a
// dozen small allocations. Behind a gRPC server it costs what a handler of the generated types costs
// that does nothing, within a few per cent.
package extauthz

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/headers"
	"github.com/voicecore-ai/sluice/authz/rawpb"
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
	// Peer names who calls, from the transport; false refuses it (403), since
	// whoever can call this door can claim any principal; the name is then its address, if that is known. Required. The
	// access-log door must name the same Envoy the same way: a decision id is bound to it.
	Peer func(context.Context) (string, bool)
	// Trace begins a span: the context has it, and the id is its trace's. Observe is told what was decided, with that
	// context, and ends it. Optional, each.
	Trace   func(context.Context) (context.Context, [16]byte)
	Observe func(ctx context.Context, began time.Time, r *gate.Request, d *gate.Decision)
	// Refused is told of each refusal that the door makes itself, without asking; its contract is
	// gate.Gate.Refuse. Nil: nobody records them.
	Refused func(now int64, r *gate.Request, d *gate.Decision)
	Log     *slog.Logger     // panics; default slog.Default()
	Now     func() time.Time // default time.Now
}

// Server is the door. It is safe for concurrent use.
type Server struct {
	o      Options
	calls  sync.Pool
	panics atomic.Uint64
}

// New returns a door. It panics if a required option is missing: that is a
// mistake of the composition root, and a door that can't ask must not open.
func New(o Options) *Server {
	if o.Gate == nil || o.Answers == nil || o.Peer == nil {
		panic("extauthz: Gate, Answers and Peer are required")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{o: o}
	s.calls.New = func() any { return &call{in: rawpb.New(nil)} }
	return s
}

// Register serves the door on r.
func (s *Server) Register(r grpc.ServiceRegistrar) { r.RegisterService(&serviceDesc, s) }

// Panics is how many calls panicked and were refused since New.
func (s *Server) Panics() uint64 { return s.panics.Load() }

// serviceDesc is the generated one with a handler that takes the bytes. The
// generated handler would refuse what is no UTF-8 with a gRPC error.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
	HandlerType: (*checker)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handle}},
	Metadata:    authv3.Authorization_ServiceDesc.Metadata,
}

type checker interface {
	check(ctx context.Context, c *call) *rawpb.Raw
	borrow() *call
	giveBack(c *call)
}

func handle(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's signature
	s := srv.(checker) //nolint:errcheck // gRPC checks HandlerType when registering
	c := s.borrow()
	if err := decode(c.in); err != nil {
		c.broken = true
	}
	if interceptor == nil {
		out := s.check(ctx, c)
		s.giveBack(c)
		return out, nil
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: authv3.Authorization_Check_FullMethodName}
	// An interceptor may keep what it saw, so c is not used again.
	return interceptor(ctx, c.in, info, func(ctx context.Context, _ any) (any, error) {
		return s.check(ctx, c), nil
	})
}

// call is the memory of one Check.
type call struct {
	in     *rawpb.Raw
	broken bool

	reader    headers.Reader
	pairs     []authz.Header // of in.Bytes
	principal string         // of the source
	source    string         // its address
	holder    string         // principal of the destination
	service   string
	stream    string
	body      []byte // of in.Bytes
	text      bool   // the body came as text, which may differ from what the upstream gets
	forms     headerForms

	request  gate.Request
	decision gate.Decision
	answer   answer.Answer
	stripped []string
}

func (s *Server) borrow() *call { return s.calls.Get().(*call) } //nolint:errcheck // the pool holds nothing else

// maxKept keeps one large request from pinning its buffer for ever.
const maxKept = 64 << 10

func (s *Server) giveBack(c *call) {
	if cap(c.in.Bytes) > maxKept {
		return
	}
	c.reset()
	s.calls.Put(c)
}

func (c *call) reset() {
	c.in.Reset()
	c.reader.Reset()
	c.broken, c.principal, c.source, c.holder, c.service, c.forms = false, "", "", "", "", 0
	c.stream, c.body, c.text = "", nil, false
	clear(c.pairs)
	c.pairs = c.pairs[:0]
	c.request = gate.Request{}
	clear(c.stripped)
	c.stripped = c.stripped[:0]
}

// check answers one call. The result is not part of c.
func (s *Server) check(ctx context.Context, c *call) (out *rawpb.Raw) {
	c.decision = gate.Decision{Token: c.decision.Token[:0]} // whatever the gate does, not the answer to the last request
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
			fresh := &call{} // c may be half written
			fresh.reader.GRPC = c.reader.GRPC
			d := &gate.Decision{Detail: "the door failed"}
			if c.decision.Allowed() || c.decision.ID == ([16]byte{}) { // else the refusal is on record
				s.refused(&c.request, d)
			}
			d.Detail = ""
			out = s.refuse(fresh, d)
		}
	}()
	c.read()
	peer, known := s.o.Peer(ctx)
	if !known { // what it says about a caller is on no record
		d := &gate.Decision{Reason: gate.ReasonForbidden, Detail: "this peer may not ask"}
		s.refused(&gate.Request{Credentials: authz.Credentials{Source: peer}}, d)
		return s.refuse(c, d)
	}
	c.ask(peer)
	began := s.o.Now()
	if s.o.Trace != nil {
		ctx, c.request.Trace = s.o.Trace(ctx)
	}
	s.o.Gate.Admit(ctx, began.UnixMicro(), &c.request, &c.decision)
	if s.o.Observe != nil {
		s.o.Observe(ctx, began, &c.request, &c.decision)
	}
	if !c.decision.Allowed() {
		return s.refuse(c, &c.decision)
	}
	return s.allow(c, &c.decision)
}

// refused has a refusal of the door's own recorded.
func (s *Server) refused(r *gate.Request, d *gate.Decision) {
	if s.o.Refused != nil {
		s.o.Refused(s.o.Now().UnixMicro(), r, d)
	}
}

// ask turns what was read into the gate's question.
func (c *call) ask(peer string) {
	c.request = gate.Request{
		Credentials: c.reader.Credentials(),
		Peer:        peer, Stream: c.stream, Holder: c.holder, Malformed: c.reader.Malformed,
		Action: authz.Action{
			Service: c.service, Host: c.reader.Host, Method: c.reader.Method, Path: c.reader.Path, GRPC: c.reader.GRPC,
			Headers: c.pairs, Body: authz.Body{Bytes: c.body, Whole: c.whole()},
		},
	}
	c.request.Credentials.Source = c.source
	if strings.HasPrefix(c.principal, "spiffe://") {
		c.request.Credentials.SPIFFE = c.principal
	}
}

// panicked logs the 1st, 2nd, 4th, 8th … panic: a caller who found one can't
// fill the disk with it. The value may quote input, so only its place is logged.
func (s *Server) panicked(any) {
	n := s.panics.Add(1)
	if n&(n-1) == 0 {
		s.o.Log.Error("ext_authz: a check panicked and was refused", "panics", n, "stack", string(debug.Stack()))
	}
}
