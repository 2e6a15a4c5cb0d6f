package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
	"sync"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

// maxKey is longer than any key that Sluice issues; more is not hashed.
const maxKey = 256

// apiKey checks one key. A known and an unknown key take the same path: the
// look-up is by a digest under a secret pepper, so its time tells nothing of the key.
func (a *Authenticator) apiKey(now int64, s *quota.Snapshot, key string) (quota.Credential, error) {
	if key == "" || len(key) > maxKey {
		return quota.Credential{}, authz.ErrBadCredential
	}
	digest := a.keys.digest(key)
	credential, ok := s.Key(digest)
	match := subtle.ConstantTimeCompare(credential.Digest[:], digest[:])
	if !ok || match != 1 || credential.Account == nil {
		return quota.Credential{}, authz.ErrBadCredential
	}
	if !credential.Expires.IsZero() && credential.Expires.UnixMicro() <= now {
		return quota.Credential{}, authz.ErrBadCredential
	}
	return credential, nil
}

// hasher computes digests with keyed states that it keeps, since making
// one costs more than the digest.
type hasher struct{ pool sync.Pool }

type keyedState struct {
	mac hash.Hash
	buf [maxKey]byte
	sum [sha256.Size]byte
}

func newHasher(pepper [32]byte) *hasher {
	return &hasher{pool: sync.Pool{New: func() any {
		return &keyedState{mac: hmac.New(sha256.New, pepper[:])}
	}}}
}

// digest equals Digest(pepper, key), without allocation. len(key) <= maxKey.
func (h *hasher) digest(key string) [sha256.Size]byte {
	s := h.pool.Get().(*keyedState) //nolint:errcheck // the pool holds nothing else
	n := copy(s.buf[:], key)
	s.mac.Reset()
	s.mac.Write(s.buf[:n])
	s.mac.Sum(s.sum[:0])
	sum := s.sum
	clear(s.buf[:n])
	h.pool.Put(s)
	return sum
}
