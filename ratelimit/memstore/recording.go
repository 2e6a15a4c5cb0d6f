package memstore

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// maxRecordings bounds how often one request records before it gives up: each
// time but the first, others must have spent what it had recorded.
const maxRecordings = 64

var errContended = errors.New("others spend faster than the journal records")

// recording is a request's trip to the journal. It is made under the recording
// locks of the request's shards, so a cell has one record under way at a time.
type recording struct {
	items   []record
	written bool
}

// record is a state on its way into the journal.
type record struct {
	sh    *shard
	key   key
	cell  *heavyCell
	shard uint64
	state ratelimit.State
	alg   ratelimit.Algorithm
}

// chargeRecorded charges what needs a record first. No shard is locked while
// the disk works: charges that are covered already, and those of other
// tenants, go on.
func (s *Store) chargeRecorded(now int64, set *shardSet, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	s.lockRecording(set)
	defer s.unlockRecording(set)
	var rec recording
	swept := false
	for range maxRecordings {
		switch s.attempt(now, set, charges, outcomes, &rec) {
		case admitted:
			return true, nil
		case refused:
			return false, nil
		case full:
			if swept {
				return false, ErrFull
			}
			s.makeRoom(now)
			swept = true
			continue
		case uncovered:
		}
		err := s.journal.write(now, rec.items)
		if err != nil {
			s.lock(set)
			rec.abort()
			s.unlock(set)
			return false, fmt.Errorf("%w: %w", ErrJournal, err)
		}
		rec.written = true
	}
	s.lock(set)
	rec.commit()
	s.unlock(set)
	return false, fmt.Errorf("%w: %w", ErrJournal, errContended)
}

func (s *Store) lockRecording(set *shardSet) {
	for w, word := range set {
		for ; word != 0; word &= word - 1 {
			s.shards[w*64+bits.TrailingZeros64(word)].recording.Lock()
		}
	}
}

func (s *Store) unlockRecording(set *shardSet) {
	for w, word := range set {
		for ; word != 0; word &= word - 1 {
			s.shards[w*64+bits.TrailingZeros64(word)].recording.Unlock()
		}
	}
}

// block is how many hits are recorded ahead: a hundredth of the limit, at
// least what is asked for, at most what is left. It is what a crash can lose.
func block(sl *slot, l *ratelimit.Limit, hits int64) int64 {
	left := ratelimit.Evaluate(sl.current(), l, 0, sl.at).Remaining
	return min(max(1, min(l.Hits, ratelimit.MaxHits)/100, hits), max(left, hits))
}

// prepare makes a record for every durable cell that lacks one, and the cells
// that don't exist yet. It returns how many cells it made.
func (rec *recording) prepare(slots []slot, charges []ratelimit.Charge) (created int) {
	rec.written = false
	for i := range slots {
		sl, c := &slots[i], &charges[i]
		if sl.covered(c) {
			continue
		}
		if sl.heavy == nil {
			created += sl.create(c)
		}
		item := rec.item(sl, c)
		if item.state.Ring == nil && c.Limit.Algorithm == ratelimit.Hard {
			item.state.Ring = new(ratelimit.Ring)
		}
		hits := addHits(sl.pending, c.Hits)
		ratelimit.Reserve(&item.state, &sl.heavy.state, c.Limit, block(sl, c.Limit, hits), sl.at)
	}
	return created
}

// item is the record of a slot's cell: one, even if the request charges it twice.
func (rec *recording) item(sl *slot, c *ratelimit.Charge) *record {
	for i := range rec.items {
		if rec.items[i].cell == sl.heavy {
			return &rec.items[i]
		}
	}
	sl.heavy.pinned++
	rec.items = append(rec.items, record{
		sh: sl.sh, key: sl.key, cell: sl.heavy, shard: sl.heavy.shard, alg: c.Limit.Algorithm,
	})
	return &rec.items[len(rec.items)-1]
}

// commit makes what the journal has written spendable. The shards are locked.
func (rec *recording) commit() {
	if !rec.written {
		return
	}
	for i := range rec.items {
		rec.items[i].cell.recorded = rec.items[i].state
		rec.items[i].cell.pinned--
	}
	rec.items, rec.written = nil, false
}

// abort leaves the cells as they were. The shards are locked.
func (rec *recording) abort() {
	for i := range rec.items {
		rec.items[i].cell.pinned--
	}
	rec.items = nil
}
