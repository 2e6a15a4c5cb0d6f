package memstore

import (
	"encoding/binary"
	"math/bits"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// key is a cell's key with the algorithm mixed in: a limit that changes its
// algorithm starts a new counter, because levels of two algorithms don't
// compare. The zero key marks a free slot; no keyed hash hits it.
type key struct{ hi, lo uint64 }

func keyOf(c *ratelimit.Cell, a ratelimit.Algorithm) key {
	const mix = 0x9e3779b97f4a7c15
	return key{
		hi: binary.BigEndian.Uint64(c.Key[:8]),
		lo: binary.BigEndian.Uint64(c.Key[8:]) ^ bits.ReverseBytes64(uint64(a)*mix),
	}
}

// hash is where k wants to be: by the first half alone, so that a tenant's
// cells, which share it, lie side by side and cost one miss of the cache together.
func (k key) hash() uint64 {
	const mix = 0xd6e8feb86659fd93
	h := k.hi * mix
	return h ^ h>>32
}

// table is a hash table with linear probing and at most 3/4 of its slots in
// use. Unlike a map it can be swept a few slots at a time, and holds no
// pointers for the collector to follow where V holds none.
type table[V any] struct {
	slots  []entry[V]
	n      int
	cursor int // of the sweep
}

type entry[V any] struct {
	key key
	v   V
}

const minSlots = 8

// find returns the value of k, or nil. It is valid until the next removal or growth.
func (t *table[V]) find(k key) *V {
	if len(t.slots) == 0 {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	for i := k.hash() & mask; ; i = (i + 1) & mask {
		switch e := &t.slots[i]; e.key {
		case k:
			return &e.v
		case key{}:
			return nil
		}
	}
}

// touch reads the slot that k would have, and the one behind it: a slot can
// lie in two cache lines. The table must not be empty.
func (t *table[V]) touch(k key) uint64 {
	mask := uint64(len(t.slots) - 1)
	i := k.hash() & mask
	return t.slots[i].key.hi + t.slots[(i+1)&mask].key.hi
}

// reserve makes room, so that the next n inserts move nothing.
func (t *table[V]) reserve(n int) {
	if (t.n+n)*4 <= len(t.slots)*3 {
		return
	}
	size := max(len(t.slots), minSlots)
	for (t.n+n)*4 > size*3 {
		size *= 2
	}
	t.rehash(size)
}

func (t *table[V]) rehash(size int) {
	old := t.slots
	t.slots, t.n, t.cursor = make([]entry[V], size), 0, 0
	for i := range old {
		if old[i].key != (key{}) {
			*t.insert(old[i].key) = old[i].v
		}
	}
}

// insert adds k, which is not in the table, where reserve has made room.
func (t *table[V]) insert(k key) *V {
	mask := uint64(len(t.slots) - 1)
	i := k.hash() & mask
	for t.slots[i].key != (key{}) {
		i = (i + 1) & mask
	}
	t.n++
	t.slots[i].key = k
	return &t.slots[i].v
}

// removeAt frees a slot and closes the gap behind it.
func (t *table[V]) removeAt(i int) {
	mask := len(t.slots) - 1
	for j := (i + 1) & mask; t.slots[j].key != (key{}); j = (j + 1) & mask {
		home := int(t.slots[j].key.hash()) & mask
		// Slot j may move to i unless its home lies between them.
		if (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = entry[V]{}
	t.n--
}

// sweep looks at up to n slots from the cursor on and removes what dead says.
func (t *table[V]) sweep(n int, dead func(key, *V) bool) (looked, removed int) {
	n = min(n, len(t.slots))
	for looked < n {
		looked++
		if t.cursor >= len(t.slots) {
			t.cursor = 0
		}
		if e := &t.slots[t.cursor]; e.key != (key{}) && dead(e.key, &e.v) {
			t.removeAt(t.cursor) // what moved here is looked at next
			removed++
			continue
		}
		t.cursor++
	}
	return looked, removed
}

// shrink gives memory back when a burst of keys has gone.
func (t *table[V]) shrink() {
	if size := len(t.slots); size > minSlots && t.n*8 < size {
		for size > minSlots && t.n*4 < size {
			size /= 2
		}
		t.rehash(size)
	}
}
