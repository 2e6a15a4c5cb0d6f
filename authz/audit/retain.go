package audit

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// segmentFile is one file of the log as the folder lists it.
type segmentFile struct {
	number int
	name   string
	size   int64
}

// segments lists the log's files, oldest first.
func segments(folder fs.FS) ([]segmentFile, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, err
	}
	var files []segmentFile
	for _, e := range entries {
		n, ok := segmentNumber(e.Name())
		if !ok || e.IsDir() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		files = append(files, segmentFile{n, e.Name(), info.Size()})
	}
	slices.SortFunc(files, func(a, b segmentFile) int { return a.number - b.number })
	return files, nil
}

// retain deletes the oldest segments as Options.Retention says. First it records, signed,
// what will be gone: without that record the verifier takes a missing segment for a theft.
func (l *Log) retain(now int64) {
	l.w.retainAt = now + retainEvery
	victims, survivor, err := l.victims(now)
	if err != nil {
		l.o.Log.Error("old segments of the audit log can't be looked at", "folder", l.o.Dir, "error", err)
		return
	}
	if len(victims) == 0 {
		return
	}
	m := meta{
		First: victims[0].number, Last: victims[len(victims)-1].number,
		Count: survivor.Before, Head: survivor.Previous, Note: lastNote(os.DirFS(l.o.Dir), victims[len(victims)-1]),
	}
	if l.commit(&job{now: now, extra: m.body(now, "removed"), sign: true}) != nil {
		return
	}
	for _, v := range victims {
		if err := os.Remove(l.path(v.name)); err != nil {
			l.o.Log.Error("an old segment of the audit log can't be deleted", "file", l.path(v.name), "error", err)
			return
		}
	}
	l.w.newDir = true
}

// victims are the segments to delete, and the header of the oldest that stays.
func (l *Log) victims(now int64) (victims []segmentFile, survivor meta, err error) {
	r := l.o.Retention
	folder := os.DirFS(l.o.Dir)
	files, err := segments(folder)
	if err != nil {
		return nil, survivor, err
	}
	var total int64
	for _, f := range files {
		total += f.size
	}
	for left := files; len(left) > 1 && left[0].number < l.w.cur.segment; left = left[1:] {
		next, began, err := headerOf(folder, left[1])
		if err != nil {
			return victims, survivor, err
		}
		age := now - began // of what is before it, at least
		over := r.Files > 0 && len(left) > r.Files || r.Bytes > 0 && total > r.Bytes || r.Age > 0 && age > r.Age.Microseconds()
		if !over || age < r.Keep.Microseconds() {
			break
		}
		victims, survivor = append(victims, left[0]), next
		total -= left[0].size
	}
	return victims, survivor, nil
}

// headerOf reads the first record of a segment, and its time.
func headerOf(folder fs.FS, s segmentFile) (m meta, began int64, err error) {
	f, err := folder.Open(s.name)
	if err != nil {
		return m, 0, err
	}
	defer f.Close() //nolint:errcheck // it is only read
	text, err := bufio.NewReaderSize(f, 4096).ReadSlice('\n')
	if err != nil {
		return m, 0, fmt.Errorf("%s:1: %w", s.name, err)
	}
	first, why := parseLine(text[:len(text)-1])
	if why == "" {
		m, why = first.header(s.number)
	}
	if why != "" {
		return m, 0, fmt.Errorf("%s:1: %s", s.name, why)
	}
	return m, first.time, nil
}

// lastNote is the checkpoint at the end of a segment, "" if it has none there.
func lastNote(folder fs.FS, s segmentFile) string {
	f, err := folder.Open(s.name)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // it is only read
	at, ok := f.(io.ReaderAt)
	tail := make([]byte, min(s.size, 4096))
	if !ok {
		return ""
	}
	if _, err := at.ReadAt(tail, s.size-int64(len(tail))); err != nil {
		return ""
	}
	tail = bytes.TrimSuffix(tail, []byte("\n"))
	last, why := parseLine(tail[bytes.LastIndexByte(tail, '\n')+1:])
	if why != "" || string(last.kind) != "checkpoint" {
		return ""
	}
	m, _ := last.meta() //nolint:errcheck // without a note it says nothing, which is true
	return m.Note
}
