package authn

import (
	"crypto/hmac"
	"crypto/sha256"
)

// Digest is what the catalogue keeps of an API key: HMAC-SHA-256 (RFC 2104) of
// the whole key under pepper. Without the pepper a stolen catalogue can't
// be searched for keys, nor a key be added to it.
func Digest(pepper [32]byte, key string) (digest [32]byte) {
	mac := hmac.New(sha256.New, pepper[:])
	mac.Write([]byte(key))
	mac.Sum(digest[:0])
	return digest
}
