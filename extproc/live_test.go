package extproc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// wire is a stream as gRPC gives it, without a network, so that time can be faked around it.
type wire struct {
	grpc.ServerStream
	ctx context.Context
	in  chan *extprocv3.ProcessingRequest // closed for EOF
	out chan *extprocv3.ProcessingResponse
}

func (w *wire) Context() context.Context { return w.ctx }
func (w *wire) Send(r *extprocv3.ProcessingResponse) error {
	w.out <- r
	return nil
}
func (w *wire) Recv() (*extprocv3.ProcessingRequest, error) {
	select {
	case r, ok := <-w.in:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-w.ctx.Done():
		return nil, status.FromContextError(w.ctx.Err()).Err()
	}
}

// world is a door whose gate admits everybody, and what the tests change in it.
type world struct {
	*Server
	expires  int64 // of whoever asks
	revision atomic.Uint64

	mu    sync.Mutex
	says  gate.Reason // what a recheck says
	asked []gate.Held
	told  []gate.Reason
	boom  string // the plan of whoever makes a recheck panic
}

func (*world) Workload(*quota.Snapshot, *authz.Credentials) (*quota.Account, error) {
	return nil, nil //nolint:nilnil // no workload of a tenant's
}

func (w *world) Identify(_ context.Context, _ int64, _ *quota.Snapshot, c *authz.Credentials) (authz.Principal, *quota.Account, error) {
	if len(c.APIKeys) == 0 {
		return authz.Principal{}, nil, authn.ErrNoCredentials
	}
	return authz.Principal{Scheme: authz.APIKey, Name: c.APIKeys[0], Expires: w.expires}, &quota.Account{Tenant: "acme", Plan: c.APIKeys[0]}, nil
}

func (w *world) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	return true, nil
}

func (w *world) say(r gate.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.says = r
	w.revision.Add(1)
}

func (w *world) Recheck(now int64, h *gate.Held) (bool, gate.Reason) {
	if end := h.Principal.Expires; end != 0 && end <= now { // as the gate does
		return false, gate.ReasonUnauthenticated
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.boom != "" && h.Plan == w.boom {
		panic("a recheck that fails")
	}
	w.asked = append(w.asked, *h)
	return w.says == gate.ReasonAdmitted, w.says
}

// questions are the rechecks so far, and what of the ends was announced.
func (w *world) questions() (asked []gate.Held, told []gate.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked), slices.Clone(w.told)
}

// sweepAll is one sweep, and the questions to the rules that Run asks beside it.
func (w *world) sweepAll(s *sweeper, now int64) {
	if w.sweep(s, now) {
		w.askAll(context.Background(), func() int64 { return now })
	}
}

func newWorld() *world {
	w := &world{says: gate.ReasonAdmitted}
	w.revision.Store(1)
	rules, problems := authz.Compile([]authz.Rule{{Name: "tenants-may", Effect: "allow"}})
	if len(problems) > 0 {
		panic(problems) // a rule of ours
	}
	g := gate.New(gate.Options{
		Snapshot:      func() *quota.Snapshot { return &quota.Snapshot{Revision: w.revision.Load(), Rules: rules} },
		Authenticator: w, Store: w,
	})
	w.Server = New(Options{
		Gate: g, Answers: answer.NewWriter(answer.Off), Log: slog.New(slog.DiscardHandler),
		Peer:    func(context.Context) (string, bool) { return "spiffe://mesh/gateway", true },
		Recheck: w.Recheck, Revision: w.revision.Load,
		Ended: func(_ int64, _ *gate.Held, r gate.Reason) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, r)
		},
	})
	return w
}

// call is one stream that is served.
type call struct {
	*wire
	cancel context.CancelFunc
	ended  chan error
}

func (w *world) open(t *testing.T) *call {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &call{cancel: cancel, ended: make(chan error, 1), wire: &wire{
		ctx: ctx, in: make(chan *extprocv3.ProcessingRequest), out: make(chan *extprocv3.ProcessingResponse, 4),
	}}
	go func() { c.ended <- w.Process(c.wire) }()
	t.Cleanup(cancel)
	return c
}

func (c *call) ask(t *testing.T, r *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	t.Helper()
	c.in <- r
	return <-c.out
}

// admitted opens a stream and has its request admitted.
func (w *world) admitted(t *testing.T, key string, pairs ...string) *call {
	t.Helper()
	c := w.open(t)
	if r := c.ask(t, asks(append(missing(pairs, ":method", "GET", ":authority", "api", ":path", "/v1/calls?id=1", "x-api-key", key), pairs...)...)); r.GetRequestHeaders() == nil {
		t.Fatalf("not admitted: %v", r)
	}
	return c
}

// missing are those of the pairs that given does not name.
func missing(given []string, pairs ...string) (out []string) {
	for i := 0; i < len(pairs); i += 2 {
		if !slices.Contains(given, pairs[i]) {
			out = append(out, pairs[i], pairs[i+1])
		}
	}
	return out
}

func asks(pairs ...string) *extprocv3.ProcessingRequest {
	m := new(corev3.HeaderMap)
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: m}}}
}

func answers() *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}}
}

func TestARunningStreamIsEnded(t *testing.T) {
	for _, c := range []struct {
		name   string
		says   gate.Reason
		status int32
	}{
		{"S-01 the tenant is suspended", gate.ReasonSuspended, 403},
		{"S-01 the key is revoked", gate.ReasonUnauthenticated, 401},
		{"S-01 the rules now deny", gate.ReasonForbidden, 403},
		{"S-01 the quota is used up", gate.ReasonOverLimit, 429},
		{"it can't be decided", gate.ReasonInternal, 503},
	} {
		for _, begun := range []bool{false, true} {
			name := c.name + " before the response"
			if begun {
				name = c.name + " while the response goes out"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld()
					go w.Run(t.Context())
					time.Sleep(time.Second) // its first sweep is done
					x := w.admitted(t, "k1")
					if begun {
						x.ask(t, answers())
					}
					time.Sleep(10*time.Second + 3*time.Millisecond)
					if asked, _ := w.questions(); len(asked) != 0 || w.Live() != 1 {
						t.Fatalf("asked %d times without a change, %d live", len(asked), w.Live())
					}
					w.say(c.says)
					changed := time.Now()
					r := <-x.out
					if after := time.Since(changed); after > sweepInterval {
						t.Errorf("told after %v", after)
					}
					if s := int32(r.GetImmediateResponse().GetStatus().GetCode()); s != c.status {
						t.Errorf("told %v", r)
					}
					synctest.Wait()
					if _, told := w.questions(); w.Ended(c.says) != 1 || len(told) != 1 || told[0] != c.says {
						t.Errorf("counted %d, announced %v", w.Ended(c.says), told)
					}
					x.cancel() // as Envoy does
					if err := <-x.ended; err == nil || w.Live() != 0 {
						t.Errorf("%v, %d live", err, w.Live())
					}
				})
			})
		}
	}
}

func TestAStreamEndsWithItsCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		end := time.Now().Add(90 * time.Second)
		w.expires = end.UnixMicro()
		go w.Run(t.Context())
		time.Sleep(time.Second) // its first sweep is done
		x := w.admitted(t, "k1")
		r := <-x.out
		if late := time.Since(end); late < 0 || late > sweepInterval {
			t.Errorf("ended %v after the credential", late)
		}
		if code := r.GetImmediateResponse().GetStatus().GetCode(); code != 401 {
			t.Errorf("told %v", r)
		}
	})
}

func TestAStreamThatMayGoOnIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		go w.Run(t.Context())
		time.Sleep(time.Second) // its first sweep is done
		x := w.admitted(t, "k1")
		w.say(gate.ReasonAdmitted)
		time.Sleep(time.Second)
		if asked, _ := w.questions(); len(asked) != 1 {
			t.Errorf("asked %d times after one change", len(asked))
		}
		time.Sleep(recheckAll) // rules may look at the clock
		if asked, _ := w.questions(); len(asked) != 2 {
			t.Errorf("asked %d times after half a minute", len(asked))
		}
		if r := x.ask(t, answers()); r.GetResponseHeaders() == nil {
			t.Errorf("%v", r)
		}
		close(x.in)
		if err := <-x.ended; err != nil || w.Live() != 0 {
			t.Errorf("%v, %d live", err, w.Live())
		}
	})
}

func TestAChangeBetweenDecisionAndWatchIsSeen(t *testing.T) {
	w := newWorld()
	w.o.Revision = func() uint64 { return 2 } // while the gate decided by 1
	w.says = gate.ReasonSuspended
	x := w.open(t)
	if r := x.ask(t, asks(":method", "GET", ":authority", "api", ":path", "/", "x-api-key", "k1")); r.GetImmediateResponse().GetStatus().GetCode() != 403 {
		t.Errorf("told %v", r)
	}
	if err := <-x.ended; err != nil || w.Live() != 0 {
		t.Errorf("%v, %d live", err, w.Live())
	}
	// The gate has recorded that it was admitted, so this end is recorded too.
	if _, told := w.questions(); !slices.Equal(told, []gate.Reason{gate.ReasonSuspended}) || w.Ended(gate.ReasonSuspended) != 1 {
		t.Errorf("recorded %v, counted %d", told, w.Ended(gate.ReasonSuspended))
	}
}

func TestNothingFollowsTheEnd(t *testing.T) {
	w := newWorld()
	x := w.admitted(t, "k1")
	w.say(gate.ReasonSuspended)
	w.sweepAll(&sweeper{}, 1)
	if r := <-x.out; r.GetImmediateResponse() == nil {
		t.Fatalf("told %v", r)
	}
	w.sweepAll(&sweeper{}, 2) // told once is enough
	x.in <- answers()         // Envoy's message that crossed ours
	if err := <-x.ended; status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
	if len(x.out) != 0 || w.Ended(gate.ReasonSuspended) != 1 || w.Live() != 0 {
		t.Errorf("%d messages more, %d ended, %d live", len(x.out), w.Ended(gate.ReasonSuspended), w.Live())
	}
}

func TestAPanicEndsItsOwnStreamOnly(t *testing.T) {
	w := newWorld()
	bad, good := w.admitted(t, "bad"), w.admitted(t, "good")
	w.mu.Lock()
	w.boom = "bad"
	w.mu.Unlock()
	w.say(gate.ReasonAdmitted)
	w.sweepAll(&sweeper{}, 1)
	if r := <-bad.out; r.GetImmediateResponse().GetStatus().GetCode() != 503 {
		t.Errorf("told %v", r)
	}
	if r := good.ask(t, answers()); r.GetResponseHeaders() == nil || w.Panics() != 1 || w.Ended(gate.ReasonInternal) != 1 {
		t.Errorf("%v, %d panics", r, w.Panics())
	}
}

func TestAPanicOfTheAuditLogEndsTheStreamAllTheSame(t *testing.T) {
	w := newWorld()
	w.o.Ended = func(int64, *gate.Held, gate.Reason) { panic("F-02 the sink") }
	x := w.admitted(t, "k1")
	w.say(gate.ReasonSuspended)
	w.sweepAll(&sweeper{}, 1)
	if r := <-x.out; r.GetImmediateResponse().GetStatus().GetCode() != 403 || w.Panics() != 1 || len(x.out) != 0 {
		t.Errorf("%v, %d panics", r, w.Panics())
	}
}

// A peer that stops reading can fill its own stream's queue. Other streams are ended in time.
func TestAStreamThatCannotBeToldDelaysNoOther(t *testing.T) {
	w := newWorld()
	full, other := w.admitted(t, "full"), w.admitted(t, "other")
	for range cap(full.out) { // nobody reads: the next Send blocks
		full.in <- &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{}}}
	}
	for i := range w.live.shards {
		for _, e := range w.live.shards[i].take(nil, 0, true) {
			if e.held.Plan == "full" {
				e.sent.Store(maybeFull)
			}
		}
	}
	full.in <- &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{}}}
	w.say(gate.ReasonSuspended)
	s := &sweeper{}
	for i := range int64(3) {
		w.sweepAll(s, 1+i)
	}
	if r := <-other.out; r.GetImmediateResponse().GetStatus().GetCode() != 403 {
		t.Errorf("%v", r)
	}
	for r := range full.out { // it reads again
		if r.GetImmediateResponse() != nil {
			break
		}
	}
}

func TestAStreamThatEnvoyLeavesOpenIsCountedOnce(t *testing.T) {
	w := newWorld()
	w.admitted(t, "k1")
	w.say(gate.ReasonSuspended)
	s := &sweeper{}
	for now := int64(1); now < 100_000_000; now += 500_000 {
		w.sweepAll(s, now)
		if soon := now < 1+patience.Microseconds(); soon && w.Stuck() != 0 {
			t.Fatalf("counted after %d µs", now)
		}
	}
	if w.Stuck() != 1 {
		t.Errorf("counted %d times", w.Stuck())
	}
}

func TestWhatIsHeld(t *testing.T) {
	w := newWorld()
	w.admitted(t, "k1", ":authority", "API.example.com:8443", "authorization", "Basic c2tfc2VjcmV0", "cookie", "sk_secret",
		"Proxy-Authorization", "Basic c2tfc2VjcmV0", "X_Sluice_Tenant_Token", "eyJ", "x-tenant-id", "umbrella", "content-type", "application/grpc", "X-Team", "blue")
	w.say(gate.ReasonAdmitted)
	w.sweepAll(&sweeper{}, 1)
	if len(w.asked) != 1 {
		t.Fatalf("asked %d times", len(w.asked))
	}
	h := w.asked[0]
	if h.Tenant != "acme" || h.Plan != "k1" || h.Principal.Name != "k1" || h.Revision != 1 || h.Peer != "spiffe://mesh/gateway" || h.Decision == [16]byte{} || h.Since == 0 {
		t.Errorf("held %+v", h)
	}
	a := h.Action
	if a.Host != "api.example.com" || a.Method != "GET" || a.Path != "/v1/calls" || !a.GRPC {
		t.Errorf("action %+v", a)
	}
	var names []string
	for _, header := range a.Headers {
		names = append(names, string(header.Name)+"="+string(header.Value))
	}
	if all := strings.Join(names, " "); all != "content-type=application/grpc x-team=blue" {
		t.Errorf("A-03 headers held: %s", all)
	}
}

func TestEveryWayOutLetsGo(t *testing.T) {
	w := newWorld()
	for name, leave := range map[string]func(*call){
		"a half close":     func(c *call) { close(c.in) },
		"a reset":          func(c *call) { c.cancel() },
		"a wrong message":  func(c *call) { c.in <- asks(":path", "/") },
		"an empty message": func(c *call) { c.in <- &extprocv3.ProcessingRequest{} },
	} {
		t.Run(name+" takes the stream off the watch", func(t *testing.T) {
			x := w.admitted(t, "k1")
			if w.Live() != 1 {
				t.Fatalf("%d live", w.Live())
			}
			leave(x)
			if err := <-x.ended; w.Live() != 0 {
				t.Errorf("%d live after %v", w.Live(), err)
			}
		})
	}
}

// crowd makes n live exchanges whose end nobody waits for.
func crowd(w *world, n int) []*exchange {
	all := make([]*exchange, n)
	for i := range all {
		x := &exchange{server: w.Server, held: gate.Held{Tenant: "acme", Revision: 1}, stream: deaf{}}
		w.live.add(x, 1<<60)
		all[i] = x
	}
	return all
}

type deaf struct {
	grpc.BidiStreamingServer[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse]
}

func (deaf) Send(*extprocv3.ProcessingResponse) error { return errors.New("gone") }

func TestASweepOfManyStreams(t *testing.T) {
	const n = 100_000
	w := newWorld()
	var asked atomic.Int64
	w.o.Recheck = func(int64, *gate.Held) (bool, gate.Reason) { asked.Add(1); return true, gate.ReasonAdmitted }
	all := crowd(w, n)
	s := &sweeper{revision: 1}
	t.Run("S-02 without a change nobody is asked", func(t *testing.T) {
		if allocs := testing.AllocsPerRun(10, func() { w.sweep(s, 1) }); asked.Load() != 0 || allocs != 0 {
			t.Errorf("asked %d times, %v allocations", asked.Load(), allocs)
		}
	})
	t.Run("S-02 after a change each is asked once", func(t *testing.T) {
		w.say(gate.ReasonAdmitted)
		w.sweepAll(s, 2)
		w.sweepAll(s, 3)
		if asked.Load() != n {
			t.Errorf("asked %d times", asked.Load())
		}
	})
	t.Run("F-06 what has ended leaves no memory behind", func(t *testing.T) {
		for _, x := range all {
			x.finish()
		}
		kept := 0
		for i := range w.live.shards {
			kept += cap(w.live.shards[i].entries)
		}
		if w.Live() != 0 || kept > 64*256 {
			t.Errorf("%d live, room for %d", w.Live(), kept)
		}
	})
}

func BenchmarkSweep(b *testing.B) {
	for _, changed := range []bool{false, true} {
		name := "100k streams, no change"
		if changed {
			name = "100k streams, all asked"
		}
		b.Run(name, func(b *testing.B) {
			w := newWorld()
			w.o.Recheck = func(int64, *gate.Held) (bool, gate.Reason) { return true, gate.ReasonAdmitted }
			crowd(w, 100_000)
			s := &sweeper{revision: 1}
			b.ReportAllocs()
			for b.Loop() {
				if changed {
					w.revision.Add(1)
				}
				w.sweepAll(s, 1)
			}
		})
	}
}

func BenchmarkWatch(b *testing.B) {
	w := newWorld()
	crowd(w, 1000)
	x := &exchange{server: w.Server}
	b.ReportAllocs()
	for b.Loop() {
		w.live.add(x, 0)
		w.live.remove(x)
	}
}

// A condition may cost half a millisecond. What it costs for all streams must not keep those of a suspended tenant alive.
func TestS02RulesThatAreSlowDelayNoSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		slow := make(chan struct{})
		var asked atomic.Int64
		w.o.Recheck = func(int64, *gate.Held) (bool, gate.Reason) { asked.Add(1); <-slow; return true, gate.ReasonAdmitted }
		var suspended atomic.Bool
		w.o.Stands = func(int64, *gate.Held) (bool, gate.Reason) { return !suspended.Load(), gate.ReasonSuspended }
		const n = 1000
		all := crowd(w, n)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		time.Sleep(sweepInterval + time.Millisecond)
		if asked.Load() == 0 || asked.Load() > int64(runtime.GOMAXPROCS(0)) {
			t.Errorf("%d are asked about at once", asked.Load())
		}
		suspended.Store(true)
		w.revision.Add(1)
		time.Sleep(sweepInterval + time.Millisecond)
		for _, x := range all {
			if x.endingAt.Load() == 0 {
				t.Fatal("a stream of a suspended tenant goes on while rules are asked")
			}
		}
		close(slow)
		synctest.Wait()
		if n := asked.Load(); n > int64(runtime.GOMAXPROCS(0)) {
			t.Errorf("the rules were asked %d times about streams that had ended", n)
		}
		cancel()
		<-done
	})
}

func TestS02AllProcessorsAskTheRules(t *testing.T) {
	w := newWorld()
	const n = 500
	var asked, most atomic.Int64
	all := crowd(w, n)
	w.o.Recheck = func(int64, *gate.Held) (bool, gate.Reason) { asked.Add(1); return false, gate.ReasonForbidden }
	w.askAll(t.Context(), func() int64 { return 7 })
	for _, x := range all {
		most.Store(max(most.Load(), x.endingAt.Load()))
	}
	if _, rules := w.Sweeps(); asked.Load() != n || most.Load() != 7 || w.Ended(gate.ReasonForbidden) != n || rules <= 0 {
		t.Errorf("asked %d times, ended %d, in %v", asked.Load(), w.Ended(gate.ReasonForbidden), rules)
	}
	w.askAll(t.Context(), func() int64 { return 8 })
	if asked.Load() != n || w.Ended(gate.ReasonForbidden) != n {
		t.Errorf("what had ended was asked about again: %d", asked.Load())
	}
}

func TestWhatIsHeldIsBounded(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		cut     bool
	}{
		{"few", []string{"x-team", "blue"}, false},
		{"long, but confidential", []string{"cookie", strings.Repeat("a", 60<<10)}, false},
		{"long", []string{"x-team", strings.Repeat("a", maxHeld)}, true},
		{"many", slices.Repeat([]string{"x-a", ""}, maxHeldHeaders+1), true},
	} {
		t.Run("S-02 headers that are "+c.name, func(t *testing.T) {
			w := newWorld()
			w.admitted(t, "k1", c.headers...)
			for i := range w.live.shards {
				for _, x := range w.live.shards[i].all(nil) {
					if a := &x.held.Action; a.HeadersCut != c.cut || c.cut && len(a.Headers) > 0 {
						t.Errorf("cut: %v, %d headers", a.HeadersCut, len(a.Headers))
					}
				}
			}
			if w.Live() != 1 {
				t.Errorf("%d live", w.Live())
			}
		})
	}
}
