package outage

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// When the breaker opens: after so many failures in a row, after two or more over so long, or when half of
// the calls of a span fail and they are not few.
const (
	failuresInARow = 5
	failingFor     = 500 * time.Millisecond
	span           = 500 * time.Millisecond
	notFew         = 20
)

// How an open breaker asks.
const (
	probeEvery = 100 * time.Millisecond // times the breakers that are open
	probeLeast = 500 * time.Millisecond // but no less often than this
	probeHangs = 500 * time.Millisecond // a probe that is still out after its budget is left alone for so long
	// No other server has taken over in less, so a shorter silence of unbroken connections has lost nothing.
	failover = time.Second
)

// breaker decides whether the shared store is asked. The zero value is closed.
// A term ends with each opening and closing, so that a call of one term says nothing in the next.
type breaker struct {
	term   atomic.Uint64 // odd while open
	opened atomic.Uint64
	row    atomic.Int64  // failures since the last success
	oks    atomic.Uint64 // successes

	mu     sync.Mutex
	first  time.Time // of the row
	begun  time.Time // the span
	before uint64    // oks when it began
	fails  uint64    // in it
}

// closedTerm is the current term, and whether calls may be made in it.
func (b *breaker) closedTerm() (term uint64, closed bool) {
	term = b.term.Load()
	return term, term&1 == 0
}

func (b *breaker) isOpen() bool { return b.term.Load()&1 == 1 }

func (b *breaker) succeeded() {
	b.oks.Add(1)
	if b.row.Load() != 0 {
		b.row.Store(0)
	}
}

// failed is true if this failure opens the breaker.
func (b *breaker) failed(term uint64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if term != b.term.Load() || term&1 == 1 {
		return false
	}
	row := b.row.Add(1)
	if row == 1 {
		b.first = now
	}
	if now.Sub(b.begun) > span {
		b.begun, b.before, b.fails = now, b.oks.Load(), 0
	}
	b.fails++
	oks := b.oks.Load() - b.before
	switch {
	case row >= failuresInARow:
	case row >= 2 && now.Sub(b.first) >= failingFor:
	case b.fails+oks >= notFew && b.fails >= oks:
	default:
		return false
	}
	b.opened.Add(1)
	b.term.Add(1)
	return true
}

// close lets calls through again.
func (b *breaker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row.Store(0)
	b.begun, b.fails = time.Time{}, 0
	if b.isOpen() {
		b.term.Add(1)
	}
}

// probeLimit is charged to learn whether the store counts: a look would not show one that is full or read-only.
var probeLimit = ratelimit.Limit{Name: "probe", Algorithm: ratelimit.Fixed, Hits: ratelimit.MaxHits, Window: ratelimit.MinWindow}

// probe asks the shared store for a lane, one call at a time, until one is answered within the budget. It asks the shard
// of the call that failed last.
func (s *Store) probe(lane *breaker, shard uint64) {
	opened := time.Now()
	charge := []ratelimit.Charge{{Limit: &probeLimit, Hits: 1, Cell: ratelimit.Cell{Shard: shard, Key: [16]byte{15: 1}}}}
	for {
		op := ratelimit.Operation{Now: time.Now().UnixMicro(), ID: s.mint()}
		if s.listen(ask(func() error {
			_, err := s.o.Shared.Charge(op, charge, make([]ratelimit.Outcome, 1))
			return err
		})) {
			if time.Since(opened) > failover {
				s.trouble.begin(opened, true)
			}
			lane.close()
			s.o.Log.Info("the shared store answers again", "owed", s.owed.len())
			select {
			case s.mended <- struct{}{}:
			default:
			}
			s.settleSoon()
			return
		}
		if !s.pause(min(time.Duration(s.openLanes())*probeEvery, probeLeast)) {
			return
		}
	}
}

// listen reports whether a probe is answered in time. One that is not is waited for a little longer, so that no other meets it.
func (s *Store) listen(answer <-chan error) bool {
	timer := time.NewTimer(s.o.Budget)
	defer timer.Stop()
	select {
	case err := <-answer:
		return err == nil
	case <-s.quit:
		return false
	case <-timer.C:
	}
	timer.Reset(probeHangs)
	select {
	case <-answer: //nolint:errcheck // it came too late, whatever it is
	case <-timer.C:
	case <-s.quit:
	}
	return false
}

// pause is false if s was closed.
func (s *Store) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.quit:
		return false
	}
}
