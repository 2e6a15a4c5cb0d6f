package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Open opens the log in a folder for writing, and goes on where it ended: after a crash an unfinished
// last line is cut off and that recorded. It reads the last segment, about a quarter of a second for 64 MiB.
//
// A log that was changed since is no reason not to start: Open leaves it as it is for the
// verifier, begins a new segment after what was signed last, and says so in Stats and in the log.
func Open(o Options) (*Log, error) {
	o.setDefaults()
	l := &Log{
		o: o, enc: encoder{mask: masker{o.Mask}, whole: o.WholeSource},
		disk: disk{write: (*os.File).Write, sync: (*os.File).Sync},
		wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		strangers: newStrangers(&o), refusals: newRefused(&o),
	}
	if err := l.prepare(); err != nil {
		return nil, err
	}
	if err := l.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("audit log %s: %w", o.Dir, err), l.lock.Close())
	}
	// If this fails, so will required records until it works.
	if l.commit(&job{now: o.Now(), sign: true}) == nil {
		l.publish(o.Now())
	}
	go l.run()
	return l, nil
}

// prepare makes the keys and the folder, and locks it.
func (l *Log) prepare() (err error) {
	if l.o.Seed == ([32]byte{}) || l.o.Mask == ([32]byte{}) {
		return errors.New("audit log: the seed and the mask key must be random, not zero")
	}
	if l.signer, err = newSigner(l.o.Origin, l.o.Seed); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if l.o.Previous != ([32]byte{}) {
		if l.previous, err = newSigner(l.o.Origin, l.o.Previous); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	if err = os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if l.lock, err = os.Open(l.o.Dir); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	err = syscall.Flock(int(l.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return errors.Join(fmt.Errorf("audit log %s: %w", l.o.Dir, err), l.lock.Close())
	}
	return nil
}

// load finds where the chain stands.
func (l *Log) load() error {
	folder := os.DirFS(l.o.Dir)
	files, err := segments(folder)
	if err != nil {
		return err
	}
	signed, err := l.newestSigned(folder)
	if err != nil {
		return err
	}
	w := &l.w
	w.cur = state{sealed: true}
	found, last, err := l.lastSegment(folder, files, signed)
	if err != nil {
		return err
	}
	if last > 0 {
		w.cur = state{seq: found.seq, head: found.head, segment: last, offset: found.offset, unsigned: found.unsigned}
		w.opened, w.last = found.opened, found.time
	}
	if last > 0 && found.why == "" {
		if err := l.checkOwner(&found); err != nil {
			return err
		}
	}
	l.compare(&found, signed)
	if w.cur.seq > 0 {
		w.resume = &meta{Unsigned: w.cur.unsigned, Torn: found.torn}
	}
	w.synced = w.cur
	if w.cur.sealed {
		return nil
	}
	return l.openSegment()
}

// lastSegment reads the last segment that has a header. A crash can leave one without: it
// says nothing and goes, since its number is needed.
func (l *Log) lastSegment(folder fs.FS, files []segmentFile, signed *Checkpoint) (found tail, number int, err error) {
	for len(files) > 0 {
		last := files[len(files)-1]
		torn := found.torn
		if found, err = readTail(folder, last, signed); err != nil {
			return found, 0, err
		}
		if found.torn += torn; found.offset > 0 || found.why != "" {
			return found, last.number, nil
		}
		if err := os.Remove(l.path(last.name)); err != nil {
			return found, 0, err
		}
		files = files[:len(files)-1]
	}
	return found, 0, nil
}

// compare holds what the log says against what was signed. Where they differ, the chain goes on
// from what was signed.
func (l *Log) compare(found *tail, signed *Checkpoint) {
	w := &l.w
	why := found.why
	switch {
	case signed == nil && found.seq > 2: // a crash in the first start may leave a header and a checkpoint
		why = cmp.Or(why, checkpointFile+" is missing, or not signed by this log's key")
	case signed == nil:
	case signed.Count > found.seq:
		why = cmp.Or(why, fmt.Sprintf("the log ends at record %d, but %d were signed", found.seq, signed.Count))
		w.cur.seq, w.cur.head = signed.Count, signed.Head
	case found.began <= signed.Count && found.atSigned != signed.Head:
		why = cmp.Or(why, fmt.Sprintf("record %d is not the one that was signed", signed.Count))
		w.cur.seq, w.cur.head = signed.Count, signed.Head
	}
	if why == "" {
		return
	}
	l.damage(why)
}

// damage makes the chain go on in another segment, whose header says why.
func (l *Log) damage(why string) {
	l.w.damaged, l.w.cur.sealed = why, true
	l.stats.damaged.Store(&why)
	l.o.Log.Error("the audit log was changed from outside", "folder", l.o.Dir, "damage", why,
		"hint", "'sluice audit verify' names the first bad record; keep a copy of the folder")
}

// newestSigned is the checkpoint beside the log, nil if there is none that the log's key signed.
func (l *Log) newestSigned(folder fs.FS) (*Checkpoint, error) {
	text, err := fs.ReadFile(folder, checkpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys := []key{l.signer.key}
	if l.previous != nil {
		keys = append(keys, l.previous.key)
	}
	c, err := verify(text, keys...)
	if err != nil || c.Origin != l.o.Origin || !c.Newest {
		return nil, nil
	}
	return &c, nil
}

// checkOwner compares the log's name and the key that signed last with ours.
func (l *Log) checkOwner(found *tail) error {
	switch {
	case found.origin != l.o.Origin:
		return fmt.Errorf("it is the log %q, not %q: a log keeps its name; choose another folder for another log", found.origin, l.o.Origin)
	case found.key == l.signer.text():
		return nil
	case l.previous != nil && found.key == l.previous.text():
		l.w.old = l.previous
		return nil
	}
	return fmt.Errorf("it was signed by another key (%s): give the seed of that key as the previous one, or choose another folder", found.key)
}

// tail is what the last segment says.
type tail struct {
	state
	began       uint64 // the first record that is in it
	opened      int64
	time        int64 // of the last record
	torn        int64
	checkpoints int
	atSigned    [32]byte // the hash of the record that the checkpoint beside the log is of
	origin, key string
	why         string // what is wrong with it
}

// readTail follows the chain through a segment, to its last whole line.
func readTail(folder fs.FS, s segmentFile, signed *Checkpoint) (t tail, err error) {
	f, err := folder.Open(s.name)
	if err != nil {
		return t, err
	}
	defer f.Close() //nolint:errcheck // it is only read
	r := bufio.NewReaderSize(f, maxLine)
	for number := 1; ; number++ {
		text, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			t.torn = int64(len(text))
			return t, nil
		case errors.Is(err, bufio.ErrBufferFull):
			t.why = fmt.Sprintf("%s:%d: %s", s.name, number, notALine)
			return t, nil
		case err != nil:
			return t, err
		}
		if why := t.read(text[:len(text)-1], s, number == 1); why != "" {
			t.why = fmt.Sprintf("%s:%d: %s", s.name, number, why)
			return t, nil
		}
		t.offset += int64(len(text))
		if signed != nil && t.seq == signed.Count {
			t.atSigned = t.head
		}
	}
}

func (t *tail) read(text []byte, s segmentFile, first bool) (why string) {
	l, why := parseLine(text)
	if why != "" {
		return why
	}
	if first {
		m, why := l.header(s.number)
		if why != "" {
			return why
		}
		var ok bool
		if t.head, ok = decodeHead(m.Previous); !ok {
			return notALine
		}
		t.seq, t.began, t.origin, t.key, t.opened = m.Before, m.Before+1, m.Origin, m.Key, l.time
	}
	if why := t.follow(&l); why != "" {
		return why
	}
	t.time = l.time
	t.unsigned++
	switch string(l.kind) {
	case "checkpoint":
		t.unsigned = 0
		t.checkpoints++
	case "key":
		m, err := l.meta()
		if err != nil {
			return notALine
		}
		t.key = m.Key
	}
	return ""
}

func hexHead(h [32]byte) string { return hex.EncodeToString(h[:]) }

// decodeKey reads a key as a record names it.
func decodeKey(origin, text string) (key, error) {
	public, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(public) != ed25519.PublicKeySize || !bytes.Equal([]byte(base64.StdEncoding.EncodeToString(public)), []byte(text)) {
		return key{}, errors.New("names no Ed25519 key")
	}
	return newKey(origin, public)
}
