package audit

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
)

const (
	childEnv  = "SLUICE_AUDIT_TEST_CHILD"
	folderEnv = "SLUICE_AUDIT_TEST_FOLDER"
)

func TestMain(m *testing.M) {
	o := Options{Dir: os.Getenv(folderEnv), Origin: "sluiced/test", Seed: testSeed, Mask: testMask, SegmentBytes: 64 << 10, Wait: time.Minute}
	switch os.Getenv(childEnv) {
	case "record":
		childRecords(o)
	case "full":
		childFillsDisk(o)
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, what, dir string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+what, folderEnv+"="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func die(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(1)
}

// childRecords records from several goroutines, and writes the number of each record that is
// on disk, until it is killed.
func childRecords(o Options) {
	l, err := Open(o)
	if err != nil {
		die(err)
	}
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := uint64(g + 1); ; i += 8 {
				e := entry(authz.BestEffort)
				if err := l.Record(e); err != nil {
					die(err)
				}
				e.Class, e.Reason, e.Revision = authz.Required, "durable", i
				if err := l.Record(e); err != nil {
					die(err)
				}
				fmt.Println(i)
			}
		})
	}
	group.Wait()
}

// TestA02Kill kills a process that records, again and again: what was acknowledged is there, once,
// and the chain goes on.
func TestA02Kill(t *testing.T) {
	const kills = 15
	dir := options(t).Dir
	rnd := rand.New(rand.NewPCG(2, 2))
	acknowledged := map[uint64]int{}
	for range kills {
		cmd := child(t, "record", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := rnd.IntN(300); lines.Scan(); n-- {
			if n == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			var i uint64
			if _, err := fmt.Sscan(lines.Text(), &i); err == nil {
				acknowledged[i]++
			}
		}
		_ = cmd.Wait()
		if r := check(t, dir, nil); r.Problem != nil {
			t.Fatal("after a kill:", r.Problem)
		}
	}
	o := options(t)
	o.Dir = dir
	closeLog(t, open(t, o))
	r := intact(t, dir)
	if r.Gaps != 0 || len(acknowledged) == 0 || r.Segments < 2 {
		t.Errorf("%+v", r)
	}
	recorded := map[uint64]int{}
	err := Search(os.DirFS(dir), Filter{Reason: "durable"}, func(r *Record, _ []byte) error {
		recorded[r.Revision]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range acknowledged {
		if recorded[i] < n {
			t.Errorf("record %d was acknowledged %d times and is there %d times", i, n, recorded[i])
		}
	}
	t.Logf("%d kills, %d acknowledged, %d records", kills, len(acknowledged), r.Last)
}

// childFillsDisk lets every write fail as a full disk does, in the middle of one, by the
// limit of the process on file sizes, and takes that back.
func childFillsDisk(o Options) {
	signal.Ignore(syscall.SIGXFSZ)
	l, err := Open(o)
	if err != nil {
		die(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		die(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 3000, Max: old.Max}); err != nil {
		die(err)
	}
	written := 0
	for ; err == nil; written++ {
		err = l.Record(entry(authz.Required))
	}
	fmt.Println(written - 1)
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EFBIG) || l.Available() {
		die("a full disk gave", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		die(err)
	}
	for deadline := time.Now().Add(time.Minute); !l.Available(); {
		if time.Now().After(deadline) {
			die("the log did not recover")
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := l.Record(entry(authz.Required)); err != nil {
		die(err)
	}
	if err := l.Close(); err != nil {
		die(err)
	}
	os.Exit(0)
}

func TestF04DiskFullThenFree(t *testing.T) {
	dir := options(t).Dir
	out, err := child(t, "full", dir).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := intact(t, dir); r.Gaps != 1 {
		t.Errorf("%+v", r)
	}
	var before int
	if _, err := fmt.Sscan(strings.TrimSpace(string(out)), &before); err != nil {
		t.Fatal(err)
	}
	if n := count(t, dir, Filter{Reason: "admitted"}); n != before+1 {
		t.Errorf("%d records, %d were acknowledged", n, before+1)
	}
}
