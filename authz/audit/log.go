package audit

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// Log is an open audit log. It is safe for concurrent use. One goroutine writes;
// what gathers while it waits for the disk is written and synced together.
//
// After a failed write the log goes back to what is known to be on disk, records how many
// entries are missing, and tries again by itself.
type Log struct {
	o        Options
	enc      encoder
	signer   *signer
	previous *signer // nil if none was given
	lock     *os.File
	disk     disk

	mu        sync.Mutex
	queue     batch
	spare     batch
	closed    bool
	dropped   uint64 // entries since the last gap record
	refused   uint64 // required ones that were not taken, since then
	strangers flood[netip.Prefix]
	refusals  flood[tenant.ID] // of callers who proved who they are

	wake          chan struct{} // something waits
	urgent        chan struct{} // and somebody waits for it, or it is much
	stop, stopped chan struct{}
	closing       sync.Once
	closeErr      error

	failing, stalled atomic.Bool
	stats            counters
	w                writer
}

type counters struct {
	records, bytes, dropped, suppressed, late, fsyncs, errors atomic.Uint64
	damaged                                                   atomic.Pointer[string]
}

// disk is how the log writes; tests make it fail.
type disk struct {
	write func(*os.File, []byte) (int, error)
	sync  func(*os.File) error
}

// batch is records that wait: their bodies, one after the other.
type batch struct {
	data []byte
	ends []int
	done *done // of those who wait for the disk; nil if nobody does
}

// done is what became of a batch. err and late are guarded by Log.mu until closed.
type done struct {
	closed chan struct{}
	err    error
	late   uint64 // callers who did not wait to the end
}

func (b *batch) add(body []byte) {
	b.data = append(b.data, body...)
	b.ends = append(b.ends, len(b.data))
}

// Available reports whether a required record would, as far as is known, be
// written now. It is one atomic load or two; ask it before work that must be recorded.
func (l *Log) Available() bool { return !l.failing.Load() && !l.stalled.Load() }

// Record writes e as its class asks. A required entry is on disk when Record returns
// nil; otherwise what it is about must not be done. A best-effort entry is queued for at most
// 50 ms, which a crash loses, or dropped and counted in a gap record; the error is nil or ErrClosed. An entry of the class
// Unrecorded is not written; an anonymous one, and a refusal, or what the soft stage kept from being one, that no rule asks a record of,
// singly or as part of a count.
func (l *Log) Record(e *Entry) error {
	switch {
	case e.Anonymous:
		recordRefused(l, &l.strangers, network(e.Source, l.o.WholeSource), e)
		return nil
	case e.Class == authz.Unrecorded:
		return nil
	case e.Class == authz.BestEffort && e.Kind == KindDecision && (!e.Allowed || e.ShadowReason != ""):
		recordRefused(l, &l.refusals, e.Tenant, e)
		return nil
	}
	required := e.Class == authz.Required
	if required && l.failing.Load() {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.refuse()
	}
	var space [2048]byte
	body := l.enc.append(space[:0], e)
	d, err := l.enqueue(body, required)
	if err != nil || !required {
		return err
	}
	return l.await(d)
}

func (l *Log) enqueue(body []byte, required bool) (*done, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.o.QueueBytes
	if required {
		most *= 2 // best-effort records can't keep a required one out
	}
	switch full := len(l.queue.data)+len(body) > most; {
	case l.closed:
		return nil, ErrClosed
	case full && required:
		return nil, l.refuse()
	case full:
		l.dropped++
		l.stats.dropped.Add(1)
		return nil, nil
	}
	if len(l.queue.ends) == 0 {
		nudge(l.wake)
	}
	l.queue.add(body)
	if required && l.queue.done == nil {
		l.queue.done = &done{closed: make(chan struct{})}
	}
	if required || len(l.queue.data) > lingerBytes {
		nudge(l.urgent)
	}
	return l.queue.done, nil
}

// refuse counts a required entry that can't be taken: what it is about is refused, and that
// would otherwise be nowhere. l.mu is held.
func (l *Log) refuse() error {
	if l.closed {
		return ErrClosed
	}
	l.refused++
	l.stats.dropped.Add(1)
	return ErrUnavailable
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *Log) await(d *done) error {
	timer := time.NewTimer(l.o.Wait)
	defer timer.Stop()
	select {
	case <-d.closed:
		return d.err
	case <-timer.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-d.closed:
		return d.err
	default:
	}
	d.late++
	l.stats.late.Add(1)
	l.stalled.Store(true)
	return ErrUnavailable
}

// settle tells who waits what became of their batch.
func (l *Log) settle(d *done, err error) {
	if d == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.err = err; err == nil {
		l.w.late += d.late
	}
	close(d.closed)
}

// Stats returns the log's counters.
func (l *Log) Stats() Stats {
	s := Stats{
		Records: l.stats.records.Load(), Bytes: l.stats.bytes.Load(), Dropped: l.stats.dropped.Load(),
		Suppressed: l.stats.suppressed.Load(), Late: l.stats.late.Load(), Fsyncs: l.stats.fsyncs.Load(),
		Errors: l.stats.errors.Load(), Failing: l.failing.Load(),
	}
	if why := l.stats.damaged.Load(); why != nil {
		s.Damaged = *why
	}
	return s
}

// Close writes what waits, signs it and lets go of the folder. Records that come later get ErrClosed.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.stop)
		<-l.stopped
	})
	return l.closeErr
}
