package authn_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/voicecore-ai/sluice/authz/authn"
)

// with is a public key as JSON, with members changed; "" leaves one out.
func with(k jose.JSONWebKey, change m) string {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(must(json.Marshal(k)), &members); err != nil {
		panic(err)
	}
	for name, value := range change {
		if value == "" {
			delete(members, name)
		} else {
			members[name] = json.RawMessage(value)
		}
	}
	return string(must(json.Marshal(members)))
}

func set(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func TestJ07KeySetsThatAreRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	huge := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8192), E: 65537}
	ec, ed := jwk("a", "", p256().Public()), jwk("b", "", edKey().Public())
	offCurve := with(ec, m{"y": string(must(json.Marshal(must(json.Marshal(ec))[:43])))})
	for _, tt := range []struct{ name, body, want string }{
		{"nothing", "", "no key set"},
		{"HTML", "<html>", "no key set"},
		{"a list", "[]", "no key set"},
		{"no keys", "{}", "no key set"},
		{"keys of null", `{"keys":null}`, "no key set"},
		{"keys that are no list", `{"keys":{}}`, "no key set"},
		{"keys in another case", `{"Keys":[]}`, "no key set"},
		{"a key that is no object", `{"keys":[1]}`, "no key set"},
		{"something behind", set() + "x", "no key set"},
		{"10,000 keys", set(strings.Split(strings.Repeat("{}\n", 9999)+"{}", "\n")...), "no key set"},
		{"101 keys", set(strings.Split(strings.Repeat(with(ed, m{"kid": ""})+"\n", 100)+"{}", "\n")...), "no key set"},
		{"more than 1 MiB", `{"keys":[],"x":"` + strings.Repeat("a", 1<<20) + `"}`, "larger than"},
		{"a private RSA key", jwks(jose.JSONWebKey{Key: rsaKey(), KeyID: "a"}), "private"},
		{"a private EC key", jwks(jose.JSONWebKey{Key: p256(), KeyID: "a"}), "private"},
		{"a private Ed25519 key beside good ones", jwks(ec, jose.JSONWebKey{Key: edKey(), KeyID: "c"}), "keys[1]: it holds a private"},
		{"a private key that is for encryption", set(with(jose.JSONWebKey{Key: rsaKey()}, m{"use": `"enc"`})), "private"},
		{"a shared key", jwks(jose.JSONWebKey{Key: []byte("secret"), KeyID: "a"}), "shared"},
		{"a shared key without k", set(`{"kty":"oct","kid":"a"}`), "shared"},
		{"a key of no kind", set(`{"kid":"a"}`), "shared"},
		{"two keys of one kid", jwks(ec, jwk("a", "", edKey().Public())), `two keys have the kid "a"`},
		{"RSA of 1024 bits", jwks(jwk("a", "", weak.Public())), "1024 bits"},
		{"RSA of 512 bits", set(with(jwk("a", "", rsaKey().Public()), m{"n": `"` + strings.Repeat("z", 86) + `"`})), "512 bits"},
		{"RSA of 8193 bits", jwks(jwk("a", "", huge)), "no key"},
		{"RSA with the exponent 1", set(with(jwk("a", "", rsaKey().Public()), m{"e": `"AQ"`})), "no key"},
		{"RSA with an even exponent", set(with(jwk("a", "", rsaKey().Public()), m{"e": `"BA"`})), "exponent 4"},
		{"RSA without n", set(with(jwk("a", "", rsaKey().Public()), m{"n": ""})), "no key"},
		{"a point that is not on the curve", set(offCurve), "no key"},
		{"a point that is short", set(with(ec, m{"x": `"AAAA"`})), "no key"},
		{"an Ed25519 key that is short", set(with(ed, m{"x": `"AAAA"`})), "no"},
		{"a kid that is a number", set(with(ec, m{"kid": "1"})), "another type"},
		{"key_ops that is a string", set(with(ec, m{"key_ops": `"verify"`})), "another type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := authn.ParseKeySet([]byte(tt.body))
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 500 {
				t.Errorf("got %d keys, %v, want %q", n, err, tt.want)
			}
		})
	}
}

func TestKeysThatAreLeftOut(t *testing.T) {
	ec := jwk("a", "", p256().Public())
	for _, tt := range []struct {
		name, body string
		want       int
	}{
		{"an empty set", set(), 0},
		{"every kind that is known", everyKey(), 5},
		{"keys without a kid", set(with(ec, m{"kid": ""}), with(ec, m{"kid": ""})), 2},
		{"one for encryption", set(with(ec, m{"use": `"enc"`})), 0},
		{"one that may not verify", set(with(ec, m{"key_ops": `["sign"]`})), 0},
		{"one that may verify", set(with(ec, m{"use": "", "key_ops": `["verify"]`})), 1},
		{"one for key agreement", set(with(ec, m{"alg": `"ECDH-ES"`})), 0},
		{"one whose alg is another kind's", set(with(ec, m{"alg": `"RS256"`})), 0},
		{"one whose alg is another curve's", set(with(ec, m{"alg": `"ES384"`})), 0},
		{"an Ed25519 key under its new name", set(with(jwk("a", "", edKey().Public()), m{"alg": `"Ed25519"`})), 1},
		{"a curve that is not known", set(with(ec, m{"crv": `"secp256k1"`})), 0},
		{"a kind that is not known", set(`{"kty":"AKP","alg":"ML-DSA-65","pub":"AA"}`), 0},
		{"a kid of 129 bytes", set(with(ec, m{"kid": `"` + strings.Repeat("a", 129) + `"`})), 0},
		{"certificates that nobody reads", set(with(ec, m{"x5c": `["none"]`, "x5t": `1`, "x5u": `"https://169.254.169.254/"`})), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := authn.ParseKeySet([]byte(tt.body)); n != tt.want || err != nil {
				t.Errorf("got %d keys, %v, want %d", n, err, tt.want)
			}
		})
	}
}

func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(everyKey()))
	f.Add([]byte(set(`{"kty":"oct","k":"AA"}`)))
	f.Add([]byte(set(fmt.Sprintf(`{"kty":"RSA","e":"AQAB","n":%q}`, strings.Repeat("z", 342)))))
	f.Fuzz(func(t *testing.T, body []byte) {
		if n, err := authn.ParseKeySet(body); n > 100 || err != nil && n != 0 {
			t.Errorf("%d keys, %v", n, err)
		}
	})
}
