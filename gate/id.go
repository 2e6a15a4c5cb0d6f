package gate

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync/atomic"

	"github.com/dchest/siphash"
)

// maxPeer bounds how much of a peer's name goes into the MAC: a SPIFFE id is at
// most 2048 bytes, and names longer than this are told apart by their hash.
const maxPeer = 64

// minter makes decision ids: 64 bits that no other decision of this server
// has, then a 64-bit SipHash over them and the peer. So an id that an access
// log brings back is one of ours and comes from the peer that got it.
type minter struct {
	k0, k1 uint64
	next   *atomic.Uint64
}

func newMinter(key [16]byte) minter {
	var start [8]byte
	rand.Read(start[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	next := new(atomic.Uint64)
	next.Store(binary.LittleEndian.Uint64(start[:]))
	return minter{
		k0:   binary.LittleEndian.Uint64(key[:8]),
		k1:   binary.LittleEndian.Uint64(key[8:]),
		next: next,
	}
}

func (m minter) mint(peer string) (id [16]byte) {
	nonce := m.next.Add(1)
	binary.BigEndian.PutUint64(id[:8], nonce)
	binary.BigEndian.PutUint64(id[8:], m.mac(nonce, peer))
	return id
}

func (m minter) verify(text, peer string) (id [16]byte, ok bool) {
	if len(text) != hex.EncodedLen(len(id)) {
		return id, false
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return [16]byte{}, false
	}
	if binary.BigEndian.Uint64(id[8:]) != m.mac(binary.BigEndian.Uint64(id[:8]), peer) {
		return [16]byte{}, false
	}
	return id, true
}

func (m minter) mac(nonce uint64, peer string) uint64 {
	var buf [8 + maxPeer]byte
	binary.BigEndian.PutUint64(buf[:8], nonce)
	if len(peer) > maxPeer {
		binary.BigEndian.PutUint64(buf[8:16], siphash.Hash(m.k0, m.k1, []byte(peer)))
		return siphash.Hash(m.k0, m.k1, buf[:16])
	}
	return siphash.Hash(m.k0, m.k1, buf[:8+copy(buf[8:], peer)])
}

// FormatID is the text of a decision id: 32 lower-case hex digits.
func FormatID(id [16]byte) string { return hex.EncodeToString(id[:]) }
