package redisstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

// A function records the operation before it writes cells. So what Redis refuses it has to refuse before that, or a retry would
// be admitted and counted by nobody.
func TestWhatRedisRefusesIsNotRemembered(t *testing.T) {
	admin := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: admin})
	do := func(args ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(args, err)
		}
	}
	var sets []any // in which operations are kept
	for n := range 64 {
		sets = append(sets, fmt.Sprintf("q:%s%c", operationSets, n))
	}
	for i, c := range []struct {
		name       string
		harm, mend func()
	}{
		{"because it is full", func() { do("CONFIG", "SET", "maxmemory", "1") }, func() { do("CONFIG", "SET", "maxmemory", "0") }},
		{"because it is a replica", func() { do("REPLICAOF", "127.0.0.1", "1") }, func() { do("REPLICAOF", "NO", "ONE") }},
		{"because it lacks replicas", func() { do("CONFIG", "SET", "min-replicas-to-write", "1") }, func() { do("CONFIG", "SET", "min-replicas-to-write", "0") }},
		{"because the user lacks the first right", func() { do("ACL", "SETUSER", "default", "-sadd") }, func() { do("ACL", "SETUSER", "default", "+sadd") }},
		{"because another program's keys are where operations are kept", func() {
			for _, key := range sets {
				do("SET", key, "x")
			}
		}, func() { do(append([]any{"DEL"}, sets...)...) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, op := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour), ratelimit.Operation{ID: [16]byte{1, byte(i)}}
			charges := []ratelimit.Charge{{Limit: l, Cell: cellOf(uint64(2 * i)), Hits: 1}, {Limit: l, Cell: cellOf(uint64(2*i + 1)), Hits: 1}}
			c.harm()
			if ok, err := s.Charge(op, charges, make([]ratelimit.Outcome, 2)); ok || !errors.Is(err, ErrRefused) {
				t.Errorf("%v, %v", ok, err)
			}
			c.mend()
			for range 2 {
				if ok, err := s.Charge(op, charges, make([]ratelimit.Outcome, 2)); !ok || err != nil {
					t.Errorf("%v, %v", ok, err)
				}
			}
			for k := range charges {
				if n := used(t, s, charges[k].Cell, l); n != 1 {
					t.Errorf("limit %d: %d are counted, want 1", k, n)
				}
			}
		})
	}
}

// A key of another type in the place of a counter: a request that is alone in its call is refused, one with others finds nothing
// there, and writes. Neither costs a look of its own.
func TestAnotherProgramsKeyInThePlaceOfACounter(t *testing.T) {
	admin := connect(t, redistest.Start(t).Addr)
	s := openTest(t, Options{Client: admin})
	l, first, second := limitOf(ratelimit.Fixed, 10, 366*24*time.Hour), cellOf(1), cellOf(2)
	if _, err := chargeOne(s, first, l, 1); err != nil {
		t.Fatal(err)
	}
	keys, err := admin.Keys(t.Context(), "q:{*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := errors.Join(admin.Del(t.Context(), keys[0]).Err(), admin.RPush(t.Context(), keys[0], "x").Err()); err != nil {
		t.Fatal(err)
	}
	if _, err := chargeOne(s, first, l, 1); !errors.Is(err, ErrRefused) {
		t.Errorf("alone: %v", err)
	}
	both := []ratelimit.Charge{{Limit: l, Cell: first, Hits: 1}, {Limit: l, Cell: second, Hits: 1}}
	if ok, err := s.Charge(ratelimit.Operation{}, both, make([]ratelimit.Outcome, 2)); !ok || err != nil {
		t.Errorf("with another: %v, %v", ok, err)
	}
	if n := used(t, s, first, l); n != 1 {
		t.Errorf("%d are counted, want 1", n)
	}
}
