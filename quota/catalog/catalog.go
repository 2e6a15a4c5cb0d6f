// Package catalog turns sources into the snapshot that decides requests: a
// folder of YAML files, which it watches, and the entries that the quota API
// owns, which it keeps in a bbolt file, or in Redis, where replicas share them.
//
// Whatever the source, a change holds whole or not at all: if any entry would be
// wrong, every problem is named and the old snapshot stays. Entries of a file
// are read-only here. Neither secrets nor counters are kept.
//
// Reading the snapshot costs one atomic load. A change through the API costs what [quota.Snapshot.Apply] does, a
// copy of eight bytes for each entry, and one fsync or a few round trips: about a millisecond of processor time among 100 000 tenants.
// One that is refused costs no more. A change of a file costs a compilation of the whole catalogue: about 0.7 s for as many.
package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

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

	// Redis keeps the entries that the API owns instead of DB, if it is not nil, under keys that begin with
	// RedisPrefix. It is the caller's to close, and must not send a command again by itself (MaxRetries -1).
	Redis       redis.UniversalClient
	RedisPrefix string
}

// Catalog is the catalogue of a running server. It is safe for concurrent use.
type Catalog struct {
	o      Options
	log    *slog.Logger
	state  atomic.Pointer[state]
	status atomic.Pointer[status] // changed under mu

	turn   turn    // of who asks the keeper; taken before mu
	keeper keeper  // of the API's entries; nil: there are none
	shared *shared // the keeper, if it is Redis

	mu       sync.Mutex // guards what follows; whoever has it waits for no network
	own      *View      // the newest entries of the API, even if they can't be compiled beside the files here; changed by who has the turn
	revision uint64     // of the newest state
	refused  refusal
	closed   bool

	stir  chan struct{} // wakes who follows Redis
	poll  time.Duration
	debug func() // a test's hook: called after each reload that was tried
}

// refusal is a folder that was refused beside entries of the API: as
// long as neither changes, there is no point in trying again.
type refusal struct {
	sum [sha256.Size]byte
	own *View
}

// state is all that belongs to one revision. It is immutable.
type state struct {
	files    *fileSet
	own      *View // entries of the API that were compiled
	snapshot *quota.Snapshot
	view     func() View
	rules    []authz.Rule // all that there are, of files and the API
	issuers  []trust.Issuer
}

// status is how the sources did when they were last looked at.
type status struct {
	loaded time.Time // files, without a problem
	err    error     // that they have now
	shared error     // that the shared entries have beside them
}

func (s status) withShared(err error) *status { s.shared = err; return &s }

// Open loads every source and compiles them. The error is quota.Problems if the
// catalogue is invalid. A damaged bbolt file is set aside and reported in the
// log; one that another process holds is an error after a second.
func Open(o Options) (*Catalog, error) {
	c := &Catalog{o: o, log: o.Log, turn: make(turn, 1), stir: make(chan struct{}, 1), poll: pollInterval, debug: func() {}}
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
	if err := c.open(); err != nil {
		return nil, err
	}
	files, err := readDir(c.o.Dir)
	if err == nil {
		files.decode()
		err = c.swap(files)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.status.Store(&status{loaded: time.Now()})
	if c.shared != nil {
		if err := c.announce(context.Background()); err != nil {
			c.log.Warn("the revision was not written; it may be used again until Redis has it", "revision", c.revision, "error", err)
		}
	}
	return c, nil
}

// open reads the entries of the API.
func (c *Catalog) open() error {
	c.own = &View{}
	switch {
	case c.o.Redis != nil && c.o.DB != "":
		return errors.New("the entries of the quota API are kept in a file or in Redis, not in both")
	case c.o.Redis != nil:
		c.shared = newShared(c.o.Redis, c.o.RedisPrefix, c.log)
		c.keeper = c.shared
		own, err := c.shared.load(context.Background())
		if err != nil {
			return err
		}
		c.own = own
	case c.o.DB != "":
		db, kept, err := openStore(c.o.DB, c.log)
		if err != nil {
			return err
		}
		c.keeper, c.own, c.revision = db, kept.own, kept.revision
	}
	return nil
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
	if c.shared == nil { // the file may be written
		_ = c.turn.take(context.Background())
		defer c.turn.end()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if db, ok := c.keeper.(*store); ok && !c.closed {
		c.closed = true
		return db.close()
	}
	c.closed = true
	return nil
}

// newer is the revision of the next change.
func (c *Catalog) newer() uint64 {
	if c.shared != nil {
		return max(c.revision, c.shared.at.Load().revision) + 1
	}
	return c.revision + 1
}

// build compiles files and own into the next state.
func (c *Catalog) build(files *fileSet, own *View, revision uint64) (*state, error) {
	if files.problems.broken {
		return nil, files.problems.list
	}
	m := merge(files, own)
	var last *quota.Snapshot
	if now := c.state.Load(); now != nil {
		last = now.snapshot
	}
	snapshot, err := quota.CompileAfter(last, revision, m.all, c.o.CellKey, m.name)
	if err := files.problems.and(err); err != nil {
		return nil, err
	}
	return newState(files, own, snapshot, &m.all), nil
}

// after is the state after now, with a change of own, the API's newest entries.
func (c *Catalog) after(now *state, own *View, d *delta, revision uint64) (*state, error) {
	if now.own != own { // not compiled, so there is nothing to start from
		return c.build(now.files, d.own, revision)
	}
	all := quota.Catalogue{Rules: now.rules, Issuers: now.issuers}
	if d.touches("rules") || d.touches("issuers") {
		all = quota.Catalogue{}
		for _, name := range []string{"rules", "issuers"} {
			l := lists[listAt(name)]
			l.add(&all, &now.files.all)
			l.flatten(&all, d.own)
		}
	}
	snapshot, err := now.snapshot.Apply(revision, d.compiled(all.Rules, all.Issuers), (&merged{files: now.files, all: all, change: d}).name)
	if err != nil {
		return nil, err
	}
	return newState(now.files, d.own, snapshot, &all), nil
}

func newState(files *fileSet, own *View, snapshot *quota.Snapshot, all *quota.Catalogue) *state {
	view := sync.OnceValue(func() View { return files.merge(snapshot.Revision, own) })
	return &state{files: files, own: own, snapshot: snapshot, view: view, rules: all.Rules, issuers: all.Issuers}
}

// swap makes files the newest ones, if they are valid. A file that keeps entries is told the number first, so that a revision in a log
// means one catalogue, restarts included. Redis is told afterwards, by who follows it: it may be away, and a key that a file revokes is gone at once.
func (c *Catalog) swap(files *fileSet) error {
	revision := c.newer()
	if c.shared != nil && c.o.Dir == "" {
		revision = c.shared.at.Load().revision // there are no files that could have changed
	}
	next, err := c.build(files, c.own, revision)
	if err != nil {
		return err
	}
	if c.keeper != nil && c.shared == nil {
		if err := c.keeper.save(context.Background(), step{revision: revision}); err != nil { // a full disk must not keep a revoked key alive
			c.log.Warn("the revision was not written; it may be used again", "revision", revision, "error", err)
		}
	}
	c.publish(next)
	c.wake()
	return nil
}

// wake lets who follows Redis look at once.
func (c *Catalog) wake() {
	select {
	case c.stir <- struct{}{}:
	default:
	}
}

// publish makes next the newest state.
func (c *Catalog) publish(next *state) {
	c.revision, c.own = next.snapshot.Revision, next.own
	c.state.Store(next)
	if s := c.status.Load(); s != nil && s.shared != nil {
		c.status.Store(s.withShared(nil))
	}
}
