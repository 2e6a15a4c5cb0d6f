package memstore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Journal holds, on disk, what durable limits have spent or are about to
// spend: a cell's hits are recorded in blocks before they are spent. A crash
// loses at most one block of each cell, which counts as spent; it never gives
// a hit back. One process has a journal open, and one store uses it.
//
// While the file can't be written, durable limits go on with what is recorded
// already and then answer ErrJournal; everything else works. Writing is tried
// again after a tenth of a second, with no restart.
type Journal struct {
	path     string
	log      *slog.Logger
	db       *bbolt.DB
	loaded   contents
	requests chan *request
	stop     chan struct{}
	stopped  chan struct{}
	closing  sync.Once
	closeErr error
	store    *Store
	fault    func() error // tests: fails a write before it is committed

	// The writer's own.
	count, sum uint64
	lastErr    error
	retryAt    int64

	fsyncs, written, failures atomic.Uint64
	failing                   atomic.Bool
}

// JournalStats counts since OpenJournal.
type JournalStats struct {
	Fsyncs  uint64 // commits, each of many records
	Records uint64 // written or deleted
	Errors  uint64 // failed commits
	Failing bool   // the last commit failed
}

// request is one caller's records, or the keys whose records have expired.
type request struct {
	now  int64
	kvs  []keyValue
	gone []key
	done chan error
}

// keyValue deletes the record if it has no value.
type keyValue struct{ k, v []byte }

const (
	retryAfter   = 100_000 // µs before a failed write is tried again
	maxRequests  = 1024    // in one commit
	batchRecords = 1000    // deleted or closed in one request
)

var errClosed = errors.New("the journal is closed")

// Stats returns the journal's counters.
func (j *Journal) Stats() JournalStats {
	return JournalStats{Fsyncs: j.fsyncs.Load(), Records: j.written.Load(), Errors: j.failures.Load(), Failing: j.failing.Load()}
}

// attach fills the store with what the journal holds: it counts as spent.
func (j *Journal) attach(s *Store) {
	j.store, s.damaged = s, j.loaded.damaged
	for i := range j.loaded.records {
		r := &j.loaded.records[i]
		sh := &s.shards[shardOf(&ratelimit.Cell{Shard: r.shard})]
		cell := &heavyCell{state: r.state, recorded: r.state, shard: r.shard, alg: r.alg}
		if r.state.Ring != nil {
			ring := *r.state.Ring
			cell.recorded.Ring = &ring
		}
		sh.heavy.reserve(1)
		*sh.heavy.insert(r.key) = cell
		s.cells.Add(1)
	}
	j.loaded.records = nil
}

// write returns when the records are on disk, or why they may not be.
func (j *Journal) write(now int64, records []record) error {
	r := &request{now: now, kvs: make([]keyValue, len(records))}
	for i := range records {
		r.kvs[i].k = records[i].key.append(nil)
		if records[i].state.Expires != 0 {
			r.kvs[i].v = appendRecord(nil, &records[i])
		}
	}
	return j.send(r)
}

// forget deletes records that have expired by now, as far as that works.
func (j *Journal) forget(now int64, gone []key) {
	for len(gone) > 0 {
		n := min(len(gone), batchRecords)
		if j.send(&request{now: now, gone: gone[:n]}) != nil {
			return
		}
		gone = gone[n:]
	}
}

func (j *Journal) send(r *request) error {
	r.done = make(chan error, 1)
	select {
	case j.requests <- r:
	case <-j.stop:
		return errClosed
	}
	select {
	case err := <-r.done:
		return err
	case <-j.stopped:
		select {
		case err := <-r.done:
			return err
		default:
			return errClosed
		}
	}
}

// run commits what has gathered while the commit before it waited for the disk.
func (j *Journal) run() {
	defer close(j.stopped)
	for {
		var batch []*request
		select {
		case r := <-j.requests:
			batch = append(batch, r)
		case <-j.stop:
			return
		}
		for more := true; more && len(batch) < maxRequests; {
			select {
			case r := <-j.requests:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		err := j.commit(batch)
		for _, r := range batch {
			r.done <- err
		}
	}
}

func (j *Journal) commit(batch []*request) error {
	now := batch[0].now
	for _, r := range batch {
		now = max(now, r.now)
	}
	if j.lastErr != nil && now < j.retryAt {
		return j.lastErr
	}
	err := j.update(batch)
	switch {
	case err != nil:
		j.failures.Add(1)
		if !j.failing.Swap(true) {
			j.log.Error("the journal of durable limits can't be written; they refuse once what is recorded is spent",
				"path", j.path, "error", err, "hint", "free disk space or make the file writable; no restart is needed")
		}
		j.retryAt = now + retryAfter
	case j.failing.Swap(false):
		j.log.Info("the journal of durable limits is written again", "path", j.path)
	}
	j.lastErr = err
	return err
}

// update is one transaction, and one fsync. What bbolt panics with, or what
// the disk fails to read, is an error.
func (j *Journal) update(batch []*request) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("journal: %v", p)
		}
	}()
	t := transaction{count: j.count, sum: j.sum}
	err = j.db.Update(func(tx *bbolt.Tx) error {
		t.cells = tx.Bucket(bucketCells)
		for _, r := range batch {
			if err := t.request(r); err != nil {
				return err
			}
		}
		if j.fault != nil {
			if err := j.fault(); err != nil {
				return err
			}
		}
		return putDigest(tx, t.count, t.sum)
	})
	if err == nil {
		j.count, j.sum = t.count, t.sum
		j.fsyncs.Add(1)
		j.written.Add(t.changes)
	}
	return err
}

// transaction keeps the digest in step with the records.
type transaction struct {
	cells               *bbolt.Bucket
	count, sum, changes uint64
}

func (t *transaction) request(r *request) error {
	for _, kv := range r.kvs {
		if err := t.put(kv.k, kv.v); err != nil {
			return err
		}
	}
	for _, k := range r.gone {
		kb := k.append(nil)
		old, err := parseRecord(kb, t.cells.Get(kb))
		if err != nil || old.state.Expires > r.now {
			continue // gone already, or charged again since
		}
		if err := t.put(kb, nil); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) put(k, v []byte) error {
	if old := t.cells.Get(k); old != nil {
		t.count--
		t.sum -= valueSum(old)
	}
	t.changes++
	if v == nil {
		return t.cells.Delete(k)
	}
	t.count++
	t.sum += valueSum(v)
	return t.cells.Put(k, v)
}

func putDigest(tx *bbolt.Tx, count, sum uint64) error {
	body := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, count), sum)
	return tx.Bucket(bucketHead).Put(headDigest, sealHead(headDigest, body))
}

// Close records what was truly spent, so that a stop loses nothing, and closes
// the file. Durable limits answer ErrJournal from then on.
func (j *Journal) Close() error {
	j.closing.Do(func() {
		if j.store != nil {
			j.closeErr = j.store.seal()
		}
		close(j.stop)
		<-j.stopped
		j.closeErr = errors.Join(j.closeErr, j.db.Close())
	})
	return j.closeErr
}

// seal ends the spending of durable cells and records their true states.
func (s *Store) seal() error {
	var records []record
	var latest int64
	for i := range s.shards {
		sh := &s.shards[i]
		sh.recording.Lock()
		sh.mu.Lock()
		sh.sealed = true
		latest = max(latest, sh.now)
		for e := range sh.heavy.slots {
			cell := sh.heavy.slots[e].v
			if cell == nil || cell.recorded.Expires == 0 {
				continue
			}
			r := record{key: sh.heavy.slots[e].key, shard: cell.shard, state: cell.state, alg: cell.alg}
			if cell.state.Ring != nil {
				ring := *cell.state.Ring
				r.state.Ring = &ring
			}
			records = append(records, r)
		}
		sh.mu.Unlock()
		sh.recording.Unlock()
	}
	// In the file's order, so that a batch writes few pages.
	slices.SortFunc(records, func(a, b record) int { return cmp.Or(cmp.Compare(a.key.hi, b.key.hi), cmp.Compare(a.key.lo, b.key.lo)) })
	for len(records) > 0 {
		n := min(len(records), batchRecords)
		// A stop is worth one try even right after a failure.
		if err := s.journal.write(latest+retryAfter, records[:n]); err != nil {
			return fmt.Errorf("%w: %w", ErrJournal, err)
		}
		records = records[n:]
	}
	return nil
}
