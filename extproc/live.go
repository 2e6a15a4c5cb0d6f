package extproc

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/gate"
)

// How soon a change reaches a stream: within one interval and the time of one
// sweep. Every so often all are asked again without a change, for rules that look at the clock.
const (
	sweepInterval = 500 * time.Millisecond
	recheckAll    = 30 * time.Second
)

// patience is how long Envoy has to end a stream that it was told to end.
const patience = 5 * time.Second

// live are the exchanges that were admitted and go on. An exchange is in it from
// its admission until its stream ends, so most are in it for milliseconds.
type live struct {
	next   atomic.Uint32
	shards [64]liveShard
}

type liveShard struct {
	mu      sync.Mutex
	entries []liveEntry
}

// liveEntry has beside the exchange when to look at it whatever else happens, so
// that a sweep without a change reads 16 bytes of each.
type liveEntry struct {
	due int64 // Unix µs; 0 for never
	x   *exchange
}

func (l *live) add(x *exchange, due int64) {
	s := &l.shards[l.next.Add(1)%uint32(len(l.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	x.shard, x.index = s, len(s.entries) // the shard for good, the index under its lock
	s.entries = append(s.entries, liveEntry{due, x})
}

func (l *live) remove(x *exchange) {
	s := x.shard
	if s == nil { // never admitted
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.entries) - 1
	s.entries[x.index] = s.entries[last]
	s.entries[x.index].x.index = x.index
	s.entries[last] = liveEntry{}
	s.entries = s.entries[:last]
	x.index = -1
	if last >= 64 && last < cap(s.entries)/4 { // a flood is over
		s.entries = slices.Clone(s.entries)
	}
}

func (l *live) len() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

// take appends to to the exchanges of one shard that are to be looked at. What is due is due no more.
func (s *liveShard) take(to []*exchange, now int64, all bool) []*exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.entries {
		e := &s.entries[i]
		overdue := e.due != 0 && e.due <= now
		if overdue {
			e.due = 0
		}
		if overdue || all {
			to = append(to, e.x)
		}
	}
	return to
}

// all appends to to every exchange of one shard.
func (s *liveShard) all(to []*exchange) []*exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.entries {
		to = append(to, s.entries[i].x)
	}
	return to
}

// expect has x looked at again at due.
func (l *live) expect(x *exchange, due int64) {
	s := x.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.index >= 0 {
		s.entries[x.index].due = due
	}
}

// sweeper looks at live exchanges. Only one goroutine sweeps.
type sweeper struct {
	revision uint64
	full     int64 // when all were asked last
	batch    []*exchange
}

// Run ends streams that may no longer go on, until ctx ends. Call it once, and
// keep it running while the server drains. Without Options.Recheck it has nothing to do.
func (s *Server) Run(ctx context.Context) {
	if s.o.Recheck == nil {
		return
	}
	sweep := new(sweeper) // so the first sweep asks all: they may be older than Run
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	asked := make(chan struct{}, 1)
	due, asking := false, false
	for {
		select {
		case <-ctx.Done():
			if asking {
				<-asked
			}
			return
		case <-asked:
			asking = false
		case <-ticker.C:
			due = s.sweep(sweep, s.o.Now().UnixMicro()) || due
		}
		if due && !asking { // beside the sweeps, since what rules cost must not make a suspended tenant wait
			due, asking = false, true
			go func() { s.askAll(ctx, func() int64 { return s.o.Now().UnixMicro() }); asked <- struct{}{} }()
		}
	}
}

// sweep asks for every exchange whether its tenant and credential stand, if the snapshot has changed;
// else only for those whose time has come. It is true if the rules must be asked about all, too.
func (s *Server) sweep(w *sweeper, now int64) (all bool) {
	revision := s.o.Revision() // before the exchanges: one that is admitted later looks itself
	all = revision != w.revision || now-w.full >= recheckAll.Microseconds() || now < w.full
	if all {
		w.revision, w.full = revision, now
	}
	began := time.Now()
	for i := range s.live.shards {
		w.batch = s.live.shards[i].take(w.batch[:0], now, all)
		for _, x := range w.batch {
			s.look(now, x)
		}
		clear(w.batch)
	}
	if all {
		s.took[0].Store(int64(time.Since(began)))
	}
	return all
}

// look ends x if its tenant or credential stands no more.
func (s *Server) look(now int64, x *exchange) {
	switch at := x.endingAt.Load(); {
	case x.done.Load():
	case at != 0:
		if !x.stuck && now-at >= patience.Microseconds() {
			x.stuck = true
			if n := s.stuck.Add(1); n&(n-1) == 0 {
				s.o.Log.Error("ext_proc: Envoy did not end a stream that it was told to end",
					"streams", n, "peer", x.peer, "tenant", x.held.Tenant)
			}
		}
	default:
		if ok, reason := s.ask(now, &x.held, s.o.Stands); !ok {
			s.stop(now, x, reason)
		}
	}
}

// askAll asks about every exchange all that there is to ask, the rules included. A condition may cost up to half a
// millisecond, so all processors take part, and requests get their turn after each.
func (s *Server) askAll(ctx context.Context, now func() int64) {
	began := time.Now()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(s.live.shards)) {
		workers.Go(func() {
			var batch []*exchange
			for {
				i := int(next.Add(1)) - 1
				if i >= len(s.live.shards) {
					return
				}
				batch = s.live.shards[i].all(batch[:0])
				for _, x := range batch {
					if ctx.Err() != nil {
						return
					}
					if x.done.Load() || x.endingAt.Load() != 0 {
						continue
					}
					if ok, reason := s.ask(now(), &x.held, s.o.Recheck); !ok {
						s.stop(now(), x, reason)
					}
					runtime.Gosched()
				}
				clear(batch)
			}
		})
	}
	workers.Wait()
	s.took[1].Store(int64(time.Since(began)))
}

// stop ends x, which two goroutines may find at once.
func (s *Server) stop(now int64, x *exchange, reason gate.Reason) {
	if !x.endingAt.CompareAndSwap(0, now) {
		return
	}
	s.live.expect(x, now+patience.Microseconds())
	if x.sent.Load() < maybeFull {
		s.end(now, x, reason)
	} else {
		go s.end(now, x, reason) // one slow Envoy must not keep the others' streams alive
	}
}

// maybeFull is from how many answers on a stream could fill what gRPC queues for it
// (64 KiB) if Envoy stopped reading, and sending could block. Answers but those to headers have a few bytes.
const maybeFull = 1024

// ask never says yes by accident: a panic is a no. Without a question the end of the credential is all that is asked.
func (s *Server) ask(now int64, h *gate.Held, question func(int64, *gate.Held) (bool, gate.Reason)) (ok bool, reason gate.Reason) {
	defer func() {
		if p := recover(); p != nil {
			if n := s.panics.Add(1); n&(n-1) == 0 {
				s.o.Log.Error("ext_proc: a check of a running stream panicked and the stream is ended", "panics", n, "stack", string(debug.Stack()))
			}
			ok, reason = false, gate.ReasonInternal
		}
	}()
	if question == nil {
		if end := h.Principal.Expires; end != 0 && end <= now {
			return false, gate.ReasonUnauthenticated
		}
		return true, gate.ReasonAdmitted
	}
	return question(now, h)
}

// end tells Envoy to end the request, once: by an immediate response, which Envoy takes at
// any time. The caller gets it if the response has not begun; else Envoy
// resets both sides (measured on 1.40; docs/guide/streams.md). A gRPC error would end it
// only where failure_mode_allow is false, and takes a goroutine that waits beside Recv.
func (s *Server) end(now int64, x *exchange, reason gate.Reason) {
	defer func() {
		if p := recover(); p != nil {
			if n := s.panics.Add(1); n&(n-1) == 0 {
				s.o.Log.Error("ext_proc: ending a stream panicked", "panics", n, "stack", string(debug.Stack()))
			}
			x.tell(bare()) // if it was not told yet
		}
	}()
	if !x.tell(x.farewell(reason)) {
		return
	}
	if int(reason) < len(s.ended) {
		s.ended[reason].Add(1)
	}
	if s.o.Ended != nil {
		s.o.Ended(now, &x.held, reason)
	}
}

// bare is a refusal that needs nothing.
func bare() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
		ImmediateResponse: &extprocv3.ImmediateResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable}},
	}}
}

func (x *exchange) farewell(reason gate.Reason) *extprocv3.ProcessingResponse {
	h := &x.held
	d := gate.Decision{
		ID: h.Decision, Tenant: h.Tenant, Plan: h.Plan, Principal: h.Principal, Revision: h.Revision, Reason: reason, Detail: ending(reason),
	}
	return x.server.refusal(new(answer.Answer), &d, h.Action.GRPC)
}

// tell sends the last message of a stream, unless it is over already.
func (x *exchange) tell(last *extprocv3.ProcessingResponse) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false
	}
	x.over = true
	_ = x.stream.Send(last) //nolint:errcheck // a stream that can't be told has ended
	return true
}

// send answers one message; false if the stream is over.
func (x *exchange) send(out *extprocv3.ProcessingResponse) (sent bool, err error) {
	x.sent.Add(1)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false, nil
	}
	return true, x.stream.Send(out)
}

// finish lets go of x: nothing may be sent once Process has returned.
func (x *exchange) finish() {
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
	x.done.Store(true)
	x.server.live.remove(x)
}
