package authn

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

// What one source may spend on tokens whose signature is wrong. Each costs 30 to
// 70 µs of a core, where a request costs a few.
const (
	badInterval = 20_000 // µs: 50 a second
	badBurst    = 100
	badDepth    = badBurst * badInterval

	budgetShards   = 16
	sourcesInShard = 1024
	budgetTidy     = 100_000 // µs between two looks for sources that have recovered
)

// budget limits failed verifications for each source (GCRA: a number for each
// is when it will have recovered, Unix µs). A source that recovered is forgotten, which
// changes nothing. Sources that find no room share one budget.
type budget struct {
	seed   maphash.Seed
	shards [budgetShards]budgetShard
}

type budgetShard struct {
	mu     sync.Mutex
	full   map[uint64]int64
	shared int64
	tidied int64
}

func newBudget() *budget { return &budget{seed: maphash.MakeSeed()} }

// spent reports whether source has nothing left at now.
func (b *budget) spent(now int64, source string) bool {
	s, id := b.of(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	tat, _ := s.find(now, id)
	return recovered(now, tat)-now > badDepth-badInterval
}

// charge takes one failed verification. Requests that are verified at the same time may
// overdraw it, each core by one.
func (b *budget) charge(now int64, source string) {
	s, id := b.of(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	tat, own := s.find(now, id)
	tat = recovered(now, tat) + badInterval
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
	if tat < now || tat-now > badDepth+badInterval {
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

// of finds a source's shard. An IPv6 caller has a whole /64 to call from.
func (b *budget) of(source string) (*budgetShard, uint64) {
	var id uint64
	if a, err := netip.ParseAddr(source); err == nil {
		a = a.WithZone("").Unmap()
		if a.Is6() {
			p, _ := a.Prefix(64) //nolint:errcheck // 64 is always a length
			a = p.Addr()
		}
		id = maphash.Comparable(b.seed, a)
	} else {
		id = maphash.String(b.seed, source)
	}
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
