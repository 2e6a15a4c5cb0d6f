package gate

import (
	"testing"
)

func TestDecisionID(t *testing.T) {
	m := newMinter([16]byte{1, 2, 3})
	id := m.mint("spiffe://mesh/ingress")
	text := FormatID(id)

	t.Run("comes back from the peer that got it", func(t *testing.T) {
		if got, ok := m.verify(text, "spiffe://mesh/ingress"); !ok || got != id {
			t.Errorf("verify(%s) = %x, %v", text, got, ok)
		}
	})
	t.Run("is refused from another peer", func(t *testing.T) {
		if _, ok := m.verify(text, "spiffe://mesh/other"); ok {
			t.Error("accepted")
		}
	})
	t.Run("is refused under another server's key", func(t *testing.T) {
		if _, ok := newMinter([16]byte{9}).verify(text, "spiffe://mesh/ingress"); ok {
			t.Error("accepted")
		}
	})
	t.Run("is refused with any one bit flipped", func(t *testing.T) {
		for bit := range 128 {
			forged := id
			forged[bit/8] ^= 1 << (bit % 8)
			if _, ok := m.verify(FormatID(forged), "spiffe://mesh/ingress"); ok {
				t.Fatalf("bit %d", bit)
			}
		}
	})
	t.Run("is refused when it is no id at all", func(t *testing.T) {
		for _, s := range []string{"", "zz", text + "00", text[:30], "zz" + text[2:]} {
			if _, ok := m.verify(s, "spiffe://mesh/ingress"); ok {
				t.Errorf("accepted %q", s)
			}
		}
	})
	t.Run("never repeats", func(t *testing.T) {
		seen := map[[16]byte]bool{}
		for range 10_000 {
			id := m.mint("p")
			if seen[id] {
				t.Fatal("repeated")
			}
			seen[id] = true
		}
	})
	t.Run("tells long peers apart that share a beginning", func(t *testing.T) {
		long := string(make([]byte, 2000))
		if _, ok := m.verify(FormatID(m.mint(long+"a")), long+"b"); ok {
			t.Error("accepted")
		}
	})
}
