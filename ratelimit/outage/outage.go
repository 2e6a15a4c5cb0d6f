// Package outage is the ratelimit.Store of a replica whose shared store may fail: slow,
// gone, frozen, or back without what it had acknowledged. It asks the shared store within a
// budget, stops asking one that does not answer, says meanwhile what each limit's
// OnOutage says, and afterwards counts there what was admitted without it.
//
// It is not for a store of one process, and it makes no shared store exact across a
// failover: what it puts back is what this replica admitted in the last seconds, and no more
// operations than it has room for. The rest is counted as dropped.
//
// The bound of a local limit during an outage is limit/N for each replica and window, N being the
// replicas last seen; a share that was spent stays spent until its window ends, however often the shared
// store comes and goes. Beside what was charged there before, a window in which an outage begins holds
// up to the limit once more.
//
// A call of a healthy store costs a fraction of a microsecond more. While the breaker is open a call costs a microsecond and
// no call of the shared store.
package outage

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/memstore"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// Shared is the store that replicas share, a [redisstore.Store]. Its Charge ends within PatienceOf(Options.Budget) by itself, whatever
// the servers behind it do.
type Shared interface {
	ratelimit.Store
	// Reapply counts operations that were admitted as of when they were, up to the brim of each limit, and
	// none twice that it did within Options.Remembered: missing is how many it had not. Its error joins one of each operation that failed.
	Reapply(ctx context.Context, ops []redisstore.Applied) (missing int, err error)
}

// ErrUnavailable is the error of Charge where the shared store does not answer and a limit says deny.
var ErrUnavailable = errors.New("outage: the shared store does not answer, and a limit is not to be admitted without it")

var errShort = errors.New("outage: fewer outcomes than charges")

// Options are what a Store is made of. Shared is required; zero elsewhere means the default.
type Options struct {
	Shared Shared
	// Slot is which of the 16384 slots of a Redis Cluster a shard lies on. Neighbours share a breaker, so that a primary that is gone
	// takes those of its slots with it and not all. Nil: one server.
	Slot func(shard uint64) int
	// Replicas is how many replicas there are now, this one included, as last seen; below 1 counts as 1. Nil: 1.
	Replicas func() int
	// OnOutage is that of limits without a word of their own; nil: what each has.
	OnOutage *ratelimit.Outage
	// Budget is the longest that a call takes; default 100 ms. What is slower than that counts as no answer.
	Budget time.Duration
	// Operations is how many admissions are kept to be counted again, of those that Shared acknowledged and still
	// knows, and of those that it has not seen; default 65536 of each, about 200 bytes an operation.
	Operations int
	// Remembered is how long Shared knows an operation's id; default 10 s. What it may have counted is handed to it again up to 2 s and
	// Budget before that, or never, for it may have had it as long before the call was given up: so a failover that takes longer, less the time that counting takes, loses what was not replicated.
	Remembered time.Duration
	MaxCells   int // of the local shares; default that of memstore
	InFlight   int // calls of Shared at once; default 1024. More wait for their turn, as long as the budget leaves over
	Log        *slog.Logger
}

const (
	defaultBudget     = 100 * time.Millisecond
	defaultOperations = 1 << 16
	defaultInFlight   = 1024
	defaultRemembered = 10 * time.Second
	ackedAge          = 5 * time.Second  // of acknowledged admissions that any failover may have lost; of older ones, one to a server that was behind
	reserve           = 2 * time.Second  // of Remembered: a call and a batch may take some
	owedAge           = 10 * time.Minute // of those that were never there
)

// PatienceOf is how much of a budget the shared store has, before it gives up and says why.
func PatienceOf(budget time.Duration) time.Duration { return budget - budget/10 }

// Store is a ratelimit.Store around a shared one. It is safe for concurrent use.
type Store struct {
	o        Options
	calls    *calls
	local    *memstore.Store
	lanes    []breaker
	acked    journal // admitted by the shared store
	owed     journal // admitted without it
	again    journal // admitted by it, and perhaps lost since
	behind   []*page // admitted by it longer ago, oldest first, and lost only if it was behind; of whoever settles
	looks    uint64  // how often there was reason to look behind; his, too
	trouble  trouble
	settling atomic.Bool
	asked    atomic.Bool   // to settle, since it last began
	mended   chan struct{} // a breaker has closed
	handing  atomic.Int64  // operations that settle has taken, and that may not be counted yet

	prefix  uint64 // of the ids made here
	minted  atomic.Uint64
	scratch sync.Pool // *shares

	degraded  [3]atomic.Uint64 // answers, by ratelimit.Outage
	silences  atomic.Uint64
	disorders atomic.Uint64
	complains atomic.Int64 // not before, Unix ns
	crowded   atomic.Uint64
	reapplied atomic.Uint64
	lacked    atomic.Uint64 // of those, what the shared store did not know
	dropped   atomic.Uint64
	unsure    atomic.Uint64

	quit    chan struct{}
	mu      sync.Mutex // over closed and the start of goroutines
	closed  bool
	running sync.WaitGroup
}

// New returns a store. Close ends what it runs.
func New(o Options) *Store {
	if o.Replicas == nil {
		o.Replicas = func() int { return 1 }
	}
	if o.Budget <= 0 {
		o.Budget = defaultBudget
	}
	if o.Operations <= 0 {
		o.Operations = defaultOperations
	}
	if o.Remembered <= reserve {
		o.Remembered = defaultRemembered
	}
	if o.InFlight <= 0 {
		o.InFlight = defaultInFlight
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		o: o, local: memstore.New(memstore.Options{MaxCells: o.MaxCells}), quit: make(chan struct{}), mended: make(chan struct{}, 1),
		acked: journal{most: o.Operations}, owed: journal{most: o.Operations}, again: journal{most: o.Operations},
	}
	if o.Slot == nil {
		s.o.Slot, s.lanes = func(uint64) int { return 0 }, make([]breaker, 1)
	} else {
		s.lanes = make([]breaker, clusterLanes)
	}
	s.calls = newCalls(o.Shared, o.InFlight, o.Budget)
	s.scratch.New = func() any { return new(shares) }
	var seed [8]byte
	rand.Read(seed[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	s.prefix = binary.BigEndian.Uint64(seed[:])
	return s
}

// Close ends the goroutines of s, and waits for those that do not hang in the shared store. A call that is
// under way is answered; there is none after it. What is owed to the shared store then is lost: Drain comes first.
func (s *Store) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.quit)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Sweep lets go of local shares that are whole again at now, in Unix microseconds, and says how many.
// Without it what an outage counted here stays until there are MaxCells of it.
func (s *Store) Sweep(now int64) (removed int) { return s.local.Sweep(now) }

// start runs f on a goroutine that Close waits for, unless s is closed.
func (s *Store) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Go(f)
	return true
}

// Charge implements ratelimit.Store. It answers within the budget, whatever the shared store does: as
// that says, or, where it says nothing, as each limit's OnOutage does, and then every outcome is Degraded.
//
// An error is ErrUnavailable; one of the shared store that is the request's fault; or one of the local store, which is
// full. Nothing was admitted. A call that was given up may have been charged all the same, once: what that takes from a caller is
// at most what was in flight.
func (s *Store) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	if len(outcomes) < len(charges) {
		return false, errShort
	}
	if uncounted(charges) {
		return alone(op.Now, charges, outcomes), nil
	}
	changes := changesAny(charges)
	if changes && op.ID == ([16]byte{}) {
		op.ID, op.First = s.mint(), true
	}
	lane := s.lane(&charges[0].Cell)
	term, closed := lane.closedTerm()
	if !closed {
		return s.without(op, charges, outcomes, absence{seen: unseen})
	}
	admitted, err := s.calls.charge(op, charges, outcomes)
	switch {
	case err == nil:
		if admitted { // a refusal may be remembered, so it says nothing of the store
			lane.succeeded()
		}
		if admitted && changes {
			s.acked.add(op, charges, acknowledged, s.trouble.horizon(s.keeps()))
		}
		if s.trouble.begun() {
			s.settleSoon()
		}
		return admitted, nil
	case errors.Is(err, errCrowded): // nothing was sent, and nothing is known of the store; whoever asks much can bring it about
		s.crowded.Add(1)
		admitted, err = s.without(op, charges, outcomes, absence{unseen, true})
	default:
		switch judge(err) {
		case theirs:
			return false, fmt.Errorf("limits %s: %w", names(charges), err)
		case disorder:
			s.disorders.Add(1)
			s.complain(time.Now(), err)
			s.trouble.begin(time.Now(), true)
			why := absence{seen: unseen}
			if isSilence(err) {
				why.seen = sent
			}
			admitted, err = s.without(op, charges, outcomes, why)
		default:
			s.silences.Add(1)
			s.silent(lane, term, err, charges[0].Cell.Shard)
			admitted, err = s.without(op, charges, outcomes, absence{seen: sent})
		}
	}
	s.settleSoon() // nobody else may come for a long time
	return admitted, err
}

// known is for how long after it may have counted an operation the shared store can be handed it again.
func (s *Store) known() time.Duration { return s.o.Remembered - s.o.Budget - reserve }

// keeps is how long what it acknowledged is kept.
func (s *Store) keeps() time.Duration { return max(s.known(), ackedAge) }

// names are those of the limits of charges.
func names(charges []ratelimit.Charge) string {
	var all []string
	for i := range charges {
		if n := charges[i].Limit.Name; !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return strings.Join(all, ", ")
}

const (
	slots        = 16384
	clusterLanes = 32 // a primary has a range of slots, or a few
)

// lane is the breaker of a cell's part of the shared store. Charges on several shards go by the first.
func (s *Store) lane(c *ratelimit.Cell) *breaker { return &s.lanes[s.laneOf(c)] }

func (s *Store) laneOf(c *ratelimit.Cell) int { return s.o.Slot(c.Shard) * len(s.lanes) / slots }

// openLanes is how many breakers are open.
func (s *Store) openLanes() (n int) {
	for i := range s.lanes {
		if s.lanes[i].isOpen() {
			n++
		}
	}
	return n
}

// silent takes note of a call that was not answered.
func (s *Store) silent(lane *breaker, term uint64, err error, shard uint64) {
	opened := lane.failed(term, time.Now())
	s.trouble.begin(time.Now(), broken(err))
	if opened {
		s.o.Log.Warn("the shared store does not answer; limits mean what their on_outage says until it does", "error", err)
		s.start(func() { s.probe(lane, shard) })
	}
}

// complain tells once a minute of a store that refuses: no breaker opens for it, and limits hold by their on_outage all the same.
func (s *Store) complain(now time.Time, err error) {
	next := s.complains.Load()
	if now.UnixNano() >= next && s.complains.CompareAndSwap(next, now.Add(time.Minute).UnixNano()) {
		s.o.Log.Warn("the shared store says that it can't count; limits mean what their on_outage says until it can", "error", err, "refusals", s.disorders.Load())
	}
}

// mint makes an id that no other operation has, of this replica or another.
func (s *Store) mint() (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], s.prefix)
	binary.BigEndian.PutUint64(id[8:], s.minted.Add(1))
	return id
}

func changesAny(charges []ratelimit.Charge) bool {
	for i := range charges {
		if changing(&charges[i]) {
			return true
		}
	}
	return false
}

// uncounted reports whether no charge has a counter. Such requests must not say that a store answers which
// was not asked, nor take the places of others in a journal.
func uncounted(charges []ratelimit.Charge) bool {
	for i := range charges {
		if charges[i].Limit.Hits > 0 {
			return false
		}
	}
	return true
}

// alone is the answer to charges without counters.
func alone(now int64, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) bool {
	admitted := true
	var none ratelimit.State
	for i := range charges {
		c := &charges[i]
		outcomes[i] = ratelimit.Evaluate(&none, c.Limit, c.Hits, now)
		admitted = admitted && (!outcomes[i].Over || c.Shadowed())
	}
	return admitted
}

// Stats are what a store counted since New.
type Stats struct {
	Open   bool   // a breaker is open: the shared store, or a part of it, is not asked
	Opened uint64 // how often that began
	// Calls of the shared store that came to nothing: it did not answer, it could count for nobody, or as many as may be were under way.
	Silences, Disorders, Crowded uint64
	// Degraded are the answers without it, by what a limit said: at ratelimit.OutageDeny errors, else those in which a
	// limit was local, else those in which all were allow.
	Degraded  [3]uint64
	Owed      int    // operations that are still to be counted there
	Reapplied uint64 // operations that were
	Dropped   uint64 // operations that will not be: too many, or too old
	Unsure    uint64 // operations that it acknowledged, and that are too old to ask whether it lost them
}

// Stats reads the counters.
func (s *Store) Stats() Stats {
	out := Stats{
		Open:     s.openLanes() > 0,
		Silences: s.silences.Load(), Disorders: s.disorders.Load(), Crowded: s.crowded.Load(),
		Owed: s.owed.len() + s.again.len() + int(s.handing.Load()), Reapplied: s.reapplied.Load(),
		Dropped: s.dropped.Load() + s.owed.lost.Load(), Unsure: s.unsure.Load() + s.again.lost.Load(),
	}
	for i := range s.lanes {
		out.Opened += s.lanes[i].opened.Load()
	}
	for i := range out.Degraded {
		out.Degraded[i] = s.degraded[i].Load()
	}
	return out
}
