package ratelimit

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	testSecond = int64(1_000_000)
	testBase   = 19675 * 86400 * testSecond // midnight UTC
)

var testAlgorithms = []Algorithm{GCRA, Hard, Fixed}

func newState(a Algorithm) State {
	if a == Hard {
		return State{Ring: new(Ring)}
	}
	return State{}
}

func testLimit(a Algorithm, hits int64, window time.Duration) *Limit {
	return &Limit{Algorithm: a, Hits: hits, Window: window, Burst: max(hits, 1)}
}

// spend is what a store does with one charge.
func spend(s *State, l *Limit, hits, now int64) bool {
	if Evaluate(s, l, hits, now).Over {
		return false
	}
	Apply(s, l, hits, now)
	return true
}

func TestStepsAllocateNothing(t *testing.T) {
	for _, a := range testAlgorithms {
		l, other := testLimit(a, 1<<30, time.Minute), testLimit(a, 1<<30, time.Hour)
		s, now := newState(a), testBase
		if n := testing.AllocsPerRun(1000, func() {
			now += 1000
			spend(&s, l, 1, now)
			spend(&s, other, 1, now)
		}); n != 0 {
			t.Errorf("algorithm %d: %v allocations", a, n)
		}
	}
}

func TestUnknownAlgorithmDenies(t *testing.T) {
	for _, a := range []Algorithm{0, Fixed + 1, 255} {
		s, l := State{}, testLimit(a, 10, time.Minute)
		if o := Evaluate(&s, l, 1, testBase); !o.Over || o.RetryAfter != Never {
			t.Errorf("algorithm %d: %+v", a, o)
		}
	}
}

func TestExpiredStateIsTheDefault(t *testing.T) {
	for _, a := range testAlgorithms {
		l, s, fresh := testLimit(a, 10, time.Minute), newState(a), newState(a)
		Apply(&s, l, 10, testBase)
		for _, at := range []int64{s.Expires, s.Expires + 1, s.Expires + 1<<50} {
			if got, want := Evaluate(&s, l, 1, at), Evaluate(&fresh, l, 1, at); got != want {
				t.Errorf("algorithm %d: %+v, want %+v", a, got, want)
			}
		}
		if o := Evaluate(&s, l, 0, s.Expires-1); o.ResetAfter != 1 {
			t.Errorf("algorithm %d: %+v a microsecond before it expires", a, o)
		}
	}
}

// TestReservedStateCoversSpending: as long as Covers says so, a store that
// falls back to the reserved state never has more left than the true one.
func TestReservedStateCoversSpending(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SampledFrom(testAlgorithms).Draw(t, "algorithm")
		limits := []*Limit{}
		for range 2 {
			l := testLimit(a, rapid.Int64Range(1, 500).Draw(t, "limit"), time.Duration(rapid.IntRange(1, 120).Draw(t, "seconds"))*time.Second)
			l.Burst = rapid.Int64Range(1, 500).Draw(t, "burst")
			limits = append(limits, l)
		}
		s, recorded := newState(a), newState(a)
		now, l := testBase, limits[0]
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(-1000, 5000), rapid.Int64Range(0, 20*testSecond)).Draw(t, "pause")
			if rapid.IntRange(0, 9).Draw(t, "edit") == 0 {
				l = rapid.SampledFrom(limits).Draw(t, "to")
			}
			hits := rapid.Int64Range(1, 9).Draw(t, "hits")
			if Evaluate(&s, l, hits, now).Over {
				continue
			}
			if !Covers(&recorded, &s, l, hits, now) {
				block := max(hits, min(Evaluate(&s, l, 0, now).Remaining, l.Hits/10))
				Reserve(&recorded, &s, l, block, now)
				if !Covers(&recorded, &s, l, hits, now) {
					t.Fatalf("a new record does not cover: %+v of %+v", recorded, s)
				}
			}
			Apply(&s, l, hits, now)
			for _, later := range []int64{0, 1, rapid.Int64Range(0, 200*testSecond).Draw(t, "later")} {
				have, left := Evaluate(&s, l, 0, now+later).Remaining, Evaluate(&recorded, l, 0, now+later).Remaining
				if left > have {
					t.Fatalf("%d µs later %d are left by the record and %d in truth: %+v %+v", later, left, have, recorded, s)
				}
			}
		}
	})
}

// FuzzSteps drives a state with limits, hits and times of any size: no step
// may panic, and with one limit no interval may hold more than its bound.
func FuzzSteps(f *testing.F) {
	f.Add([]byte("\x01\x0a\x01\x0a\x01\x00\x00\x00\x00\x02\xff\xff\x00\x00\x01\x00\x00\x01\x00"))
	f.Add([]byte("\x02\x05\x03\x05\x01\x10\x00\x00\x00\x01\x10\x00\x00\x00\x09\x00\x00\x00\x10"))
	f.Add([]byte("\x00\x05\x03\x05\x03\x10\x00\x00\x00\x7f\x10\x00\x00\x00\xff\x00\x00\x00\x10"))
	f.Add([]byte("0\"0A0000000000000000\xca0")) // long before 1970
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 4 {
			return
		}
		l := testLimit(testAlgorithms[in[0]%3], int64(in[1]), time.Duration(in[2]%60+1)*time.Second)
		l.Burst = int64(in[3])
		checkBounds(t, l, in[4:])
		l.Hits, l.Burst = 1<<(in[1]%34), 1<<(in[3]%34)
		l.Window = time.Duration(1 << (in[2] % 56))
		s := newState(l.Algorithm)
		for in = in[4:]; len(in) >= 9; in = in[9:] {
			now := int64(binary.LittleEndian.Uint64(in)) >> (3 + in[0]%32) // before 1970 too
			hits := int64(1) << (in[8] % 63)
			if in[8]&64 != 0 {
				hits = -hits
			}
			o := Evaluate(&s, l, hits, now)
			if o.Remaining < 0 || o.RetryAfter < 0 || o.ResetAfter < 0 || o.Over != (o.RetryAfter > 0) {
				t.Fatalf("%+v from %+v at %d", o, s, now)
			}
			Apply(&s, l, hits, now)
			if s.Level < 0 || s.Level > max(l.Hits, l.Burst, math.MaxUint32)*micro {
				t.Fatalf("level %d", s.Level)
			}
		}
	})
}

type event struct{ at, hits int64 }

func checkBounds(t *testing.T, l *Limit, in []byte) {
	s, now := newState(l.Algorithm), testBase
	w := l.Window.Microseconds()
	var log []event
	for ; len(in) >= 4 && len(log) < 200; in = in[4:] {
		now += int64(in[0]) | int64(in[1])<<10 | int64(in[2])<<18
		hits := int64(in[3] % 16)
		if !spend(&s, l, hits, now) {
			if l.Algorithm == Hard && hits <= l.Hits && surelyCounted(log, l, now)+lost(l)+hits <= l.Hits {
				t.Fatalf("%d hits at %d were refused and fit %+v", hits, now, l)
			}
			continue
		}
		log = append(log, event{now, hits})
		var sum int64
		for i := len(log) - 1; i >= 0; i-- {
			at := log[i].at
			sum += log[i].hits
			over := false
			switch l.Algorithm {
			case GCRA:
				over = (sum-l.Burst)*w > l.Hits*(now-at)
			case Hard:
				over = at > now-w && sum > l.Hits
			case Fixed:
				over = at >= now-now%w && sum > l.Hits
			}
			if over && sum > 0 {
				t.Fatalf("%d hits from %d to %d break %+v", sum, at, now, l)
			}
		}
	}
}

func BenchmarkStep(b *testing.B) {
	for i, name := range []string{"gcra", "hard", "fixed"} {
		b.Run(name, func(b *testing.B) {
			l, s, now := testLimit(testAlgorithms[i], 1<<30, time.Minute), newState(testAlgorithms[i]), testBase
			b.ReportAllocs()
			for b.Loop() {
				now += 10
				spend(&s, l, 1, now)
			}
		})
	}
}
