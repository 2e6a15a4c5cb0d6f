// Package catalog turns sources into the snapshot that decides requests: a
// folder of YAML files, which it watches, and the entries that the quota API
// owns, which it keeps in a bbolt file.
//
// Whatever the source, a change holds whole or not at all: if any entry would be
// wrong, every problem is named and the old snapshot stays. Entries of a file
// are read-only here. Neither secrets nor counters are kept.
//
// Reading the snapshot costs one atomic load. A change through the API costs what [quota.Snapshot.Apply] does, a
// copy of eight bytes for each entry, and one fsync: well under a millisecond of processor time among 100 000 tenants.
// A change of a file, and one that is refused, costs a compilation of the whole catalogue: about 0.7 s for as many.
package catalog

import (
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

// ErrReadOnly says that a change would touch or shadow an entry that a file
// owns, or that there is no file to keep entries in.
var ErrReadOnly = errors.New("read-only")

// ErrReused says that a request id was used for a different request before.
var ErrReused = errors.New("the request id was used for a different request; use a new one")

// Options are where a catalogue comes from.
type Options struct {
	Dir     string       // folder of .yaml and .yml files; "" for none
	DB      string       // bbolt file of the entries that the API owns; "" for none
	CellKey [16]byte     // keys the names of counters
	Log     *slog.Logger // nil: silent
}

// Catalog is the catalogue of a running server. It is safe for concurrent use.
type Catalog struct {
	o      Options
	log    *slog.Logger
	state  atomic.Pointer[state]
	status atomic.Pointer[status] // changed under mu

	mu       sync.Mutex // serialises changes; guards what follows
	db       *store     // nil: no entries of the API
	revision uint64     // of the newest state
	refused  refusal

	poll   time.Duration
	debug  func() // a test's hook: called after each reload that was tried
	closed bool
}

// refusal is a folder that was refused beside the entries of a revision: as
// long as neither changes, there is no point in trying again.
type refusal struct {
	sum      [sha256.Size]byte
	revision uint64
}

// state is all that belongs to one revision. It is immutable.
type state struct {
	files    *fileSet
	own      *View // entries of the API
	snapshot *quota.Snapshot
	view     func() View
	rules    []authz.Rule // all that there are, of files and the API
	issuers  []trust.Issuer
}

// status is how the folder did when it was last looked at.
type status struct {
	loaded time.Time // without a problem
	err    error     // that it has now
}

// Open loads every source and compiles them. The error is quota.Problems if the
// catalogue is invalid. A damaged bbolt file is set aside and reported in the
// log; one that another process holds is an error after a second.
func Open(o Options) (*Catalog, error) {
	c := &Catalog{o: o, log: o.Log, poll: pollInterval, debug: func() {}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if o.Dir != "" {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return nil, err
		}
		c.o.Dir = dir
	}
	own := &View{}
	if o.DB != "" {
		db, kept, err := openStore(o.DB, c.log)
		if err != nil {
			return nil, err
		}
		c.db, own, c.revision = db, kept.own, kept.revision
	}
	files, err := readDir(c.o.Dir)
	if err == nil {
		files.decode()
		err = c.swap(files, own)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.status.Store(&status{loaded: time.Now()})
	return c, nil
}

// Snapshot is the newest snapshot.
func (c *Catalog) Snapshot() *quota.Snapshot { return c.state.Load().snapshot }

// View is what the newest snapshot was made of.
func (c *Catalog) View() View { return c.state.Load().view() }

// Status says which revision decides requests, when the files were last
// loaded without a problem, and what was wrong with them when they were last looked at (nil if
// nothing). It waits for nobody: a change may be waiting for the disk.
func (c *Catalog) Status() (revision uint64, lastReload time.Time, lastError error) {
	now := c.status.Load()
	return c.Snapshot().Revision, now.loaded, now.err
}

// Close closes the bbolt file. The snapshot stays readable.
func (c *Catalog) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.db == nil {
		return nil
	}
	db := c.db
	c.db = nil
	return db.close()
}

// build compiles files and own into the next state.
func (c *Catalog) build(files *fileSet, own *View) (*state, error) {
	if files.problems.broken {
		return nil, files.problems.list
	}
	m := merge(files, own)
	var last *quota.Snapshot
	if now := c.state.Load(); now != nil {
		last = now.snapshot
	}
	snapshot, err := quota.CompileAfter(last, c.revision+1, m.all, c.o.CellKey, m.name)
	if err := files.problems.and(err); err != nil {
		return nil, err
	}
	return newState(files, own, snapshot, &m.all), nil
}

// after is the state after a change of the API's entries.
func (c *Catalog) after(now *state, d *delta) (*state, error) {
	own := d.own
	all := quota.Catalogue{Rules: now.rules, Issuers: now.issuers}
	if d.touches("rules") || d.touches("issuers") {
		all = quota.Catalogue{}
		for _, name := range []string{"rules", "issuers"} {
			l := lists[listAt(name)]
			l.add(&all, &now.files.all)
			l.flatten(&all, &own)
		}
	}
	snapshot, ok := now.snapshot.Apply(c.revision+1, d.compiled(all.Rules, all.Issuers))
	if !ok {
		return c.build(now.files, &own)
	}
	return newState(now.files, &own, snapshot, &all), nil
}

func newState(files *fileSet, own *View, snapshot *quota.Snapshot, all *quota.Catalogue) *state {
	view := sync.OnceValue(func() View { return files.merge(snapshot.Revision, own) })
	return &state{files: files, own: own, snapshot: snapshot, view: view, rules: all.Rules, issuers: all.Issuers}
}

// swap makes files and own the newest state, if they are valid.
func (c *Catalog) swap(files *fileSet, own *View) error {
	next, err := c.build(files, own)
	if err != nil {
		return err
	}
	if c.db != nil { // so that a revision in a log means one catalogue, restarts included
		if err := c.db.save(step{revision: next.snapshot.Revision}); err != nil {
			// A full disk must not keep a revoked key alive.
			c.log.Warn("the revision was not written; it may be used again after a restart", "error", err)
		}
	}
	c.publish(next)
	return nil
}

func (c *Catalog) publish(next *state) {
	c.revision = next.snapshot.Revision
	c.state.Store(next)
}
