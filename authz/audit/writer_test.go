package audit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voicecore-ai/sluice/authz"
)

// crash leaves the folder as a killed process would: nothing more is written or signed.
func crash(t *testing.T, l *Log) {
	t.Helper()
	l.disk.write = func(*os.File, []byte) (int, error) { return 0, errors.New("killed") }
	if err := l.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

const firstSegment = "audit-00000001.jsonl"

func TestA02ACrashContinuesTheChain(t *testing.T) {
	t.Run("A-02 records after the last checkpoint are kept, and it is said that they were not signed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			record(t, l, entry(authz.Required))
			record(t, l, entry(authz.Required))
			crash(t, l)
			r := check(t, o.Dir, nil)
			if r.Problem != nil || r.Last != 4 || r.Signed != 1 {
				t.Errorf("after the crash: %+v", r)
			}
			if p := verifyFolder(t, load(t, o.Dir), VerifyOptions{Closed: true}).Problem; p == nil {
				t.Error("an unsigned record in a closed log was not found")
			}
			l = open(t, o)
			closeLog(t, l)
			r = intact(t, o.Dir)
			if r.Last != 6 || r.Signed != 5 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "2 records before it were not signed") {
				t.Errorf("after the start: %+v", r)
			}
		})
	})
	t.Run("A-02 a torn last line is cut off, and that is recorded", func(t *testing.T) {
		o := options(t)
		l := open(t, o)
		record(t, l, entry(authz.Required))
		closeLog(t, l)
		appendTo(t, o.Dir, firstSegment, `{"seq":5,"time":12`)
		if r := intact(t, o.Dir); r.Torn != 18 {
			t.Errorf("before the start: %+v", r)
		}
		l = open(t, o)
		record(t, l, entry(authz.Required))
		closeLog(t, l)
		if r := intact(t, o.Dir); r.Torn != 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "18 bytes") {
			t.Errorf("after the start: %+v", r)
		}
	})
	t.Run("A-02 a segment without a header goes", func(t *testing.T) {
		for _, torn := range []string{"", `{"seq":`} {
			o := options(t)
			l := open(t, o)
			record(t, l, entry(authz.Required))
			closeLog(t, l)
			write(t, o.Dir, segmentName(2), []byte(torn))
			l = open(t, o)
			record(t, l, entry(authz.Required))
			closeLog(t, l)
			if s := l.Stats(); s.Damaged != "" {
				t.Error(s.Damaged)
			}
			if r := intact(t, o.Dir); r.Segments != 1 {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("A-02 a crash at any byte of the last commit is survived", func(t *testing.T) {
		o := untimed(t)
		l := open(t, o)
		record(t, l, entry(authz.Required))
		synced := len(read(t, o.Dir, firstSegment))
		beside := read(t, o.Dir, checkpointFile)
		closeLog(t, l)
		whole := read(t, o.Dir, firstSegment)
		for n := synced; n <= len(whole); n += 7 {
			write(t, o.Dir, firstSegment, whole[:n])
			write(t, o.Dir, checkpointFile, beside)
			l := open(t, o)
			record(t, l, entry(authz.Required))
			closeLog(t, l)
			if s := l.Stats(); s.Damaged != "" {
				t.Fatalf("%d of %d bytes: %s", n, len(whole), s.Damaged)
			}
			intact(t, o.Dir)
		}
	})
	t.Run("A-02 two writers are refused", func(t *testing.T) {
		o := options(t)
		l := open(t, o)
		if _, err := Open(o); !errors.Is(err, ErrLocked) {
			t.Errorf("the second writer got %v", err)
		}
		closeLog(t, l)
		closeLog(t, open(t, o))
	})
	t.Run("A-02 a clock that goes back is noted, and the order stays", func(t *testing.T) {
		o := options(t)
		var clock atomic.Int64
		clock.Store(start)
		o.Now = clock.Load
		l := open(t, o)
		clock.Add(-3_600_000_000)
		record(t, l, entry(authz.Required))
		closeLog(t, l)
		clock.Add(-3_600_000_000)
		closeLog(t, open(t, o))
		r := intact(t, o.Dir)
		if len(r.Notes) != 2 || !strings.Contains(r.Notes[0], "3600000 ms") {
			t.Errorf("notes %q", r.Notes)
		}
	})
}

// TestATamperedLogStartsAndIsNamed: what somebody did while the server was down must not keep
// it from starting, must not be signed, and must be named for as long as it is there.
func TestATamperedLogStartsAndIsNamed(t *testing.T) {
	cases := []struct {
		does, damage string
		how          func(t *testing.T, dir string)
		file         string
	}{
		{"A-01 the tail cut while the server is down", "the log ends at record 9, but 13 were signed", func(t *testing.T, dir string) {
			l := split(load(t, dir), firstSegment)
			write(t, dir, firstSegment, []byte(strings.Join(l[:9], "")))
		}, segmentName(2)},
		{"A-01 an edit while the server is down", firstSegment + ":5: does not have the hash", func(t *testing.T, dir string) {
			write(t, dir, firstSegment, []byte(strings.Replace(string(read(t, dir, firstSegment)), `"revision":4`, `"revision":5`, 1)))
		}, firstSegment},
		{"A-01 an edit and a new chain while the server is down", "record 13 is not the one that was signed", func(t *testing.T, dir string) {
			l := split(load(t, dir), firstSegment)
			l[4] = strings.Replace(l[4], "acme", "evil", 1)
			write(t, dir, firstSegment, []byte(strings.Join(restamp(t, l), "")))
		}, firstSegment},
		{"A-01 all segments deleted while the server is down", "the log ends at record 0", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, firstSegment)); err != nil {
				t.Fatal(err)
			}
		}, segmentName(1)},
	}
	for _, c := range cases {
		t.Run(c.does, func(t *testing.T) {
			o := untimed(t)
			l := open(t, o)
			for i := range 12 {
				e := entry(authz.Required)
				e.Revision = uint64(i + 2)
				record(t, l, e)
			}
			closeLog(t, l)
			r := intact(t, o.Dir)
			c.damage = strings.Replace(c.damage, "13", fmt.Sprint(r.Signed), 1)
			c.how(t, o.Dir)
			l = open(t, o)
			record(t, l, entry(authz.Required))
			closeLog(t, l)
			if s := l.Stats(); !strings.Contains(s.Damaged, c.damage) {
				t.Errorf("the damage is %q, want %q", s.Damaged, c.damage)
			}
			if p := check(t, o.Dir, nil).Problem; p == nil || p.File != c.file {
				t.Errorf("found %v, want it in %s", p, c.file)
			}
			closeLog(t, open(t, o))
			if p := check(t, o.Dir, nil).Problem; p == nil || p.File != c.file {
				t.Errorf("after another start found %v, want it in %s", p, c.file)
			}
		})
	}
	t.Run("the checkpoint deleted while the server is down is noted", func(t *testing.T) {
		o := options(t)
		l := open(t, o)
		record(t, l, entry(authz.Required))
		closeLog(t, l)
		if err := os.Remove(filepath.Join(o.Dir, checkpointFile)); err != nil {
			t.Fatal(err)
		}
		l = open(t, o)
		closeLog(t, l)
		if r := intact(t, o.Dir); l.Stats().Damaged == "" || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], checkpointFile) {
			t.Errorf("%+v", r)
		}
	})
}

// faults makes the disk fail on demand.
type faults struct {
	write, sync atomic.Bool
	short       atomic.Bool
}

func (f *faults) on(l *Log) {
	l.disk = disk{
		write: func(file *os.File, b []byte) (int, error) {
			if f.write.Load() {
				n := 0
				if f.short.Load() {
					n, _ = file.Write(b[:len(b)/2])
				}
				return n, errors.New("no space left on device")
			}
			return file.Write(b)
		},
		sync: func(file *os.File) error {
			if f.sync.Load() {
				return errors.New("input/output error")
			}
			return file.Sync()
		},
	}
}

func TestF04ADiskThatFails(t *testing.T) {
	for _, c := range []struct {
		does  string
		fault func(f *faults, on bool)
	}{
		{"F-04 a write fails", func(f *faults, on bool) { f.write.Store(on) }},
		{"F-04 half a write fails", func(f *faults, on bool) { f.short.Store(on); f.write.Store(on) }},
		{"F-04 a sync fails", func(f *faults, on bool) { f.sync.Store(on) }},
	} {
		t.Run(c.does, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := options(t)
				l := open(t, o)
				synctest.Wait()
				var f faults
				f.on(l)
				record(t, l, entry(authz.Required))
				c.fault(&f, true)
				if err := l.Record(entry(authz.Required)); !errors.Is(err, ErrUnavailable) {
					t.Errorf("a required record got %v", err)
				}
				if l.Available() || !l.Stats().Failing {
					t.Error("the log says that it is available")
				}
				if err := l.Record(entry(authz.Required)); !errors.Is(err, ErrUnavailable) {
					t.Errorf("the next required record got %v", err)
				}
				record(t, l, entry(authz.BestEffort)) // waits
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if l.Available() {
					t.Error("the log says that it is available")
				}
				c.fault(&f, false)
				time.Sleep(time.Second)
				synctest.Wait()
				if !l.Available() {
					t.Error("the log did not recover by itself")
				}
				record(t, l, entry(authz.Required))
				closeLog(t, l)
				r := intact(t, o.Dir)
				if r.Gaps != 2 || l.Stats().Dropped != 2 {
					t.Errorf("the gap is %d, %d dropped; one entry was lost and one refused", r.Gaps, l.Stats().Dropped)
				}
				if n := count(t, o.Dir, Filter{Reason: "admitted"}); n != 3 {
					t.Errorf("%d decisions are in the log, 3 were recorded", n)
				}
			})
		})
	}
	t.Run("F-04 a segment that is taken away is named, and the log goes on in another", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			l := open(t, o)
			synctest.Wait()
			var f faults
			f.on(l)
			record(t, l, entry(authz.Required))
			f.write.Store(true)
			_ = l.Record(entry(authz.Required))
			if err := os.Remove(filepath.Join(o.Dir, firstSegment)); err != nil {
				t.Fatal(err)
			}
			f.write.Store(false)
			time.Sleep(time.Second)
			synctest.Wait()
			record(t, l, entry(authz.Required))
			closeLog(t, l)
			if p := check(t, o.Dir, nil).Problem; p == nil || p.File != firstSegment {
				t.Errorf("found %v", p)
			}
		})
	})
	for _, c := range []struct {
		does string
		how  func(t *testing.T, path string)
		file string
	}{
		{"A-01 a segment moved away while it is written", func(t *testing.T, path string) {
			if err := os.Rename(path, path+".moved"); err != nil {
				t.Fatal(err)
			}
		}, firstSegment},
		{"A-01 a line appended by somebody else while it is written", func(t *testing.T, path string) {
			appendTo(t, filepath.Dir(path), firstSegment, "{}\n")
		}, firstSegment},
	} {
		t.Run(c.does+" is seen within a second and named", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := options(t)
				l := open(t, o)
				record(t, l, entry(authz.Required))
				c.how(t, filepath.Join(o.Dir, firstSegment))
				time.Sleep(time.Second)
				synctest.Wait()
				if l.Stats().Damaged == "" {
					t.Error("nothing was seen")
				}
				record(t, l, entry(authz.Required))
				closeLog(t, l)
				if p := check(t, o.Dir, nil).Problem; p == nil || p.File != c.file {
					t.Errorf("found %v", p)
				}
				if n := len(split(load(t, o.Dir), segmentName(2))); n < 3 {
					t.Errorf("the next segment has %d lines", n)
				}
			})
		})
	}
	t.Run("F-04 a disk that hangs costs a required record its wait and no more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			o.Wait = 0 // the default
			l := open(t, o)
			synctest.Wait()
			hang := make(chan struct{})
			l.disk.sync = func(f *os.File) error { <-hang; return f.Sync() }
			began := time.Now()
			if err := l.Record(entry(authz.Required)); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if waited := time.Since(began); waited != 500*time.Millisecond {
				t.Errorf("waited %v", waited)
			}
			if l.Available() {
				t.Error("the log says that it is available")
			}
			close(hang)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if !l.Available() {
				t.Error("the log did not recover")
			}
			closeLog(t, l)
			intact(t, o.Dir)
			if n := count(t, o.Dir, Filter{Reason: "recorded_late"}); n != 1 || l.Stats().Late != 1 {
				t.Errorf("%d records say that one came late", n)
			}
		})
	})
}

func count(t *testing.T, dir string, f Filter) (n int) {
	t.Helper()
	if err := Search(os.DirFS(dir), f, func(*Record, []byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options(t)
		o.QueueBytes = 10_000
		l := open(t, o)
		synctest.Wait()
		hang := make(chan struct{})
		l.disk.write = func(f *os.File, b []byte) (int, error) { <-hang; return f.Write(b) }
		const sent = 200
		for range sent {
			record(t, l, entry(authz.BestEffort))
		}
		wait := make(chan error)
		go func() { wait <- l.Record(entry(authz.Required)) }() // has room that best effort has not
		synctest.Wait()
		close(hang)
		if err := <-wait; err != nil {
			t.Errorf("a required record behind a full queue got %v", err)
		}
		closeLog(t, l)
		dropped := l.Stats().Dropped
		written := count(t, o.Dir, Filter{Reason: "admitted"})
		if dropped == 0 || written+int(dropped) != sent+1 {
			t.Errorf("%d written, %d dropped, of %d", written, dropped, sent+1)
		}
		if r := intact(t, o.Dir); r.Gaps != dropped {
			t.Errorf("the log says that %d are missing, %d are", r.Gaps, dropped)
		}
	})
}

func TestManyCallersShareASync(t *testing.T) {
	o := options(t)
	o.CheckpointRecords = 100
	l := open(t, o)
	const callers, each = 32, 20
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for i := range each {
				e := entry(authz.Required)
				if (c+i)%4 == 0 {
					e.Class = authz.BestEffort
				}
				if err := l.Record(e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	closeLog(t, l)
	if n := count(t, o.Dir, Filter{Tenant: "acme"}); n != callers*each {
		t.Errorf("%d of %d records", n, callers*each)
	}
	intact(t, o.Dir)
	if s := l.Stats(); s.Fsyncs > callers*each/2 {
		t.Errorf("%d syncs for %d records", s.Fsyncs, callers*each)
	}
}

func TestCheckpointsComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options(t)
		l := open(t, o)
		record(t, l, entry(authz.BestEffort))
		time.Sleep(time.Second)
		synctest.Wait()
		if r := intact(t, o.Dir); r.Signed != 3 || r.Last != 4 {
			t.Errorf("after a second: %+v", r)
		}
		before := l.Stats()
		time.Sleep(time.Hour)
		synctest.Wait()
		if after := l.Stats(); after != before {
			t.Errorf("an idle log wrote: %+v, %+v", before, after)
		}
		closeLog(t, l)
	})
}

func TestSegmentsRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options(t)
		o.SegmentBytes, o.SegmentAge = 5000, time.Hour
		l := open(t, o)
		for range 50 {
			record(t, l, entry(authz.Required))
		}
		r := intact(t, o.Dir)
		if r.Segments < 5 {
			t.Errorf("%d segments by size", r.Segments)
		}
		time.Sleep(2 * time.Hour)
		record(t, l, entry(authz.Required))
		record(t, l, entry(authz.Required))
		if after := intact(t, o.Dir); after.Segments != r.Segments+1 {
			t.Errorf("%d segments by age, there were %d", after.Segments, r.Segments)
		}
		closeLog(t, l)
		closeLog(t, open(t, o))
		intact(t, o.Dir)
	})
}

func TestRetention(t *testing.T) {
	// fillFor writes ten segments, one an hour.
	fillFor := func(t *testing.T, o Options) *Log {
		o.SegmentAge = time.Hour
		l := open(t, o)
		for range 10 {
			<-time.After(time.Hour)
			for range 5 {
				e := entry(authz.Required)
				e.Time = time.Now().UnixMicro()
				record(t, l, e)
			}
		}
		<-time.After(2 * time.Minute)
		synctest.Wait()
		return l
	}
	for _, c := range []struct {
		does string
		r    Retention
		want int // segments
	}{
		{"nothing is deleted without a bound", Retention{}, 11},
		{"the oldest go when there are too many files", Retention{Files: 4}, 4},
		{"the oldest go when they take too much room", Retention{Bytes: 12_000}, 3},
		{"the oldest go when they are old", Retention{Age: 5 * time.Hour}, 6},
		{"nothing goes that a promise keeps", Retention{Files: 2, Bytes: 1, Age: time.Hour, Keep: 7 * time.Hour}, 8},
	} {
		t.Run(c.does, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := options(t)
				o.Retention = c.r
				l := fillFor(t, o)
				kept, _, err := Newest(os.DirFS(o.Dir))
				if err != nil {
					t.Fatal(err)
				}
				r := intact(t, o.Dir)
				if r.Segments != c.want {
					t.Errorf("%d segments are left, want %d", r.Segments, c.want)
				}
				if gone := r.First > 1; gone != (c.want < 11) || gone && !strings.Contains(strings.Join(r.Notes, "\n"), "deleted by retention") {
					t.Errorf("%+v", r)
				}
				closeLog(t, l)
				if p := check(t, o.Dir, kept).Problem; p != nil {
					t.Error(p)
				}
				closeLog(t, open(t, o))
				intact(t, o.Dir)
			})
		})
	}
	t.Run("one segment more than retention recorded is a theft", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := options(t)
			o.Retention = Retention{Files: 5}
			closeLog(t, fillFor(t, o))
			files, err := segments(os.DirFS(o.Dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(o.Dir, files[0].name)); err != nil {
				t.Fatal(err)
			}
			if p := check(t, o.Dir, nil).Problem; p == nil || p.File != files[0].name {
				t.Errorf("found %v", p)
			}
		})
	})
}

func TestTheKeyChanges(t *testing.T) {
	o := options(t)
	l := open(t, o)
	record(t, l, entry(authz.Required))
	closeLog(t, l)
	o.Seed = otherSeed
	t.Run("another key without the one before is refused", func(t *testing.T) {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "signed by another key") {
			t.Error(err)
		}
	})
	t.Run("another origin is refused", func(t *testing.T) {
		o := o
		o.Seed, o.Origin = testSeed, "sluiced/other"
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), `the log "sluiced/test", not "sluiced/other"`) {
			t.Error(err)
		}
	})
	o.Previous = testSeed
	for range 2 { // the second start finds the change done
		l = open(t, o)
		record(t, l, entry(authz.Required))
		closeLog(t, l)
		if s := l.Stats(); s.Damaged != "" {
			t.Error(s.Damaged)
		}
	}
	o.Previous = [32]byte{}
	closeLog(t, open(t, o))
	t.Run("who has the first key can follow to the second", func(t *testing.T) {
		intact(t, o.Dir)
	})
	t.Run("who has the second key only is told to bring the first", func(t *testing.T) {
		r, err := Verify(os.DirFS(o.Dir), VerifyOptions{Keys: []ed25519.PublicKey{public(otherSeed)}})
		if err != nil || r.Problem == nil || !strings.Contains(r.Problem.Why, "give the older key too") {
			t.Error(r, err)
		}
		r, err = Verify(os.DirFS(o.Dir), VerifyOptions{Keys: []ed25519.PublicKey{public(otherSeed), public(testSeed)}})
		if err != nil || r.Problem != nil {
			t.Error(r.Problem, err)
		}
	})
	t.Run("the first key can't sign what comes after", func(t *testing.T) {
		f := load(t, o.Dir)
		text := split(f, firstSegment)
		last, _ := parseLine([]byte(strings.TrimSuffix(text[len(text)-1], "\n")))
		s := state{seq: last.seq}
		s.head, _ = decodeHead(string(last.hash))
		old, err := newSigner(o.Origin, testSeed)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := old.checkpoint(&Checkpoint{Origin: o.Origin, Count: s.seq, Head: s.head, Time: start})
		if err != nil {
			t.Fatal(err)
		}
		join(f, firstSegment, append(text, string(s.seal(nil, meta{Note: string(signed)}.body(start, "checkpoint")))))
		if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || !strings.Contains(p.Why, "not signed by the log's key") {
			t.Error("found", p)
		}
	})
	t.Run("a key that the old one did not sign is refused", func(t *testing.T) {
		f := folderOf(t, 3, nil)
		text := split(f, firstSegment)
		s := state{}
		last, _ := parseLine([]byte(strings.TrimSuffix(text[len(text)-1], "\n")))
		s.seq = last.seq
		s.head, _ = decodeHead(string(last.hash))
		thief, err := newSigner("sluiced/test", [32]byte{6})
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, string(s.seal(nil, meta{Key: thief.text()}.body(start, "key"))))
		signed, err := thief.checkpoint(&Checkpoint{Origin: "sluiced/test", Count: s.seq, Head: s.head, Time: start})
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, string(s.seal(nil, meta{Note: string(signed)}.body(start, "checkpoint"))))
		join(f, firstSegment, text)
		f[checkpointFile].Data = signed
		if p := verifyFolder(t, f, VerifyOptions{}).Problem; p == nil || !strings.Contains(p.Why, "not signed by the log's key") {
			t.Error("found", p)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	good := options(t)
	for _, c := range []struct {
		does, why string
		change    func(*Options)
	}{
		{"a zero seed", "seed", func(o *Options) { o.Seed = [32]byte{} }},
		{"a zero mask key", "mask", func(o *Options) { o.Mask = [32]byte{} }},
		{"an empty origin", "origin", func(o *Options) { o.Origin = "" }},
		{"an origin with a space", "origin", func(o *Options) { o.Origin = "a b" }},
		{"an origin with an end of line", "origin", func(o *Options) { o.Origin = "a\nb" }},
		{"a long origin", "255 bytes", func(o *Options) { o.Origin = strings.Repeat("a", 256) }},
		{"a folder that is a file", "not a directory", func(o *Options) {
			o.Dir = filepath.Join(t.TempDir(), "file")
			write(t, filepath.Dir(o.Dir), "file", nil)
		}},
	} {
		t.Run("it refuses "+c.does, func(t *testing.T) {
			o := good
			c.change(&o)
			if l, err := Open(o); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, %v", l, err)
			}
		})
	}
}
