package authn

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTheHasherEqualsCryptoHMAC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pepper [32]byte
		copy(pepper[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "pepper"))
		key := strings.Repeat("k", rapid.IntRange(0, maxKey-8).Draw(t, "length")) + rapid.StringN(0, -1, 8).Draw(t, "end")
		if newHasher(pepper).digest(key) != Digest(pepper, key) {
			t.Errorf("differs for a key of %d bytes", len(key))
		}
	})
}
