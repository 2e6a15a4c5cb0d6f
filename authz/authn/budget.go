package authn

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

// What may be spent on tokens whose signature is wrong. Each costs 30 to 70 µs of a core,
// where a request costs a few. All pools together are 4,000 a second, less than 30 % of one core.
const (
	badInterval = 20_000 // µs: 50 a second for one source
	badBurst    = 100
	badDepth    = badBurst * badInterval

	pressedInterval = 1_000_000 // µs: one a second for one source, while all together are over theirs
	mostOwing       = badDepth - badInterval + pressedInterval

	budgetShards   = 16
	sourcesInShard = 1024
	budgetTidy     = 100_000 // µs between two looks for sources that have recovered
)

// budget limits failed verifications for each source (GCRA: a number for each
// is when it will have recovered, Unix µs). A source that recovered is forgotten, which
// changes nothing. Sources that find no room share one budget.
//
// Good callers may stand behind the address of one that floods. A source that has spent its own may
// still verify out of spare, which all such sources share: a new good token gets through sometimes, and
// once it has, it is remembered. Requests without an address have a budget of their own, because
// what one of them spends all of them have.
//
// Given up: behind the address of a flood, most new tokens are refused unread while it lasts; a stranger
// with more than a few thousand addresses can make us spend more than 30 % of a core.
type budget struct {
	seed    maphash.Seed
	shards  [budgetShards]budgetShard
	all     pool // what sources have spent: over it each may spend less
	spare   pool
	unknown pool
}

type budgetShard struct {
	mu     sync.Mutex
	full   map[uint64]int64
	shared int64
	tidied int64
}

// pool is one GCRA that many share.
type pool struct {
	every, depth int64 // µs

	mu  sync.Mutex
	tat int64
}

// over reports whether nothing is left at now.
func (p *pool) over(now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owing(now) > p.depth-p.every
}

// take takes one if there is one.
func (p *pool) take(now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owing(now) > p.depth-p.every {
		return false
	}
	p.tat = now + p.owing(now) + p.every
	return true
}

// owing is how far ahead of now p is; nothing if the clock was set back.
func (p *pool) owing(now int64) int64 {
	if p.tat < now || p.tat-now > p.depth {
		return 0
	}
	return p.tat - now
}

func newBudget() *budget {
	return &budget{
		seed:    maphash.MakeSeed(),
		all:     pool{every: 333, depth: 1_000_000},   // 3,000 a second
		spare:   pool{every: 2_000, depth: 200_000},   // 500
		unknown: pool{every: 2_000, depth: 1_000_000}, // 500
	}
}

// payer is who pays for a verification that fails.
type payer uint8

const (
	nobody    payer = iota // there is nothing left: do not verify
	itself                 // the source
	spare                  // the sources that have spent their own; before the signature is checked, whether it is good or not
	strangers              // all whose source is not known
)

// payer says who pays for what source asks at now.
func (b *budget) payer(now int64, source string) payer {
	address, known := sourceOf(source)
	if !known {
		if b.unknown.over(now) {
			return nobody
		}
		return strangers
	}
	s, id := b.of(address)
	s.mu.Lock()
	tat, _ := s.find(now, id)
	s.mu.Unlock()
	switch {
	case recovered(now, tat)-now <= badDepth-badInterval:
		return itself
	case !b.spare.over(now):
		return spare
	}
	return nobody
}

// charge takes one failed verification from who pays. Requests that are verified at the same time may
// overdraw it, each core by one.
func (b *budget) charge(now int64, source string, by payer) {
	address, _ := sourceOf(source)
	if by == strangers {
		b.unknown.take(now)
	}
	if by != itself {
		return
	}
	cost := int64(badInterval)
	if !b.all.take(now) {
		cost = pressedInterval
	}
	s, id := b.of(address)
	s.mu.Lock()
	defer s.mu.Unlock()
	tat, own := s.find(now, id)
	tat = min(recovered(now, tat)+cost, now+mostOwing)
	if !own {
		s.shared = tat
		return
	}
	if s.full == nil {
		s.full = map[uint64]int64{}
	}
	s.full[id] = tat
}

// recovered is tat, or now if that is over, or if the clock was set back.
func recovered(now, tat int64) int64 {
	if tat < now || tat-now > mostOwing {
		return now
	}
	return tat
}

// find is a source's number; the shared one if there is no room for its own.
func (s *budgetShard) find(now int64, id uint64) (tat int64, own bool) {
	tat, known := s.full[id]
	if known || len(s.full) < sourcesInShard {
		return tat, true
	}
	if since := now - s.tidied; since < 0 || since >= budgetTidy {
		s.tidied = now
		for other, tat := range s.full {
			if recovered(now, tat) == now {
				delete(s.full, other)
			}
		}
		if len(s.full) < sourcesInShard {
			return 0, true
		}
	}
	return s.shared, false
}

// sourceOf is the address that has a budget. An IPv6 caller has a whole /64 to call from.
func sourceOf(source string) (a netip.Addr, known bool) {
	a, err := netip.ParseAddr(source)
	if err != nil {
		return a, false
	}
	a = a.WithZone("").Unmap()
	if a.Is6() {
		p, _ := a.Prefix(64) //nolint:errcheck // 64 is always a length
		a = p.Addr()
	}
	return a, true
}

// of finds a source's shard.
func (b *budget) of(address netip.Addr) (*budgetShard, uint64) {
	id := maphash.Comparable(b.seed, address)
	return &b.shards[id%budgetShards], id
}

// badTokens remembers tokens whose signature was wrong, so that the same one
// again costs a digest. A key that is replaced under its old name by one that would
// accept such a token makes it good badLife later.
type badTokens struct {
	locks [badLocks]sync.Mutex
	slots [badSlots]badToken
}

type badToken struct {
	digest [32]byte
	until  int64
}

const (
	badSlots = 2048
	badLocks = 16
	badLife  = 30_000_000 // µs
)

func (b *badTokens) at(digest *[32]byte) (*sync.Mutex, *badToken) {
	n := (int(digest[0])<<8 | int(digest[1])) % badSlots
	return &b.locks[n%badLocks], &b.slots[n]
}

func (b *badTokens) has(now int64, digest *[32]byte) bool {
	mu, slot := b.at(digest)
	mu.Lock()
	defer mu.Unlock()
	return slot.until > now && slot.until-now <= badLife && slot.digest == *digest
}

func (b *badTokens) add(now int64, digest *[32]byte) {
	mu, slot := b.at(digest)
	mu.Lock()
	defer mu.Unlock()
	slot.digest, slot.until = *digest, now+badLife
}
