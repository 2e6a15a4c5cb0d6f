package redisstore

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// sendTogether puts requests into one call of the function; the answer is what came of each.
func sendTogether(t *testing.T, s *Store, calls ...*call) (statuses string, errs []error) {
	t.Helper()
	cmd := redis.NewStringCmd(t.Context(), s.arguments(calls)...)
	if err := s.o.Client.Process(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	answers := s.answers(cmd)
	for _, c := range calls {
		rep, err := answers.next(c)
		if err != nil {
			rep.status = failed
		}
		statuses, errs = statuses+string(rune(rep.status)), append(errs, err)
	}
	if answers.text != "" {
		t.Errorf("%d bytes are nobody's", len(answers.text))
	}
	return statuses, errs
}

// encodeOne is a request for one hit of each; with id 0 it has an id of the store's own.
func encodeOne(s *Store, id byte, cell uint64, l *ratelimit.Limit, more ...ratelimit.Charge) *call {
	charges := append([]ratelimit.Charge{{Limit: l, Cell: cellOf(cell), Hits: 1}}, more...)
	var r request
	r.collect(charges)
	op := ratelimit.Operation{}
	if id != 0 {
		op.ID = [16]byte{id}
	}
	return s.encode(&r, op, charges)
}

func TestRequestsOfOneCall(t *testing.T) {
	s := openTest(t, Options{Client: connect(t, redistest.Start(t).Addr)})
	three := limitOf(ratelimit.Fixed, 3, 366*24*time.Hour)
	ask := func(id byte) *call { return encodeOne(s, id, 1, three) }
	t.Run("of one cell are charged one after the other", func(t *testing.T) {
		if got, _ := sendTogether(t, s, ask(1), ask(0), ask(2), ask(3), ask(0)); got != "AAADD" {
			t.Errorf("five of a limit of three are answered %s", got)
		}
	})
	t.Run("that were admitted before are known, and those that were not are none the less refused", func(t *testing.T) {
		if got, _ := sendTogether(t, s, ask(1), ask(3), ask(2), ask(4)); got != "RDRD" {
			t.Errorf("answered %s", got)
		}
	})
	t.Run("with one id count once", func(t *testing.T) {
		wide := limitOf(ratelimit.GCRA, 100, 366*24*time.Hour)
		one := func() *call { return encodeOne(s, 9, 1, wide) }
		if got, _ := sendTogether(t, s, one(), one(), one()); got != "ARR" {
			t.Errorf("answered %s", got)
		}
		if n := used(t, s, cellOf(1), wide); n != 1 {
			t.Errorf("%d are charged", n)
		}
	})
	t.Run("are known one by one when the call is sent again", func(t *testing.T) {
		wide := limitOf(ratelimit.GCRA, 100, 366*24*time.Hour)
		first, second, third := encodeOne(s, 0, 2, wide), encodeOne(s, 0, 2, wide), encodeOne(s, 0, 2, wide)
		if got, _ := sendTogether(t, s, first, second); got != "AA" {
			t.Errorf("answered %s", got)
		}
		first.again()
		second.again()
		if got, _ := sendTogether(t, s, second, third, first); got != "RAR" {
			t.Errorf("sent again, beside another, they are answered %s", got)
		}
		if n := used(t, s, cellOf(2), wide); n != 3 {
			t.Errorf("%d are charged, want 3", n)
		}
	})
	t.Run("that are refused cost their other limits nothing", func(t *testing.T) {
		wide := limitOf(ratelimit.Hard, 100, 366*24*time.Hour)
		beside := ratelimit.Charge{Limit: wide, Cell: cellOf(1), Hits: 1}
		fourth := limitOf(ratelimit.Fixed, 4, 366*24*time.Hour)
		one := func() *call { return encodeOne(s, 0, 1, fourth, beside) }
		if got, _ := sendTogether(t, s, one(), one(), one()); got != "ADD" {
			t.Errorf("answered %s", got)
		}
		if n := used(t, s, cellOf(1), wide); n != 1 {
			t.Errorf("%d are charged", n)
		}
	})
}

// What another program wrote fails who meets it, and nobody beside him.
func TestAFailureInACallIsOneRequests(t *testing.T) {
	client := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: client})
	l, wide := limitOf(ratelimit.GCRA, 3, time.Hour), limitOf(ratelimit.Fixed, 100, 366*24*time.Hour)
	bad := encodeOne(s, 1, 2, wide, ratelimit.Charge{Limit: l, Cell: cellOf(1), Hits: 1})
	if err := client.Set(t.Context(), bad.keys[1], "not ours", 0).Err(); err != nil {
		t.Fatal(err)
	}
	got, errs := sendTogether(t, s, encodeOne(s, 2, 2, wide), bad, encodeOne(s, 3, 2, wide))
	var refusal redis.Error
	if got != "AEA" || !errors.As(errs[1], &refusal) || !strings.Contains(refusal.Error(), "data string too short") {
		t.Errorf("answered %s, %v", got, errs)
	}
	if n := used(t, s, cellOf(2), wide); n != 2 {
		t.Errorf("%d are charged, want 2", n)
	}
	if _, err := chargeOne(s, cellOf(1), l, 1); !errors.Is(err, ErrRefused) {
		t.Errorf("its caller is told %v", err)
	}
	if err := client.Del(t.Context(), bad.keys[1]).Err(); err != nil {
		t.Fatal(err)
	}
	if got, _ := sendTogether(t, s, bad); got != "A" {
		t.Errorf("asked again after the key was removed, it is answered %s", got)
	}
}

// An id is looked for unless nobody can have asked with it, and always once it was sent.
func TestAnIDIsLookedForUnlessItIsTheFirstTime(t *testing.T) {
	charges := []ratelimit.Charge{{Limit: limitOf(ratelimit.Fixed, 100, time.Hour), Cell: cellOf(1), Hits: 1}}
	for _, cluster := range []bool{false, true} { // whose client sends again by itself
		s := &Store{o: Options{}.withDefaults(), cluster: cluster}
		for _, c := range []struct {
			op   ratelimit.Operation
			mode byte
		}{
			{ratelimit.Operation{}, fresh},
			{ratelimit.Operation{ID: [16]byte{1}, First: true}, fresh},
			{ratelimit.Operation{ID: [16]byte{1}}, careful},
		} {
			var r request
			r.collect(charges)
			sent := s.encode(&r, c.op, charges)
			if sent.mode != c.mode && !cluster || sent.mode != careful && cluster {
				t.Errorf("on a cluster %v, %+v is sent as %d", cluster, c.op, sent.mode)
			}
			if sent.again(); sent.mode != careful {
				t.Errorf("on a cluster %v, %+v is sent again as %d", cluster, c.op, sent.mode)
			}
		}
	}
}

// Redis does nothing else while it runs a call, so none carries much; on a cluster each carries one request.
func TestCallsAreBounded(t *testing.T) {
	wide := limitOf(ratelimit.Fixed, 100, time.Hour)
	for _, cluster := range []bool{false, true} {
		s := &Store{o: Options{}.withDefaults(), cluster: cluster}
		var batch []*call
		for i := range byte(200) {
			var more []ratelimit.Charge
			for k := range i % 10 {
				more = append(more, ratelimit.Charge{Limit: wide, Cell: cellOf(uint64(i % 3)), Hits: 1})
				binary.BigEndian.PutUint64(more[k].Cell.Key[8:], uint64(k)+1)
			}
			batch = append(batch, encodeOne(s, 0, uint64(i%3), wide, more...))
		}
		batch[100].now = 1
		groups, sent := s.groups(batch), batch[:0:0]
		for _, g := range groups {
			cells := 0
			for _, c := range g.calls {
				if cells += len(c.keys); c.now != g.calls[0].now {
					t.Error("two times share a call")
				}
			}
			if len(g.calls) == 0 || len(g.calls) > maxTogether || cells > maxCells || cluster && len(g.calls) > 1 {
				t.Errorf("%d requests with %d cells share a call", len(g.calls), cells)
			}
			sent = append(sent, g.calls...)
		}
		for i, c := range batch {
			if len(sent) != len(batch) || sent[i] != c {
				t.Fatalf("%d of %d requests are in calls, or not in their order", len(sent), len(batch))
			}
		}
		if len(groups) > 40 && !cluster {
			t.Errorf("%d requests took %d calls", len(batch), len(groups))
		}
	}
}
