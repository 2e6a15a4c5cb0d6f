// Package token makes and judges the tenant token: the signed sentence by which
// the tenant of a request travels from one service to the next. Call Mint where a request
// was admitted, and Hop where one arrives.
//
// A token is bound to its holder, the SPIFFE id of the workload that received
// it: shown by anybody else it is worth nothing, so a compromised workload can speak only for
// tenants that it was serving, and only while those tokens live. It is a JSON Web Token
// (RFC 7519) signed with Ed25519 (RFC 8037) and confirmed by "cnf" (RFC 7800), so that others can read it;
// but exactly one text says one thing, and only that text is accepted.
//
// Keys are derived, not stored: replicas that share the secret agree on the key of
// each day without a word between them, and rotation needs nobody. What is given up: a token
// can't be taken back before its end, five minutes by default. But the tenant, and what vouched for the caller (an
// API key, a workload's entry, an issuer as it was), are looked up at each hop, so a suspension or a revocation holds at once.
//
// It is not a credential for a client, and says nothing about what its bearer may do.
// Minting costs about 16 µs and verifying 40 µs, one signature each; a token that was
// verified lately costs 0.4 µs and no allocation.
package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// Bounds of a token.
const (
	MaxSize     = 2 << 10         // bytes; longer ones are not read
	DefaultLife = 5 * time.Minute // from minting to its end
	MaxLife     = time.Hour       // no token lives longer, whoever made it
)

// skew is by how much the clocks of two replicas may differ.
const skew = 30 * time.Second

// Errors of Hop, Verify and Mint. Where a token was shown, each means 401.
var (
	ErrMalformed = errors.New("the tenant token is not one that Sluice writes")
	ErrTooLarge  = errors.New("the tenant token would be larger than 2 KiB: shorten the principal's name, its roles or the holder's SPIFFE id")
	ErrKey       = errors.New("the tenant token is signed with a key that is not in use")
	ErrSignature = errors.New("the signature of the tenant token is wrong")
	ErrExpired   = errors.New("the tenant token has expired: ask for a new one by a new request")
	ErrEarly     = errors.New("the tenant token is from the future: check the clocks")
	ErrHolder    = errors.New("the tenant token belongs to another workload: show it over mTLS as the workload that received it")
	ErrMany      = errors.New("more than one tenant token: send exactly one")
	ErrRevoked   = errors.New("the tenant token's tenant is gone, or the credential that its caller came in by no longer stands")
	ErrClaims    = errors.New("a tenant token needs a principal, a tenant, a decision and a holder with a SPIFFE id, all in printable ASCII")
)

// Claims are what a token says.
type Claims struct {
	// Principal is who asked at the edge. Its Expires is the end of the caller's own
	// credential: a stream that a token admitted lasts until then, not until the token's end.
	Principal authz.Principal
	Tenant    tenant.ID
	Plan      string
	Decision  [16]byte // the edge's decision id
	Holder    string   // SPIFFE id of the workload that may show the token

	// Issued and Expires bound when it may be shown, Unix µs in whole seconds. Mint sets
	// them; what Expires says before is the latest that it may be.
	Issued, Expires int64
}

// Options are what tokens are made of.
type Options struct {
	Secret [32]byte      // shared by all replicas, used for nothing else. Required.
	Life   time.Duration // default DefaultLife, at most MaxLife
	Cache  int           // verified tokens that are remembered; default 8192 (about 8 MB)
}

// Tokens mints and verifies. It is safe for concurrent use.
type Tokens struct {
	keys  keyring
	life  int64 // µs
	cache cache
}

// New returns Tokens under a secret.
func New(o Options) *Tokens {
	if o.Life <= 0 {
		o.Life = DefaultLife
	}
	if o.Cache <= 0 {
		o.Cache = 8192
	}
	t := &Tokens{life: min(o.Life, MaxLife).Microseconds()}
	t.keys.secret = o.Secret
	t.cache.init(o.Cache)
	return t
}

// strict refuses the trailing bits that mean nothing. It would still skip line
// breaks; alphabet does not.
var strict = base64.RawURLEncoding.Strict()

// Sizes of the parts of a token.
const (
	signatureSize = 86                                // of 64 bytes in base64
	maxPayload    = (MaxSize - signatureSize) / 4 * 3 // in JSON
)

// Mint appends to b the token that says c, from now (Unix µs) for Life but not
// beyond the end of the caller's own credential, nor beyond c.Expires if that is not 0. It returns b unchanged with an error.
func (t *Tokens) Mint(b []byte, now int64, c *Claims) ([]byte, error) {
	claims := *c
	claims.Issued = floorSecond(now)
	claims.Expires = floorSecond(claims.Issued + t.life)
	if end := c.Principal.Expires; end != 0 {
		claims.Expires = min(claims.Expires, floorSecond(end))
	}
	if c.Expires != 0 { // of the token that the hop before showed: a chain of hops ends with its first
		claims.Expires = min(claims.Expires, floorSecond(c.Expires))
	}
	if claims.Expires <= claims.Issued {
		return b, ErrExpired
	}
	if !claims.sayable() {
		return b, ErrClaims
	}
	key := t.keys.at(now).current()
	var scratch [maxPayload]byte
	payload := appendPayload(scratch[:0], &claims)
	start := len(b)
	if len(key.header)+strict.EncodedLen(len(payload))+1+signatureSize > MaxSize {
		return b, ErrTooLarge
	}
	b = append(b, key.header...)
	b = strict.AppendEncode(b, payload)
	signature := ed25519.Sign(key.private, b[start:])
	b = append(b, '.')
	return strict.AppendEncode(b, signature), nil
}

// Verify reads a token that presenter, the SPIFFE id that the peer proved by mTLS,
// showed at now (Unix µs). Claims come only with a nil error; their Roles are
// shared and must not be changed.
func (t *Tokens) Verify(now int64, token, presenter string) (Claims, error) {
	if len(token) > MaxSize {
		return Claims{}, ErrMalformed
	}
	digest := digestOf(token)
	c, known := t.cache.get(digest)
	if !known {
		var err error
		if c, err = t.read(now, token); err != nil {
			return Claims{}, err
		}
	}
	switch {
	case c.Issued > now+skew.Microseconds():
		return Claims{}, ErrEarly
	case c.Expires+skew.Microseconds() <= now:
		return Claims{}, ErrExpired
	case presenter == "" || c.Holder != presenter:
		return Claims{}, ErrHolder
	}
	if !known {
		t.cache.put(digest, c)
	}
	return c, nil
}

// read is what a token says, signature checked, times and holder not yet. Nothing
// of it is parsed before the signature holds.
func (t *Tokens) read(now int64, token string) (Claims, error) {
	key, ok := t.keys.at(now).find(token)
	if !ok {
		if !strings.HasPrefix(token, headerStart) {
			return Claims{}, ErrMalformed
		}
		return Claims{}, ErrKey
	}
	rest := len(token) - signatureSize
	if rest <= len(key.header) || token[rest-1] != '.' || !alphabet(token[rest:]) || !alphabet(token[len(key.header):rest-1]) {
		return Claims{}, ErrMalformed
	}
	var signature [ed25519.SignatureSize]byte
	if n, err := strict.Decode(signature[:], []byte(token[rest:])); err != nil || n != len(signature) {
		return Claims{}, ErrMalformed
	}
	if !ed25519.Verify(key.public, []byte(token[:rest-1]), signature[:]) {
		return Claims{}, ErrSignature
	}
	var payload [maxPayload]byte
	n, err := strict.Decode(payload[:], []byte(token[len(key.header):rest-1]))
	if err != nil {
		return Claims{}, ErrMalformed
	}
	c, ok := parsePayload(string(payload[:n]))
	// A token of another day's key could only come from whoever stole that key.
	if !ok || epochOf(c.Issued) != key.epoch {
		return Claims{}, ErrMalformed
	}
	return c, nil
}

// alphabet reports whether s has only digits of base64url.
func alphabet(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

const second = int64(time.Second / time.Microsecond)

func floorSecond(at int64) int64 { return at / second * second }
