package outage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// fake is a shared store that can be told how to fail. It remembers ids, as Redis does, and counts in memory.
type fake struct {
	mu       sync.Mutex
	mem      *memstore.Store
	err      error
	hang     chan struct{} // calls wait until it is closed; nil: they don't
	delay    time.Duration
	patience time.Duration
	lose     bool // the answer is lost, not the charge
	known    map[[16]byte]int
	history  []redisstore.Applied // what it counted, in this order
	firsts   int                  // charges that were said to be the first with their id
	calls    int
	together int // now
	most     int // together
	handed   int // operations to Reapply
	reapply  error
	slow     time.Duration           // of a Reapply
	refuse   func(op int) error      // of each operation of a Reapply
	gone     func(shard uint64) bool // which parts don't answer; nil: all do
	denied   byte                    // first byte of the cell whose refusal is remembered; 0: none
}

func newFake() *fake {
	return &fake{mem: memstore.New(memstore.Options{}), known: map[[16]byte]int{}}
}

func (f *fake) begin() (hang chan struct{}, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.together++
	f.most = max(f.most, f.together)
	return f.hang, f.delay
}

// Charge gives up after a while, and what it sent may be counted later.
func (f *fake) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	charges = slices.Clone(charges)
	theirs, done := make([]ratelimit.Outcome, len(charges)), make(chan struct{})
	var admitted bool
	var failed error
	go func() {
		admitted, failed = f.charge(op, charges, theirs)
		close(done)
	}()
	select {
	case <-done:
		copy(outcomes, theirs)
		return admitted, failed
	case <-time.After(f.patience):
		return false, errSilent
	}
}

func (f *fake) charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	hang, delay := f.begin()
	if hang != nil {
		<-hang
	}
	if delay > 0 {
		<-time.After(delay)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.together--
	if first := charges[0]; first.Limit.Hits <= 0 { // as redisstore: there is nothing to ask
		return f.mem.Charge(op, charges, outcomes)
	} else if f.denied != 0 && first.Cell.Key[0] == f.denied {
		outcomes[0] = ratelimit.Outcome{Over: true, RetryAfter: 1}
		return false, nil
	}
	if f.gone != nil && f.gone(charges[0].Cell.Shard) {
		return false, errSilent
	}
	if f.err != nil && !f.lose {
		return false, f.err
	}
	if op.First {
		f.firsts++
	}
	if f.known[op.ID] > 0 {
		return true, f.err
	}
	ok, err := f.mem.Charge(op, charges, outcomes)
	if ok && op.ID != ([16]byte{}) {
		f.known[op.ID]++
		f.history = append(f.history, redisstore.Applied{Operation: op, Charges: charges})
	}
	return ok, errors.Join(err, f.err)
}

func (f *fake) Reapply(_ context.Context, ops []redisstore.Applied) (missing int, err error) {
	hang, _ := f.begin()
	if hang != nil {
		<-hang
	}
	if f.slow > 0 {
		<-time.After(f.slow)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.together--
	f.handed += len(ops)
	if err := errors.Join(f.err, f.reapply); err != nil {
		return 0, err
	}
	var refused []error
	for i, a := range ops {
		if f.refuse != nil {
			if err := f.refuse(i); err != nil {
				refused = append(refused, err)
				continue
			}
		}
		if f.gone != nil && f.gone(a.Charges[0].Cell.Shard) {
			return missing, errSilent
		}
		if f.known[a.Operation.ID] > 0 {
			continue
		}
		missing++
		if err := f.apply(a); err != nil {
			return missing, err
		}
	}
	return missing, errors.Join(refused...)
}

// apply counts up to the brim.
func (f *fake) apply(a redisstore.Applied) error {
	a.Charges = slices.Clone(a.Charges)
	for i := range a.Charges {
		a.Charges[i].Shadow = true
	}
	f.known[a.Operation.ID]++
	f.history = append(f.history, a)
	_, err := f.mem.Charge(a.Operation, a.Charges, make([]ratelimit.Outcome, len(a.Charges)))
	return err
}

func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// forget is a primary that comes back empty.
func (f *fake) forget() { f.become(nil) }

// become is another primary, which has counted that.
func (f *fake) become(history []redisstore.Applied) {
	f.set(func(f *fake) {
		f.mem, f.known, f.history = memstore.New(memstore.Options{}), map[[16]byte]int{}, nil
		for _, a := range history {
			_ = f.apply(a) //nolint:errcheck // memory has room
		}
	})
}

var errGone = fmt.Errorf("%w: %w", redisstore.ErrNoAnswer, io.EOF)

var errSilent = fmt.Errorf("%w: refused", redisstore.ErrNoAnswer)

func limitOf(on ratelimit.Outage, hits int64) *ratelimit.Limit {
	return &ratelimit.Limit{Name: on.String(), Algorithm: ratelimit.Fixed, Hits: hits, Window: time.Hour, OnOutage: on}
}

func charge(l *ratelimit.Limit, cell byte) ratelimit.Charge {
	return ratelimit.Charge{Limit: l, Hits: 1, Cell: ratelimit.Cell{Key: [16]byte{cell}, Shard: 7}}
}

// pass lets the bubble's time pass.
func pass(d time.Duration) { <-time.After(d) }

// world is a store in a bubble.
type world struct {
	*Store
	t    *testing.T
	fake *fake
}

func bubble(t *testing.T, o Options, story func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o.Shared = f
		w := &world{New(o), t, f}
		f.patience = PatienceOf(w.o.Budget)
		defer w.Close()
		story(w)
	})
}

// ask charges once now, and checks that it takes no longer than the budget.
func (w *world) ask(charges ...ratelimit.Charge) (bool, []ratelimit.Outcome, error) {
	w.t.Helper()
	outcomes := make([]ratelimit.Outcome, len(charges))
	start := time.Now()
	ok, err := w.Charge(ratelimit.Operation{Now: start.UnixMicro()}, charges, outcomes)
	if took := time.Since(start); took > w.o.Budget {
		w.t.Errorf("an answer took %v", took)
	}
	return ok, outcomes, err
}

// used is how much of a limit of hits the shared store has counted.
func (w *world) used(c ratelimit.Charge) int64 {
	w.t.Helper()
	c.Hits = 0
	var o [1]ratelimit.Outcome
	w.fake.mu.Lock()
	defer w.fake.mu.Unlock()
	if _, err := w.fake.mem.Charge(ratelimit.Operation{Now: time.Now().UnixMicro()}, []ratelimit.Charge{c}, o[:]); err != nil {
		w.t.Fatal(err)
	}
	return c.Limit.Hits - o[0].Remaining
}

// open makes the breaker open.
func (w *world) open(err error) {
	w.t.Helper()
	w.fake.set(func(f *fake) { f.err = err })
	for range failuresInARow {
		_, _, _ = w.ask(charge(limitOf(ratelimit.OutageDeny, 1), 99))
	}
	synctest.Wait()
	if !w.Stats().Open {
		w.t.Fatal("the breaker is closed")
	}
}

func (w *world) recover() {
	w.t.Helper()
	w.fake.set(func(f *fake) { f.err = nil })
	pass(time.Second)
	synctest.Wait()
	if w.Stats().Open {
		w.t.Fatal("the breaker is open a second after the store answers")
	}
}

func TestEachLimitSaysWhatAnOutageMeans(t *testing.T) {
	deny, allow, local := limitOf(ratelimit.OutageDeny, 6), limitOf(ratelimit.OutageAllow, 6), limitOf(ratelimit.OutageLocal, 6)
	banned, shadow := limitOf(ratelimit.OutageAllow, 0), limitOf(ratelimit.OutageDeny, 6)
	shadow.Shadow = true
	for _, c := range []struct {
		name    string
		limits  []*ratelimit.Limit
		admits  int // of 9
		err     error
		left    []int64 // after the first
		counted ratelimit.Outage
	}{
		{"deny refuses with an error", []*ratelimit.Limit{deny}, 0, ErrUnavailable, nil, ratelimit.OutageDeny},
		{"deny refuses whatever the others say", []*ratelimit.Limit{local, allow, deny}, 0, ErrUnavailable, nil, ratelimit.OutageDeny},
		{"allow admits all, and knows of no number", []*ratelimit.Limit{allow}, 9, nil, []int64{-1}, ratelimit.OutageAllow},
		{"local admits a replica's share", []*ratelimit.Limit{local}, 2, nil, []int64{1}, ratelimit.OutageLocal},
		{"local bounds allow", []*ratelimit.Limit{allow, local}, 2, nil, []int64{-1, 1}, ratelimit.OutageLocal},
		{"a limit of 0 needs no store to refuse", []*ratelimit.Limit{allow, banned}, 0, nil, []int64{-1, 0}, ratelimit.OutageLocal},
		{"a shadow refuses nothing", []*ratelimit.Limit{shadow}, 9, nil, []int64{-1}, ratelimit.OutageAllow},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{Replicas: func() int { return 3 }}, func(w *world) {
				w.open(errSilent)
				before := w.Stats()
				var charges []ratelimit.Charge
				for i, l := range c.limits {
					charges = append(charges, charge(l, byte(i)))
				}
				admitted := 0
				for i := range 9 {
					ok, outcomes, err := w.ask(charges...)
					if !errors.Is(err, c.err) {
						t.Fatalf("error %v", err)
					}
					if ok {
						admitted++
					}
					for j := range c.left {
						if !outcomes[j].Degraded {
							t.Errorf("no mark on %+v", outcomes[j])
						}
						if i == 0 && outcomes[j].Remaining != c.left[j] {
							t.Errorf("limit %d has %d left, want %d", j, outcomes[j].Remaining, c.left[j])
						}
					}
				}
				if admitted != c.admits {
					t.Errorf("%d admitted, want %d", admitted, c.admits)
				}
				if got := w.Stats().Degraded[c.counted] - before.Degraded[c.counted]; got != 9 {
					t.Errorf("%d answers counted as %v", got, c.counted)
				}
			})
		})
	}
}

func TestTheServersWordIsForLimitsWithoutOne(t *testing.T) {
	for _, server := range []ratelimit.Outage{ratelimit.OutageDeny, ratelimit.OutageAllow, ratelimit.OutageLocal} {
		for _, own := range []ratelimit.Outage{ratelimit.OutageDeny, ratelimit.OutageAllow, ratelimit.OutageLocal} {
			for _, said := range []bool{true, false} {
				t.Run(fmt.Sprintf("the server says %v, a limit %v: %v", server, own, said), func(t *testing.T) {
					bubble(t, Options{OnOutage: &server}, func(w *world) {
						l := limitOf(own, 6)
						l.OutageSaid = said
						w.fake.set(func(f *fake) { f.err = errSilent })
						admitted := 0
						for range 9 {
							if ok, _, _ := w.ask(charge(l, 1)); ok {
								admitted++
							}
						}
						holds := own
						if !said {
							holds = server
						}
						if want := map[ratelimit.Outage]int{ratelimit.OutageAllow: 9, ratelimit.OutageLocal: 6}[holds]; admitted != want {
							t.Errorf("%d of 9 were admitted, want %d", admitted, want)
						}
					})
				})
			}
		}
	}
}

func TestAShareIsRoundedDownAndNeverNothing(t *testing.T) {
	for _, c := range []struct{ hits, replicas, want int64 }{
		{10, 3, 3}, {10, 1, 10}, {2, 3, 1}, {0, 3, 0}, {ratelimit.Unlimited, 3, ratelimit.Unlimited}, {1 << 32, 7, 613566756},
	} {
		if got := divide(c.hits, c.replicas); got != c.want {
			t.Errorf("%d for %d replicas is %d", c.hits, c.replicas, got)
		}
	}
}

// A refusal of one local limit costs the others nothing, and what denies charges nothing at all.
func TestDuringAnOutageAllLimitsAreChargedOrNone(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		w.open(errSilent)
		wide, narrow := charge(limitOf(ratelimit.OutageLocal, 9), 1), charge(limitOf(ratelimit.OutageLocal, 2), 2)
		for range 5 {
			_, _, _ = w.ask(wide, narrow)
			_, _, _ = w.ask(wide, charge(limitOf(ratelimit.OutageDeny, 9), 3))
		}
		if _, o, _ := w.ask(wide); o[0].Remaining != 6 {
			t.Errorf("%d are left of 9 after 2 and 1", o[0].Remaining)
		}
	})
}

func TestAFlappingStoreGivesNoFreshShare(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		c := charge(limitOf(ratelimit.OutageLocal, 5), 1)
		admitted := 0
		for range 6 {
			w.open(errSilent)
			for range 3 {
				if ok, _, _ := w.ask(c); ok {
					admitted++
				}
			}
			w.recover()
		}
		if admitted != 5 {
			t.Errorf("%d were admitted in six outages of one window, want 5", admitted)
		}
	})
}

func TestAShareThatIsWholeAgainIsSwept(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		w.open(errSilent)
		if ok, _, err := w.ask(charge(limitOf(ratelimit.OutageLocal, 5), 1)); !ok {
			t.Fatal(err)
		}
		w.recover()
		if n := w.Sweep(time.Now().UnixMicro()); n != 0 {
			t.Errorf("%d shares were let go of within their window", n)
		}
		pass(time.Hour)
		if n := w.Sweep(time.Now().UnixMicro()); n != 1 || w.local.Len() != 0 {
			t.Errorf("%d shares were let go of and %d left, want 1 and 0", n, w.local.Len())
		}
	})
}

// What a request can bring about must not make limits mean less, for itself or for others.
func TestNoRequestCanChooseTheOutage(t *testing.T) {
	for name, err := range map[string]error{
		"limits on several shards":      redisstore.ErrShards,
		"an error of a kind unknown":    errors.New("more than 64 charges"),
		"a script that fails on it":     fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal("ERR user_script:7: attempt to compare nil")),
		"a cell of another program":     fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal("WRONGTYPE Operation against a key")),
		"a store that is being stopped": redisstore.ErrClosed,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(w *world) {
				w.fake.set(func(f *fake) { f.err = err })
				for range 100 {
					ok, _, got := w.ask(charge(limitOf(ratelimit.OutageAllow, 1), 1))
					if ok || !errors.Is(got, err) {
						t.Fatalf("%v %v", ok, got)
					}
				}
				if s := w.Stats(); s.Open || s.Opened != 0 || s.Degraded != [3]uint64{} {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// Who asks a lot for what needs no store must not keep the breaker closed over one that is gone, for then all others wait
// the whole budget, nor push what they are owed out of the journals.
func TestWhatIsAnsweredWithoutTheStoreSaysNothingOfIt(t *testing.T) {
	unlimited, banned := limitOf(ratelimit.OutageLocal, ratelimit.Unlimited), limitOf(ratelimit.OutageLocal, 0)
	for name, c := range map[string]struct {
		limits []*ratelimit.Limit
		ok     bool
	}{
		"an unlimited request":            {[]*ratelimit.Limit{unlimited}, true},
		"one with a limit of 0":           {[]*ratelimit.Limit{unlimited, banned}, false},
		"one without any limit":           {nil, true},
		"one whose refusal is remembered": {[]*ratelimit.Limit{limitOf(ratelimit.OutageLocal, 1)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{Operations: 2 * chunk}, func(w *world) {
				hit := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
				var free []ratelimit.Charge
				for i, l := range c.limits {
					free = append(free, charge(l, byte(7+i)))
				}
				w.fake.set(func(f *fake) { f.gone, f.denied = func(uint64) bool { return true }, 7 })
				for range failuresInARow {
					if w.Stats().Open {
						t.Fatal("the breaker is open too early")
					}
					for range 2 * chunk {
						if ok, o, err := w.ask(free...); ok != c.ok || err != nil || len(o) > 0 && o[0].Degraded {
							t.Fatalf("%v %+v %v", ok, o, err)
						}
					}
					_, _, _ = w.ask(hit)
				}
				if s := w.Stats(); s.Opened != 1 {
					t.Errorf("the breaker is closed over a store that is gone: %+v", s)
				}
				for range 2 * chunk {
					_, _, _ = w.ask(free...)
				}
				if s := w.Stats(); s.Dropped != 0 || s.Owed < failuresInARow {
					t.Errorf("what is owed made room for what is not counted: %+v", s)
				}
			})
		})
	}
}

type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestAStoreThatSaysItCantServeIsAskedAgainAtOnce(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		c := charge(limitOf(ratelimit.OutageLocal, 1000), 1)
		for _, says := range []string{"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.", "OOM command not allowed", "ERR The user executing the script can't run this command or subcommand"} {
			w.fake.set(func(f *fake) { f.err = fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal(says)) })
			for range 50 {
				if ok, o, err := w.ask(c); !ok || !o[0].Degraded || err != nil {
					t.Fatalf("%s: %v %+v %v", says, ok, o, err)
				}
			}
		}
		w.fake.set(func(f *fake) { f.err = nil })
		if _, o, _ := w.ask(c); o[0].Degraded {
			t.Error("the first call that can be counted was not")
		}
		if s := w.Stats(); s.Opened != 0 || s.Disorders != 200 {
			t.Errorf("%+v", s)
		}
		pass(time.Second)
		synctest.Wait()
		if got := w.used(c); got != 201 {
			t.Errorf("%d counted, 201 were admitted", got)
		}
	})
}

// No breaker opens then, so the log is where an operator learns that limits hold by halves.
func TestAStoreThatSaysItCantServeIsInTheLogOnceAMinute(t *testing.T) {
	var log strings.Builder
	bubble(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(w *world) {
		w.fake.set(func(f *fake) {
			f.err = fmt.Errorf("%w: %w", redisstore.ErrRefused, refusal("MISCONF Errors writing to the AOF file"))
		})
		for range 150 {
			_, _, _ = w.ask(charge(limitOf(ratelimit.OutageAllow, 1000), 1))
			pass(time.Second)
		}
	})
	if n := strings.Count(log.String(), "MISCONF"); n != 3 {
		t.Errorf("%d lines in two and a half minutes, want 3:\n%s", n, &log)
	}
}

func TestOperationsWithoutAnIDGetOneEach(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		for range 1000 {
			_, _, _ = w.ask(charge(limitOf(ratelimit.OutageAllow, 1<<20), 1))
		}
		look := charge(limitOf(ratelimit.OutageAllow, 1<<20), 1)
		look.Hits = 0
		_, _, _ = w.ask(look)
		if len(w.fake.known) != 1000 || slices.Max(slices.Collect(maps.Values(w.fake.known))) != 1 {
			t.Errorf("%d ids", len(w.fake.known))
		}
		if w.fake.firsts != 1000 {
			t.Errorf("%d are said to be new", w.fake.firsts)
		}
	})
}

func TestAPanicInTheSharedStoreIsTheRequestsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Shared: bomb{}})
		defer s.Close()
		for range 20 {
			var o [1]ratelimit.Outcome
			if ok, err := s.Charge(ratelimit.Operation{}, []ratelimit.Charge{charge(limitOf(ratelimit.OutageAllow, 1), 1)}, o[:]); ok || err == nil || !strings.Contains(err.Error(), "bomb") {
				t.Fatal("it was admitted, or the error does not say why: ", err)
			}
		}
		if s.Stats().Open {
			t.Error("the breaker is open")
		}
	})
}

type bomb struct{}

func (bomb) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	panic("bomb")
}
func (bomb) Reapply(context.Context, []redisstore.Applied) (int, error) { panic("bomb") }

func TestAClosedStoreAnswersAndRunsNothing(t *testing.T) {
	bubble(t, Options{}, func(w *world) {
		w.open(errSilent)
		w.Close()
		w.Close()
		if ok, _, err := w.ask(charge(limitOf(ratelimit.OutageLocal, 5), 1)); !ok || err != nil {
			t.Errorf("%v %v", ok, err)
		}
		asked := w.fake.count()
		pass(time.Minute)
		if w.fake.count() != asked {
			t.Error("it still asks")
		}
	})
}

// BenchmarkCharge is what a call costs beside the shared store's own work, which is next to none here.
func BenchmarkCharge(b *testing.B) {
	f := newFake()
	charges := []ratelimit.Charge{charge(limitOf(ratelimit.OutageLocal, 1<<32), 1), charge(limitOf(ratelimit.OutageLocal, 1<<32), 2), charge(limitOf(ratelimit.OutageAllow, 1<<32), 3)}
	var o [3]ratelimit.Outcome
	b.Run("closed", func(b *testing.B) {
		s := New(Options{Shared: instant{}})
		defer s.Close()
		b.ReportAllocs()
		for b.Loop() {
			_, _ = s.Charge(ratelimit.Operation{Now: 1}, charges, o[:])
		}
	})
	b.Run("open", func(b *testing.B) {
		f.err = errSilent
		s := New(Options{Shared: f})
		defer s.Close()
		for range failuresInARow {
			_, _ = s.Charge(ratelimit.Operation{Now: 1}, charges, o[:])
		}
		b.ReportAllocs()
		for b.Loop() {
			_, _ = s.Charge(ratelimit.Operation{Now: 1}, charges, o[:])
		}
	})
}

type instant struct{}

func (instant) Charge(ratelimit.Operation, []ratelimit.Charge, []ratelimit.Outcome) (bool, error) {
	return true, nil
}
func (instant) Reapply(context.Context, []redisstore.Applied) (int, error) { return 0, nil }
