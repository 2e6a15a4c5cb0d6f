package token

import (
	"crypto/sha256"
	"sync"
)

// cache remembers the claims of tokens whose signature held. A token is shown at
// each call of a request, and again by a client that keeps it. What depends on the time or on who
// shows it is not cached.
//
// It is two halves in each shard, of which the older is dropped when the younger is full.
type cache struct{ shards [16]shard }

type shard struct {
	mu           sync.Mutex
	size         int // of one half
	young, older map[digest]Claims
}

type digest = [sha256.Size]byte

// digestOf takes a token of at most MaxSize. The copy keeps it from the heap.
func digestOf(token string) digest {
	var b [MaxSize]byte
	return sha256.Sum256(b[:copy(b[:], token)])
}

func (c *cache) init(size int) {
	for i := range c.shards {
		c.shards[i] = shard{size: max(1, size/2/len(c.shards)), young: map[digest]Claims{}}
	}
}

func (c *cache) shard(d digest) *shard { return &c.shards[d[0]%byte(len(c.shards))] }

func (c *cache) get(d digest) (Claims, bool) {
	s := c.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	claims, ok := s.young[d]
	if ok {
		return claims, true
	}
	if claims, ok = s.older[d]; ok {
		s.put(d, claims)
	}
	return claims, ok
}

func (c *cache) put(d digest, claims Claims) {
	s := c.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(d, claims)
}

func (s *shard) put(d digest, claims Claims) {
	if len(s.young) >= s.size {
		s.older, s.young = s.young, make(map[digest]Claims, s.size)
	}
	s.young[d] = claims
}
