package authn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/authz/trust"
)

// Defaults of KeySetsOptions.
const (
	DefaultRefresh  = 5 * time.Minute
	DefaultMaxAge   = 24 * time.Hour
	DefaultCoolDown = 30 * time.Second
	DefaultWait     = 250 * time.Millisecond
)

const (
	maxSources  = 10_000 // sets of keys: issuers, and tenants that have a realm each
	maxWaiters  = 64     // requests that wait for one fetch
	maxMissing  = 1024   // kids of one address that are known not to be there
	maxFetches  = 16     // at a time
	fetchLimit  = 10 * time.Second
	sweepEvery  = time.Second
	firstRetry  = time.Second
	missingLife = 2 // cool-downs
)

// KeySetsOptions are what a KeySets is made of.
type KeySetsOptions struct {
	// Fetch gets the body behind an https URL, bounded in time and size, and refuses
	// addresses that nobody should be able to make us ask. Required.
	Fetch func(ctx context.Context, url string, allowPrivate bool) ([]byte, error)
	// Issuers are those whose keys are kept fresh. Required.
	Issuers func() *trust.Issuers
	Now     func() time.Time // default time.Now
	Log     *slog.Logger     // failures; default none

	Refresh  time.Duration // between two fetches of a set; default DefaultRefresh
	MaxAge   time.Duration // how long the last good keys are believed while fetches fail; default DefaultMaxAge
	CoolDown time.Duration // between two fetches of a set that requests ask for; default DefaultCoolDown
	Wait     time.Duration // a request waits so long for a fetch; default DefaultWait
}

// KeySets keeps the issuers' keys. There are no keys but those that an issuer
// published within MaxAge: without them nothing is believed.
//
// A key that an issuer withdraws is believed until the next refresh. A new one is found by the
// first token that names it, or, while somebody makes up names of keys, CoolDown later.
//
// It is safe for concurrent use. A look-up costs two map accesses.
type KeySets struct {
	o      KeySetsOptions
	ctx    context.Context //nolint:containedctx // of fetches, which outlive the request that asked for them
	cancel context.CancelFunc
	slots  chan struct{}
	seed   maphash.Seed

	mu      sync.RWMutex
	sources map[sourceID]*source
	ended   bool           // no fetch begins any more
	fetches sync.WaitGroup // that are under way; none is added after ended

	good, failed atomic.Uint64 // fetches
}

// sourceID is an address, and what it may resolve to.
type sourceID struct {
	url     string
	private bool
}

// source is one address of keys.
type source struct {
	sourceID
	issuer sourceID // as the issuer writes it, {tenant} included
	set    atomic.Pointer[keySet]
	made   int64        // Unix µs
	until  atomic.Int64 // set is believed before, Unix µs
	used   atomic.Int64 // when a key of it last verified a token, Unix µs; 0 for never

	mu       sync.Mutex
	fetching chan struct{} // closed when the fetch under way ends; nil if none is
	first    chan struct{} // closed when the first fetch has ended
	waiting  int
	asked    int64 // when a request last made a fetch, Unix µs
	next     int64 // when the next refresh is due, Unix µs
	missing  map[uint64]int64
	done     bool   // the first fetch has ended
	good     int64  // the last success, Unix µs; 0 for never
	err      string // of the last fetch; "" after a success
	fails    int    // in a row
	gone     bool
}

// KeySetStatus says how the keys of one issuer are. One whose tokens name a realm has a set
// of keys for each realm that was asked for; the others have one.
type KeySetStatus struct {
	Issuer  string // its name
	Realms  bool   // a set for each realm
	Sets    int    // that were fetched at least once
	Keys    int    // that are believed now
	Fetched int64  // the last success, of the set for which that is longest ago, Unix µs; 0 for never
	Err     string // of a set whose last fetch failed; "" if there is none
}

// NewKeySets returns an empty KeySets. It panics without a required option: that
// is a mistake of the composition root.
func NewKeySets(o KeySetsOptions) *KeySets {
	if o.Fetch == nil || o.Issuers == nil {
		panic("authn: Fetch and Issuers are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for d, otherwise := range map[*time.Duration]time.Duration{
		&o.Refresh: DefaultRefresh, &o.MaxAge: DefaultMaxAge, &o.CoolDown: DefaultCoolDown, &o.Wait: DefaultWait,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	k := &KeySets{o: o, slots: make(chan struct{}, maxFetches), seed: maphash.MakeSeed(), sources: map[sourceID]*source{}}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// Run keeps the keys fresh until ctx ends. When it returns nothing is being fetched, and
// nothing will be.
func (k *KeySets) Run(ctx context.Context) {
	defer func() {
		k.mu.Lock()
		k.ended = true
		k.mu.Unlock()
		k.cancel()
		k.fetches.Wait()
	}()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		k.sweep()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Ready waits until the first fetch of every issuer's keys has ended. A fetch that failed is
// no error: one issuer that is down must not keep the others' callers out. Sets of realms are
// fetched when first needed.
func (k *KeySets) Ready(ctx context.Context) error {
	k.sweep()
	for _, s := range k.list() {
		if s.issuer != s.sourceID {
			continue
		}
		select {
		case <-s.first:
		case <-ctx.Done():
			return fmt.Errorf("the keys at %s are still being fetched: %w", s.url, ctx.Err())
		}
	}
	return nil
}

// Status is how the keys of every issuer are, sorted by its name. Realms for which no fetch has
// ever succeeded are left out: anybody can name one in a token.
func (k *KeySets) Status() []KeySetStatus {
	now := k.now()
	of := map[sourceID][]*source{}
	for _, s := range k.list() {
		of[s.issuer] = append(of[s.issuer], s)
	}
	var all []KeySetStatus
	for _, i := range k.o.Issuers().All() {
		status := KeySetStatus{Issuer: i.Name, Realms: strings.Contains(i.JWKSURI, trust.Realm)}
		for _, s := range of[sourceID{i.JWKSURI, i.AllowPrivate}] {
			s.mu.Lock()
			good, err := s.good, s.err
			s.mu.Unlock()
			if good != 0 && (status.Fetched == 0 || good < status.Fetched) {
				status.Fetched = good
			}
			if good != 0 {
				status.Sets++
			}
			if good != 0 || !status.Realms {
				status.Err = cmp.Or(status.Err, err)
			}
			if set := s.believed(now); set != nil {
				status.Keys += len(set.all)
			}
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b KeySetStatus) int { return strings.Compare(a.Issuer, b.Issuer) })
	return all
}

// Fetches is how many fetches succeeded and failed since NewKeySets.
func (k *KeySets) Fetches() (good, failed uint64) { return k.good.Load(), k.failed.Load() }

func (k *KeySets) now() int64 { return k.o.Now().UnixMicro() }

func (k *KeySets) list() []*source {
	k.mu.RLock()
	defer k.mu.RUnlock()
	all := make([]*source, 0, len(k.sources))
	for _, s := range k.sources {
		all = append(all, s)
	}
	return all
}

// sweep makes the sources what the issuers say, and starts the fetches that are due.
func (k *KeySets) sweep() {
	now := k.now()
	before := k.list() // the issuers are read after it: what a later change of them brings meanwhile stays
	wanted := map[sourceID]bool{}
	for _, i := range k.o.Issuers().All() {
		wanted[sourceID{i.JWKSURI, i.AllowPrivate}] = true
		if !strings.Contains(i.JWKSURI, trust.Realm) {
			k.source(i, "")
		}
	}
	for _, s := range before {
		if !wanted[s.issuer] || s.issuer != s.sourceID && k.idle(now, s) {
			k.drop(s)
		}
	}
	for _, s := range k.list() {
		s.mu.Lock()
		// A clock that was set back must not stop the refresh.
		if due := now >= s.next || s.next-now > 2*k.o.Refresh.Microseconds(); due && s.fetching == nil {
			k.start(s)
		}
		s.mu.Unlock()
	}
}

// idle reports whether nobody needs a realm's keys. Anybody can name a realm in a token, so one for
// which no good token has come is not fetched again and again for long.
func (k *KeySets) idle(now int64, s *source) bool {
	if used := s.used.Load(); used != 0 {
		return now-used > k.o.MaxAge.Microseconds()
	}
	return now-s.made > min(2*k.o.Refresh, k.o.MaxAge).Microseconds()
}

func (k *KeySets) drop(s *source) {
	k.mu.Lock()
	delete(k.sources, s.sourceID)
	k.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true // a fetch under way must not bring it back
	s.until.Store(0)
	s.set.Load().bury(nil)
}

// source is where the keys of an issuer's realm are; nil if there are too many.
func (k *KeySets) source(i *trust.Issuer, realm string) *source {
	id := sourceID{i.Keys(realm), i.AllowPrivate}
	k.mu.RLock()
	s := k.sources[id]
	k.mu.RUnlock()
	if s != nil {
		return s
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.sources[id]; s != nil || len(k.sources) >= maxSources {
		return s
	}
	s = &source{
		sourceID: id, issuer: sourceID{i.JWKSURI, i.AllowPrivate},
		made: k.now(), first: make(chan struct{}), missing: map[uint64]int64{},
	}
	k.sources[id] = s
	return s
}

// believed is the set that is believed at now; nil if there is none.
func (s *source) believed(now int64) *keySet {
	if now >= s.until.Load() {
		return nil
	}
	return s.set.Load()
}

// find is the key that a token with these claims names; nil if there is none. It may wait for a fetch, but not beyond ctx.
func (k *KeySets) find(ctx context.Context, now int64, c *claims) (*source, *key) {
	s := k.source(c.issuer, c.realm)
	if s == nil {
		return nil, nil
	}
	if set := s.believed(now); set != nil {
		if key, known := set.find(c.kid, c.alg); known {
			return s, key
		}
	}
	if !k.fetched(ctx, now, s, c.kid) {
		return s, nil
	}
	set := s.believed(now)
	if set == nil {
		return s, nil
	}
	key, known := set.find(c.kid, c.alg)
	if !known {
		s.miss(k.hash(c.kid), now, k.o.CoolDown.Microseconds())
	}
	return s, key
}

func (k *KeySets) hash(kid string) uint64 { return maphash.String(k.seed, kid) }

// fetched waits for a fetch, which it starts if the last one that a request
// asked for is long ago. It is false if there is nothing to wait for.
func (k *KeySets) fetched(ctx context.Context, now int64, s *source, kid string) bool {
	coolDown := k.o.CoolDown.Microseconds()
	s.mu.Lock()
	since := now - s.asked
	cool := since < 0 || since >= coolDown // a clock that was set back must not close this for an hour
	if until, ok := s.missing[k.hash(kid)]; ok && now < until && until-now <= missingLife*coolDown && s.set.Load() != nil {
		cool = false
	}
	switch {
	case s.waiting >= maxWaiters || s.fetching == nil && !cool:
		s.mu.Unlock()
		return false
	case s.fetching == nil:
		s.asked = now
		k.start(s)
	}
	s.waiting++
	done := s.fetching
	s.mu.Unlock()

	timer := time.NewTimer(k.o.Wait)
	defer timer.Stop()
	ended := false
	select {
	case <-done:
		ended = true
	case <-timer.C:
	case <-ctx.Done(): // the fetch goes on, for those who still wait
	}
	s.mu.Lock()
	s.waiting--
	s.mu.Unlock()
	return ended
}

// miss remembers that a fresh set does not have a kid, so that it can't ask for the next one either.
func (s *source) miss(kid uint64, now, coolDown int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) >= maxMissing {
		for other := range s.missing { // any: Go begins somewhere else each time
			delete(s.missing, other)
			break
		}
	}
	s.missing[kid] = now + missingLife*coolDown
}

// start begins a fetch. It needs s.mu.
func (k *KeySets) start(s *source) {
	done := make(chan struct{})
	s.fetching = done
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.ended {
		close(done) // whoever waits finds nothing new
		return
	}
	k.fetches.Add(1)
	go func() {
		defer k.fetches.Done()
		begun := k.now()
		set, err := k.fetch(s)
		k.store(s, begun, set, err)
		close(done)
	}()
}

var errPanicked = errors.New("reading it failed (a panic)")

func (k *KeySets) fetch(s *source) (set *keySet, err error) {
	defer func() {
		if recover() != nil { // nobody's keys may stop the server
			set, err = nil, errPanicked
		}
	}()
	ctx, cancel := context.WithTimeout(k.ctx, fetchLimit)
	defer cancel()
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	body, err := k.o.Fetch(ctx, s.url, s.private)
	if err != nil {
		return nil, err
	}
	return parseKeySet(body)
}

// store keeps what a fetch gave. A failure keeps the keys before, and their end.
func (k *KeySets) store(s *source, begun int64, set *keySet, err error) {
	now := k.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetching = nil
	if !s.done {
		s.done = true
		close(s.first)
	}
	if err != nil {
		k.failed.Add(1)
	} else {
		k.good.Add(1)
	}
	if s.gone {
		return
	}
	if err != nil {
		s.err = err.Error()
		s.fails++
		s.next = now + jitter(min(firstRetry<<min(s.fails-1, 20), k.o.Refresh))
		if s.fails&(s.fails-1) == 0 { // the 1st, 2nd, 4th …
			k.o.Log.Warn("keys of an issuer can't be fetched", "url", s.url, "failures", s.fails, "err", err)
		}
		return
	}
	before := s.set.Load()
	set.adopt(before)
	s.set.Store(set)
	s.until.Store(begun + k.o.MaxAge.Microseconds())
	before.bury(set)
	s.err, s.good, s.fails = "", begun, 0
	s.next = now + jitter(k.o.Refresh)
}

// jitter is d, give or take a tenth, in µs: many issuers are not asked at once.
func jitter(d time.Duration) int64 {
	us := d.Microseconds()
	return us - us/10 + rand.Int64N(us/5+1) //nolint:gosec // nothing depends on guessing it
}
