package quota

import (
	"hash/maphash"
	"iter"
	"maps"
)

// shardCount bounds what one change copies to a thousandth of a map, and 8 KiB.
const shardCount = 1024

// shards is a map that is never changed: a changed one shares with it what is the same.
// The zero value is empty.
type shards[K comparable, V any] struct {
	seed maphash.Seed
	of   *[shardCount]map[K]V
}

func (s *shards[K, V]) get(key K) (v V, ok bool) {
	if s.of == nil {
		return v, false
	}
	v, ok = s.of[maphash.Comparable(s.seed, key)%shardCount][key]
	return v, ok
}

// all is every entry, in no order.
func (s *shards[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if s.of == nil {
			return
		}
		for _, shard := range s.of {
			for k, v := range shard {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// draft is a changed copy of shards in the making.
type draft[K comparable, V any] struct {
	shards[K, V]
	mine [shardCount]bool // shards that are copied already
	room int              // of a shard that is new
}

// edit starts a copy that is expected to get more entries. It leaves s as it is.
func (s shards[K, V]) edit(more int) *draft[K, V] {
	d := &draft[K, V]{shards: shards[K, V]{s.seed, new([shardCount]map[K]V)}, room: more / shardCount}
	if s.of == nil {
		d.seed = maphash.MakeSeed()
	} else {
		*d.of = *s.of
	}
	return d
}

// own is a shard that may be changed.
func (d *draft[K, V]) own(i uint64) map[K]V {
	if !d.mine[i] {
		d.mine[i] = true
		if d.of[i] = maps.Clone(d.of[i]); d.of[i] == nil {
			d.of[i] = make(map[K]V, d.room)
		}
	}
	return d.of[i]
}

func (d *draft[K, V]) shard(key K) map[K]V {
	return d.own(maphash.Comparable(d.seed, key) % shardCount)
}

func (d *draft[K, V]) put(key K, v V) { d.shard(key)[key] = v }
func (d *draft[K, V]) remove(key K)   { delete(d.shard(key), key) }

// replace puts what with says in the place of each value that it wants replaced.
func (d *draft[K, V]) replace(with func(K, V) (V, bool)) {
	for i, shard := range d.of {
		for key, v := range shard {
			if v, ok := with(key, v); ok {
				d.own(uint64(i))[key] = v
			}
		}
	}
}
