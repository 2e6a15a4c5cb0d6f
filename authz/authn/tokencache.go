package authn

import (
	"sync"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/tenant"
)

// verified is what a token says, and on whose word.
type verified struct {
	principal authz.Principal
	tenant    tenant.ID
	source    *source
	key       *key
}

// stands reports whether the token would be verified again: it has not expired,
// its key is still published, and its issuer is what it was.
func (v *verified) stands(now int64, issuers *trust.Issuers) bool {
	return now < v.principal.Expires && !v.key.dead.Load() && now < v.source.until.Load() && issuers.Vouches(v.principal.Voucher)
}

func (v *verified) size() int {
	n := 512 + len(v.principal.Name) // 512: the struct, its map slot, and what surrounds strings
	for _, role := range v.principal.Roles {
		n += 16 + len(role)
	}
	return n
}

const (
	tokenShards   = 64
	defaultTokens = 65_536
	maxTokenBytes = 64 << 20
)

// tokenCache keeps verified tokens under the SHA-256 of their text. It holds
// only what a key has signed, so strangers can't fill it. When full, any token goes, an
// expired one rather than another: the cost of a mistake is one verification.
type tokenCache struct {
	most   int // entries of a shard
	shards [tokenShards]tokenShard
}

type tokenShard struct {
	mu    sync.RWMutex
	m     map[[32]byte]*verified
	bytes int
}

func newTokenCache(most int) *tokenCache {
	if most <= 0 {
		most = defaultTokens
	}
	c := &tokenCache{most: max(1, most/tokenShards)}
	for i := range c.shards {
		c.shards[i].m = map[[32]byte]*verified{}
	}
	return c
}

func (c *tokenCache) shard(digest *[32]byte) *tokenShard { return &c.shards[digest[0]%tokenShards] }

// get is the token with that digest if it stands; nil otherwise.
func (c *tokenCache) get(now int64, issuers *trust.Issuers, digest *[32]byte) *verified {
	s := c.shard(digest)
	s.mu.RLock()
	v := s.m[*digest]
	s.mu.RUnlock()
	if v == nil || v.stands(now, issuers) {
		return v
	}
	s.mu.Lock()
	if s.m[*digest] == v {
		s.remove(*digest, v)
	}
	s.mu.Unlock()
	return nil
}

func (c *tokenCache) put(now int64, digest *[32]byte, v *verified) {
	s, size := c.shard(digest), v.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := s.m[*digest]; before != nil {
		s.remove(*digest, before)
	}
	for len(s.m) > 0 && (len(s.m) >= c.most || s.bytes+size > maxTokenBytes/tokenShards) {
		s.evict(now)
	}
	s.m[*digest] = v
	s.bytes += size
}

// evict looks at a few tokens, which Go's map chooses, and removes one.
func (s *tokenShard) evict(now int64) {
	const looks = 8
	var digest [32]byte
	var victim *verified
	n := 0
	for d, v := range s.m {
		digest, victim = d, v
		if n++; n == looks || now >= v.principal.Expires || v.key.dead.Load() {
			break
		}
	}
	s.remove(digest, victim)
}

func (s *tokenShard) remove(digest [32]byte, v *verified) {
	delete(s.m, digest)
	s.bytes -= v.size()
}

// len is how many tokens are kept.
func (c *tokenCache) len() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.m)
		s.mu.RUnlock()
	}
	return n
}
