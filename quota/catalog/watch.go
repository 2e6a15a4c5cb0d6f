package catalog

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/voicecore-ai/sluice/quota"
)

const (
	debounce     = 50 * time.Millisecond
	pollInterval = 10 * time.Second // where events don't come: network folders, full queues
)

// Watch takes over what changes in the folder and in Redis, until ctx ends. What is
// invalid, or half written, changes nothing but Status and the log. It returns
// nil at once if there is neither, and otherwise nil when ctx ends.
//
// A change of a file is seen after about 50 ms; without events from the kernel within ten
// seconds. A change by another replica is seen as soon as Redis tells of it, within a second if Redis is there.
func (c *Catalog) Watch(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	if c.shared != nil {
		group.Go(func() { c.follow(ctx) })
	}
	if c.o.Dir == "" {
		return nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		c.log.Warn("can't watch the catalog folder; it is read every few seconds instead", "error", err, "every", c.poll)
		watcher = &fsnotify.Watcher{} // its nil channels never deliver
	} else {
		defer func() { _ = watcher.Close() }()
	}
	w := &watch{c: c, watcher: watcher, usable: err == nil, dirs: map[string]bool{}}
	w.follow(c.state.Load().files.dirs)
	poll := time.NewTicker(c.poll)
	defer poll.Stop()
	settle := time.NewTimer(0) // what changed between Open and Watch
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if ok && w.relevant(event) {
				settle.Reset(debounce)
			}
		case err := <-watcher.Errors:
			c.log.Warn("events of the catalog folder were lost; it is read again", "error", err)
			settle.Reset(debounce)
		case <-poll.C:
			w.reload()
		case <-settle.C:
			w.reload()
		}
	}
}

// relevant leaves out what editors put beside a file, mere reading, and the
// neighbours of the folder.
func (w *watch) relevant(e fsnotify.Event) bool {
	dir, name := filepath.Dir(e.Name), filepath.Base(e.Name)
	if dir == w.parent && !w.inside {
		return name == filepath.Base(w.c.o.Dir)
	}
	return e.Op != fsnotify.Chmod && (name == "..data" || !hidden(name))
}

// watch is the state of one Watch.
type watch struct {
	c       *Catalog
	watcher *fsnotify.Watcher
	usable  bool
	dirs    map[string]bool
	parent  string // of the folder, if that is a link which may be swapped
	inside  bool   // parent is a folder of the catalogue too
}

// follow watches these folders and no others. They are real paths: behind a
// link that was swapped there is another folder.
func (w *watch) follow(dirs []string) {
	if !w.usable {
		return
	}
	w.parent, w.inside = linkParent(w.c.o.Dir), false
	if w.inside = slices.Contains(dirs, w.parent); w.parent != "" && !w.inside {
		dirs = append(slices.Clone(dirs), w.parent)
	}
	now := make(map[string]bool, len(dirs))
	for _, d := range dirs {
		now[d] = true
		if w.dirs[d] {
			continue
		}
		if err := w.watcher.Add(d); err != nil {
			w.c.log.Warn("can't watch a folder; it is read every few seconds instead", "folder", d, "error", err)
			delete(now, d)
		}
	}
	for d := range w.dirs {
		if !now[d] {
			_ = w.watcher.Remove(d) // it may be gone
		}
	}
	w.dirs = now
}

// linkParent is the real path of the folder that holds dir, if dir is a link; else "".
func linkParent(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	info, err := os.Lstat(dir)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return ""
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return ""
	}
	return parent
}

func (w *watch) reload() {
	dirs, err := w.c.reload()
	if err == nil || len(dirs) > 0 {
		w.follow(dirs)
	}
	w.c.debug()
}

// reload reads the folder and swaps it in, if it is valid and new. It returns
// the folders that were read.
func (c *Catalog) reload() (dirs []string, err error) {
	files, err := readDir(c.o.Dir)
	if c.shared == nil { // what is written to Redis meanwhile may prove wrong beside these files, as what another replica writes; a file would be refused at the next start
		_ = c.turn.take(context.Background())
		defer c.turn.end()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil
	}
	before := c.status.Load()
	if err == nil {
		dirs = files.dirs
		if files.sum == c.state.Load().files.sum {
			if before.err != nil {
				c.log.Info("the catalog folder is as it was before the error", "revision", c.revision)
			}
			c.refused = refusal{}
			c.status.Store(&status{loaded: before.loaded, shared: before.shared})
			return dirs, nil
		}
		seen := refusal{files.sum, c.own}
		if seen == c.refused {
			return dirs, before.err
		}
		files.decode()
		if err = c.swap(files); err != nil {
			c.refused = seen
		}
	}
	if err != nil {
		c.refuse(err)
		return dirs, err
	}
	c.refused = refusal{}
	c.status.Store(&status{loaded: time.Now()})
	loaded := []any{"revision", c.revision, "files", len(files.files)}
	for _, l := range lists {
		loaded = append(loaded, l.name(), l.count(&files.all))
	}
	c.log.Info("the catalog folder was loaded", loaded...)
	return dirs, nil
}

// refuse notes and logs an error, once however often it is found.
func (c *Catalog) refuse(err error) {
	before := c.status.Load()
	c.status.Store(&status{before.loaded, err, before.shared})
	if before.err != nil && before.err.Error() == err.Error() {
		return
	}
	var problems quota.Problems
	if !errors.As(err, &problems) {
		c.log.Error("the catalog folder can't be loaded; the last good catalogue stays", "error", err, "revision", c.revision)
		return
	}
	c.log.Error("the catalog folder is refused; the last good catalogue stays", "problems", len(problems), "revision", c.revision)
	for i, p := range problems {
		if i == 100 {
			c.log.Error("there are more problems", slog.Int("more", len(problems)-i))
			break
		}
		c.log.Error(p.String())
	}
}
