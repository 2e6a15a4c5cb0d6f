package traffic

import (
	"hash/maphash"
	"sync"

	"github.com/voicecore-ai/sluice/tenant"
)

const (
	sketchSets = 256 // a power of two that eight bits of a hash name
	setWidth   = 16
)

// sketch finds the tenants that ask most among any number of them, in memory that does not grow. It is
// Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k elements
// in data streams", ICDT 2005) over sets that a keyed hash tells apart, so that nobody
// chooses whom he meets. In a set that saw n hits, a counter says at most n/16 more than there were,
// by over at most, and whoever had more than n/16 has a counter. A hit that finds its set
// locked is left out, so add never waits.
type sketch struct {
	seed maphash.Seed
	sets [sketchSets]set
}

type set struct {
	mu       sync.Mutex
	counters [setWidth]counter
}

// counter says that id had at most hits, and at least hits - over.
type counter struct {
	hash       uint64
	id         tenant.ID
	hits, over uint64
}

func (c *counter) least() uint64 { return c.hits - c.over }

func (s *sketch) add(id tenant.ID) {
	hash := maphash.String(s.seed, string(id))
	in := &s.sets[hash>>56]
	if !in.mu.TryLock() {
		return
	}
	in.add(hash, id)
	in.mu.Unlock()
}

func (s *set) add(hash uint64, id tenant.ID) {
	smallest := &s.counters[0]
	for i := range s.counters {
		c := &s.counters[i]
		if c.hash == hash && c.id == id {
			c.hits++
			return
		}
		if c.hits < smallest.hits {
			smallest = c
		}
	}
	*smallest = counter{hash: hash, id: id, hits: smallest.hits + 1, over: smallest.hits}
}

// each shows every counter to visit, which may change it.
func (s *sketch) each(visit func(*counter)) {
	for i := range s.sets {
		in := &s.sets[i]
		in.mu.Lock()
		for j := range in.counters {
			if in.counters[j].hits > 0 {
				visit(&in.counters[j])
			}
		}
		in.mu.Unlock()
	}
}

// faded is what is left of a count, one ranking later: what somebody asked long ago does not keep his place.
func faded(n uint64) uint64 { return n - (n+7)/8 }
