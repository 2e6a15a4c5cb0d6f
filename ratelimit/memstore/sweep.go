package memstore

// maxGone bounds the list of records to delete; what doesn't fit is deleted
// after the next restart.
const maxGone = 4096

// sweep looks at up to n slots of each table and removes cells that equal the
// default state. It returns how many slots it looked at and cells it removed.
func (sh *shard) sweep(s *Store, n int) (looked, removed int) {
	now := sh.now
	looked, removed = sh.light.sweep(n, func(_ key, c *lightCell) bool { return c.expires <= now })
	l, r := sh.heavy.sweep(n, func(k key, c **heavyCell) bool {
		cell := *c
		if cell.pinned > 0 || cell.state.Expires > now || cell.recorded.Expires > now {
			return false
		}
		if cell.recorded.Expires != 0 && len(sh.gone) < maxGone {
			sh.gone = append(sh.gone, k)
		}
		return true
	})
	looked, removed = looked+l, removed+r
	s.cells.Add(int64(-removed))
	return looked, removed
}

// makeRoom looks for expired cells, in a bounded number of slots.
func (s *Store) makeRoom(now int64) {
	looked, removed := 0, 0
	for visited := 0; visited < shards && looked < sweepWhenFull && removed == 0; visited++ {
		sh := &s.shards[s.sweepAt.Add(1)%shards]
		sh.mu.Lock()
		sh.now = max(sh.now, now)
		l, r := sh.sweep(s, sweepWhenFull-looked)
		sh.mu.Unlock()
		looked, removed = looked+l, removed+r
	}
}

// Sweep removes every cell that has expired by now, Unix microseconds, with
// its record in the journal, and returns how many. It never changes an answer.
func (s *Store) Sweep(now int64) (removed int) {
	const chunk = 4096 // slots per hold of a shard's lock
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.now = max(sh.now, now)
		left := max(len(sh.light.slots), len(sh.heavy.slots))
		for ; left > 0; left -= chunk {
			_, r := sh.sweep(s, min(left, chunk))
			removed += r
			sh.mu.Unlock()
			sh.mu.Lock()
		}
		sh.light.shrink()
		sh.heavy.shrink()
		gone := sh.gone
		sh.gone = nil
		sh.mu.Unlock()
		if s.journal != nil && len(gone) > 0 {
			s.journal.forget(now, gone)
		}
	}
	return removed
}
