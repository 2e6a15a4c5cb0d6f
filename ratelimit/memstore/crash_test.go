package memstore

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

const (
	childEnv     = "SLUICE_MEMSTORE_TEST_CHILD"
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

const killLimit = 5000 // of each algorithm; a block is 50

// childSpends charges one hit after another, and writes one byte for each
// that was admitted, until it is killed.
func childSpends(path string) {
	j, err := OpenJournal(path, JournalOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := New(Options{Journal: j})
	outcomes := make([]ratelimit.Outcome, 1)
	for i := 0; ; i++ {
		a := algorithms[i%len(algorithms)]
		ok, err := s.Charge(base, one(durableLimit(a, killLimit, 24*time.Hour), 1, 1), outcomes)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if ok {
			_, _ = os.Stdout.Write([]byte{byte(i % len(algorithms))})
		}
	}
}

// recordedUse is how much of each limit the journal says is used.
func recordedUse(t *testing.T, path string) (used [3]int) {
	t.Helper()
	j := openTestJournal(t, path)
	for _, r := range j.loaded.records {
		l := durableLimit(r.alg, killLimit, 24*time.Hour)
		used[slices.Index(algorithms, r.alg)] = killLimit - int(ratelimit.Evaluate(&r.state, l, 0, base).Remaining)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return used
}

// spendAndKill lets a process spend until it has admitted about n hits, and
// returns how many it admitted of each limit before it was killed.
func spendAndKill(t *testing.T, path string, n int) (admitted [3]int) {
	t.Helper()
	cmd := child(t, "spend", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	for range n {
		b, err := in.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		admitted[b]++
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(in)
	for _, b := range rest {
		admitted[b]++
	}
	_ = cmd.Wait()
	return admitted
}

// TestF6KillNeverOverAdmits kills a process that spends durable limits, again
// and again, and compares what it had admitted with what the journal kept.
func TestF6KillNeverOverAdmits(t *testing.T) {
	const kills = 60
	path := journalPath(t)
	var total, used [3]int
	rnd := rand.New(rand.NewPCG(6, 6))
	for kill := range kills {
		admitted := spendAndKill(t, path, rnd.IntN(180))
		now := recordedUse(t, path)
		for i, a := range algorithms {
			// A kill loses a block at most, counted as spent; and the last hit
			// may have been admitted and not told.
			lost := now[i] - used[i] - admitted[i]
			if lost < 0 || lost > killLimit/100+1 {
				t.Errorf("kill %d, algorithm %d: %d admitted, %d recorded", kill, a, admitted[i], now[i]-used[i])
			}
			total[i] += admitted[i]
		}
		used = now
	}
	s := New(Options{Journal: openTestJournal(t, path)})
	for i, a := range algorithms {
		rest := admittedOf(t, s, base, one(durableLimit(a, killLimit, 24*time.Hour), 1, 1), killLimit)
		t.Logf("algorithm %d: %d admitted before %d kills, %d after, %d lost", a, total[i], kills, rest, killLimit-total[i]-rest)
		if total[i] == 0 || used[i]+rest != killLimit {
			t.Errorf("algorithm %d: %d used and %d left of %d", a, used[i], rest, killLimit)
		}
	}
	if aside, _ := filepath.Glob(path + ".*"); len(aside) != 0 {
		t.Errorf("a kill left %v", aside)
	}
}

// childFillsDisk lets every write fail as a full disk does, by the limit of
// the process on file sizes, and takes that back.
func childFillsDisk(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	j, err := OpenJournal(path, JournalOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var old syscall.Rlimit
	set := func(l syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var failures failed
	checkWriteErrors(&failures, New(Options{Journal: j}), func() { set(syscall.Rlimit{Cur: 0, Max: old.Max}) }, func() { set(old) }, syscall.EFBIG)
	if err := j.Close(); err != nil || failures.n > 0 {
		fmt.Fprintln(os.Stderr, "failures:", failures.n, err)
		os.Exit(1)
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

// image is the file of a journal after an acknowledged record, and what it holds.
type image struct {
	file []byte
	want contents
}

// history charges a journal and keeps its file after each commit.
func history(t *testing.T, commits int) (images []image) {
	t.Helper()
	path := journalPath(t)
	j := openTestJournal(t, path)
	s := New(Options{Journal: j})
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := 0; len(images) < commits; i++ {
		var charges []ratelimit.Charge
		for range 1 + rnd.IntN(3) {
			charges = append(charges, one(durableLimit(algorithms[rnd.IntN(3)], 100, time.Hour), rnd.Uint64N(300), 1)...)
		}
		before := j.Stats().Fsyncs
		admittedOf(t, s, base+int64(i), charges, 1)
		if i%50 == 49 {
			s.Sweep(base + int64(i))
		}
		if j.Stats().Fsyncs == before {
			continue
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := verify(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
		images = append(images, image{file, want})
	}
	return images
}

func sameContents(a, b contents) bool {
	return a.count == b.count && a.sum == b.sum && a.damaged == b.damaged
}

// torn is what a power failure can leave of the commit from a to b: some of
// its pages and no meta page, or all and a part of the meta page.
func torn(rnd *rand.Rand, a, b []byte) []byte {
	out := slices.Clone(a)
	if len(b) > len(out) {
		out = append(out, make([]byte, len(b)-len(out))...)
	}
	all := rnd.IntN(2) == 0
	for at := 2 * pageSize; at < len(b); at += pageSize {
		if all || rnd.IntN(2) == 0 {
			copy(out[at:at+pageSize], b[at:])
		}
	}
	for at := 0; all && at < 2*pageSize; at += pageSize {
		copy(out[at:at+rnd.IntN(pageHead+metaSize)], b[at:])
	}
	return out
}

// TestF7LostWrites: whatever of the last commit is on disk when the power
// fails, every acknowledged record is there.
func TestF7LostWrites(t *testing.T) {
	images := history(t, 60)
	rnd := rand.New(rand.NewPCG(77, 77))
	const crashes = 240
	for i := range crashes {
		k := rnd.IntN(len(images) - 1)
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, torn(rnd, images[k].file, images[k+1].file), 0o600); err != nil {
			t.Fatal(err)
		}
		j := openTestJournal(t, path)
		if !sameContents(j.loaded, images[k].want) {
			t.Fatalf("crash %d after commit %d: %d records, want %d", i, k, j.loaded.count, images[k].want.count)
		}
		s := New(Options{Journal: j})
		admittedOf(t, s, base+second, one(durableLimit(ratelimit.Fixed, 100, time.Hour), 1_000_000, 1), 1)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// mutate damages a file: bits, bytes, pages, its length.
func mutate(rnd *rand.Rand, file []byte) []byte {
	out := slices.Clone(file)
	page := func() []byte { return out[rnd.IntN(len(out)/pageSize)*pageSize:][:pageSize] }
	switch rnd.IntN(7) {
	case 0:
		out = out[:rnd.IntN(len(out))]
	case 1:
		clear(page())
	case 2:
		copy(page(), page())
	case 3:
		for i, p := 0, page(); i < 64; i++ {
			p[rnd.IntN(pageSize)] = byte(rnd.Uint32())
		}
	case 4: // a page's head and elements: what bbolt trusts most
		page()[rnd.IntN(80)] = byte(rnd.Uint32())
	case 5:
		out[rnd.IntN(len(out))] ^= 1 << rnd.IntN(8)
	case 6:
		for range 1 + rnd.IntN(8) {
			page()[rnd.IntN(pageSize)] ^= 1 << rnd.IntN(8)
		}
	}
	return out
}

// touches reports whether a file that passes for a journal differs from the
// true one in a page that counts.
func touches(t *testing.T, file, bad []byte) bool {
	t.Helper()
	r := readPages{bytes.NewReader(bad), map[int64]bool{}}
	if _, err := verify(r, int64(len(bad))); err != nil {
		t.Fatal(err)
	}
	for page := range r.seen {
		at := page * pageSize
		if !bytes.Equal(file[at:at+pageSize], bad[at:at+pageSize]) {
			return true
		}
	}
	return false
}

// TestF9Mutations: a damaged file is found out, or holds what was recorded by
// the last commit, or, where the newest meta page is lost, by the one before.
func TestF9Mutations(t *testing.T) {
	images := history(t, 150)
	last, before := images[len(images)-1], images[len(images)-2]
	// Cut what bbolt has allocated in advance, or most mutations would hit nothing.
	file := last.file[:usedBytes(t, last.file)]
	rnd := rand.New(rand.NewPCG(9, 9))
	found, opened := 0, 0
	for i := range mutations {
		bad := mutate(rnd, file)
		got, err := verify(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			found++
		} else if !sameContents(got, last.want) && !sameContents(got, before.want) {
			t.Fatalf("mutation %d passes for a journal with %d records", i, got.count)
		}
		// What passes has to survive bbolt; of the rest a sample is enough.
		if opened < mutatedOpens && (err == nil && touches(t, file, bad) || i%100 == 0) {
			opened++
			openMutated(t, bad, err != nil)
		}
	}
	t.Logf("%d of %d mutations found in %d pages, the others harmless; %d opened", found, mutations, len(file)/pageSize, opened)
	if found < mutations/10 {
		t.Error("hardly any mutation was found")
	}
}

func openMutated(t *testing.T, bad []byte, damaged bool) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "journal")
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(path, JournalOptions{OnDamage: Forget})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Journal: j})
	for i := range uint64(10) { // writes to all over the tree
		admittedOf(t, s, base+second, one(durableLimit(ratelimit.Hard, 100, time.Hour), i*30, 1), 1)
		admittedOf(t, s, base+second, one(durableLimit(ratelimit.Fixed, 100, time.Hour), 1_000_000+i, 1), 1)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(bytes.NewReader(after), int64(len(after))); err != nil {
		t.Fatalf("damaged by use: %v", err)
	}
	if aside, _ := filepath.Glob(path + ".damaged-*"); (len(aside) == 1) != damaged {
		t.Fatalf("put aside: %v, damaged: %v", aside, damaged)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
