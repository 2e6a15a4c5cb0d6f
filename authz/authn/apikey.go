package authn

import (
	"crypto/sha256"
	"crypto/subtle"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota"
)

// maxKey is longer than any key that Sluice issues; more is not hashed.
const maxKey = 256

// apiKey checks one key. A known and an unknown key take the same path: the
// look-up is by a digest under a secret pepper, so its time tells nothing of the key.
// A tenant changes keys by having two at once; each ends by itself.
func (a *Authenticator) apiKey(now int64, s *quota.Snapshot, key string) (authz.Principal, *quota.Account, error) {
	if key == "" || len(key) > maxKey {
		return a.refuse(refusedAPIKey)
	}
	digest := a.keys.digest(key)
	credential, ok := s.Key(digest)
	match := subtle.ConstantTimeCompare(credential.Digest[:], digest[:])
	if !ok || match != 1 || credential.Account == nil {
		return a.refuse(refusedAPIKey)
	}
	principal := authz.Principal{Scheme: authz.APIKey, Name: credential.ID, Roles: credential.Scopes, Voucher: credential.Voucher}
	if !credential.Expires.IsZero() {
		if principal.Expires = credential.Expires.UnixMicro(); principal.Expires <= now {
			return a.refuse(refusedAPIKey)
		}
	}
	a.used.touch(credential.ID, now)
	return principal, credential.Account, nil
}

// hasher computes HMAC-SHA-256 (RFC 2104) under one key without allocation:
// crypto/hmac makes two hashes for each digest, and a pool of them is emptied
// by every garbage collection.
type hasher struct{ inner, outer [sha256.BlockSize]byte }

func newHasher(pepper [32]byte) *hasher {
	h := new(hasher)
	copy(h.inner[:], pepper[:])
	h.outer = h.inner
	for i := range h.inner {
		h.inner[i] ^= 0x36
		h.outer[i] ^= 0x5c
	}
	return h
}

// digest equals Digest(pepper, key). len(key) <= maxKey.
func (h *hasher) digest(key string) [sha256.Size]byte {
	var in [sha256.BlockSize + maxKey]byte
	n := copy(in[:], h.inner[:])
	n += copy(in[n:], key)
	sum := sha256.Sum256(in[:n])
	var out [sha256.BlockSize + sha256.Size]byte
	copy(out[:], h.outer[:])
	copy(out[sha256.BlockSize:], sum[:])
	return sha256.Sum256(out[:])
}
