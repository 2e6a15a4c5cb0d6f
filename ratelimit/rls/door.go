// Package rls is the door for Envoy's global rate limit service
// (envoy.service.ratelimit.v3.RateLimitService): a drop-in for
// envoyproxy/ratelimit that reads the same descriptor files.
//
// Load reads the files, New makes a Door, Door.Register serves it, Door.SetConfig
// swaps the configuration. It is not for limits of tenants and plans: those are
// the quota catalogue's, and the ext_authz door asks about them.
//
// On purpose it differs from the reference in this: all limits of a call are
// charged or none, so a descriptor that is refused costs the others nothing;
// input that can't be counted is answered OVER_LIMIT and never with a gRPC
// error, so that no client can choose what Envoy does when the service fails;
// a limit that is full refuses a look (hits_addend 0) as well.
//
// A decision with two limits costs about a microsecond and allocates nothing;
// the rest of a call is the transport, which is a quarter cheaper with as many
// stream workers (grpc.NumStreamWorkers) as calls in flight.
package rls

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/voicecore-ai/sluice/authz/rawpb"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// Results lists every result, for metrics.
func Results() []Result {
	all := make([]Result, resultCount)
	for i := range all {
		all[i] = Result(i)
	}
	return all
}

// Policy says what to answer when there is nothing to count by.
type Policy uint8

// The policies. The zero value is the default of the option.
const (
	Deny  Policy = iota + 1 // OVER_LIMIT
	Allow                   // OK
)

// Result is why a call was answered as it was, for metrics.
type Result uint8

// The results.
const (
	OK            Result = iota // under every limit
	OverLimit                   // over one at least
	Malformed                   // can't be counted; OVER_LIMIT
	UnknownDomain               // as Options.UnknownDomain says
	StoreFailed                 // as Options.OnError says
	Stranger                    // not a peer; OVER_LIMIT
	Panicked                    // contained; OVER_LIMIT
	Shadowed                    // over one at least, and OK in the soft stage

	resultCount = iota
)

var resultNames = [resultCount]string{
	"ok", "over_limit", "malformed", "unknown_domain", "store_failed", "stranger", "panicked", "shadowed",
}

// String is the result's name in metrics and logs.
func (r Result) String() string {
	if int(r) < len(resultNames) {
		return resultNames[r]
	}
	return "unknown"
}

// Charger is the gate as this door needs it.
type Charger interface {
	// Charge applies all charges or none, as [ratelimit.Store] says.
	Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error)
}

// Options are what a door is made of. Gate and HashKey are required.
type Options struct {
	Gate    Charger
	Config  *Config      // nil knows no domain
	HashKey [16]byte     // secret; another key is another set of counters
	Now     func() int64 // Unix microseconds; nil is the clock

	UnknownDomain Policy // for domains without a file; Allow if 0, as the reference does
	OnError       Policy // when the store fails; Deny if 0

	// Soft is the stage of a roll-out in which no limit refuses: all are counted as if in shadow.
	// What can't be counted, and who may not ask, is answered as ever.
	Soft bool
	// OneShard keeps a domain's counters on one shard, for a store that can't charge several at once, such
	// as a Redis Cluster: descriptors of one request may differ in their first entries.
	OneShard bool
	// Headers adds RateLimit-Limit, -Remaining and -Reset to the response, as the
	// reference can; Envoy's enable_x_ratelimit_headers needs no help from here.
	Headers bool
	// Peer names the caller and reports whether it may ask; nil lets everybody.
	Peer func(context.Context) (string, bool)
	// Trace begins a span, which the context has. Observe is told what the call came to, with that context, and
	// ends it. Optional, each.
	Trace   func(context.Context) context.Context
	Observe func(ctx context.Context, began time.Time, a Answer)
	// OnLimit is told about every limit that a call met, shadow ones too; nil: nobody.
	OnLimit func(limit string, hits int64, over bool)
	Log     *slog.Logger // nil: none
}

// Door answers ShouldRateLimit. It is safe for concurrent use.
type Door struct {
	o         Options
	hash      hasher
	config    atomic.Pointer[Config]
	overrides overrideCache
	calls     sync.Pool
	counts    [resultCount]atomic.Uint64
	nextLog   [resultCount]atomic.Int64 // µs; a line of a kind once a minute
}

// New returns a door.
func New(o Options) *Door {
	if o.Now == nil {
		o.Now = func() int64 { return time.Now().UnixMicro() }
	}
	if o.UnknownDomain == 0 {
		o.UnknownDomain = Allow
	}
	if o.OnError == 0 {
		o.OnError = Deny
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Door{o: o, hash: newHasher(o.HashKey)}
	d.calls.New = func() any { return new(call) }
	d.SetConfig(o.Config)
	return d
}

// SetConfig swaps the configuration. Calls that have begun end with the one
// that they began with; counters of limits that both have stay.
func (d *Door) SetConfig(c *Config) {
	if c == nil {
		c = new(Config)
	}
	d.config.Store(c)
}

// Count is how many calls ended with r since New.
func (d *Door) Count(r Result) uint64 { return d.counts[r].Load() }

// Register serves the door under the names of the generated service, so that
// reflection finds it.
func (d *Door) Register(s grpc.ServiceRegistrar) {
	generated := &ratelimitv3.RateLimitService_ServiceDesc
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: generated.ServiceName,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "ShouldRateLimit", Handler: handle}},
		Metadata:    generated.Metadata,
	}, d)
}

func handle(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc.MethodDesc says so
	d := srv.(*Door)           //nolint:errcheck // Register registered a Door
	c := d.calls.Get().(*call) //nolint:errcheck // the pool holds nothing else
	if err := decode(&c.raw); err != nil {
		return nil, err
	}
	if interceptor == nil {
		return d.serve(ctx, c), nil
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: ratelimitv3.RateLimitService_ShouldRateLimit_FullMethodName}
	return interceptor(ctx, &c.raw, info, func(ctx context.Context, _ any) (any, error) { return d.serve(ctx, c), nil })
}

// serve answers c and takes it back.
func (d *Door) serve(ctx context.Context, c *call) *rawpb.Raw {
	reply := rawpb.New(nil)
	if d.answer(ctx, c) { // a call that panicked is left to the collector
		reply.Bytes = slices.Clone(c.out)
		c.recycle(&d.calls)
		return reply
	}
	reply.Bytes = appendOverall(nil, true)
	return reply
}

// answer fills c.out and reports whether c is whole.
func (d *Door) answer(ctx context.Context, c *call) (whole bool) {
	result := Panicked
	defer func() {
		d.counts[result].Add(1)
		if result == Panicked {
			d.warn(Panicked, "a rate limit call panicked", "panic", recover(), "stack", string(debug.Stack()))
		}
	}()
	if d.o.Peer != nil {
		if name, ok := d.o.Peer(ctx); !ok {
			c.refuse()
			result = Stranger
			d.warn(Stranger, "a caller is not on the list of peers", "peer", name)
			return true
		}
	}
	now := d.o.Now()
	var began time.Time
	if d.o.Observe != nil {
		began = time.Now()
	}
	if d.o.Trace != nil {
		ctx = d.o.Trace(ctx)
	}
	came := d.decide(c, now)
	if d.o.Observe != nil {
		d.o.Observe(ctx, began, Answer{c, came, d.passes(came)})
	}
	result = came
	return true
}

// passes reports whether a call that came to r was answered OK.
func (d *Door) passes(r Result) bool {
	switch r {
	case OK, Shadowed:
		return true
	case UnknownDomain:
		return d.o.UnknownDomain == Allow
	case StoreFailed:
		return d.o.OnError == Allow
	default:
		return false
	}
}

// warn logs a line of its kind at most once a minute.
func (d *Door) warn(kind Result, message string, args ...any) {
	now := d.o.Now()
	next := d.nextLog[kind].Load()
	if now < next || !d.nextLog[kind].CompareAndSwap(next, now+time.Minute.Microseconds()) {
		return
	}
	d.o.Log.Warn(message, append(args, "total", d.counts[kind].Load())...)
}
