package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/voicecore-ai/sluice/authz"
)

// folderOf makes a closed log of n decisions, and returns its files.
func folderOf(t testing.TB, n int, change func(*Options)) fstest.MapFS {
	t.Helper()
	o := options(t)
	o.CheckpointRecords, o.CheckpointEvery = 5, time.Hour // the same bytes each time
	o.Now = func() int64 { return start + 1000 }
	if change != nil {
		change(&o)
	}
	l := open(t, o)
	for i := range n {
		e := entry(authz.Required)
		e.Time, e.Revision = start+int64(i), uint64(i+1)
		record(t, l, e)
	}
	closeLog(t, l)
	return load(t, o.Dir)
}

func load(t testing.TB, dir string) fstest.MapFS {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, e := range entries {
		files[e.Name()] = &fstest.MapFile{Data: read(t, dir, e.Name())}
	}
	return files
}

func clone(f fstest.MapFS) fstest.MapFS {
	c := maps.Clone(f)
	for name, file := range c {
		c[name] = &fstest.MapFile{Data: slices.Clone(file.Data)}
	}
	return c
}

func verifyFolder(t testing.TB, f fstest.MapFS, o VerifyOptions) Report {
	t.Helper()
	if o.Keys == nil {
		o.Keys = []ed25519.PublicKey{public(testSeed)}
	}
	r, err := Verify(f, o)
	if err != nil {
		t.Fatal("Verify:", err)
	}
	return r
}

func split(f fstest.MapFS, name string) []string {
	l := strings.SplitAfter(string(f[name].Data), "\n")
	return l[:len(l)-1]
}

func join(f fstest.MapFS, name string, l []string) {
	f[name] = &fstest.MapFile{Data: []byte(strings.Join(l, ""))}
}

// restamp computes the unkeyed chain anew, as somebody without the key would.
func restamp(t testing.TB, l []string) []string {
	t.Helper()
	var s state
	var out []string
	for i, text := range l {
		p, why := parseLine([]byte(strings.TrimSuffix(text, "\n")))
		if why != "" {
			t.Fatal(why)
		}
		if i == 0 {
			m, why := p.header(1)
			if why != "" {
				t.Fatal(why)
			}
			s.seq = m.Before
			s.head, _ = decodeHead(m.Previous)
		}
		_, body, _ := strings.Cut(string(p.sealed), ",")
		out = append(out, string(s.seal(nil, []byte(body))))
	}
	return out
}

func TestA01Tampering(t *testing.T) {
	const name = "audit-00000001.jsonl"
	good := folderOf(t, 20, nil)
	if r := verifyFolder(t, good, VerifyOptions{Closed: true}); r.Problem != nil {
		t.Fatal(r.Problem)
	}
	n := len(split(good, name))
	cases := []struct {
		does string
		how  func(t *testing.T, f fstest.MapFS, l []string) []string
		file string // of the problem
		line int
		why  string
	}{
		{"A-01 one record deleted", func(_ *testing.T, _ fstest.MapFS, l []string) []string { return slices.Delete(l, 9, 10) }, name, 10, "has seq 11 where 10 follows"},
		{"A-01 the first record deleted", func(_ *testing.T, _ fstest.MapFS, l []string) []string { return l[1:] }, name, 1, "is not the header"},
		{"A-01 two records swapped", func(_ *testing.T, _ fstest.MapFS, l []string) []string { l[7], l[8] = l[8], l[7]; return l }, name, 8, "has seq 9 where 8 follows"},
		{"A-01 one record duplicated", func(_ *testing.T, _ fstest.MapFS, l []string) []string { return slices.Insert(l, 12, l[11]) }, name, 13, "has seq 12 where 13 follows"},
		{"A-01 one bit flipped", func(_ *testing.T, _ fstest.MapFS, l []string) []string {
			l[6] = strings.Replace(l[6], "acme", "acmd", 1)
			return l
		}, name, 7, "does not have the hash"},
		{"A-01 the tail cut", func(_ *testing.T, _ fstest.MapFS, l []string) []string { return l[:15] }, checkpointFile, 0, "its end is missing"},
		{"A-01 the tail cut after a checkpoint", func(_ *testing.T, _ fstest.MapFS, l []string) []string {
			for i := len(l) - 2; ; i-- {
				if strings.Contains(l[i], `"kind":"checkpoint"`) {
					return l[:i+1]
				}
			}
		}, checkpointFile, 0, "its end is missing"},
		{"A-01 the tail cut, and the checkpoint that is left put beside the log", func(t *testing.T, f fstest.MapFS, l []string) []string {
			for i := len(l) - 2; ; i-- {
				if !strings.Contains(l[i], `"kind":"checkpoint"`) {
					continue
				}
				var record struct{ Note string }
				if err := json.Unmarshal([]byte(l[i]), &record); err != nil || record.Note == "" {
					t.Fatalf("%v: %s", err, l[i])
				}
				f[checkpointFile] = &fstest.MapFile{Data: []byte(record.Note)}
				return l[:i+1]
			}
		}, checkpointFile, 0, "out of the log itself"},
		{"A-01 the last checkpoint cut", func(_ *testing.T, _ fstest.MapFS, l []string) []string { return l[:n-1] }, checkpointFile, 0, "is of a checkpoint that is not in the log"},
		{"A-01 the tail cut in the middle of a line", func(_ *testing.T, _ fstest.MapFS, l []string) []string {
			l[n-4] = l[n-4][:len(l[n-4])/2]
			return l[:n-3]
		}, checkpointFile, 0, "its end is missing"},
		{"A-01 cut and regrown to the same length", func(t *testing.T, _ fstest.MapFS, l []string) []string {
			for i := range l[n-4:] {
				l[n-4+i] = strings.Replace(l[n-5], `"tenant":"acme"`, `"tenant":"evil"`, 1)
			}
			return restamp(t, l)
		}, checkpointFile, 0, "another hash of record"},
		{"A-01 restamped after an edit", func(t *testing.T, _ fstest.MapFS, l []string) []string {
			l[8] = strings.Replace(l[8], `"allowed":true`, `"allowed":false`, 1)
			return restamp(t, l)
		}, name, 14, "is a checkpoint of other records"},
		{"A-01 restamped after an edit, without checkpoints", func(t *testing.T, _ fstest.MapFS, l []string) []string {
			l = slices.DeleteFunc(l, func(s string) bool { return strings.Contains(s, `"kind":"checkpoint"`) })
			return restamp(t, l)
		}, checkpointFile, 0, "its end is missing"},
		{"A-01 the log and its checkpoint emptied", func(_ *testing.T, f fstest.MapFS, _ []string) []string { return nil }, "audit-00000001.jsonl", 0, "hold no record"},
		{"A-01 the checkpoint beside the log deleted", func(_ *testing.T, f fstest.MapFS, l []string) []string {
			delete(f, checkpointFile)
			return l
		}, checkpointFile, 0, "is missing"},
		{"A-01 the public key replaced", func(_ *testing.T, f fstest.MapFS, l []string) []string {
			f[publicFile] = &fstest.MapFile{Data: publicPEM(public(otherSeed))}
			return l
		}, publicFile, 0, "is not the key"},
		{"A-01 the last checkpoint's time changed and restamped", func(t *testing.T, _ fstest.MapFS, l []string) []string {
			l[n-1] = regexp.MustCompile(`"time":\d+`).ReplaceAllString(l[n-1], `"time":1`)
			return restamp(t, l)
		}, name, n, "says more than the checkpoint"},
		{"A-01 records appended to a closed log", func(_ *testing.T, _ fstest.MapFS, l []string) []string {
			return restamp(t, append(l, l[n-2]))
		}, name, 0, "goes on after record"},
	}
	for _, c := range cases {
		t.Run(c.does, func(t *testing.T) {
			f := clone(good)
			join(f, name, c.how(t, f, split(f, name)))
			p := verifyFolder(t, f, VerifyOptions{Closed: true}).Problem
			if p == nil {
				t.Fatal("nothing was found")
			}
			if p.File != c.file || p.Line != c.line || !strings.Contains(p.Why, c.why) {
				t.Errorf("found %s, want %s:%d: %s", p, c.file, c.line, c.why)
			}
			if c.line > 0 && p.Seq == 0 {
				t.Error("the record has no number")
			}
		})
	}
}

func TestA01AnySingleByte(t *testing.T) {
	good := folderOf(t, 3, nil)
	for name, file := range good {
		for i, b := range file.Data {
			for _, mutant := range []byte{b ^ 1, b ^ 0x20, '\n'} {
				if mutant == b {
					continue
				}
				f := clone(good)
				f[name].Data[i] = mutant
				if verifyFolder(t, f, VerifyOptions{}).Problem == nil {
					t.Fatalf("%s: byte %d is %q instead of %q, and nobody saw", name, i, mutant, b)
				}
			}
		}
	}
}

func FuzzAnySingleByte(f *testing.F) {
	good := folderOf(f, 6, nil)
	names := slices.Sorted(maps.Keys(good))
	f.Add(uint8(0), uint16(3), uint8(1))
	f.Add(uint8(1), uint16(300), uint8(0x20))
	f.Add(uint8(2), uint16(100), uint8(0x80))
	f.Fuzz(func(t *testing.T, file uint8, at uint16, flip uint8) {
		c := clone(good)
		data := c[names[int(file)%len(names)]].Data
		data[int(at)%len(data)] ^= flip
		found := verifyFolder(t, c, VerifyOptions{}).Problem != nil
		if found != (flip != 0) {
			t.Errorf("%s[%d] ^= %#x: found %v", names[int(file)%len(names)], int(at)%len(data), flip, found)
		}
	})
}

func TestA01AnotherLog(t *testing.T) {
	two := func(o *Options) { o.SegmentBytes = 2000 }
	good := folderOf(t, 20, two)
	t.Run("A-01 a segment of another origin is refused", func(t *testing.T) {
		other := folderOf(t, 20, func(o *Options) { two(o); o.Origin = "sluiced/other" })
		f := clone(good)
		f["audit-00000002.jsonl"] = other["audit-00000002.jsonl"]
		p := verifyFolder(t, f, VerifyOptions{}).Problem
		if p == nil || p.File != "audit-00000002.jsonl" || p.Line != 1 || !strings.Contains(p.Why, "a segment of another log") {
			t.Error("found", p)
		}
	})
	t.Run("A-01 a segment of another run of the same origin is refused", func(t *testing.T) {
		other := folderOf(t, 21, func(o *Options) { two(o); o.Now = func() int64 { return start + 7 } })
		f := clone(good)
		f["audit-00000002.jsonl"] = other["audit-00000002.jsonl"]
		if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || p.File != "audit-00000002.jsonl" || p.Line != 1 {
			t.Error("found", p)
		}
	})
	t.Run("A-01 a whole log that another key signed is refused", func(t *testing.T) {
		other := folderOf(t, 20, func(o *Options) { o.Seed = otherSeed })
		if p := verifyFolder(t, other, VerifyOptions{}).Problem; p == nil || !strings.Contains(p.Why, "none of those given") {
			t.Error("found", p)
		}
	})
	t.Run("A-01 a segment in the middle that is gone is named", func(t *testing.T) {
		f := clone(good)
		delete(f, "audit-00000002.jsonl")
		if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || p.File != "audit-00000002.jsonl" {
			t.Error("found", p)
		}
	})
	t.Run("A-01 the first segments gone without a record of it are named", func(t *testing.T) {
		f := clone(good)
		delete(f, "audit-00000001.jsonl")
		if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || p.File != "audit-00000001.jsonl" {
			t.Error("found", p)
		}
	})
	t.Run("A-01 two segments renamed are named", func(t *testing.T) {
		f := clone(good)
		f["audit-00000002.jsonl"], f["audit-00000001.jsonl"] = f["audit-00000001.jsonl"], f["audit-00000002.jsonl"]
		if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || p.File != "audit-00000001.jsonl" || !strings.Contains(p.Why, "renamed") {
			t.Error("found", p)
		}
	})
}

func TestA01RollBack(t *testing.T) {
	o := options(t)
	l := open(t, o)
	for range 5 {
		record(t, l, entry(authz.Required))
	}
	closeLog(t, l)
	old := load(t, o.Dir)
	l = open(t, o)
	record(t, l, entry(authz.Required))
	closeLog(t, l)
	kept, c, err := Newest(os.DirFS(o.Dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("A-01 log and checkpoint rolled back together pass without a copy from elsewhere", func(t *testing.T) {
		if p := verifyFolder(t, old, VerifyOptions{Closed: true}).Problem; p != nil {
			t.Error("found", p)
		}
	})
	t.Run("A-01 log and checkpoint rolled back together are caught by a copy from elsewhere", func(t *testing.T) {
		p := verifyFolder(t, old, VerifyOptions{Expect: kept}).Problem
		if p == nil || !strings.Contains(p.Why, fmt.Sprintf("had %d records", c.Count)) {
			t.Error("found", p)
		}
	})
	t.Run("A-01 rolled back and grown again is caught by a copy from elsewhere", func(t *testing.T) {
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(o.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, f := range old {
			write(t, o.Dir, name, f.Data)
		}
		l := open(t, o)
		for range 9 {
			record(t, l, entry(authz.Required))
		}
		closeLog(t, l)
		if p := check(t, o.Dir, nil).Problem; p != nil {
			t.Error("without the copy nothing is wrong:", p)
		}
		if p := check(t, o.Dir, kept).Problem; p == nil || !strings.Contains(p.Why, "another hash of record") {
			t.Error("found", p)
		}
	})
	t.Run("a copy from elsewhere that fits is fine, at any length", func(t *testing.T) {
		text, _, err := Newest(old)
		if err != nil {
			t.Fatal(err)
		}
		l := open(t, o)
		record(t, l, entry(authz.Required))
		closeLog(t, l)
		if p := check(t, o.Dir, text).Problem; p != nil {
			t.Error("found", p)
		}
	})
	t.Run("a copy that somebody else signed is no proof", func(t *testing.T) {
		forged, err := newSigner(o.Origin, otherSeed)
		if err != nil {
			t.Fatal(err)
		}
		text, err := forged.checkpoint(&c)
		if err != nil {
			t.Fatal(err)
		}
		if p := check(t, o.Dir, text).Problem; p == nil || !strings.Contains(p.Why, "not signed") {
			t.Error("found", p)
		}
	})
}

func TestAnUnsignedRecordOfADeletionIsNoExcuse(t *testing.T) {
	f := folderOf(t, 40, func(o *Options) { o.SegmentBytes = 2000 })
	names := slices.Sorted(maps.Keys(f))
	last := names[len(names)-3]
	if !strings.HasPrefix(last, segmentStart) {
		last = names[len(names)-1]
	}
	first := split(f, "audit-00000002.jsonl")[0]
	p, _ := parseLine([]byte(strings.TrimSuffix(first, "\n")))
	header, _ := p.header(2)
	l := split(f, last)
	end, _ := parseLine([]byte(strings.TrimSuffix(l[len(l)-1], "\n")))
	s := state{seq: end.seq}
	s.head, _ = decodeHead(string(end.hash))
	l = append(l, string(s.seal(nil, meta{First: 1, Last: 1, Count: header.Before, Head: header.Previous}.body(start, "removed"))))
	join(f, last, l)
	delete(f, "audit-00000001.jsonl")
	if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || !strings.Contains(p.Why, "no record says") {
		t.Error("found", p)
	}
}

func FuzzVerify(f *testing.F) {
	good := folderOf(f, 3, nil)
	f.Add(good[firstSegment].Data, good[checkpointFile].Data)
	f.Add([]byte("{\"seq\":1"), []byte(""))
	f.Fuzz(func(t *testing.T, segment, checkpoint []byte) {
		if len(segment)+len(checkpoint) > 10<<10 {
			return
		}
		files := fstest.MapFS{firstSegment: {Data: segment}, checkpointFile: {Data: checkpoint}}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := Verify(files, VerifyOptions{Keys: []ed25519.PublicKey{public(testSeed)}, Closed: true})
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<20 {
			t.Errorf("%d bytes of memory", spent)
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Problem == nil && !bytes.Equal(segment, good[firstSegment].Data) {
			t.Errorf("%q passes, and nobody signed it", segment)
		}
	})
}
