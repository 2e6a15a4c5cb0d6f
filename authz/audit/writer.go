package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/voicecore-ai/sluice/authz"
)

// writer is what only the writing goroutine touches.
type writer struct {
	file   *os.File // nil before the next segment begins
	cur    state    // written
	synced state    // on disk
	opened int64    // when the segment began, Unix µs
	last   int64    // the clock at the last commit
	out    []byte
	repair bool // a write failed: the files must be made to end where cur says
	newDir bool // the folder has a name that is not synced

	resume  *meta   // to be recorded
	damaged string  // to be said in the next header
	old     *signer // must sign the record that names the new key
	lost    uint64  // entries that a failed write took with it
	late    uint64  // guarded by Log.mu

	newest      Checkpoint
	unpublished bool
	publishedAt int64
	keyWritten  bool
	retainAt    int64
}

const (
	retryAfter  = 100 * time.Millisecond
	linger      = 50 * time.Millisecond // best-effort records wait for others: a write costs more than they do
	lingerBytes = 64 << 10
	retainEvery = 60_000_000 // µs
	clockSlack  = 1_000_000  // µs back that are not worth a record
)

// run writes until Close.
func (l *Log) run() {
	defer close(l.stopped)
	ticker := time.NewTicker(l.o.CheckpointEvery)
	defer ticker.Stop()
	for {
		wake, urgent, retry := l.wake, l.urgent, (<-chan time.Time)(nil)
		if l.failing.Load() {
			wake, urgent, retry = nil, nil, time.After(retryAfter)
		}
		select {
		case <-wake:
			select {
			case <-l.urgent:
			case <-time.After(linger):
			case <-l.stop:
			}
			l.step(false)
		case <-urgent:
			l.step(false)
		case <-ticker.C:
			l.step(true)
		case <-retry:
			l.step(true)
		case <-l.stop:
			l.closeErr = l.finish()
			return
		}
	}
}

// job is what one commit writes.
type job struct {
	now                    int64
	queue, flood, refusals batch
	dropped, late          uint64
	refused                uint64
	extra                  []byte // the body of a record of the log's own
	sign                   bool
}

// step writes what waits. A tick also signs it and does what is due.
func (l *Log) step(tick bool) {
	now := l.o.Now()
	if l.failing.Load() && l.commit(&job{now: now, sign: true}) != nil {
		return // what waits goes on waiting
	}
	if tick {
		l.look()
	}
	if tick && now >= l.w.retainAt {
		l.retain(now)
	}
	if l.due(now) {
		l.seal(now)
	}
	l.mu.Lock()
	if tick {
		l.strangers.summarize(now, &l.enc)
		l.refusals.summarize(now, &l.enc)
	}
	j := job{now: now, queue: l.queue, flood: l.strangers.ready, refusals: l.refusals.ready, dropped: l.dropped, late: l.w.late, refused: l.refused, sign: tick && l.w.cur.unsigned > 0}
	l.queue, l.spare = l.spare, batch{}
	l.strangers.ready, l.refusals.ready = batch{}, batch{}
	l.mu.Unlock()
	err := l.commit(&j)
	l.settle(j.queue.done, err)
	if err == nil && l.w.unpublished && (tick || now-l.w.publishedAt >= l.o.CheckpointEvery.Microseconds()) {
		l.publish(now)
	}
	l.mu.Lock()
	l.spare = batch{data: j.queue.data[:0], ends: j.queue.ends[:0]}
	if err == nil {
		l.dropped -= j.dropped
		l.refused -= j.refused
		l.w.late -= j.late
	}
	l.mu.Unlock()
}

// commit writes j, as one write and, if somebody waits or a checkpoint is due, one sync. On
// failure nothing of j is in the log, and its entries count as lost.
func (l *Log) commit(j *job) error {
	err := l.tryCommit(j)
	switch {
	case err != nil:
		lost := uint64(len(j.queue.ends) + len(j.flood.ends) + len(j.refusals.ends))
		l.w.lost += lost
		l.stats.dropped.Add(lost)
		l.stats.errors.Add(1)
		if !l.failing.Swap(true) {
			l.o.Log.Error("the audit log can't be written; what needs a record is refused", "folder", l.o.Dir, "error", err,
				"hint", "free disk space or make the folder writable; no restart is needed")
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		l.stalled.Store(false)
		if l.failing.Swap(false) {
			l.o.Log.Info("the audit log is written again", "folder", l.o.Dir)
		}
		return nil
	}
}

func (l *Log) tryCommit(j *job) error {
	w := &l.w
	if w.repair {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	p := l.compose(j)
	if p.next.seq == w.cur.seq {
		return nil
	}
	if p.next.segment != w.cur.segment {
		if err := l.create(p.next.segment); err != nil {
			return l.broken(w.cur, err)
		}
	}
	if _, err := l.disk.write(w.file, p.out); err != nil {
		return l.broken(w.cur, err)
	}
	sync := j.queue.done != nil || p.newest != nil
	if sync {
		if err := l.sync(); err != nil {
			// What was written since the last sync may be gone too, and a second sync would not say so.
			lost := w.cur.entries - w.synced.entries
			w.lost += lost
			l.stats.dropped.Add(lost)
			return l.broken(w.synced, err)
		}
		w.synced = p.next
	}
	l.stats.records.Add(p.next.seq - w.cur.seq)
	l.stats.bytes.Add(uint64(len(p.out)))
	if p.next.segment != w.cur.segment {
		w.opened, w.damaged = j.now, ""
	}
	w.cur, w.out, w.last, w.lost = p.next, p.out, j.now, 0
	w.resume, w.old = nil, nil
	if p.newest != nil {
		w.newest, w.unpublished = *p.newest, true
	}
	if l.o.Copy != nil {
		l.o.Copy(p.out)
	}
	return nil
}

// page is what one commit writes, and where the chain stands after it.
type page struct {
	out    []byte
	next   state
	newest *Checkpoint // the last in it
	l      *Log
	now    int64
}

// compose makes the bytes of a commit; none if there is nothing to say.
func (l *Log) compose(j *job) page {
	w := &l.w
	p := page{out: w.out[:0], next: w.cur, l: l, now: j.now}
	nothing := j.extra == nil && len(j.queue.ends)+len(j.flood.ends)+len(j.refusals.ends) == 0 && j.dropped+j.late+j.refused+w.lost == 0 && w.resume == nil && w.old == nil
	if nothing && !j.sign {
		return p
	}
	if w.cur.sealed {
		p.header()
	}
	if w.resume != nil {
		p.add(w.resume.body(j.now, "resume"))
	}
	if back := w.last - j.now; back > clockSlack {
		p.add(meta{Back: back}.body(j.now, "clock"))
	}
	if w.old != nil {
		p.add(meta{Key: l.signer.text()}.body(j.now, "key"))
		p.checkpoint(w.old)
	}
	if j.extra != nil {
		p.add(j.extra)
	}
	p.gap("queue_full", j.dropped)
	p.gap("write_failed", w.lost+j.refused)
	p.gap("recorded_late", j.late)
	p.batch(&j.queue)
	p.batch(&j.flood)
	p.batch(&j.refusals)
	if j.sign || w.resume != nil || w.old != nil || w.cur.seq == 0 || p.next.unsigned >= l.o.CheckpointRecords {
		p.checkpoint(l.signer)
	}
	return p
}

func (p *page) add(body []byte) { p.out = p.next.seal(p.out, body) }

func (p *page) header() {
	w := &p.l.w
	signs := p.l.signer
	if w.old != nil {
		signs = w.old
	}
	m := meta{
		Format: format, Origin: p.l.o.Origin, Segment: p.next.segment + 1, Previous: hexHead(p.next.head),
		Before: p.next.seq, Key: signs.text(), Damaged: w.damaged,
	}
	p.next.segment++
	p.next.offset, p.next.sealed = 0, false
	p.add(m.body(p.now, "segment"))
}

func (p *page) gap(reason string, n uint64) {
	if n > 0 {
		p.add(p.l.enc.append(nil, &Entry{Time: p.now, Kind: kindGap, Class: authz.BestEffort, Reason: reason, count: n}))
	}
}

func (p *page) batch(b *batch) {
	start := 0
	for _, end := range b.ends {
		p.add(b.data[start:end])
		start = end
	}
	p.next.entries += uint64(len(b.ends))
}

func (p *page) checkpoint(s *signer) {
	c := Checkpoint{Origin: p.l.o.Origin, Count: p.next.seq, Head: p.next.head, Time: p.now}
	text, err := s.checkpoint(&c)
	if err != nil {
		panic("audit: Open has signed with this key: " + err.Error())
	}
	p.add(meta{Note: string(text)}.body(p.now, "checkpoint"))
	p.newest, p.next.unsigned = &c, 0
}

func (l *Log) sync() error {
	if err := l.disk.sync(l.w.file); err != nil {
		return err
	}
	l.stats.fsyncs.Add(1)
	if l.w.newDir {
		if err := l.lock.Sync(); err != nil {
			return err
		}
		l.w.newDir = false
	}
	return nil
}

func (l *Log) path(name string) string { return filepath.Join(l.o.Dir, name) }

func (l *Log) create(segment int) (err error) {
	l.w.newDir = true
	l.w.file, err = os.OpenFile(l.path(segmentName(segment)), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// broken takes the chain back to s, and leaves the files to reopen.
func (l *Log) broken(s state, err error) error {
	l.w.cur, l.w.repair = s, true
	return err
}

// reopen makes the files end where the chain stands.
func (l *Log) reopen() error {
	w := &l.w
	if w.file != nil {
		_ = w.file.Close() //nolint:errcheck // what it holds is given up
		w.file = nil
	}
	err := os.Remove(l.path(segmentName(w.cur.segment + 1)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !w.cur.sealed {
		err = l.openSegment()
		switch {
		case errors.Is(err, errShorter):
			l.damage(err.Error())
		case err != nil:
			return err
		}
	}
	w.repair = false
	return nil
}

var errShorter = errors.New("is gone or shorter than what was written")

// openSegment opens the segment that the chain stands in, and cuts it there.
func (l *Log) openSegment() error {
	name := segmentName(l.w.cur.segment)
	f, err := os.OpenFile(l.path(name), os.O_WRONLY|os.O_APPEND, 0) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %w", name, errShorter)
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < l.w.cur.offset {
		err = fmt.Errorf("%s %w", name, errShorter)
	}
	if err == nil && info.Size() > l.w.cur.offset {
		err = f.Truncate(l.w.cur.offset)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.w.file = f
	return nil
}

// look finds out whether the segment in the folder still is what is written to: a file
// that was moved away or deleted takes writes without a word.
func (l *Log) look() {
	w := &l.w
	if w.file == nil || w.repair || w.cur.unsigned == 0 {
		return
	}
	name := segmentName(w.cur.segment)
	here, err1 := os.Stat(l.path(name))
	ours, err2 := w.file.Stat()
	switch {
	case errors.Is(err1, fs.ErrNotExist), err1 == nil && err2 == nil && !os.SameFile(here, ours):
		l.damage(name + " was taken away while it was written")
	case err1 == nil && here.Size() != w.cur.offset:
		l.damage(fmt.Sprintf("%s has %d bytes, but %d were written", name, here.Size(), w.cur.offset))
	default:
		return
	}
	_ = w.file.Close() //nolint:errcheck // what could be saved of it is
	w.file = nil
}

// due reports whether the segment is full or old.
func (l *Log) due(now int64) bool {
	w := &l.w
	return w.file != nil && !w.repair && !w.cur.sealed &&
		(w.cur.offset >= l.o.SegmentBytes || now-w.opened >= l.o.SegmentAge.Microseconds())
}

// seal ends the segment with a checkpoint. The next record begins another.
func (l *Log) seal(now int64) {
	w := &l.w
	if w.cur.unsigned > 0 && l.commit(&job{now: now, sign: true}) != nil || w.cur != w.synced {
		return
	}
	_ = w.file.Close() //nolint:errcheck // it is synced
	w.file, w.cur.sealed, w.synced.sealed, w.retainAt = nil, true, true, 0
}

// finish writes and signs what is left.
func (l *Log) finish() error {
	l.step(true)
	var err error
	if l.w.cur.unsigned > 0 && !l.failing.Load() {
		err = l.commit(&job{now: l.o.Now(), sign: true})
	}
	if l.failing.Load() {
		err = ErrUnavailable
		l.mu.Lock()
		l.stats.dropped.Add(uint64(len(l.queue.ends) + len(l.strangers.ready.ends) + len(l.refusals.ready.ends)))
		l.mu.Unlock()
	} else if l.w.unpublished {
		l.publish(l.o.Now())
	}
	if l.w.file != nil {
		err = errors.Join(err, l.w.file.Close())
	}
	return errors.Join(err, l.lock.Close())
}

// publish leaves the newest checkpoint, and the key once, beside the log.
func (l *Log) publish(now int64) {
	w := &l.w
	c := w.newest
	c.Newest = true
	text, err := l.signer.checkpoint(&c)
	if err == nil {
		err = l.replace(checkpointFile, text)
	}
	if err == nil && !w.keyWritten {
		err = l.replace(publicFile, publicPEM(l.signer.public))
		w.keyWritten = err == nil
	}
	if err != nil {
		l.o.Log.Error("the audit log's checkpoint can't be left beside it", "folder", l.o.Dir, "error", err)
		return
	}
	w.unpublished, w.publishedAt = false, now
}

// replace changes a file as a whole, so that a reader or a crash finds the old one or the new.
func (l *Log) replace(name string, content []byte) error {
	path := l.path(name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
