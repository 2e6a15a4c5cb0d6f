package storetest

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// RunShared tests what only a store that is shared has to keep: an operation counts
// once, whoever asks with its id, and how often. open returns two ways to one ledger.
// A way that has just refused may go on refusing by itself, whatever the id.
func RunShared(t *testing.T, open func(t *testing.T) (a, b ratelimit.Store)) {
	for _, alg := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		t.Run("of algorithm "+string('0'+rune(alg)), func(t *testing.T) {
			a, b := open(t)
			l, tight := newLimit(alg, 10, time.Hour), newLimit(alg, 2, time.Hour)
			wide, narrow := newCell(1), newCell(1)
			s := shared{t: t, now: base}
			both := []ratelimit.Charge{{Limit: l, Cell: wide, Hits: 1}, {Limit: tight, Cell: narrow, Hits: 1}}

			s.expect(a, 1, true, both)
			s.expect(a, 1, true, both) // the same store
			s.expect(b, 1, true, both) // another
			s.expect(b, 2, true, both)
			s.expect(a, 3, false, both) // full
			s.expect(b, 2, true, both)  // says what it said, though there is no room any more
			s.expect(b, 1, true, both)
			s.expect(a, 4, true, both[:1]) // an id says nothing about charges
			s.expect(b, 0, true, both[:1]) // nobody asks twice
			s.expect(b, 0, true, both[:1])
			s.left(a, l, wide, 5)
			s.left(b, tight, narrow, 0)

			s.now += 3 * 3600 * second // the refused one was not remembered
			s.expect(b, 3, true, both)
			s.left(a, tight, narrow, 1)
			s.left(b, l, wide, 9)
		})
	}
}

type shared struct {
	t   *testing.T
	now int64
}

func (s shared) expect(store ratelimit.Store, id uint64, want bool, charges []ratelimit.Charge) {
	s.t.Helper()
	op := ratelimit.Operation{Now: s.now}
	if id != 0 {
		cells := charges[0].Cell.Key // so that no two sub-tests share an id
		copy(op.ID[:8], cells[:8])
		binary.BigEndian.PutUint64(op.ID[8:], id)
	}
	if got, err := store.Charge(op, charges, make([]ratelimit.Outcome, len(charges))); err != nil || got != want {
		s.t.Fatalf("operation %d: admitted %v, %v, want %v", id, got, err, want)
	}
}

func (s shared) left(store ratelimit.Store, l *ratelimit.Limit, c ratelimit.Cell, want int64) {
	s.t.Helper()
	if _, o := charge(s.t, store, s.now, ratelimit.Charge{Limit: l, Cell: c}); o[0].Remaining != want {
		s.t.Fatalf("%d are left of %d, want %d", o[0].Remaining, l.Hits, want)
	}
}
