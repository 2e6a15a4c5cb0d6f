package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// VerifyOptions say what a log must be.
type VerifyOptions struct {
	// Keys are trusted from the start; what they sign may name later ones. At least one.
	Keys []ed25519.PublicKey
	// Expect is a checkpoint that was kept elsewhere: the only thing that shows a log
	// and its newest checkpoint rolled back together. Nil if there is none.
	Expect []byte
	// Closed says that nobody writes the log: then a record that no checkpoint covers was added by somebody.
	Closed bool
}

// Report is what the verifier found.
type Report struct {
	Origin      string `json:"origin"`
	First       uint64 `json:"first"`       // the first record that is left
	Last        uint64 `json:"last"`        // the last record that is right
	Segments    int    `json:"segments"`    // read
	Checkpoints uint64 `json:"checkpoints"` // whose signatures are right
	Signed      uint64 `json:"signed"`      // records up to here are covered by a signature
	SignedAt    int64  `json:"signed_at"`   // Unix µs
	Torn        int64  `json:"torn"`        // bytes of an unfinished last line: the log is being written, or ended in a crash
	Gaps        uint64 `json:"gaps"`        // entries that the log says are missing
	// Notes are what the log itself says an auditor should know.
	Notes   []string `json:"notes,omitempty"`
	Problem *Problem `json:"problem,omitempty"` // the first; nil if the log is what its owner wrote
}

// Problem is the first place where a log is not what its owner wrote.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line"` // 0 for the file as a whole
	Seq  uint64 `json:"seq"`  // of the last right record before it, plus one
	Why  string `json:"why"`
}

// String is one line: where and why.
func (p *Problem) String() string {
	if p.Line == 0 {
		return p.File + " " + p.Why
	}
	return fmt.Sprintf("%s:%d: record %d %s", p.File, p.Line, p.Seq, p.Why)
}

const maxNotes = 100

// Verify reads a log's folder and reports whether every byte of it is what the owner of the key
// wrote, in order, from the oldest record that retention left to the newest that was signed. The error
// is about reading: with one there is no report.
//
// It keeps one line in memory and does some hundred thousand records a second.
func Verify(folder fs.FS, o VerifyOptions) (Report, error) {
	v := verifier{folder: folder, o: o}
	if len(o.Keys) == 0 {
		return Report{}, errors.New("no public key to verify with")
	}
	// First what changes last: a log that is written while it is read is then at least as long.
	var err error
	if v.beside, err = fs.ReadFile(folder, checkpointFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Report{}, err
	}
	if v.public, err = fs.ReadFile(folder, publicFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Report{}, err
	}
	files, err := segments(folder)
	if err != nil {
		return Report{}, err
	}
	if len(files) == 0 && v.beside == nil {
		return Report{}, errors.New("no audit log here: no " + segmentName(1) + " nor later")
	}
	v.watch(v.beside)
	v.besideSays, _ = parseCheckpoint(v.beside) // what is wrong with it is said at the end
	v.watch(o.Expect)
	for i, f := range files {
		if v.r.Problem != nil {
			break
		}
		if i > 0 && f.number != files[i-1].number+1 {
			v.problem(segmentName(files[i-1].number+1), 0, "is missing: segments between others are never deleted")
			break
		}
		if err := v.segment(f, i == 0, i == len(files)-1); err != nil {
			return Report{}, err
		}
	}
	v.end(files)
	return v.r, nil
}

type verifier struct {
	folder         fs.FS
	o              VerifyOptions
	beside, public []byte
	watched        map[uint64][32]byte // hashes of records that a checkpoint kept elsewhere is of

	r         Report
	s         state
	keys      []key // every key that signed or may
	current   *key  // the one that must sign now
	next      *key  // the one that a record just named
	first     int   // segment
	previous  [32]byte
	before    uint64
	claimed   *meta // the record of what is missing at the front, before a checkpoint covers it
	removed   *meta // and after
	inLog     []byte
	inLogSeq  uint64
	besideSeq uint64

	besideSays Checkpoint // what the file beside the log claims
}

func (v *verifier) problem(file string, line int, why string) {
	if v.r.Problem == nil {
		v.r.Problem = &Problem{File: file, Line: line, Seq: v.s.seq + 1, Why: why}
	}
}

func (v *verifier) note(format string, args ...any) {
	if len(v.r.Notes) < maxNotes {
		v.r.Notes = append(v.r.Notes, fmt.Sprintf(format, args...))
	}
}

// watch remembers to keep the hash of the record that a checkpoint is of.
func (v *verifier) watch(text []byte) {
	if c, err := parseCheckpoint(text); err == nil {
		if v.watched == nil {
			v.watched = map[uint64][32]byte{}
		}
		v.watched[c.Count] = [32]byte{}
	}
}

// segment reads one file.
func (v *verifier) segment(s segmentFile, first, last bool) error {
	f, err := v.folder.Open(s.name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it is only read
	v.r.Segments++
	r := bufio.NewReaderSize(f, maxLine)
	for number := 1; v.r.Problem == nil; number++ {
		text, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			switch {
			case len(text) > 0 && last:
				v.r.Torn = int64(len(text))
			case len(text) > 0 || number == 1 && !last:
				v.problem(s.name, number, "has no end of line: the file was cut")
			}
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			v.problem(s.name, number, notALine)
			return nil
		case err != nil:
			return err
		}
		if why := v.line(text[:len(text)-1], s, first, number == 1); why != "" {
			v.problem(s.name, number, why)
		}
	}
	return nil
}

func (v *verifier) line(text []byte, s segmentFile, firstSegment, firstLine bool) (why string) {
	l, why := parseLine(text)
	if why != "" {
		return why
	}
	damaged := ""
	if firstLine {
		if damaged, why = v.header(&l, s, firstSegment); why != "" {
			return why
		}
	} else if string(l.kind) == "segment" {
		return "is a header inside a segment"
	}
	if v.next != nil && string(l.kind) != "checkpoint" {
		return "stands where the old key must sign the new one"
	}
	before := v.s
	if why = v.s.follow(&l); why != "" {
		v.s = before
		if damaged != "" {
			why += "; when the server started it found: " + damaged
		}
		return why
	}
	if _, ok := v.watched[v.s.seq]; ok {
		v.watched[v.s.seq] = v.s.head
	}
	if why = v.kind(&l, before); why != "" {
		v.s = before
		return why
	}
	v.r.Last = v.s.seq
	return ""
}

func (v *verifier) header(l *line, s segmentFile, first bool) (damaged, why string) {
	m, why := l.header(s.number)
	if why != "" {
		return "", why
	}
	if first {
		head, ok := decodeHead(m.Previous)
		if !ok {
			return "", notALine
		}
		v.r.Origin, v.first, v.previous, v.before = m.Origin, s.number, head, m.Before
		v.s.seq, v.s.head, v.r.First = m.Before, head, m.Before+1
		if why := v.start(m); why != "" {
			return "", why
		}
	}
	switch {
	case m.Origin != v.r.Origin:
		return "", fmt.Sprintf("is of the log %q, not %q: a segment of another log", m.Origin, v.r.Origin)
	case m.Before != v.s.seq || m.Previous != hexHead(v.s.head):
		why = fmt.Sprintf("says that it follows record %d, but record %d with another hash is before it: records are missing or changed", m.Before, v.s.seq)
		if m.Before != v.s.seq {
			why = fmt.Sprintf("says that it follows record %d, but record %d is before it: records are missing or repeated", m.Before, v.s.seq)
		}
		if m.Damaged != "" {
			why += "; when the server started it found: " + m.Damaged
		}
		return "", why
	case m.Key != v.current.text():
		return "", "names another key than the one that signs"
	}
	if m.Damaged != "" {
		v.note("record %d: when the server started it found: %s", m.Before+1, m.Damaged)
	}
	return m.Damaged, ""
}

// start finds the key that signed when the oldest segment that is left began.
func (v *verifier) start(m meta) (why string) {
	for _, public := range v.o.Keys {
		k, err := newKey(m.Origin, public)
		if err != nil {
			return "has an origin that is no name"
		}
		v.keys = append(v.keys, k)
	}
	for i := range v.keys {
		if v.keys[i].text() == m.Key {
			v.current = &v.keys[i]
			return ""
		}
	}
	return "names a key that is none of those given: another log, or one whose key has changed since (give the older key too)"
}

// kind looks at what the log itself recorded. before is the chain before l.
func (v *verifier) kind(l *line, before state) (why string) {
	switch string(l.kind) {
	case "checkpoint":
		return v.checkpoint(l, before)
	case "key", "removed", "resume", "clock", "gap":
	default:
		return ""
	}
	m, err := l.meta()
	if err != nil {
		return notALine
	}
	switch string(l.kind) {
	case "key":
		k, err := decodeKey(v.r.Origin, m.Key)
		if err != nil {
			return err.Error()
		}
		v.next = &k
	case "removed":
		if m.Last == v.first-1 {
			v.claimed = &m
		}
	case "resume":
		if m.Torn > 0 || m.Unsigned > 0 {
			v.note("record %d: the server had not closed the log: %d records before it were not signed, %d bytes of an unfinished line were cut off", l.seq, m.Unsigned, m.Torn)
		}
	case "clock":
		v.note("record %d: the clock had gone back by %d ms", l.seq, m.Back/1000)
	case "gap":
		v.r.Gaps += m.Count
	}
	return ""
}

func (v *verifier) checkpoint(l *line, before state) (why string) {
	m, err := l.meta()
	if err != nil {
		return notALine
	}
	c, err := verify([]byte(m.Note), *v.current)
	if err != nil {
		return fmt.Sprintf("is a checkpoint that %s: it, or something after record %d, was written without the key", err, v.r.Signed)
	}
	if c.Origin != v.r.Origin || c.Count != before.seq || c.Head != before.head || c.Newest {
		return fmt.Sprintf("is a checkpoint of other records: something after record %d was changed, or it comes from another place", v.r.Signed)
	}
	if !bytes.Equal(l.sealed[bytes.IndexByte(l.sealed, ',')+1:], meta{Note: m.Note}.body(c.Time, "checkpoint")) {
		return "says more than the checkpoint that was signed" // nothing covers it but its own signature
	}
	v.r.Checkpoints++
	v.r.Signed, v.r.SignedAt = c.Count, c.Time
	v.inLog, v.inLogSeq = []byte(m.Note), c.Count
	if c.Count == v.besideSays.Count && v.isBeside(c) {
		v.besideSeq = c.Count
	}
	if v.claimed != nil {
		v.removed = v.claimed
	}
	if v.next != nil {
		v.keys = append(v.keys, *v.next)
		v.current, v.next = v.next, nil
	}
	return ""
}

// end holds the log against what is beside it and what was kept elsewhere.
func (v *verifier) end(files []segmentFile) {
	switch {
	case v.r.Problem != nil:
		return
	case v.current == nil:
		v.problem(segmentName(1), 0, "and what follows hold no record: the log was emptied")
		return
	}
	if v.first > 1 || v.before > 0 {
		switch {
		case v.first == 1:
			v.problem(segmentName(1), 1, fmt.Sprintf("follows record %d, which is missing with all before it", v.before))
		case v.removed == nil:
			v.problem(segmentName(v.first-1), 0, "and what is before it are missing, and no record says that they were deleted")
		case v.removed.Count != v.before || v.removed.Head != hexHead(v.previous):
			v.problem(files[0].name, 0, "does not begin where the deleted segments ended")
		default:
			v.note("records 1 to %d were deleted by retention", v.before)
		}
	}
	switch {
	case v.beside == nil:
		v.problem(checkpointFile, 0, "is missing: it says how long the log was")
	case v.besideSeq == 0:
		v.elsewhere(checkpointFile, v.beside)
		if !v.besideSays.Newest {
			v.problem(checkpointFile, 0, "is a checkpoint out of the log itself, which says nothing about how long the log was: its end may have been cut")
		}
		v.problem(checkpointFile, 0, "is of a checkpoint that is not in the log: the log's end is missing, or was written again")
	case v.public != nil && !bytes.Equal(v.public, publicPEM(v.current.public)):
		v.problem(publicFile, 0, "is not the key that signs this log")
	}
	if v.o.Closed && (v.r.Last > v.inLogSeq+1 || v.r.Torn > 0) {
		v.problem(files[len(files)-1].name, 0, fmt.Sprintf("goes on after record %d, the last checkpoint, though the log is closed", v.inLogSeq+1))
	}
	if v.o.Expect != nil {
		v.elsewhere("the checkpoint kept elsewhere", v.o.Expect)
	}
}

// isBeside reports whether the file beside the log is of the checkpoint c, and signed by the key of its time.
func (v *verifier) isBeside(c Checkpoint) bool {
	c.Newest = true
	beside, err := verify(v.beside, *v.current)
	return err == nil && beside == c
}

// elsewhere compares a checkpoint from outside the chain with it.
func (v *verifier) elsewhere(name string, text []byte) {
	c, err := verify(text, v.keys...)
	switch {
	case err != nil:
		v.problem(name, 0, err.Error())
	case c.Origin != v.r.Origin:
		v.problem(name, 0, fmt.Sprintf("is of the log %q, not %q", c.Origin, v.r.Origin))
	case c.Count > v.s.seq:
		v.problem(name, 0, fmt.Sprintf("says that the log had %d records, but it ends at %d: its end is missing", c.Count, v.s.seq))
	case c.Count < v.before:
		v.note("%s is of record %d, which was deleted by retention: it proves nothing about what is left", name, c.Count)
	case c.Count == v.before && c.Head == v.previous:
	case c.Count == v.before || v.watched[c.Count] != c.Head:
		v.problem(name, 0, fmt.Sprintf("has another hash of record %d: it, or a record before it, was changed after it was signed", c.Count))
	}
}
