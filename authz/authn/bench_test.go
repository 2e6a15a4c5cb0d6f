package authn_test

import (
	"fmt"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
)

func BenchmarkIdentify(b *testing.B) {
	w := newWorld(b, authn.Options{XFCCForwarders: []string{gateway}})
	typical := token(nil, m{
		"realm_access": `{"roles":["caller","reader"]}`, "azp": `"web"`, "jti": `"0b8c7a4e-6f0a-4a38-9a0e-6a8a1f2d3c4b"`,
		"scope": `"openid profile email"`, "sid": `"9c1f0a4e-6f0a-4a38-9a0e-6a8a1f2d3c4b"`, "email": `"someone@example.com"`,
	})
	for _, c := range []struct {
		name string
		in   authz.Credentials
	}{
		{"an API key", authz.Credentials{SPIFFE: gateway, APIKeys: []string{"key-acme"}}},
		{"a remembered token", authz.Credentials{SPIFFE: gateway, Tokens: []string{typical}, Source: "192.0.2.1"}},
		{"a workload", authz.Credentials{SPIFFE: acmeApp}},
		{"a forwarded name", authz.Credentials{SPIFFE: gateway, XFCC: []string{`By=` + gateway + `;Hash=00;Subject="CN=a";URI=` + acmeApp}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := w.a.Identify(b.Context(), now, w.snapshot, &c.in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNewToken is what a token costs the first time.
func BenchmarkNewToken(b *testing.B) {
	for _, c := range []struct {
		alg, kid string
		key      any
	}{{"ES256", "p256", p256()}, {"RS256", "rsa", rsaKey()}, {"EdDSA", "ed", edKey()}} {
		b.Run(c.alg+" verified", func(b *testing.B) {
			w := newWorld(b, authn.Options{})
			tokens := make([]string, 2048)
			for i := range tokens {
				tokens[i] = sign(header(m{"alg": `"` + c.alg + `"`, "kid": `"` + c.kid + `"`}), payload(m{"jti": fmt.Sprint(i)}), c.alg, c.key)
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%len(tokens) == 0 { // remembers nothing
					w.a = authn.New(authn.Options{Pepper: pepper, KeySets: w.sets})
				}
				if _, _, err := w.identify(authz.Credentials{Tokens: tokens[n%len(tokens) : n%len(tokens)+1]}); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}

// BenchmarkFlood is one source that sends tokens with a wrong signature, each another one.
func BenchmarkFlood(b *testing.B) {
	bad := forged(65_536)
	w := newWorld(b, authn.Options{})
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		c := authz.Credentials{Tokens: bad[n%len(bad) : n%len(bad)+1], Source: "192.0.2.1"}
		if _, _, err := w.a.Identify(b.Context(), now+int64(n), w.snapshot, &c); err == nil { // a µs each: a million a second
			b.Fatal("a forged token was accepted")
		}
		n++
	}
	b.ReportMetric(float64(w.a.Refusals()["token_signature"])/float64(b.N), "signatures/op")
}
