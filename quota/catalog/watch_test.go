package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/quota"
)

func plan(limit int) string {
	return fmt.Sprintf("plans: [{name: gold, limits: [{name: rps, limit: %d, window: 1s}]}]\ntenants: [{id: acme, plan: gold}]\n", limit)
}

// watched is a catalogue whose folder is watched while the test runs.
type watched struct {
	*Catalog
	t       *testing.T
	reloads chan struct{}
	log     *syncBuffer
}

func startWatch(t *testing.T, o Options) *watched {
	t.Helper()
	w := &watched{t: t, reloads: make(chan struct{}, 1), log: &syncBuffer{}}
	o.Log = slog.New(slog.NewTextHandler(w.log, nil))
	w.Catalog = open(t, o)
	w.debug = func() {
		select {
		case w.reloads <- struct{}{}:
		default:
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	w.until("the first look", func() bool { return true })
	return w
}

// until waits for a reload after which the condition holds.
func (w *watched) until(what string, ok func() bool) {
	w.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case <-w.reloads:
			if ok() {
				return
			}
		case <-timeout:
			_, _, err := w.Status()
			w.t.Fatalf("%s: never; last error: %v", what, err)
		}
	}
}

func (w *watched) limitIs(n int64) func() bool {
	return func() bool {
		a := w.Snapshot().Account("acme")
		return a != nil && len(a.Charges) > 0 && a.Charges[0].Limit.Hits == n
	}
}

func (w *watched) failed() bool {
	_, _, err := w.Status()
	return err != nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestABadEditChangesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", plan(1))
	w := startWatch(t, Options{Dir: dir})
	before := w.Snapshot()
	write(t, dir, "a.yaml", "plans:\n  - {name: gold, limits: [{name: rps, limit: -1, window: 1s}]}\ntenants:\n  - {id: acme, plan: silver}\n")
	for _, want := range []string{"a.yaml:2: plans[0].limits[0].limit: -1 is out of range", "a.yaml:4: tenants[0].plan: there is no plan"} {
		await.That(t, "the log says "+want, func() bool { return strings.Contains(w.log.String(), want) }) // not of a file that is half written
	}
	if !w.failed() || w.Snapshot() != before {
		t.Error("the snapshot changed")
	}
	write(t, dir, "a.yaml", plan(2))
	w.until("the good edit", w.limitIs(2))
	if revision, _, err := w.Status(); revision != 2 || err != nil {
		t.Errorf("revision %d, %v", revision, err)
	}
}

func TestAnEditTakenBackClearsTheError(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", plan(1))
	w := startWatch(t, Options{Dir: dir})
	write(t, dir, "a.yaml", "plans: [")
	w.until("the half-written file", w.failed)
	write(t, dir, "a.yaml", plan(1))
	w.until("the old content", func() bool { return !w.failed() })
	if r := w.Snapshot().Revision; r != 1 {
		t.Errorf("revision %d for the same content", r)
	}
}

func TestATruncatedFileKeepsTheOldCatalogue(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", plan(1))
	w := startWatch(t, Options{Dir: dir})
	write(t, dir, "a.yaml", "")
	w.until("the empty file", w.failed)
	if !w.limitIs(1)() {
		t.Error("the tenant is gone")
	}
}

func TestARenamedFileIsSeen(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", plan(1))
	w := startWatch(t, Options{Dir: dir})
	for i := range 3 {
		write(t, dir, ".a.yaml.new", plan(i+5))
		must(t, os.Rename(filepath.Join(dir, ".a.yaml.new"), filepath.Join(dir, "a.yaml")))
		w.until("the renamed file", w.limitIs(int64(i+5)))
	}
}

func TestFoldersAreFollowedAsTheyComeAndGo(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", plan(1))
	w := startWatch(t, Options{Dir: dir})
	has := func(id string, want bool) func() bool {
		return func() bool { return (w.Snapshot().Account("new") != nil) == want }
	}
	write(t, dir, "deep/er/b.yaml", "tenants: [{id: other, plan: gold}]")
	w.until("the new folder", func() bool { return w.Snapshot().Account("other") != nil })
	write(t, dir, "deep/er/b.yaml", "tenants: [{id: new, plan: gold}]")
	w.until("a change in it", has("new", true))
	must(t, os.RemoveAll(filepath.Join(dir, "deep")))
	w.until("its end", has("new", false))
	write(t, dir, "deep/er/b.yaml", "tenants: [{id: new, plan: gold}]")
	w.until("its return", has("new", true))
}

// As kubelet's atomic writer does it.
func TestAKubernetesVolumeIsSeenAsAWhole(t *testing.T) {
	dir := t.TempDir()
	swap := func(generation string, limit int) {
		write(t, dir, generation+"/a.yaml", plan(limit))
		write(t, dir, generation+"/sub/b.yaml", fmt.Sprintf("plans: [{name: p%d}]", limit))
		must(t, os.Symlink(generation, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	swap("..2026_1", 1)
	must(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	must(t, os.Symlink("..data/sub", filepath.Join(dir, "sub")))
	w := startWatch(t, Options{Dir: dir})
	last := "..2026_1"
	for i := 2; i < 5; i++ {
		next := fmt.Sprintf("..2026_%d", i)
		swap(next, i)
		must(t, os.RemoveAll(filepath.Join(dir, last)))
		last = next
		w.until("the swap", w.limitIs(int64(i)))
		if v := w.View(); len(v.Plans) != 2 || v.Plans[1].Value.Name != fmt.Sprintf("p%d", i) || v.Plans[1].Path != "sub/b.yaml" {
			t.Errorf("plans %+v", v.Plans)
		}
	}
}

// As git-sync does it: the folder itself is a link.
func TestAFolderThatIsASwappedLinkIsSeen(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "v1/a.yaml", plan(1))
	write(t, dir, "v2/a.yaml", plan(2))
	link := filepath.Join(dir, "current")
	must(t, os.Symlink("v1", link))
	w := startWatch(t, Options{Dir: link})
	for i, to := range []string{"v2", "v1", "v2"} {
		must(t, os.Symlink(to, link+".new"))
		must(t, os.Rename(link+".new", link))
		w.until("the swap", w.limitIs(int64(2-i%2)))
	}
}

func TestWithoutEventsTheFolderIsPolled(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere, "a.yaml", plan(1))
	must(t, os.Symlink(filepath.Join(elsewhere, "a.yaml"), filepath.Join(dir, "a.yaml"))) // no events from there
	c := open(t, Options{Dir: dir})
	c.poll = 10 * time.Millisecond
	reloads := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.debug = func() {
		select {
		case reloads <- struct{}{}:
		case <-ctx.Done():
		}
	}
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx) }()
	<-reloads
	write(t, elsewhere, "a.yaml", plan(2))
	for c.Snapshot().Account("acme").Charges[0].Limit.Hits != 2 {
		<-reloads
	}
	cancel()
	must(t, <-done)
}

func TestTemporaryFilesAreNotEvents(t *testing.T) {
	w := &watch{c: &Catalog{o: Options{Dir: "/links/current"}}, parent: "/links"}
	for _, name := range []string{"/c/.a.yaml.swp", "/c/a.yaml~", "/c/#a.yaml#", "/c/.#a.yaml", "/c/a.tmp", "/c/..2026", "/links/other"} {
		if w.relevant(fsnotify.Event{Name: name, Op: fsnotify.Create}) {
			t.Errorf("%s is an event", name)
		}
	}
	for _, name := range []string{"/c/a.yaml", "/c/a.yml", "/c/folder", "/c/..data", "/links/current"} {
		if !w.relevant(fsnotify.Event{Name: name, Op: fsnotify.Rename}) {
			t.Errorf("%s is no event", name)
		}
	}
	if w.relevant(fsnotify.Event{Name: "/c/a.yaml", Op: fsnotify.Chmod}) {
		t.Error("a look at a file is an event")
	}
}

func TestAFolderThatGoesAwayKeepsTheOldCatalogue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "catalog")
	write(t, dir, "a.yaml", plan(1))
	c := open(t, Options{Dir: dir})
	must(t, os.RemoveAll(dir))
	if _, err := c.reload(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reload: %v", err)
	}
	if c.Snapshot().Account("acme") == nil {
		t.Error("the tenant is gone")
	}
}

func TestRequestsUpdatesAndReloadsRunAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", plan(1))
	w := startWatch(t, Options{Dir: dir, DB: filepath.Join(t.TempDir(), "c.db")})
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		group.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := w.Snapshot()
				if s.Account("acme") == nil || s.Revision < last {
					t.Error("a reader saw a catalogue that never was")
					return
				}
				last = s.Revision
				w.View()
				_, _, _ = w.Status()
			}
		})
	}
	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			for i := range 5 {
				err := w.Update(func(e *Edit) error {
					e.Plans.Put(quota.Plan{Name: fmt.Sprintf("p%d-%d", n, i)})
					return nil
				}, false)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	write(t, dir, "a.yaml", plan(9))
	writers.Wait()
	if !w.limitIs(9)() {
		w.until("the file", w.limitIs(9))
	}
	close(stop)
	group.Wait()
	if n := len(w.View().Plans); n != 21 {
		t.Errorf("%d plans, want 21", n)
	}
}

func TestStatusWaitsForNoChange(t *testing.T) {
	c, err := Open(Options{DB: filepath.Join(t.TempDir(), "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	before, _, _ := c.Status()
	err = c.Update(func(e *Edit) error { // a change that takes long, as one that waits for a disk does
		if revision, loaded, err := c.Status(); revision != before || loaded.IsZero() || err != nil {
			t.Errorf("revision %d, loaded at %v, %v", revision, loaded, err)
		}
		e.Plans.Put(quota.Plan{Name: "gold"})
		return nil
	}, false)
	if after, _, _ := c.Status(); err != nil || after != before+1 {
		t.Errorf("revision %d after %d, %v", after, before, err)
	}
}
