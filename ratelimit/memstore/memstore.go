// Package memstore keeps counters in memory, and those of durable limits in a
// journal as well. It is the store of a single sluiced; replicas that share
// limits need a shared store.
//
// A charge of three limits costs a few hundred nanoseconds with a million live
// cells and allocates nothing; a GCRA or Fixed cell costs about 100 bytes, a
// Hard cell about 450. A durable limit waits for an fsync once per block of
// hits, a hundredth of the limit.
package memstore

import (
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Errors of Charge. Nothing was charged.
var (
	// ErrFull: MaxCells cells are active. Cells that have expired make room.
	ErrFull = errors.New("memstore: every cell is in use; raise the maximum number of cells or wait until some expire")
	// ErrJournal: a durable limit would go beyond what the journal holds, and
	// the journal can't be written. The cause is wrapped.
	ErrJournal = errors.New("memstore: a durable limit can't be recorded")
	errShort   = errors.New("memstore: fewer outcomes than charges")
)

// Options are what a store is made of.
type Options struct {
	MaxCells int      // most cells kept; 0 is 4 million
	Journal  *Journal // where Durable limits are recorded; nil: none survives
}

const (
	shards          = 256
	defaultMaxCells = 4 << 20
	sweepPerInsert  = 4
	sweepWhenFull   = 512 // slots looked at before ErrFull
)

// Store keeps counters. It is safe for concurrent use. It implements ratelimit.Store.
//
// Time never goes back in a shard: an earlier now counts as the latest seen.
// Shadowed charges are not journaled, since a broken journal must not refuse for them.
type Store struct {
	shards   [shards]shard
	maxCells int64
	cells    atomic.Int64
	sweepAt  atomic.Uint32 // the next shard to sweep when full
	journal  *Journal
	damaged  int64 // when durable usage was lost: cells without a record are full then; 0: never
}

// lightCell is a ratelimit.State without a ring and without pointers.
type lightCell struct{ expires, at, level int64 }

// heavyCell is a Hard cell or a durable one.
type heavyCell struct {
	state    ratelimit.State
	recorded ratelimit.State // what the journal holds of it; zero: nothing
	shard    uint64          // ratelimit.Cell.Shard, to find it again after a restart
	alg      ratelimit.Algorithm
	pinned   int // recordings under way: must not be evicted
}

type shard struct {
	mu      sync.Mutex
	now     int64 // latest seen
	light   table[lightCell]
	heavy   table[*heavyCell]
	scratch []slot
	touched uint64 // keeps reserve's reads from being optimized away
	sealed  bool   // the journal is closed: durable cells can't be spent
	gone    []key  // evicted; their records can be deleted

	recording sync.Mutex // held over a recording of this shard's cells; taken before mu
	_         [64]byte
}

// New returns a store with what its journal holds. A journal serves one store.
func New(o Options) *Store {
	s := &Store{maxCells: int64(o.MaxCells), journal: o.Journal}
	if s.maxCells <= 0 {
		s.maxCells = defaultMaxCells
	}
	if s.journal != nil {
		s.journal.attach(s)
	}
	return s
}

// Len is how many cells are kept, expired ones that no sweep has met included.
func (s *Store) Len() int { return int(s.cells.Load()) }

// Cap is Options.MaxCells, or what it is by default.
func (s *Store) Cap() int { return int(s.maxCells) }

func shardOf(c *ratelimit.Cell) uint8 {
	return uint8((c.Shard * 0x9e3779b97f4a7c15) >> 56)
}

// shardSet is a set of shards; locked in ascending order.
type shardSet [shards / 64]uint64

func (t *shardSet) add(i uint8) { t[i/64] |= 1 << (i % 64) }

func (s *Store) lock(set *shardSet) (first *shard) {
	for w, word := range set {
		for ; word != 0; word &= word - 1 {
			sh := &s.shards[w*64+bits.TrailingZeros64(word)]
			sh.mu.Lock()
			if first == nil {
				first = sh
			}
		}
	}
	return first
}

func (s *Store) unlock(set *shardSet) {
	for w, word := range set {
		for ; word != 0; word &= word - 1 {
			s.shards[w*64+bits.TrailingZeros64(word)].mu.Unlock()
		}
	}
}

// verdict is how an attempt ended.
type verdict uint8

const (
	refused verdict = iota
	admitted
	full
	uncovered // a durable cell needs a record first
)

// Charge implements ratelimit.Store. Two charges of one cell are judged as
// their sum. Errors are ErrFull, and ErrJournal with its cause.
func (s *Store) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	if len(outcomes) < len(charges) {
		return false, errShort
	}
	if len(charges) == 0 {
		return true, nil
	}
	now := op.Now // of the id there is no need: no answer of this store is ever lost
	var set shardSet
	for i := range charges {
		set.add(shardOf(&charges[i].Cell))
	}
	for range 2 {
		switch s.attempt(now, &set, charges, outcomes, nil) {
		case admitted:
			return true, nil
		case refused:
			return false, nil
		case uncovered:
			return s.chargeRecorded(now, &set, charges, outcomes)
		case full:
			s.makeRoom(now)
		}
	}
	return false, ErrFull
}
