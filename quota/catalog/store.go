package catalog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// The file has a bucket for each list of the catalogue, name → JSON, and one
// for answers to operations, found by key and in the order of time. Each value
// ends in a checksum over its key and itself, and the head counts and sums the
// entries' checksums: a page that was lost or is from another time shows.
const format = 2

var (
	bucketHead    = []byte("_head")      // sorts first: its format decides about the rest
	bucketAnswers = []byte("operations") // key 32 → body hash 32, Unix µs 8, answer
	bucketByTime  = []byte("operations_by_time")

	headFormat   = []byte("format")
	headRevision = []byte("revision")
	headDigest   = []byte("digest") // count 8, sum 8

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// kept is what a file holds.
type kept struct {
	own        *View
	revision   uint64
	answers    int
	count, sum uint64 // of entries
}

// store is an open file. Its owner serialises the calls.
type store struct {
	db         *bbolt.DB
	answers    int
	maxAnswers int
	count, sum uint64
	broken     error // after this, the file is not written any more
}

func (s *store) close() error { return s.db.Close() }

// guarded runs fn so that a page of the mapped file that can't be read, or is
// not what bbolt believes, is an error and not the end of the process.
func (s *store) guarded(fn func() error) (err error) {
	if s.broken != nil {
		return s.broken
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			s.broken = fmt.Errorf("catalogue file %s: can't be read or written any more (%v); check the disk and restart", s.db.Path(), p)
			err = s.broken
		}
	}()
	return fn()
}

// write is one transaction and one fsync. Counters of s follow it only if it holds.
func (s *store) write(fn func(*writer) error) error {
	return s.guarded(func() error {
		w := &writer{answers: s.answers, count: s.count, sum: s.sum}
		err := s.db.Update(func(tx *bbolt.Tx) error {
			w.tx = tx
			if err := fn(w); err != nil {
				return err
			}
			digest := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, w.count), w.sum)
			return tx.Bucket(bucketHead).Put(headDigest, seal(headDigest, digest))
		})
		if err != nil {
			return fmt.Errorf("catalogue file %s: %w", s.db.Path(), err)
		}
		s.answers, s.count, s.sum = w.answers, w.count, w.sum
		return nil
	})
}

func (s *store) save(_ context.Context, p step) error {
	if err := p.answer.check(); err != nil {
		return err
	}
	return s.write(func(w *writer) error {
		if err := w.revision(p.revision); err != nil {
			return err
		}
		for _, c := range p.changes {
			if err := w.change(w.tx.Bucket([]byte(c.list.name())), []byte(c.name), c.content); err != nil {
				return err
			}
		}
		if p.answer == nil {
			return nil
		}
		return w.remember(p.answer, s.maxAnswers)
	})
}

func (s *store) recall(_ context.Context, key [32]byte, now time.Time) (body [32]byte, response []byte, ok bool, err error) {
	err = s.guarded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			sealed := tx.Bucket(bucketAnswers).Get(key[:])
			if sealed == nil {
				return nil
			}
			v, whole := unseal(key[:], sealed)
			var wrong bool
			if body, response, ok, wrong = decodeAnswer(v, now); wrong || !whole {
				return fmt.Errorf("catalogue file %s: the answer to an operation is damaged", s.db.Path())
			}
			return nil
		})
	})
	return body, response, ok, err
}

// writer is one transaction.
type writer struct {
	tx         *bbolt.Tx
	answers    int
	count, sum uint64
}

func (w *writer) revision(revision uint64) error {
	return w.tx.Bucket(bucketHead).Put(headRevision, seal(headRevision, binary.BigEndian.AppendUint64(nil, revision)))
}

// change writes an entry, or removes it if its content is nil.
func (w *writer) change(b *bbolt.Bucket, k, content []byte) error {
	w.forget(b, k)
	if content == nil {
		return b.Delete(k)
	}
	v := seal(k, content)
	w.count++
	w.sum += uint64(checksum(v))
	return b.Put(k, v)
}

// forget takes the entry under k out of the digest, if there is one.
func (w *writer) forget(b *bbolt.Bucket, k []byte) {
	if v := b.Get(k); v != nil {
		w.count--
		w.sum -= uint64(checksum(v))
	}
}

// remember keeps an answer, and drops the oldest beyond the bounds.
func (w *writer) remember(r *remembered, most int) error {
	byKey, byTime := w.tx.Bucket(bucketAnswers), w.tx.Bucket(bucketByTime)
	if sealed := byKey.Get(r.Key[:]); sealed != nil { // expired, or it would have been recalled
		if v, ok := unseal(r.Key[:], sealed); ok && len(v) >= answerHead {
			if err := byTime.Delete(append(bytes.Clone(v[32:answerHead]), r.Key[:]...)); err != nil {
				return err
			}
		}
		w.answers--
	}
	content := r.encode()
	order := append(bytes.Clone(content[32:answerHead]), r.Key[:]...)
	if err := errors.Join(byKey.Put(r.Key[:], seal(r.Key[:], content)), byTime.Put(order, seal(order, nil))); err != nil {
		return err
	}
	w.answers++
	oldest := binary.BigEndian.AppendUint64(nil, uint64(r.Now.Add(-keepAnswers).UnixMicro()))
	// The first key is looked for anew each time: a cursor skips after a deletion.
	for range 100 { // of each write, so that none takes long
		k, _ := byTime.Cursor().First()
		if len(k) != 40 || bytes.Compare(k[:8], oldest) >= 0 && w.answers <= most {
			break
		}
		k = bytes.Clone(k)
		if err := errors.Join(byTime.Delete(k), byKey.Delete(k[8:])); err != nil {
			return err
		}
		w.answers--
	}
	return nil
}

// seal appends a checksum over key and value.
func seal(k, v []byte) []byte {
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
	return binary.BigEndian.AppendUint32(bytes.Clone(v), sum)
}

// unseal is the value, if the checksum is right.
func unseal(k, v []byte) ([]byte, bool) {
	if len(v) < crc32.Size {
		return nil, false
	}
	body := v[: len(v)-crc32.Size : len(v)-crc32.Size]
	return body, crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, body) == checksum(v)
}

// checksum is the one that ends a sealed value; 0 for what can't be one.
func checksum(v []byte) uint32 {
	if len(v) < crc32.Size {
		return 0
	}
	return binary.BigEndian.Uint32(v[len(v)-crc32.Size:])
}
