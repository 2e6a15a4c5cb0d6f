package memstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

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

const sectorSize = 512 // what a disk writes whole

// commit is what bbolt does between two images: it writes pages, waits for the
// disk, writes one of the two meta pages, and waits again.
type commit struct {
	rnd    *rand.Rand
	before []byte
	after  []byte
}

// grown is the file before the commit, as long as after it.
func (c *commit) grown() []byte {
	return append(slices.Clone(c.before), make([]byte, max(len(c.after)-len(c.before), 0))...)
}

// written is out with those parts of the commit, of that size, for which pick
// says so: it is asked for each part that the commit changes. No meta page.
func (c *commit) written(out []byte, size int, pick func(i int) bool) []byte {
	changed, was := 0, c.grown()
	for at := 2 * pageSize; at+size <= min(len(c.after), len(out)); at += size {
		if bytes.Equal(was[at:at+size], c.after[at:at+size]) {
			continue
		}
		if pick(changed) {
			copy(out[at:at+size], c.after[at:])
		}
		changed++
	}
	return out
}

// changes is how many parts of a size the commit changes.
func (c *commit) changes(size int) (n int) {
	c.written(c.grown(), size, func(int) bool { n++; return false })
	return n
}

// tears are ways in which a power failure can leave a commit. Only the last
// wrote all of it.
var tears = []struct {
	name string
	tear func(c *commit) []byte
}{
	{"nothing but the length", func(c *commit) []byte { return c.grown() }},
	{"some pages", func(c *commit) []byte {
		return c.written(c.grown(), pageSize, func(int) bool { return c.rnd.IntN(2) == 0 })
	}},
	{"some sectors", func(c *commit) []byte {
		return c.written(c.grown(), sectorSize, func(int) bool { return c.rnd.IntN(2) == 0 })
	}},
	{"all but one sector", func(c *commit) []byte {
		lost := c.rnd.IntN(c.changes(sectorSize))
		return c.written(c.grown(), sectorSize, func(i int) bool { return i != lost })
	}},
	{"the first pages", func(c *commit) []byte {
		n := c.rnd.IntN(c.changes(pageSize))
		return c.written(c.grown(), pageSize, func(i int) bool { return i < n })
	}},
	{"all pages but not the length", func(c *commit) []byte {
		return c.written(slices.Clone(c.before), pageSize, func(int) bool { return true })
	}},
	{"all pages and a part of the meta page", func(c *commit) []byte {
		out := c.written(c.grown(), pageSize, func(int) bool { return true })
		for at := 0; at < 2*pageSize; at += pageSize { // one of them is the same before and after
			n := c.rnd.IntN(pageHead + metaSize - 8) // not all of the checksum
			copy(out[at:at+n], c.after[at:])
		}
		return out
	}},
	{"all, and nobody was told", func(c *commit) []byte { return slices.Clone(c.after) }},
}

// reopenTorn opens what a power failure left: it must be a journal that holds
// those contents, and it must work.
func reopenTorn(path string, file []byte, want contents) error {
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return err
	}
	j, err := OpenJournal(path, JournalOptions{})
	if err != nil {
		return err
	}
	if !sameContents(j.loaded, want) {
		return fmt.Errorf("%d records, want %d", j.loaded.count, want.count)
	}
	s := New(Options{Journal: j})
	charges := one(durableLimit(ratelimit.Fixed, 100, time.Hour), 1_000_000, 1)
	if ok, err := s.Charge(ratelimit.Operation{Now: base + second}, charges, make([]ratelimit.Outcome, 1)); err != nil {
		return err
	} else if !ok {
		return errors.New("a new limit refuses")
	}
	if err := j.Close(); err != nil {
		return err
	}
	return verifyFile(path)
}

func verifyFile(path string) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = verify(bytes.NewReader(file), int64(len(file)))
	return err
}

// TestF7LostWrites: whatever of the last commit is on disk when the power
// fails, every acknowledged record is there.
func TestF7LostWrites(t *testing.T) {
	images := history(t, tornImages+1)
	dir := t.TempDir()
	var booted atomic.Int64
	inParallel(4, tornImages, func(k int) {
		c := commit{rnd: rand.New(rand.NewPCG(77, uint64(k))), before: images[k].file, after: images[k+1].file}
		path := filepath.Join(dir, "journal"+strconv.Itoa(k))
		for i, way := range tears {
			want := images[k].want
			if i == len(tears)-1 {
				want = images[k+1].want
			}
			if err := reopenTorn(path, way.tear(&c), want); err != nil {
				t.Errorf("after commit %d, on disk: %s: %v", k, way.name, err)
				return
			}
			booted.Add(1)
		}
		if aside, _ := filepath.Glob(path + ".*"); len(aside) != 0 {
			t.Errorf("after commit %d: put aside %v", k, aside)
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d of %d crashes in %d commits booted with every acknowledged record", booted.Load(), tornImages*len(tears), tornImages)
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
func touches(file, bad []byte) bool {
	r := readPages{bytes.NewReader(bad), map[int64]bool{}}
	if _, err := verify(r, int64(len(bad))); err != nil {
		return true
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
	file, dir := last.file[:usedBytes(t, last.file)], t.TempDir()
	var found, harmless, opened atomic.Int64
	inParallel(4, mutations, func(i int) {
		bad := mutate(rand.New(rand.NewPCG(9, uint64(i))), file)
		got, err := verify(bytes.NewReader(bad), int64(len(bad)))
		switch {
		case err != nil:
			found.Add(1)
		case sameContents(got, last.want), sameContents(got, before.want):
			harmless.Add(1)
		default:
			t.Errorf("mutation %d passes for a journal with %d records", i, got.count)
			return
		}
		// What passes has to survive bbolt; of the rest a sample is enough.
		if i%100 != 0 && (err != nil || opened.Load() >= mutatedOpens || !touches(file, bad)) {
			return
		}
		opened.Add(1)
		if problem := openMutated(filepath.Join(dir, strconv.Itoa(i)), bad, err != nil); problem != nil {
			t.Errorf("mutation %d: %v", i, problem)
		}
	})
	t.Logf("%d of %d mutations found in %d pages, %d harmless; %d opened", found.Load(), mutations, len(file)/pageSize, harmless.Load(), opened.Load())
	if found.Load() < mutations/10 || found.Load()+harmless.Load() != mutations {
		t.Error("hardly any mutation was found, or not each is one or the other")
	}
}

// openMutated opens a journal that is damaged or passes for one, and uses it.
func openMutated(path string, bad []byte, damaged bool) error {
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		return err
	}
	j, err := OpenJournal(path, JournalOptions{OnDamage: Forget})
	if err != nil {
		return err
	}
	s := New(Options{Journal: j})
	var charges []ratelimit.Charge
	for i := range uint64(10) { // writes to all over the tree
		charges = append(charges, one(durableLimit(ratelimit.Hard, 100, time.Hour), i*30, 1)...)
		charges = append(charges, one(durableLimit(ratelimit.Fixed, 100, time.Hour), 1_000_000+i, 1)...)
	}
	for range 2 {
		if _, err := s.Charge(ratelimit.Operation{Now: base + second}, charges, make([]ratelimit.Outcome, len(charges))); err != nil {
			return err
		}
	}
	if err := j.Close(); err != nil {
		return err
	}
	if err := verifyFile(path); err != nil {
		return fmt.Errorf("damaged by use: %w", err)
	}
	aside, _ := filepath.Glob(path + ".damaged-*")
	if (len(aside) == 1) != damaged {
		return fmt.Errorf("put aside: %v, damaged: %v", aside, damaged)
	}
	for _, name := range append(aside, path) {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}
