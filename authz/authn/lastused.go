package authn

import (
	"maps"
	"sync"
	"sync/atomic"
)

const (
	minute     = 60_000_000 // µs
	usedShards = 16
)

// lastUsed is when each API key was last used, to the minute. A use costs a map
// look-up, and a store once a minute. Only keys that the catalogue knows get in.
type lastUsed struct{ shards [usedShards]usedShard }

type usedShard struct {
	mu sync.RWMutex
	m  map[string]*atomic.Int64
}

func (u *lastUsed) shard(id string) *usedShard {
	h := uint32(2166136261) // FNV-1a; an operator has no reason to make names collide
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return &u.shards[h%usedShards]
}

func (u *lastUsed) touch(id string, now int64) {
	now -= now % minute
	s := u.shard(id)
	s.mu.RLock()
	at := s.m[id]
	s.mu.RUnlock()
	if at == nil {
		s.mu.Lock()
		if s.m == nil {
			s.m = map[string]*atomic.Int64{}
		}
		if at = s.m[id]; at == nil {
			at = new(atomic.Int64)
			s.m[id] = at
		}
		s.mu.Unlock()
	}
	for before := at.Load(); before < now && !at.CompareAndSwap(before, now); before = at.Load() {
	}
}

// LastUsed is the minute in which an API key was last accepted, Unix µs; 0 for
// never, as far as this process and what it imported know.
func (a *Authenticator) LastUsed(keyID string) int64 {
	s := a.used.shard(keyID)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if at := s.m[keyID]; at != nil {
		return at.Load()
	}
	return 0
}

// ExportLastUsed is LastUsed of every key that keep reports true for, to be
// stored; the others are forgotten. A nil keep keeps all.
func (a *Authenticator) ExportLastUsed(keep func(keyID string) bool) map[string]int64 {
	all := map[string]int64{}
	for i := range a.used.shards {
		s := &a.used.shards[i]
		s.mu.Lock()
		maps.DeleteFunc(s.m, func(id string, _ *atomic.Int64) bool { return keep != nil && !keep(id) })
		for id, at := range s.m {
			all[id] = at.Load()
		}
		s.mu.Unlock()
	}
	return all
}

// ImportLastUsed takes over what ExportLastUsed gave, here or on another
// replica. The later of two times stays.
func (a *Authenticator) ImportLastUsed(all map[string]int64) {
	for id, at := range all {
		a.used.touch(id, at)
	}
}
