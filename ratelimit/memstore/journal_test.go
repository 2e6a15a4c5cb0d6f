package memstore

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/boltfile"
	"github.com/voicecore-ai/sluice/ratelimit"
)

var algorithms = []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed}

func journalPath(t testing.TB) string { return filepath.Join(t.TempDir(), "journal") }

func TestGracefulStopLosesNothing(t *testing.T) {
	path := journalPath(t)
	left := []int{1000, 1000, 1000}
	for range 5 {
		j := openTestJournal(t, path)
		s := New(Options{Journal: j})
		for i, a := range algorithms {
			left[i] -= admittedOf(t, s, base, one(durableLimit(a, 1000, 24*time.Hour), 1, 1), 77)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Charge(ratelimit.Operation{Now: base}, one(durableLimit(ratelimit.Fixed, 1000, 24*time.Hour), 1, 1), make([]ratelimit.Outcome, 1))
		if !errors.Is(err, ErrJournal) {
			t.Fatalf("a charge after Close: %v", err)
		}
	}
	s := New(Options{Journal: openTestJournal(t, path)})
	for i, a := range algorithms {
		if got := admittedOf(t, s, base, one(durableLimit(a, 1000, 24*time.Hour), 1, 1), 2000); got != left[i] {
			t.Errorf("algorithm %d: %d left, want %d", a, got, left[i])
		}
	}
}

func TestBlocksAreRecordedAhead(t *testing.T) {
	j := openTestJournal(t, journalPath(t))
	s := New(Options{Journal: j})
	for _, a := range algorithms {
		before := j.Stats()
		if got := admittedOf(t, s, base, one(durableLimit(a, 1000, time.Hour), 1, 1), 1001); got != 1000 {
			t.Errorf("algorithm %d: admitted %d", a, got)
		}
		if n := j.Stats().Fsyncs - before.Fsyncs; n < 100 || n > 112 {
			t.Errorf("algorithm %d: %d fsyncs for 1000 hits in blocks of 10", a, n)
		}
	}
}

func TestLockedJournalIsNotDamage(t *testing.T) {
	path := journalPath(t)
	openTestJournal(t, path)
	if _, err := OpenJournal(path, JournalOptions{}); !errors.Is(err, boltfile.ErrLocked) {
		t.Fatal(err)
	}
	if aside, _ := filepath.Glob(path + ".damaged*"); len(aside) != 0 {
		t.Errorf("put aside: %v", aside)
	}
}

// damage flips a bit in the middle of a record.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kb := keyOf(&one(durableLimit(ratelimit.Fixed, 1, time.Hour), 1, 1)[0].Cell, ratelimit.Fixed).append(nil)
	for at := 0; ; {
		i := bytes.Index(b[at:], kb)
		if i < 0 {
			break
		}
		b[at+i+20] ^= 4
		at += i + 20
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamageDeniesForAWindowOrForgets(t *testing.T) {
	const window = 366 * 24 * time.Hour // no edge of one passes meanwhile
	for _, how := range []OnDamage{Deny, Forget} {
		path := journalPath(t)
		now := time.Now().UnixMicro()
		j := openTestJournal(t, path)
		s := New(Options{Journal: j})
		for _, a := range algorithms {
			admittedOf(t, s, now, one(durableLimit(a, 100, window), 1, 1), 60)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		damage(t, path)
		damaged, _ := os.ReadFile(path)
		var log strings.Builder
		for restart := range 2 { // the mark survives
			j, err := OpenJournal(path, JournalOptions{OnDamage: how, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			s = New(Options{Journal: j})
			now := time.Now().UnixMicro()
			for _, a := range algorithms {
				want := 0
				if how == Forget && restart == 0 {
					want = 100
				}
				if got := admittedOf(t, s, now, one(durableLimit(a, 100, window), 1, 1), 101); got > want || got < want-2 {
					t.Errorf("mode %d, restart %d, algorithm %d: admitted %d, want %d", how, restart, a, got, want)
				}
				if got := admittedOf(t, s, now, one(testLimit(a, 100, window), 2+uint64(restart), 1), 101); got != 100 {
					t.Errorf("mode %d: a limit that is not durable admitted %d", how, got)
				}
				later := now + 2*window.Microseconds()
				if got := admittedOf(t, s, later, one(durableLimit(a, 100, window), 5+uint64(restart), 1), 101); got != 100 {
					t.Errorf("mode %d: %d admitted two windows later", how, got)
				}
				s = reopened(t, j, path, how)
				j = s.journal
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		aside, _ := filepath.Glob(path + ".damaged-*Z")
		if len(aside) != 1 || !strings.Contains(log.String(), aside[0]) || !strings.Contains(log.String(), "hint=") {
			t.Fatalf("mode %d: aside %v, log %s", how, aside, log.String())
		}
		if kept, _ := os.ReadFile(aside[0]); !bytes.Equal(kept, damaged) {
			t.Error("the damaged file was changed")
		}
	}
}

// reopened is the store after a restart, with the shards' clocks set back.
func reopened(t *testing.T, j *Journal, path string, how OnDamage) *Store {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(path, JournalOptions{OnDamage: how})
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Journal: j})
}

func TestForgetLiftsAnEarlierDeny(t *testing.T) {
	path := journalPath(t)
	if err := createJournal(path, time.Now().UnixMicro(), false); err != nil {
		t.Fatal(err)
	}
	charges := one(durableLimit(ratelimit.Fixed, 100, 300*24*time.Hour), 1, 1)
	s := New(Options{Journal: openTestJournal(t, path)})
	if got := admittedOf(t, s, time.Now().UnixMicro(), charges, 1); got != 0 {
		t.Fatal("admitted after damage")
	}
	s = reopened(t, s.journal, path, Forget)
	if got := admittedOf(t, s, time.Now().UnixMicro(), charges, 1); got != 1 {
		t.Error("refused after Forget")
	}
	if err := s.journal.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestExpiredRecordsAreDeleted(t *testing.T) {
	path := journalPath(t)
	j := openTestJournal(t, path)
	s := New(Options{Journal: j})
	for i := range uint64(50) {
		admittedOf(t, s, base, one(durableLimit(ratelimit.Fixed, 10, time.Minute), i, 1), 1)
	}
	admittedOf(t, s, base, one(durableLimit(ratelimit.Fixed, 10, time.Hour), 99, 1), 1)
	s.Sweep(base + 61*second)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	s = New(Options{Journal: openTestJournal(t, path)})
	if s.Len() != 1 {
		t.Errorf("%d records left, want 1", s.Len())
	}
}

// TestFsyncStallsNobodyElse holds the disk still while others charge, in the
// same shard too, and then sees one commit for all who wait.
func TestFsyncStallsNobodyElse(t *testing.T) {
	j := openTestJournal(t, journalPath(t))
	s := New(Options{Journal: j})
	entered, free := make(chan bool, 100), make(chan bool)
	j.fault = func() error { entered <- true; <-free; return nil }
	var wg sync.WaitGroup
	durable := durableLimit(ratelimit.Fixed, 10, time.Hour)
	wg.Go(func() { admittedOf(t, s, base, one(durable, 1, 1), 1) })
	<-entered
	const waiting = 20
	for i := range uint64(waiting) {
		wg.Go(func() { admittedOf(t, s, base, one(durable, 100+i, 1), 1) })
	}
	if got := admittedOf(t, s, base, one(testLimit(ratelimit.GCRA, 10, time.Hour), 1, 1), 11); got != 10 {
		t.Errorf("%d admitted in the shard that records", got)
	}
	for len(j.requests) < 10 { // at least those in shards of their own arrive
		admittedOf(t, s, base, one(testLimit(ratelimit.GCRA, 1, time.Hour), 3, 1), 1)
	}
	close(free)
	wg.Wait()
	if n := j.Stats(); n.Records != waiting+1 || n.Fsyncs > 12 {
		t.Errorf("%+v for %d records", n, waiting+1)
	}
}

// TestF8WriteErrors: with a journal that can't be written, durable limits
// spend what is recorded and then fail closed, the others go on, and all is
// well again without a restart.
func TestF8WriteErrors(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS} {
		j := openTestJournal(t, journalPath(t))
		s := New(Options{Journal: j})
		checkWriteErrors(t, s, func() { j.fault = func() error { return cause } }, func() { j.fault = nil }, cause)
	}
}

func checkWriteErrors(t testing.TB, s *Store, breaks, heals func(), cause error) {
	for i, a := range algorithms {
		now := base + int64(i)*second
		durable, plain := one(durableLimit(a, 1000, time.Hour), 1, 1), one(testLimit(a, 1000, time.Hour), 2, 1)
		outcomes := make([]ratelimit.Outcome, 2)
		admitted := admittedOf(t, s, now, durable, 3)
		breaks()
		admitted += admittedOf(t, s, now, durable, 7) // the rest of the block
		for range 3 {
			if _, err := s.Charge(ratelimit.Operation{Now: now}, durable, outcomes); !errors.Is(err, ErrJournal) || !errors.Is(err, cause) {
				t.Errorf("algorithm %d: beyond what is recorded: %v", a, err)
			}
		}
		if _, err := s.Charge(ratelimit.Operation{Now: now}, append(plain, durable...), outcomes); !errors.Is(err, ErrJournal) {
			t.Errorf("algorithm %d: with another limit: %v", a, err)
		}
		if got := admittedOf(t, s, now, plain, 1001); got != 1000 {
			t.Errorf("algorithm %d: a limit that is not durable admitted %d, want 1000", a, got)
		}
		if st := s.journal.Stats(); !st.Failing || st.Errors == 0 {
			t.Errorf("algorithm %d: stats %+v", a, st)
		}
		heals()
		now += retryAfter
		if admitted += admittedOf(t, s, now, durable, 2000); admitted != 1000 {
			t.Errorf("algorithm %d: %d admitted in all, want 1000", a, admitted)
		}
		if s.journal.Stats().Failing {
			t.Error("still failing")
		}
	}
}

func TestRecordCodec(t *testing.T) {
	for _, a := range algorithms {
		s := ratelimit.State{}
		if a == ratelimit.Hard {
			s.Ring = new(ratelimit.Ring)
		}
		l, now := testLimit(a, 10, time.Minute), base
		for i := range int64(500) { // the ring turns several times
			if now = base + i*second; !ratelimit.Evaluate(&s, l, 1, now).Over {
				ratelimit.Apply(&s, l, 1, now)
			}
		}
		in := record{key: key{1, 2}, shard: 3, alg: a, state: s}
		kb, v := in.key.append(nil), appendRecord(nil, &in)
		out, err := parseRecord(kb, v)
		if err != nil || out.shard != 3 || out.alg != a {
			t.Fatalf("algorithm %d: %+v, %v", a, out, err)
		}
		for later := range int64(62) {
			at := now + later*second
			if got, want := ratelimit.Evaluate(&out.state, l, 2, at), ratelimit.Evaluate(&s, l, 2, at); got != want {
				t.Fatalf("algorithm %d, %d s later: %+v, want %+v", a, later, got, want)
			}
		}
		for i := range v {
			bad := slices.Clone(v)
			bad[i] ^= 1
			if _, err := parseRecord(kb, bad); err == nil {
				t.Fatalf("algorithm %d: byte %d may be anything", a, i)
			}
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, a := range algorithms {
		s := usedUp(testLimit(a, 10, time.Minute), base)
		in := record{key: key{1, 2}, shard: 3, alg: a, state: s}
		f.Add(in.key.append(nil), appendRecord(nil, &in)[:len(appendRecord(nil, &in))-crcSize])
	}
	f.Fuzz(func(t *testing.T, kb, body []byte) {
		k, _ := parseKey(kb)
		sum := recordSum(k, body)
		v := append(slices.Clone(body), byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
		r, err := parseRecord(kb, v)
		if err != nil {
			return
		}
		l := testLimit(r.alg, 10, time.Minute)
		ratelimit.Evaluate(&r.state, l, 1, base)
		ratelimit.Apply(&r.state, l, 1, base)
	})
}

func TestABucketOfAnotherNameIsDamage(t *testing.T) {
	path := journalPath(t)
	if err := createJournal(path, 0, false); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(bytes.NewReader(image), int64(len(image))); err != nil {
		t.Fatal(err)
	}
	image = bytes.ReplaceAll(image, bucketCells, []byte("cellt")) // empty, so no record gives it away
	if _, err := verify(bytes.NewReader(image), int64(len(image))); err == nil {
		t.Error("passes for a journal")
	}
}

func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	if err := createJournal(path, base, false); err != nil {
		f.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image[:5*boltfile.PageSize])
	f.Fuzz(func(_ *testing.T, image []byte) { _, _ = verify(bytes.NewReader(image), int64(len(image))) })
}

// A broken journal must not refuse for what refuses nothing: what is charged in shadow is in memory alone.
func TestWhatIsChargedInShadowNeedsNoJournal(t *testing.T) {
	for _, a := range algorithms {
		for name, shadow := range map[string]func(*ratelimit.Charge){
			"by its limit":  func(c *ratelimit.Charge) { c.Limit.Shadow = true },
			"by the charge": func(c *ratelimit.Charge) { c.Shadow = true },
		} {
			path := journalPath(t)
			j := openTestJournal(t, path)
			s := New(Options{Journal: j})
			enforced := one(durableLimit(a, 10, 24*time.Hour), 1, 1)
			admittedOf(t, s, base, enforced, 3) // recorded, and found by what comes in shadow
			charges := one(durableLimit(a, 10, 24*time.Hour), 1, 1)
			shadow(&charges[0])
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			before := j.Stats()
			outcomes := make([]ratelimit.Outcome, 1)
			for i := range 10 {
				if ok, err := s.Charge(ratelimit.Operation{Now: base}, charges, outcomes); !ok || err != nil || outcomes[0].Over != (i >= 7) {
					t.Errorf("algorithm %d, %s, hit %d: %v, %v, %+v", a, name, i+4, ok, err, outcomes[0])
				}
			}
			if n := j.Stats().Records - before.Records; n != 0 {
				t.Errorf("algorithm %d, %s: %d records", a, name, n)
			}
			again := New(Options{Journal: openTestJournal(t, path)})
			if got := admittedOf(t, again, base, enforced, 20); got != 7 {
				t.Errorf("algorithm %d, %s: %d left after a restart, want the 7 of before the shadow", a, name, got)
			}
		}
	}
}
