package redisstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// lossy stands before a server and swallows some of its answers, after the
// server has done what it was told, and closes the connection.
type lossy struct {
	Addr  string
	every int64 // swallows each so manyth answer; 0: none
	seen  atomic.Int64
	lost  atomic.Int64
	then  func() // after one was swallowed; nil: nothing
}

func newLossy(t *testing.T, server string) *lossy {
	t.Helper()
	p := &lossy{}
	p.Addr = redistest.Proxy(t, server, func() redistest.Piece { return p.piece })
	return p
}

func (p *lossy) piece(b []byte, answers bool) (keep int, last bool) {
	every := atomic.LoadInt64(&p.every)
	if !answers || every == 0 || p.seen.Add(1)%every != 0 {
		return len(b), false
	}
	p.lost.Add(1)
	if p.then != nil {
		p.then()
	}
	return 0, true
}

// F11: of a hundredth of the pipelines and more the answer is lost after Redis counted.
func TestF11LostAnswersCountOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := newLossy(t, server.Addr)
	s := openTest(t, Options{Client: connect(t, proxy.Addr), beat: time.Hour}) // the answers that get lost are those of pipelines
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
	atomic.StoreInt64(&proxy.every, 40)
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		tight, wide := limitOf(a, 3000, 366*24*time.Hour), limitOf(ratelimit.Fixed, 1<<30, 366*24*time.Hour)
		charges := []ratelimit.Charge{{Limit: tight, Cell: cellOf(uint64(a)), Hits: 1}, {Limit: wide, Cell: cellOf(10 + uint64(a)), Hits: 1}}
		before, resends := proxy.lost.Load(), s.Stats().Resends
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 250 {
					ok, err := s.Charge(ratelimit.Operation{}, charges, make([]ratelimit.Outcome, 2))
					if err != nil {
						t.Error(err)
					}
					if ok {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		lost, again := proxy.lost.Load()-before, s.Stats().Resends-resends
		t.Logf("algorithm %d: %d of 4000 admitted, %d answers lost, %d calls sent again", a, admitted.Load(), lost, again)
		if lost == 0 || int64(again) < lost {
			t.Errorf("%d answers were lost, and %d calls sent again", lost, again)
		}
		if admitted.Load() != 3000 {
			t.Errorf("algorithm %d: %d were admitted, want 3000", a, admitted.Load())
		}
		if n := used(t, s, charges[1].Cell, wide); n != admitted.Load() {
			t.Errorf("algorithm %d: %d are counted, and %d were admitted", a, n, admitted.Load())
		}
	}
}

// A second try that is refused does not say that the first was not charged.
func TestARefusalAfterALostAnswerIsNoAnswer(t *testing.T) {
	server := redistest.Start(t)
	admin, proxy := connect(t, server.Addr), newLossy(t, server.Addr)
	s := openTest(t, Options{Client: connect(t, proxy.Addr), beat: time.Hour}) // the answer that gets lost is that of the request
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
	proxy.then = func() {
		atomic.StoreInt64(&proxy.every, 0)
		if err := admin.Do(context.Background(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
			t.Error(err)
		}
	}
	l := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour)
	if _, err := chargeOne(s, cellOf(1), l, 1); err != nil { // from now on there is a connection
		t.Fatal(err)
	}
	atomic.StoreInt64(&proxy.every, 1)
	if _, err := chargeOne(s, cellOf(1), l, 1); !errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := admin.Do(context.Background(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	if n := used(t, s, cellOf(1), l); n != 2 {
		t.Errorf("%d are charged, want 2", n)
	}
	if proxy.lost.Load() == 0 {
		t.Error("no answer was lost")
	}
}

// F10: functions vanish under load, and nobody is told.
func TestF10FunctionsFlushed(t *testing.T) {
	server := redistest.Start(t)
	client, admin := connect(t, server.Addr), connect(t, server.Addr)
	s := openTest(t, Options{Client: client})
	l := limitOf(ratelimit.Fixed, 1<<30, 366*24*time.Hour)
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1500 {
				ok, err := s.Charge(ratelimit.Operation{}, []ratelimit.Charge{{Limit: l, Cell: cellOf(1), Hits: 1}}, make([]ratelimit.Outcome, 1))
				if err != nil {
					t.Error(err)
				}
				if ok {
					admitted.Add(1)
				}
			}
		})
	}
	for range 20 {
		if err := errors.Join(admin.FunctionFlush(context.Background()).Err(), admin.ScriptFlush(context.Background()).Err()); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
	wg.Wait()
	if n := used(t, s, cellOf(1), l); n != admitted.Load() || n != 12000 {
		t.Errorf("%d were admitted and %d are counted, want 12000", admitted.Load(), n)
	}
	if s.Stats().Reloads == 0 {
		t.Error("the functions were never loaded again")
	}
	t.Logf("loaded again %d times", s.Stats().Reloads)
}

// A refused caller who asks again costs nothing, until something has changed.
func TestDeniedHotKey(t *testing.T) {
	server := redistest.Start(t)
	client := connect(t, server.Addr)
	calm := Options{Client: client, beat: time.Hour} // nothing is forgotten because the machine is slow
	here, there := openTest(t, calm), openTest(t, calm)
	heard := func() bool { return here.Stats().Listening && there.Stats().Listening }
	await.That(t, "the channel is heard", heard)
	l, tenant, user := limitOf(ratelimit.Fixed, 5, 366*24*time.Hour), limitOf(ratelimit.GCRA, 1000, time.Hour), limitOf(ratelimit.Hard, 5, time.Hour)
	charge := func(s *Store, cell uint64, l *ratelimit.Limit, hits int64) bool {
		t.Helper()
		charges := []ratelimit.Charge{{Limit: tenant, Cell: cellOf(1000 + cell), Hits: 1}, {Limit: l, Cell: cellOf(cell), Hits: hits}}
		ok, err := s.Charge(ratelimit.Operation{}, charges, make([]ratelimit.Outcome, 2))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	exhaust := func(cell uint64, l *ratelimit.Limit) {
		t.Helper()
		for charge(here, cell, l, 1) {
		}
		charge(there, cell, l, 1)
	}
	free := func(what string, stores []*Store, cell uint64, l *ratelimit.Limit, hits int64) {
		t.Helper()
		before := calls(t, client)
		for _, s := range stores {
			for range 500 {
				if charge(s, cell, l, hits) {
					t.Fatalf("%s: admitted", what)
				}
			}
		}
		if n := calls(t, client) - before; n != 0 {
			t.Errorf("%s: %d refusals took %d calls", what, 500*len(stores), n)
		}
	}
	both := []*Store{here, there}

	exhaust(1, l)
	free("fixed", both, 1, l, 1)
	free("more hits", both, 1, l, 3)
	exhaust(2, user)
	free("hard", both, 2, user, 1)
	if charge(here, 1, l, 0) != true {
		t.Error("a look was refused")
	}
	if raised := limitOf(ratelimit.Fixed, 7, 366*24*time.Hour); !charge(there, 1, raised, 1) || !charge(here, 1, raised, 1) || charge(here, 1, raised, 1) {
		t.Error("a raised limit is not seen at once, or not exactly")
	}
	free("lowered again", both, 1, l, 1)
	if !charge(here, 1, l, -4) { // 7 - 4 of 5: two more
		t.Fatal("nothing can be given back")
	}
	await.That(t, "the other replica hears that hits were given back", func() bool { return charge(there, 1, l, 1) })
	if !charge(here, 1, l, 1) || charge(here, 1, l, 1) {
		t.Error("what was given back is not there exactly")
	}
	short := limitOf(ratelimit.GCRA, 20, time.Second)
	short.Burst = 1
	charge(here, 3, short, 1)
	await.That(t, "time alone admits again", func() bool { return charge(here, 3, short, 1) })
}

// While nothing is heard no denial is believed, and none from before afterwards.
func TestDenialsAreForgottenInSilence(t *testing.T) {
	server := redistest.Start(t)
	client := connect(t, server.Addr)
	s := openTest(t, Options{Client: client, beat: 50 * time.Millisecond})
	heard := func() bool { return s.Stats().Listening }
	l := limitOf(ratelimit.Fixed, 1, 366*24*time.Hour)
	refusedFree := func() bool { // and not because the machine was slow meanwhile
		before := s.Stats().DeniedHits
		if _, err := chargeOne(s, cellOf(1), l, 1); err != nil {
			t.Fatal(err)
		}
		return s.Stats().DeniedHits > before
	}
	await.That(t, "a denial is remembered", func() bool { return heard() && refusedFree() })
	server.Freeze()
	await.That(t, "silence is noticed", func() bool { return !heard() })
	server.Thaw()
	await.That(t, "the channel is heard again", heard)
	if refusedFree() {
		t.Error("a refusal from before the silence was believed after it")
	}
}

// Who was admitted, and asks again because the answer got lost, is not refused for what others did since.
func TestAnOperationThatWasAdmittedStaysSo(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: client, beat: time.Hour})
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
	charges := []ratelimit.Charge{{Limit: limitOf(ratelimit.Fixed, 1, 366*24*time.Hour), Cell: cellOf(1), Hits: 1}}
	ask := func(id byte) bool {
		t.Helper()
		ok, err := s.Charge(ratelimit.Operation{ID: [16]byte{id, 15: id}}, charges, make([]ratelimit.Outcome, 1))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !ask(1) || ask(2) || ask(3) {
		t.Fatal("not one of three was admitted")
	}
	if n := s.Stats().DeniedHits; n != 1 {
		t.Fatalf("%d of two denials were remembered, want 1", n)
	}
	for range 3 {
		if !ask(1) {
			t.Error("the operation that was admitted is refused")
		}
	}
	for id := byte(10); id < 110; id++ {
		ask(id)
	}
	if n := s.Stats().DeniedHits; n < 100 {
		t.Errorf("%d of 101 denials took no command", n)
	}
	if n := used(t, s, charges[0].Cell, charges[0].Limit); n != 1 {
		t.Errorf("%d are charged, want 1", n)
	}
}

// What is remembered is bounded, whoever asks for whatever.
func TestDenialsAreBounded(t *testing.T) {
	s := openTest(t, Options{Client: connect(t, redistest.Start(t).Addr), beat: time.Hour}) // nothing is forgotten because the machine is slow
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
	l := limitOf(ratelimit.Fixed, 1, 366*24*time.Hour)
	charges, outcomes := make([]ratelimit.Charge, MaxCharges), make([]ratelimit.Outcome, MaxCharges)
	for n := uint64(0); n < 2*stripes*mostDenied; n += MaxCharges {
		for i := range charges {
			charges[i] = ratelimit.Charge{Limit: l, Cell: cellOf(n + uint64(i)), Hits: 1}
		}
		for range 2 {
			if _, err := s.Charge(ratelimit.Operation{}, charges, outcomes); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := 0
	for i := range s.denied.stripe {
		kept += len(s.denied.stripe[i].cells)
	}
	if int64(kept) != s.denied.size.Load() || kept > stripes*mostDenied || kept < stripes*mostDenied/2 {
		t.Errorf("%d cells are remembered and %d counted, of at most %d", kept, s.denied.size.Load(), stripes*mostDenied)
	}
}
