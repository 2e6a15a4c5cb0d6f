package authn

import (
	"encoding/hex"
	"testing"
)

func TestDigest(t *testing.T) {
	var pepper [32]byte
	for i := range pepper {
		pepper[i] = byte(i)
	}
	other := pepper
	other[31] ^= 1

	// Made with: openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f
	const key = "slk_abcdefgh_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	const want = "f849d7363be4b82177faddfa608b5a77634d191811e187ec10bf9325a08bbc94"
	digest := Digest(pepper, key)
	if got := hex.EncodeToString(digest[:]); got != want {
		t.Errorf("Digest = %s, want %s", got, want)
	}
	if Digest(pepper, key) != digest {
		t.Error("the same key has two digests")
	}
	if Digest(pepper, key+" ") == digest {
		t.Error("another key has the same digest")
	}
	if Digest(other, key) == digest {
		t.Error("another pepper gives the same digest")
	}
}
