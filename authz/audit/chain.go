package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// The format. A line is {"seq":N, the body, "hash":"H"} where H is SHA-256 over the hash of
// the record before and all of the line before ,"hash". Sequence numbers begin at 1 and never stop; the
// hash before the first record is zero.
const (
	format     = "sluice-audit/1"
	maxLine    = 128 << 10
	seqStart   = `{"seq":`
	hashStart  = `,"hash":"`
	lineEnd    = `"}`
	hashSuffix = len(hashStart) + 2*sha256.Size + len(lineEnd)
)

// The files of a log, beside audit-<number>.jsonl.
const (
	checkpointFile = "audit.checkpoint" // the newest checkpoint
	publicFile     = "audit.pub"        // the key that signs
	segmentStart   = "audit-"
	segmentEnd     = ".jsonl"
)

func segmentName(n int) string { return fmt.Sprintf(segmentStart+"%08d"+segmentEnd, n) }

func segmentNumber(name string) (int, bool) {
	digits, ok1 := strings.CutPrefix(name, segmentStart)
	digits, ok2 := strings.CutSuffix(digits, segmentEnd)
	n, err := strconv.Atoi(digits)
	return n, ok1 && ok2 && err == nil && n > 0 && segmentName(n) == name
}

// state is where a chain stands.
type state struct {
	seq      uint64 // of the last record
	head     [32]byte
	segment  int
	offset   int64  // in the segment
	sealed   bool   // the segment is finished: the next record begins another
	unsigned int    // records since the last checkpoint
	entries  uint64 // callers' records since Open
}

// seal appends the line of the next record.
func (s *state) seal(b, body []byte) []byte {
	start := len(b)
	b = append(b, seqStart...)
	b = strconv.AppendUint(b, s.seq+1, 10)
	b = append(b, ',')
	b = append(b, body...)
	s.head = link(&s.head, b[start:])
	b = append(b, hashStart...)
	b = hex.AppendEncode(b, s.head[:])
	b = append(b, lineEnd...)
	b = append(b, '\n')
	s.seq++
	s.unsigned++
	s.offset += int64(len(b) - start)
	return b
}

// link is the hash of a record that follows one with hash before.
func link(before *[32]byte, record []byte) (h [32]byte) {
	d := sha256.New() // stays on the stack
	d.Write(before[:])
	d.Write(record)
	d.Sum(h[:0])
	return h
}

// line is a record as it stands in a file.
type line struct {
	seq    uint64
	time   int64
	kind   []byte
	sealed []byte // what its hash covers, besides the hash before
	hash   []byte // 64 hex digits
}

const notALine = "is not a record: every byte between two ends of line must be as it was written"

// parseLine takes text, which has no end of line, apart; why says what is wrong with it.
func parseLine(text []byte) (l line, why string) {
	n := len(text) - hashSuffix
	if n < 0 || !bytes.HasSuffix(text, []byte(lineEnd)) || !bytes.HasPrefix(text[n:], []byte(hashStart)) || !bytes.HasPrefix(text, []byte(seqStart)) {
		return l, notALine
	}
	l.sealed, l.hash = text[:n], text[n+len(hashStart):len(text)-len(lineEnd)]
	var ok bool
	rest := l.sealed[len(seqStart):]
	if l.seq, rest, ok = digits(rest); !ok {
		return l, notALine
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"time":`)); !ok {
		return l, notALine
	}
	rest, negative := bytes.CutPrefix(rest, []byte("-"))
	t, rest, ok := digits(rest)
	if l.time = int64(t); negative {
		l.time = -l.time
	}
	rest, named := bytes.CutPrefix(rest, []byte(`,"kind":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || !named || end < 0 {
		return l, notALine
	}
	l.kind = rest[:end]
	return l, ""
}

func digits(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i < 19 && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + uint64(b[i]-'0')
		i++
	}
	return n, b[i:], i > 0
}

// follow checks that l comes after s, and moves s to it.
func (s *state) follow(l *line) (why string) {
	if l.seq != s.seq+1 {
		return fmt.Sprintf("has seq %d where %d follows: a record was removed, moved or repeated", l.seq, s.seq+1)
	}
	head := link(&s.head, l.sealed)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], head[:])
	if !bytes.Equal(text[:], l.hash) {
		return "does not have the hash that its bytes and the record before it give: one of them was changed"
	}
	s.seq, s.head = l.seq, head
	return ""
}

// meta is what the log itself records.
type meta struct {
	Format   string `json:"format,omitempty"`   // segment
	Origin   string `json:"origin,omitempty"`   // segment
	Segment  int    `json:"segment,omitempty"`  // segment: its number
	Previous string `json:"previous,omitempty"` // segment: the hash before this record
	Before   uint64 `json:"before,omitempty"`   // segment: records before this one
	Key      string `json:"key,omitempty"`      // segment: the key that signs; key: the one that will
	Damaged  string `json:"damaged,omitempty"`  // segment: why it does not follow what is on disk
	Unsigned int    `json:"unsigned,omitempty"` // resume: records before this one that no checkpoint had covered
	Torn     int64  `json:"torn,omitempty"`     // resume: bytes of an unfinished line that were cut off
	Note     string `json:"note,omitempty"`     // checkpoint; removed: the last one that is gone
	First    int    `json:"first,omitempty"`    // removed: segments
	Last     int    `json:"last,omitempty"`     // removed
	Count    uint64 `json:"count,omitempty"`    // removed: the last record that is gone
	Head     string `json:"head,omitempty"`     // removed: its hash
	Back     int64  `json:"back,omitempty"`     // clock: µs by which it went back
}

// body is m as a record of that kind.
func (m meta) body(now int64, kind string) []byte {
	b := appendHead(nil, now, kind)
	fields, err := json.Marshal(m)
	if err != nil {
		panic("audit: strings and numbers have a JSON form: " + err.Error())
	}
	if len(fields) > len("{}") {
		b = append(append(b, ','), fields[1:len(fields)-1]...)
	}
	return b
}

func (l *line) meta() (m meta, err error) {
	err = json.Unmarshal(append(bytes.Clone(l.sealed), '}'), &m)
	return m, err
}

// header checks the first line of a segment but for what it follows.
func (l *line) header(number int) (m meta, why string) {
	m, err := l.meta()
	switch {
	case string(l.kind) != "segment" || err != nil:
		return m, "is not the header of a segment"
	case m.Format != format:
		return m, fmt.Sprintf("has the format %q; this program reads %s", m.Format, format)
	case m.Segment != number:
		return m, fmt.Sprintf("is the header of segment %d: the file was renamed", m.Segment)
	}
	return m, ""
}

func decodeHead(s string) (h [32]byte, ok bool) {
	if len(s) != hex.EncodedLen(len(h)) {
		return h, false
	}
	_, err := hex.Decode(h[:], []byte(s))
	return h, err == nil
}
