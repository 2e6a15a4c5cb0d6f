package e2e

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/tenant"
)

// tokens are the attacks on JSON Web Tokens: a scene and those who sign.
type tokenScene struct {
	*scene
	idp     *issuers
	key     *ecdsa.PrivateKey
	rsa     *rsa.PrivateKey
	good    *signer // of issuer "good", whose set has the keys es and rs
	another *signer // of issuer "another", with another key under the same kid
}

// bearer asks with a token.
func bearerOf(token string, lines ...string) string {
	return http1("GET", "/v1/calls", append(lines, "authorization: Bearer "+token)...)
}

// sets are the issuers of the scene whose keys are at that path of the server, but for
// those with a URL.
var sets = map[string]string{
	"good": "", "another": "", "down": "", "storm": "", "rotating": "", "sick": "", "large": "", "slow": "", "html": "",
	"bomb": "", "loris": "", "crowd": "", "weak": "", "twins": "", "secret": "", "redirected": "",
	"metadata": "https://169.254.169.254/keys", "metadata6": "https://[fd00:ec2::254]/keys", "nowhere": "https://127.0.0.1:1/keys",
}

func startTokens(t *testing.T) *tokenScene {
	t.Helper()
	s := &tokenScene{idp: startIssuers(t), key: newKey(t)}
	var err error
	if s.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	s.good = s.signer("good")
	s.another = &signer{key: newKey(t), kid: "es", issuer: issuerOf("another")}
	es := ecJWK("es", s.key)
	for path := range sets {
		s.idp.publish("/"+path, es)
	}
	s.idp.publish("/good", es, rsaJWK("rs", &s.rsa.PublicKey))
	s.idp.publish("/another", ecJWK("es", s.another.key))
	s.idp.answer("/down", nil)
	s.hostileSets(t, es)
	var entries []string
	for name, uri := range sets {
		if uri == "" {
			uri = s.idp.URL + "/" + name
		}
		entries = append(entries, entry(name, uri, private))
	}
	local := strings.Replace(s.idp.URL, "127.0.0.1", "localhost", 1)
	entries = append(entries, entry("loopback", s.idp.URL+"/loopback", ""), entry("localhost", local+"/localhost", ""))
	s.scene = stage(t, "", stack.Options{Catalog: issuerFile(t, ", audit: best_effort", entries...)})
	return s
}

// hostileSets are answers that no keys are taken from.
func (s *tokenScene) hostileSets(t *testing.T, es map[string]any) {
	t.Helper()
	endless := func(most int, pause time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			text, _ := json.Marshal(map[string]any{"keys": []any{es}})
			_, _ = w.Write(text[:len(text)-1])
			for range most {
				if _, err := w.Write([]byte(strings.Repeat(" ", 1<<10))); err != nil || r.Context().Err() != nil {
					return
				}
				if pause > 0 {
					_ = http.NewResponseController(w).Flush()
					wait(t, pause)
				}
			}
			_, _ = w.Write([]byte("}"))
		}
	}
	s.idp.answer("/bomb", endless(50<<10, 0))
	s.idp.answer("/loris", endless(60, 200*time.Millisecond))
	crowd := make([]map[string]any, 10_000)
	for i := range crowd {
		crowd[i] = map[string]any{"kty": "EC", "crv": "P-256", "kid": fmt.Sprint(i), "x": es["x"], "y": es["y"]}
	}
	s.idp.publish("/crowd", append(crowd, es)...)
	weak := &rsa.PublicKey{N: s.rsa.N, E: s.rsa.E}
	jwk := rsaJWK("rs", weak)
	jwk["n"] = b64(s.rsa.N.Bytes()[:64])
	s.idp.publish("/weak", jwk)
	s.idp.publish("/twins", es, ecJWK("es", newKey(t)))
	private := ecJWK("es", s.key)
	d, err := s.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private["d"] = b64(d)
	s.idp.publish("/secret", private)
	s.idp.answer("/redirected", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/good", http.StatusFound) })
	s.idp.answer("/html", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>maintenance")) })
}

// signer signs with the key that most sets have.
func (s *tokenScene) signer(issuer string) *signer {
	return &signer{key: s.key, kid: "es", issuer: issuerOf(issuer)}
}

// try judges one token.
func (s *tokenScene) try(t *testing.T, token string, want verdict) sighting {
	t.Helper()
	_, record, seen := s.judged(t, want, func() reply { return s.raw(t, bearerOf(token)) })
	if want == passes && record.Scheme != "jwt" {
		t.Errorf("the record says scheme %q", record.Scheme)
	}
	if strings.Contains(record.Detail+record.Principal, "eyJ") {
		t.Error("the record has the token")
	}
	return seen
}

func TestAttacksOnTokens(t *testing.T) {
	s := startTokens(t)
	t.Run("J-00 a good token passes, and the upstream does not get it", func(t *testing.T) {
		seen := s.try(t, s.good.token(nil), passes)
		if v := seen.values(tenant.Header); len(v) != 1 || v[0] != "acme" || len(seen.values("authorization")) != 0 {
			t.Errorf("the upstream got %q and %q", v, seen.values("authorization"))
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	for name, token := range s.forged(t) {
		t.Run(name, func(t *testing.T) { s.try(t, token, isNobody) })
	}
	for name, with := range badClaims() {
		t.Run(name, func(t *testing.T) { s.try(t, s.good.token(with), isNobody) })
	}
	for name, with := range map[string]claims{
		"J-05 an aud that is a list with ours in it passes": {"aud": `["x","voice-api"]`},
	} {
		t.Run(name, func(t *testing.T) { s.try(t, s.good.token(with), passes) })
	}
	t.Run("J-09 two tokens are refused, the same one too", func(t *testing.T) {
		token := s.good.token(nil)
		for _, second := range []string{token, s.good.token(nil), "x"} {
			s.judge(t, isNobody, func() reply { return s.raw(t, bearerOf(token, "authorization: Bearer "+second)) })
		}
	})
	t.Run("J-09 a token in every place that a proxy may look is one token or none", func(t *testing.T) {
		token := s.good.token(nil)
		s.judge(t, isNobody, func() reply {
			return s.raw(t, http1("GET", "/v1/calls?access_token="+token, "cookie: access_token="+token, "x-jwt-assertion: "+token, "x-forwarded-access-token: "+token))
		})
		s.judge(t, isNobody, func() reply { return s.raw(t, http1("GET", "/v1/calls", "x-api-key: "+token)) })
	})
	testKeySets(t, s)
	t.Run("J-00 a good token passes after all of that", func(t *testing.T) { s.try(t, s.good.token(nil), passes) })
}

// forged are tokens whose header or signature is an attack.
func (s *tokenScene) forged(t *testing.T) map[string]string {
	t.Helper()
	good := s.good.token(nil)
	parts := strings.Split(good, ".")
	head := func(h string) string { return b64([]byte(h)) + "." + parts[1] }
	der, err := x509.MarshalPKIXPublicKey(&s.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	mac := func(message string, key []byte) string {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(message))
		return message + "." + b64(h.Sum(nil))
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	asn, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	mine := newKey(t)
	jwk, _ := json.Marshal(ecJWK("es", mine))
	evil := s.idp.URL + "/evil"
	s.idp.publish("/evil", ecJWK("es", mine), ecJWK("mine", mine))
	return map[string]string{
		"J-02 alg none is refused":                                                 head(`{"alg":"none"}`) + ".",
		"J-02 alg none with the old signature is refused":                          head(`{"alg":"none","kid":"es"}`) + "." + parts[2],
		"J-02 alg nOnE is refused":                                                 head(`{"alg":"nOnE","kid":"es"}`) + "." + parts[2],
		"J-02 HS256 with the RSA key as the secret is refused":                     mac(head(`{"alg":"HS256","kid":"rs"}`), public),
		"J-02 RS256 said and HMAC done is refused":                                 mac(head(`{"alg":"RS256","kid":"rs"}`), public),
		"J-02 HS256 with an empty secret is refused":                               mac(head(`{"alg":"HS256","kid":"es"}`), nil),
		"J-02 PS256 is not on the list":                                            signES256(s.key, head(`{"alg":"PS256","kid":"rs"}`)),
		"J-02 ES256 with the name of the RSA key is refused":                       signES256(s.key, head(`{"alg":"ES256","kid":"rs"}`)),
		"J-02 ES256 in DER is refused":                                             parts[0] + "." + parts[1] + "." + b64(asn),
		"J-02 an ES256 signature of zeros is refused":                              parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)),
		"J-02 no signature is refused":                                             parts[0] + "." + parts[1] + ".",
		"J-02 a signature of another token is refused":                             parts[0] + "." + parts[1] + "." + strings.Split(s.good.token(nil), ".")[2],
		"J-02 a changed payload is refused":                                        parts[0] + "." + b64([]byte(`{"iss":"https://good.example.com","tenant":"umbrella"}`)) + "." + parts[2],
		"J-04 a token that says A and is signed by B, of the same kid, is refused": (&signer{key: s.another.key, kid: "es", issuer: issuerOf("good")}).token(nil),
		"J-04 the other way around too":                                            s.signer("another").token(nil),
		"J-05 an unknown crit is refused":                                          s.good.sign(`{"alg":"ES256","kid":"es","crit":["x"],"x":1}`, nil),
		"J-05 an empty crit is refused":                                            s.good.sign(`{"alg":"ES256","kid":"es","crit":[]}`, nil),
		"J-05 the typ of another kind of token is refused":                         s.good.sign(`{"alg":"ES256","kid":"es","typ":"logout+jwt"}`, nil),
		"J-05 a tenant token's typ is refused":                                     s.good.sign(`{"alg":"ES256","kid":"es","typ":"sluice-tenant+jwt"}`, nil),
		"J-08 the attacker's key in jwk is not used":                               (&signer{key: mine, issuer: issuerOf("good")}).sign(`{"alg":"ES256","kid":"es","jwk":`+string(jwk)+`}`, nil),
		"J-08 the attacker's address in jku is not asked":                          (&signer{key: mine, issuer: issuerOf("good")}).sign(`{"alg":"ES256","kid":"es","jku":"`+evil+`"}`, nil),
		"J-08 the attacker's address in jku is not asked for an own kid":           (&signer{key: mine, issuer: issuerOf("good")}).sign(`{"alg":"ES256","kid":"mine","jku":"`+evil+`"}`, nil),
		"J-08 the attacker's address in x5u is not asked":                          (&signer{key: mine, issuer: issuerOf("good")}).sign(`{"alg":"ES256","kid":"es","x5u":"`+evil+`"}`, nil),
		"J-08 a kid that is a path is a name that nobody published":                s.good.sign(`{"alg":"ES256","kid":"../../dev/null"}`, nil),
		"J-11 a header's name twice is refused":                                    s.good.sign(`{"alg":"none","alg":"ES256","kid":"es"}`, nil),
		"J-11 a token of 9 KiB is refused":                                         s.good.token(claims{"x": `"` + strings.Repeat("x", 9<<10) + `"`}),
		"J-11 five parts are an encrypted token, which nobody opens":               good + ".AAAA.AAAA",
		"J-11 ten thousand dots are refused":                                       "ey" + strings.Repeat(".", 10_000),
		"J-11 standard base64 is not URL base64":                                   strings.Replace(good, parts[2], "+/"+parts[2][2:], 1),
		"J-11 padding is refused":                                                  good + "==",
	}
}

// badClaims are payloads with a good signature that are refused.
func badClaims() map[string]claims {
	now := time.Now().Unix()
	all := map[string]claims{
		"J-05 no aud is refused": {"aud": ""}, "J-05 an aud of null is refused": {"aud": "null"}, "J-05 another aud is refused": {"aud": `"other"`},
		"J-05 an empty list for aud is refused": {"aud": "[]"}, "J-05 an aud that ours begins is refused": {"aud": `"voice-api2"`}, "J-05 an aud in another case is refused": {"aud": `"Voice-Api"`},
		"J-05 an aud with a number is refused": {"aud": `["voice-api",1]`}, "J-05 an aud that is an object is refused": {"aud": `{"voice-api":true}`},
		"J-05 no iss is refused": {"iss": ""}, "J-05 an iss with a slash at the end is another": {"iss": `"https://good.example.com/"`}, "J-05 an iss in upper case is another": {"iss": `"HTTPS://GOOD.EXAMPLE.COM"`},
		"J-05 an iss that nobody listed is refused": {"iss": `"https://evil.example.com"`}, "J-05 an iss that is a list is refused": {"iss": `["https://good.example.com"]`},
		"J-05 no exp is refused": {"exp": ""}, "J-05 an exp that is over is refused": {"exp": fmt.Sprint(now - 600)}, "J-05 an exp of 2^63 is refused": {"exp": "9223372036854775808"},
		"J-05 a negative exp is refused": {"exp": "-1"}, "J-05 an exp that is a text is refused": {"exp": fmt.Sprintf(`"%d"`, now+600)}, "J-11 an exp of 1e309 is refused": {"exp": "1e309"},
		"J-05 an exp that was a second ago is refused": {"exp": fmt.Sprint(now - 1)}, "J-05 an exp of null is refused": {"exp": "null"}, "J-05 an nbf in the future is refused": {"nbf": fmt.Sprint(now + 600)}, "J-05 an iat in the future is refused": {"iat": fmt.Sprint(now + 600)},
		"J-05 no sub is refused": {"sub": ""}, "J-05 an empty sub is refused": {"sub": `""`}, "H-13 a sub with a line break is refused": {"sub": `"jo\r\nx-admin: 1"`},
		"H-13 a tenant with a line break is refused": {"tenant": `"acme\r\nx-admin: 1"`}, "J-11 no tenant is refused": {"tenant": ""}, "J-11 a tenant that is a number is refused": {"tenant": "7"},
		"J-11 a tenant of null is refused": {"tenant": "null"}, "J-11 a tenant that is a list is refused": {"tenant": `["acme"]`}, "J-11 a tenant in upper case is refused": {"tenant": `"ACME"`},
		"J-11 a tenant that does not exist is refused": {"tenant": `"nobody"`}, "J-11 a homoglyph of a tenant is refused": {"tenant": `"аcme"`},
		"J-11 the tenant twice is refused":              {"+": `"tenant":"umbrella"`},
		"J-11 Tenant beside tenant is refused":          {"+": `"Tenant":"umbrella"`},
		"J-11 the tenant once more, escaped is refused": {"+": `"\u0074enant":"umbrella"`},
		"J-11 a payload ten thousand deep is refused":   {"x": strings.Repeat("[", 3000) + strings.Repeat("]", 3000)},
		"J-11 a payload that goes on is refused":        {"+": `"x":1}{"y":1`},
	}
	return all
}

func testKeySets(t *testing.T, s *tokenScene) {
	t.Run("J-01 a set that is down at the start lets nobody in, and is found when it is up", func(t *testing.T) {
		down := s.signer("down")
		s.try(t, down.token(nil), isNobody)
		s.try(t, s.good.token(nil), passes)
		s.idp.publish("/down", ecJWK("es", s.key))
		await.That(t, "the set is fetched again", func() bool { return s.raw(t, bearerOf(down.token(nil))).status == http.StatusOK })
		s.settled(t)
	})
	t.Run("J-03 a thousand made-up kids cause one fetch, and delay nobody else", func(t *testing.T) {
		storm, before, others, began := s.signer("storm"), s.idp.fetched("/storm"), s.idp.fetched("/good"), time.Now()
		for i := range 1000 {
			storm.kid = fmt.Sprintf("k%d", i)
			if got := s.raw(t, bearerOf(storm.token(nil))); got.status != http.StatusUnauthorized {
				t.Fatalf("status %d", got.status)
			}
		}
		if n := s.idp.fetched("/storm") - before; n > 1+halfMinutes(began) {
			t.Errorf("%d fetches", n)
		}
		if n := s.idp.fetched("/good") - others; n > 1 {
			t.Errorf("%d fetches of another issuer's set", n)
		}
		s.settled(t)
		s.try(t, s.good.token(nil), passes)
		storm.kid = "es"
		s.try(t, storm.token(nil), passes)
	})
	for name, hits := range map[string]string{"metadata": "", "metadata6": "", "nowhere": "", "loopback": "/loopback", "localhost": "/localhost"} {
		t.Run("J-06 keys at "+name+" are not fetched", func(t *testing.T) {
			s.try(t, s.signer(name).token(nil), isNobody)
			if hits != "" && s.idp.fetched(hits) != 0 {
				t.Errorf("%d fetches", s.idp.fetched(hits))
			}
		})
	}
	t.Run("J-06 a redirect is not followed", func(t *testing.T) {
		s.try(t, s.signer("redirected").token(nil), isNobody)
		if s.idp.fetched("/redirected") == 0 {
			t.Error("nobody asked")
		}
	})
	for name, what := range map[string]string{
		"bomb": "a set of 50 MB", "loris": "a set that comes a kilobyte at a time", "crowd": "a set of 10,000 keys", "twins": "two keys of one kid",
		"secret": "a private key in the set", "html": "a page instead of a set",
	} {
		t.Run("J-07 "+what+" lets nobody in", func(t *testing.T) {
			s.try(t, s.signer(name).token(nil), isNobody)
			if s.idp.fetched("/"+name) == 0 {
				t.Error("nobody asked")
			}
		})
	}
	t.Run("J-07 an RSA key of 512 bits lets nobody in", func(t *testing.T) {
		weak := &signer{key: s.key, issuer: issuerOf("weak")}
		s.try(t, weak.sign(`{"alg":"RS256","kid":"rs"}`, nil), isNobody)
	})
	t.Run("J-08 nobody has asked the attacker's server", func(t *testing.T) {
		if n := s.idp.fetched("/evil"); n != 0 {
			t.Errorf("%d fetches", n)
		}
	})
	t.Run("J-10 a new key passes in the second in which it is published, and the one that it replaced is refused, remembered or not", func(t *testing.T) {
		old := s.signer("rotating")
		kept := old.token(nil)
		s.try(t, kept, passes)
		s.try(t, kept, passes)
		next := &signer{key: newKey(t), kid: "next", issuer: old.issuer}
		s.idp.publish("/rotating", ecJWK("next", next.key))
		// A request waits a quarter of a second for keys, and this machine may take longer.
		await.Within(t, 10*time.Second, "the new key has been fetched", func() bool { return s.raw(t, bearerOf(next.token(nil))).status == http.StatusOK })
		s.settled(t)
		s.try(t, next.token(nil), passes)
		s.try(t, kept, isNobody)
		s.try(t, old.token(nil), isNobody)
	})
	testF14(t, s)
}

// settled waits until all that Envoy has asked is on record, or counted there.
func (s *tokenScene) settled(t *testing.T) {
	t.Helper()
	await.That(t, "no more records come", func() bool { return s.accounted(t) == s.asked(t) })
}

// halfMinutes are those that have begun since then: a set is fetched once in each.
func halfMinutes(since time.Time) int { return 1 + int(time.Since(since)/(30*time.Second)) }

// testF14 has an issuer fail in three ways while its tokens are used.
func testF14(t *testing.T, s *tokenScene) {
	for name, fault := range map[string]http.HandlerFunc{
		"sick":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"large": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 10<<20)) },
		"slow":  func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run("F14 while a set is "+name+" its tokens pass, and it is asked once in half a minute", func(t *testing.T) {
			own := s.signer(name)
			s.try(t, own.token(nil), passes)
			s.idp.answer("/"+name, fault)
			before, began := s.idp.fetched("/"+name), time.Now()
			for i := range 60 {
				made := &signer{key: s.key, kid: fmt.Sprintf("k%d", i), issuer: own.issuer}
				if got := s.raw(t, bearerOf(made.token(nil))); got.status != http.StatusUnauthorized {
					t.Fatalf("a made-up kid: %d", got.status)
				}
				if got := s.raw(t, bearerOf(own.token(nil))); got.status != http.StatusOK {
					t.Fatalf("a good token: %d", got.status)
				}
			}
			if n := s.idp.fetched("/"+name) - before; n > 1+halfMinutes(began) {
				t.Errorf("%d fetches", n)
			}
			s.settled(t)
		})
	}
}
