package token

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// epoch is how long a key signs. Its tokens are accepted for as long as they live,
// so for MaxLife into the next one.
const epoch = 24 * time.Hour

func epochOf(at int64) int64 { return at / epoch.Microseconds() }

// key is what one epoch signs with. header is the whole first part of its tokens
// with the dot: the only one that is accepted, so nothing in it is ever parsed.
type key struct {
	epoch   int64
	header  string
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

// headerStart is how every header begins: as far as the name of the key. The bytes
// before it are a multiple of three, so base64 shows them as they are.
var headerStart = base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"sluice-tenant+jwt","alg":"EdDSA","kid":"`))

func newKey(secret [32]byte, n int64) *key {
	info := binary.BigEndian.AppendUint64([]byte("sluice tenant token v1"), uint64(n))
	seed, err := hkdf.Key(sha256.New, secret[:], nil, string(info), ed25519.SeedSize)
	if err != nil {
		panic(err) // 32 bytes of HKDF-SHA-256 from 32 are always there
	}
	private := ed25519.NewKeyFromSeed(seed)
	header := `{"typ":"sluice-tenant+jwt","alg":"EdDSA","kid":"` + strconv.FormatInt(n, 10) + `"}`
	return &key{
		epoch: n, header: base64.RawURLEncoding.EncodeToString([]byte(header)) + ".",
		private: private, public: private.Public().(ed25519.PublicKey), //nolint:errcheck // its documented type
	}
}

// keyring derives the keys that are in use, once for each epoch.
type keyring struct {
	secret [32]byte
	now    atomic.Pointer[ring]
}

// ring has the keys of the epoch before, of this one, and of the next, which a
// replica whose clock is ahead signs with.
type ring [3]*key

func (k *keyring) at(now int64) *ring {
	n := epochOf(now)
	r := k.now.Load()
	if r != nil && r.current().epoch == n {
		return r
	}
	r = &ring{newKey(k.secret, n-1), newKey(k.secret, n), newKey(k.secret, n+1)}
	k.now.Store(r) // two that derive at once derive the same
	return r
}

func (r *ring) current() *key { return r[1] }

// find is the key whose header token has.
func (r *ring) find(token string) (*key, bool) {
	for _, k := range r {
		if strings.HasPrefix(token, k.header) {
			return k, true
		}
	}
	return nil, false
}
