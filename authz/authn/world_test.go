package authn_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

var pepper = [32]byte{7}

const (
	now    = int64(1_800_000_000_000_000)
	second = int64(1_000_000)
)

// Keys are made once: an RSA key takes long.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	other256 = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwks is a set of public keys by kid; alg "" says none.
func jwks(keys ...jose.JSONWebKey) string {
	return string(must(json.Marshal(jose.JSONWebKeySet{Keys: keys})))
}

func jwk(kid, alg string, public any) jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: kid, Algorithm: alg, Key: public, Use: "sig"}
}

// everyKey is a set with a key for each algorithm.
func everyKey() string {
	return jwks(
		jwk("rsa", "", rsaKey().Public()), jwk("p256", "ES256", p256().Public()), jwk("p384", "ES384", p384().Public()),
		jwk("p521", "", p521().Public()), jwk("ed", "", edKey().Public()),
	)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// sign makes a token of a header and a payload as they are, with the signature
// that alg names, whatever the header says.
func sign(header, payload, alg string, key any) string {
	message := b64(header) + "." + b64(payload)
	return message + "." + base64.RawURLEncoding.EncodeToString(signature(message, alg, key))
}

func signature(message, alg string, key any) []byte {
	var hash crypto.Hash
	var digest []byte
	switch alg[len(alg)-3:] {
	case "256":
		sum := sha256.Sum256([]byte(message))
		hash, digest = crypto.SHA256, sum[:]
	case "384":
		sum := sha512.Sum384([]byte(message))
		hash, digest = crypto.SHA384, sum[:]
	case "512":
		sum := sha512.Sum512([]byte(message))
		hash, digest = crypto.SHA512, sum[:]
	}
	switch k := key.(type) {
	case nil:
		return nil
	case []byte:
		mac := hmac.New(sha256.New, k)
		_, _ = io.WriteString(mac, message)
		return mac.Sum(nil)
	case *rsa.PrivateKey:
		if alg[0] == 'P' {
			return must(rsa.SignPSS(rand.Reader, k, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		}
		return must(rsa.SignPKCS1v15(rand.Reader, k, hash, digest))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		size := (k.Params().BitSize + 7) / 8
		raw := make([]byte, 2*size)
		must(r, err).FillBytes(raw[:size])
		s.FillBytes(raw[size:])
		return raw
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(message))
	}
	panic("no such key")
}

// object writes members in a fixed order; a change of "" leaves one out.
func object(members map[string]string, change map[string]string) string {
	all := maps.Clone(members)
	maps.Copy(all, change)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, all[name]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func header(change map[string]string) string {
	return object(map[string]string{"alg": `"ES256"`, "kid": `"p256"`, "typ": `"at+jwt"`}, change)
}

func payload(change map[string]string) string {
	return object(map[string]string{
		"iss": `"https://id.example.com/"`, "aud": `"api"`, "sub": `"user-1"`,
		"exp": fmt.Sprint(now/second + 300), "iat": fmt.Sprint(now/second - 10),
	}, change)
}

type m = map[string]string

// token is a good token with changes, signed by the key that it should be signed by.
func token(head, body m) string { return sign(header(head), payload(body), "ES256", p256()) }

var allAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func testIssuers() []trust.Issuer {
	return []trust.Issuer{
		{
			Name: "main", Issuer: "https://id.example.com/", Audiences: []string{"api", "api2"}, JWKSURI: "https://id.example.com/keys",
			Tenant: "acme", Algorithms: allAlgorithms, RolesClaim: "realm_access.roles",
		},
		{
			Name: "claim", Issuer: "https://claim.example.com", Audiences: []string{"api"}, JWKSURI: "https://claim.example.com/keys",
			TenantClaim: "org.tenant", Types: []string{"at+jwt"}, RolesClaim: "https://acme.com/roles",
		},
		{
			Name: "realms", Issuer: "https://id.example.com/realms/{tenant}", Audiences: []string{"api"},
			JWKSURI: "https://id.example.com/realms/{tenant}/keys",
		},
	}
}

// compile makes a snapshot with issuers.
func compile(t testing.TB, revision uint64, issuers []trust.Issuer, tenants ...quota.Tenant) *quota.Snapshot {
	t.Helper()
	digest := func(key string) string {
		d := authn.Digest(pepper, key)
		return hex.EncodeToString(d[:])
	}
	base := []quota.Tenant{
		{ID: "acme", Plan: "gold", Principals: []string{"spiffe://mesh/ns/acme/sa/app"}},
		{ID: "umbrella", Plan: "gold", Principals: []string{"spiffe://mesh/ns/umbrella/sa/app"}},
	}
	s, err := quota.Compile(revision, quota.Catalogue{
		Plans:   []quota.Plan{{Name: "gold"}},
		Tenants: append(base, tenants...),
		APIKeys: []quota.APIKey{
			{ID: "k1", Tenant: "acme", Digest: digest("key-acme")},
			{ID: "k1-next", Tenant: "acme", Digest: digest("key-acme-next"), Expires: time.UnixMicro(now + 60*second)},
			{ID: "k2", Tenant: "umbrella", Digest: digest("key-umbrella")},
			{ID: "k3", Tenant: "acme", Digest: digest("key-old"), Expires: time.UnixMicro(now)},
		},
	}, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	compiled, problems := trust.Compile(issuers)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	s.Issuers = compiled
	return s
}

// world is an authenticator with issuers whose keys are in a map.
type world struct {
	a        *authn.Authenticator
	sets     *authn.KeySets
	snapshot *quota.Snapshot
	fetches  atomic.Int64
}

func newWorld(t testing.TB, o authn.Options) *world {
	t.Helper()
	w := &world{snapshot: compile(t, 1, testIssuers())}
	w.sets = authn.NewKeySets(authn.KeySetsOptions{
		Fetch: func(_ context.Context, url string, _ bool) ([]byte, error) {
			w.fetches.Add(1)
			switch url {
			case "https://id.example.com/keys", "https://claim.example.com/keys":
				return []byte(everyKey()), nil
			case "https://id.example.com/realms/acme/keys":
				return []byte(jwks(jwk("p256", "", p256().Public()))), nil
			case "https://id.example.com/realms/umbrella/keys":
				return []byte(jwks(jwk("p256", "", other256().Public()))), nil
			}
			return nil, fmt.Errorf("nobody asks for %s", url)
		},
		Issuers: func() *trust.Issuers { return w.snapshot.Issuers },
		Now:     func() time.Time { return time.UnixMicro(now) },
		Wait:    time.Minute, // a slow machine is no failure here
	})
	if err := w.sets.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Pepper, o.KeySets = pepper, w.sets
	w.a = authn.New(o)
	return w
}

func (w *world) identify(c authz.Credentials) (authz.Principal, *quota.Account, error) {
	return w.a.Identify(context.Background(), now, w.snapshot, &c)
}

// refused is the reasons for which refusals were counted while f ran.
func (w *world) refused(f func()) string {
	before := w.a.Refusals()
	f()
	var why []string
	for name, n := range w.a.Refusals() {
		if n != before[name] {
			why = append(why, name)
		}
	}
	slices.Sort(why)
	return strings.Join(why, " ")
}
