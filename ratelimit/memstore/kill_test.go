package memstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

const (
	childEnv     = "SLUICE_MEMSTORE_TEST_CHILD"
	childCellEnv = "SLUICE_MEMSTORE_TEST_CELL"
	childJournal = "journal" // in the child's working directory, as journalPath has it
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "spend":
		childSpends(childJournal)
	case "full":
		childFillsDisk(childJournal)
	default:
		os.Exit(m.Run())
	}
}

func child(t *testing.T, what, path string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	cmd.Dir = filepath.Dir(path)
	cmd.Stderr = os.Stderr
	return cmd
}

const (
	killLimit    = 5000 // of each algorithm; a block is 50
	killsPerCell = 10   // each loses up to a block
	killLife     = 600  // charges of one process, if it is not killed before
)

func killCharge(a ratelimit.Algorithm, cell uint64) []ratelimit.Charge {
	return one(durableLimit(a, killLimit, 24*time.Hour), cell, 1)
}

func childFails(problems ...any) {
	fmt.Fprintln(os.Stderr, problems...)
	os.Exit(1)
}

// childSpends charges one hit after another, and writes one byte for each
// that was admitted, until it is killed. Between, it closes and opens the
// journal, so that a kill can hit that too.
func childSpends(path string) {
	cell, err := strconv.ParseUint(os.Getenv(childCellEnv), 10, 64)
	if err != nil {
		childFails(err)
	}
	outcomes := make([]ratelimit.Outcome, 1)
	for range 4 {
		j, err := OpenJournal(path, JournalOptions{})
		if err != nil {
			childFails(err)
		}
		s := New(Options{Journal: j})
		for i := range killLife / 4 {
			ok, err := s.Charge(ratelimit.Operation{Now: base}, killCharge(algorithms[i%len(algorithms)], cell), outcomes)
			if err != nil || !ok {
				childFails("charge", i, ok, err)
			}
			_, _ = os.Stdout.Write([]byte{byte(i % len(algorithms))})
		}
		if err := j.Close(); err != nil {
			childFails(err)
		}
	}
	os.Exit(0)
}

// recordedUse is how much of each limit the journal says that the cell has used.
func recordedUse(path string, cell uint64) (used [3]int, err error) {
	j, err := OpenJournal(path, JournalOptions{})
	if err != nil {
		return used, err
	}
	for i, a := range algorithms {
		c := killCharge(a, cell)[0]
		for k := range j.loaded.records {
			if r := &j.loaded.records[k]; r.key == keyOf(&c.Cell, a) {
				used[i] = killLimit - int(ratelimit.Evaluate(&r.state, c.Limit, 0, base).Remaining)
			}
		}
	}
	return used, j.Close()
}

// spendAndKill lets a process spend until it has admitted n hits, kills it
// wherever it is then, and returns how many it admitted of each limit. It
// reports whether the kill came before the process had ended by itself.
func spendAndKill(t *testing.T, path string, cell uint64, n int) (admitted [3]int, killed bool, err error) {
	cmd := child(t, "spend", path)
	cmd.Env = append(cmd.Env, childCellEnv+"="+strconv.FormatUint(cell, 10))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return admitted, false, err
	}
	if err := cmd.Start(); err != nil {
		return admitted, false, err
	}
	in := bufio.NewReader(out)
	for range n {
		b, err := in.ReadByte()
		if err != nil {
			return admitted, false, err
		}
		admitted[b]++
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return admitted, false, err
	}
	rest, err := io.ReadAll(in)
	for _, b := range rest {
		admitted[b]++
	}
	_ = cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() && status.ExitStatus() != 0 {
		err = errors.Join(err, fmt.Errorf("the process failed: %v", cmd.ProcessState))
	}
	return admitted, status.Signaled(), err
}

// killing is a journal whose processes are killed, one after the other.
type killing struct {
	path            string
	kills, reopened int
	total, lost     [3]int
}

// run kills n processes, a few for each cell, and spends what they left of it.
func (k *killing) run(t *testing.T, rnd *rand.Rand, n int) error {
	for cell := uint64(0); k.kills < n; cell++ {
		var used [3]int
		for range killsPerCell {
			var err error
			if used, err = k.life(t, cell, used, rnd.IntN(180)); err != nil {
				return fmt.Errorf("after %d kills: %w", k.kills, err)
			}
			if k.kills == n {
				break
			}
		}
		if err := k.spendRest(cell, used); err != nil {
			return err
		}
	}
	return nil
}

// life starts a process, kills it after about n hits, and compares what it had
// admitted with what the journal kept.
func (k *killing) life(t *testing.T, cell uint64, used [3]int, n int) (now [3]int, err error) {
	admitted, killed, err := spendAndKill(t, k.path, cell, n)
	if err != nil {
		return now, err
	}
	if killed {
		k.kills++
	}
	if now, err = recordedUse(k.path, cell); err != nil {
		return now, err
	}
	if killed {
		k.reopened++
	}
	for i, a := range algorithms {
		// A kill loses a block at most, counted as spent; and the last hit
		// may have been admitted and not told.
		lost := now[i] - used[i] - admitted[i]
		if lost < 0 || lost > killLimit/100+1 {
			return now, fmt.Errorf("algorithm %d: %d admitted, %d recorded", a, admitted[i], now[i]-used[i])
		}
		k.total[i] += admitted[i]
		k.lost[i] += lost
	}
	return now, nil
}

// spendRest opens the journal as the next process would and spends what is left.
func (k *killing) spendRest(cell uint64, used [3]int) error {
	j, err := OpenJournal(k.path, JournalOptions{})
	if err != nil {
		return err
	}
	s, outcomes := New(Options{Journal: j}), make([]ratelimit.Outcome, 1)
	for i, a := range algorithms {
		c := killCharge(a, cell)
		c[0].Hits = int64(killLimit - used[i])
		all, err := s.Charge(ratelimit.Operation{Now: base}, c, outcomes)
		c[0].Hits = 1
		more, errMore := s.Charge(ratelimit.Operation{Now: base}, c, outcomes)
		if err := errors.Join(err, errMore); err != nil {
			return err
		}
		if !all || more {
			return fmt.Errorf("cell %d, algorithm %d: after %d hits, the rest of %d admitted %v, one more %v", cell, a, used[i], killLimit, all, more)
		}
	}
	return j.Close()
}

// TestF6KillNeverOverAdmits kills processes that spend durable limits, again
// and again, at points that are spread over all that they do, and reopens the
// journal of each.
func TestF6KillNeverOverAdmits(t *testing.T) {
	const journals = 4
	var done [journals]killing
	for i := range done {
		done[i].path = journalPath(t)
	}
	inParallel(journals, journals, func(i int) {
		if err := done[i].run(t, rand.New(rand.NewPCG(6, uint64(i))), kills/journals); err != nil {
			t.Error(err)
		}
	})
	var all killing
	for i := range done {
		k := &done[i]
		all.kills, all.reopened = all.kills+k.kills, all.reopened+k.reopened
		for a := range algorithms {
			all.total[a], all.lost[a] = all.total[a]+k.total[a], all.lost[a]+k.lost[a]
		}
		if aside, _ := filepath.Glob(k.path + ".*"); len(aside) != 0 {
			t.Errorf("a kill left %v", aside)
		}
	}
	t.Logf("%d kills, reopened %d; admitted by algorithm %v, lost to kills %v", all.kills, all.reopened, all.total, all.lost)
	if all.kills != kills || all.reopened != kills || slices.Min(all.total[:]) == 0 {
		t.Errorf("%d of %d kills, %d reopened", all.kills, kills, all.reopened)
	}
}

// childFillsDisk lets every write fail as a full disk does, by the limit of
// the process on file sizes, and takes that back.
func childFillsDisk(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	j, err := OpenJournal(path, JournalOptions{})
	if err != nil {
		childFails(err)
	}
	var old syscall.Rlimit
	set := func(l syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			childFails(err)
		}
	}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		childFails(err)
	}
	var failures failed
	checkWriteErrors(&failures, New(Options{Journal: j}), func() { set(syscall.Rlimit{Cur: 0, Max: old.Max}) }, func() { set(old) }, syscall.EFBIG)
	if err := j.Close(); err != nil || failures.n > 0 {
		childFails("failures:", failures.n, err)
	}
	os.Exit(0)
}

// failed is a testing.TB for a process that is no test.
type failed struct {
	testing.TB
	n int
}

func (*failed) Helper() {}

func (f *failed) Error(args ...any) {
	f.n++
	fmt.Fprintln(os.Stderr, args...)
}

func (f *failed) Errorf(format string, args ...any) { f.Error(fmt.Sprintf(format, args...)) }

func (f *failed) Fatal(args ...any) {
	f.Error(args...)
	os.Exit(1)
}

func TestF8DiskFullThenFree(t *testing.T) {
	path := journalPath(t)
	cmd := child(t, "full", path)
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := New(Options{Journal: openTestJournal(t, path)})
	for _, a := range algorithms {
		if got := admittedOf(t, s, base, one(durableLimit(a, 1000, time.Hour), 1, 1), 1); got != 0 {
			t.Errorf("algorithm %d: the file does not hold what was spent", a)
		}
	}
}
