package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"
)

// Bounds of a key set (RFC 7517). A body is never larger than what fetches it allows.
const (
	maxKeySetBody = 1 << 20
	maxKeys       = 100
	maxKid        = 128
	minRSA        = 2048
	maxRSA        = 8192
)

// key is one public key. It is shared by everything that it verified, so that
// its death is seen everywhere at once.
type key struct {
	kid    string
	algs   []string // the "alg" of tokens that it verifies
	public crypto.PublicKey
	print  string // thumbprint (RFC 7638)
	dead   atomic.Bool
}

func (k *key) verifies(alg string) bool { return slices.Contains(k.algs, alg) }

func (k *key) same(o *key) bool {
	return k.kid == o.kid && k.print == o.print && slices.Equal(k.algs, o.algs)
}

// keySet is the public keys behind one address. It is immutable.
type keySet struct {
	byKid map[string]*key
	all   []*key
}

// find is the key for a token; nil if none verifies alg. known is false if another version
// of the set may have it. Without a kid there must be no choice.
func (s *keySet) find(kid, alg string) (k *key, known bool) {
	if kid != "" {
		k, known = s.byKid[kid]
		if known && !k.verifies(alg) {
			return nil, true
		}
		return k, known
	}
	for _, candidate := range s.all {
		if !candidate.verifies(alg) {
			continue
		}
		if k != nil {
			return nil, true
		}
		k = candidate
	}
	return k, true
}

// adopt takes over the keys of the set before that are still in this one. What
// they verified stays verified.
func (s *keySet) adopt(before *keySet) {
	if before == nil {
		return
	}
	for i, k := range s.all {
		n := slices.IndexFunc(before.all, k.same)
		if n < 0 {
			continue
		}
		s.all[i] = before.all[n]
		if k.kid != "" {
			s.byKid[k.kid] = before.all[n]
		}
	}
}

// bury declares dead every key that next, which may be nil, does not have.
func (s *keySet) bury(next *keySet) {
	if s == nil {
		return
	}
	for _, k := range s.all {
		if next == nil || !slices.Contains(next.all, k) {
			k.dead.Store(true)
		}
	}
}

var (
	errNoKeySet   = errors.New("it is no key set: want an object with \"keys\", an array of at most 100 objects (RFC 7517)")
	errPrivateKey = errors.New("it holds a private or a shared key, which is nobody's to publish: the issuer must replace it")
)

// parseKeySet reads a key set. A set with something in it that must not be
// there is refused whole; a key that is for something else, or of a kind that is
// not known here, is left out, as RFC 7517, section 5 has it.
func parseKeySet(body []byte) (*keySet, error) {
	if len(body) > maxKeySetBody {
		return nil, fmt.Errorf("it is larger than %d bytes", maxKeySetBody)
	}
	var top map[string]json.RawMessage // a map, since structs match names in any case
	if err := json.Unmarshal(body, &top); err != nil {
		return nil, errNoKeySet
	}
	var list []map[string]json.RawMessage
	if raw, ok := top["keys"]; !ok || string(raw) == "null" || json.Unmarshal(raw, &list) != nil || len(list) > maxKeys {
		return nil, errNoKeySet
	}
	set := &keySet{byKid: make(map[string]*key, len(list))}
	for i, members := range list {
		k, err := parseKey(members)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if k == nil {
			continue
		}
		if k.kid != "" {
			if set.byKid[k.kid] != nil {
				return nil, fmt.Errorf("keys[%d]: two keys have the kid %.40q", i, k.kid)
			}
			set.byKid[k.kid] = k
		}
		set.all = append(set.all, k)
	}
	return set, nil
}

// parseKey reads one key; nil if it is left out.
func parseKey(members map[string]json.RawMessage) (*key, error) {
	for _, secret := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, ok := members[secret]; ok {
			return nil, errPrivateKey
		}
	}
	var kty, crv, use, alg, kid string
	var ops []string
	for name, to := range map[string]any{"kty": &kty, "crv": &crv, "use": &use, "alg": &alg, "kid": &kid, "key_ops": &ops} {
		if raw, ok := members[name]; ok && json.Unmarshal(raw, to) != nil {
			return nil, fmt.Errorf("%q is of another type than RFC 7517 says", name)
		}
	}
	if kty == "" || kty == "oct" {
		return nil, errPrivateKey
	}
	algs := algorithmsOf(kty, crv)
	if alg == "Ed25519" { // RFC 9864 gave it a name of its own
		alg = "EdDSA"
	}
	switch {
	case len(algs) == 0, use != "" && use != "sig", ops != nil && !slices.Contains(ops, "verify"), len(kid) > maxKid:
		return nil, nil //nolint:nilnil // left out
	case alg != "" && !slices.Contains(algs, alg):
		return nil, nil //nolint:nilnil // left out: for encryption, say
	case alg != "":
		algs = []string{alg}
	}
	public, print, err := decodeKey(members)
	if err != nil {
		return nil, err
	}
	return &key{kid: kid, algs: algs, public: public, print: print}, nil
}

// algorithmsOf are those that a kind of key can verify; none for a kind that is not known here.
func algorithmsOf(kty, crv string) []string {
	switch kty + " " + crv {
	case "RSA ":
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case "EC P-256":
		return []string{"ES256"}
	case "EC P-384":
		return []string{"ES384"}
	case "EC P-521":
		return []string{"ES512"}
	case "OKP Ed25519":
		return []string{"EdDSA"}
	}
	return nil
}

// decodeKey makes a key of the members that are one. Certificates and the like
// are not read: nothing here trusts them.
func decodeKey(members map[string]json.RawMessage) (public crypto.PublicKey, print string, err error) {
	bare := make(map[string]json.RawMessage, 6)
	for _, name := range []string{"kty", "crv", "x", "y", "n", "e"} {
		if raw, ok := members[name]; ok {
			bare[name] = raw
		}
	}
	raw, err := json.Marshal(bare)
	if err != nil {
		return nil, "", fmt.Errorf("it is no key: %w", err)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return nil, "", fmt.Errorf("it is no key: %w", err)
	}
	if !jwk.Valid() || !jwk.IsPublic() {
		return nil, "", errors.New("it is no valid public key")
	}
	switch k := jwk.Key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, "", fmt.Errorf("an RSA key of %d bits: want %d to %d", n, minRSA, maxRSA)
		}
		if k.E < 3 || k.E%2 == 0 {
			return nil, "", fmt.Errorf("an RSA key with the exponent %d: want 65537", k.E)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return nil, "", errors.New("it is a key of an unexpected kind")
	}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", fmt.Errorf("it is no key: %w", err)
	}
	return jwk.Key, string(sum), nil
}
