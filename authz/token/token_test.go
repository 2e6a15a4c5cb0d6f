package token_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/token"
)

const (
	day    = 24 * int64(time.Hour/time.Microsecond)
	minute = int64(time.Minute / time.Microsecond)
	second = int64(time.Second / time.Microsecond)

	now    = 20_000*day + day/2
	holder = "spiffe://mesh/ns/calls/sa/api"
)

var secret = [32]byte{1, 2, 3}

func tokens() *token.Tokens { return token.New(token.Options{Secret: secret}) }

func claims() token.Claims {
	return token.Claims{
		Principal: authz.Principal{Scheme: authz.JWT, Name: `idp/a "b" \c`, Roles: []string{"admin", `x\"y`}, Expires: now + 60*minute, Voucher: issuers(idp()).All()[0].Voucher()},
		Tenant:    "acme", Plan: "gold", Decision: [16]byte{0xab, 15: 1}, Holder: holder,
	}
}

func mint(t testing.TB, tokens *token.Tokens, at int64, c token.Claims) string {
	t.Helper()
	b, err := tokens.Mint(nil, at, &c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// forge signs header and payload as whoever knows the secret could.
func forge(secret [32]byte, epoch int64, header, payload string) string {
	seed, err := hkdf.Key(sha256.New, secret[:], nil, string(binary.BigEndian.AppendUint64([]byte("sluice tenant token v1"), uint64(epoch))), ed25519.SeedSize)
	if err != nil {
		panic(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(seed), []byte(text)))
}

func parts(t testing.TB, text string) (header, payload string) {
	t.Helper()
	p := strings.Split(text, ".")
	if len(p) != 3 {
		t.Fatalf("%d parts", len(p))
	}
	h, err := base64.RawURLEncoding.DecodeString(p[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := base64.RawURLEncoding.DecodeString(p[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(h), string(b)
}

func TestVerifyRefuses(t *testing.T) {
	good := mint(t, tokens(), now, claims())
	header, payload := parts(t, good)
	epoch := now / day
	voucher := claims().Principal.Voucher
	vch := hex.EncodeToString(voucher[:])
	edit := func(from, to string) string {
		if !strings.Contains(payload, from) {
			t.Fatalf("%s is not in %s", from, payload)
		}
		return forge(secret, epoch, header, strings.Replace(payload, from, to, 1))
	}
	if forge(secret, epoch, header, payload) != good {
		t.Fatal("the forge does not make what Mint makes, so its refusals would prove nothing")
	}
	with := func(h string) string { return forge(secret, epoch, h, payload) }
	old := mint(t, tokens(), now-2*day, func() token.Claims { c := claims(); c.Principal.Expires = 0; return c }())
	for _, c := range []struct {
		name      string
		token     string
		at        int64
		presenter string
		want      error
	}{
		{"another holder", good, now, "spiffe://mesh/ns/calls/sa/apo", token.ErrHolder},
		{"a presenter without mTLS", good, now, "", token.ErrHolder},
		{"a holder with a slash at the end", good, now, holder + "/", token.ErrHolder},
		{"a holder in capitals", good, now, strings.ToUpper(holder), token.ErrHolder},
		{"an expired token, beyond the skew", good, now + 5*minute + 30*second, holder, token.ErrExpired},
		{"a token from the future, beyond the skew", good, now - 30*second - 1, holder, token.ErrEarly},
		{"a key of two epochs ago", old, now, holder, token.ErrKey},
		{"a key of two epochs ahead", good, now - 2*day, holder, token.ErrKey},
		{"a key of another epoch than the time of issue", forge(secret, epoch-1, strings.Replace(header, fmt.Sprint(epoch), fmt.Sprint(epoch-1), 1), payload), now, holder, token.ErrMalformed},
		{"a token of another secret", mint(t, token.New(token.Options{Secret: [32]byte{9}}), now, claims()), now, holder, token.ErrSignature},
		{"J-02 alg none", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + ".", now, holder, token.ErrMalformed},
		{"J-02 alg none in our header", with(strings.Replace(header, "EdDSA", "none", 1)), now, holder, token.ErrMalformed},
		{"J-02 alg in another case", with(strings.Replace(header, "EdDSA", "EDDSA", 1)), now, holder, token.ErrMalformed},
		{"J-05 another typ", with(strings.Replace(header, "sluice-tenant+jwt", "JWT", 1)), now, holder, token.ErrMalformed},
		{"J-05 crit", with(strings.TrimSuffix(header, "}") + `,"crit":["b64"]}`), now, holder, token.ErrKey},
		{"J-08 a jwk in the header", with(strings.TrimSuffix(header, "}") + `,"jwk":{}}`), now, holder, token.ErrKey},
		{"a header with the same members in another order", with(`{"alg":"EdDSA","typ":"sluice-tenant+jwt","kid":"` + fmt.Sprint(epoch) + `"}`), now, holder, token.ErrMalformed},
		{"a header with a space", with(strings.Replace(header, ":", ": ", 1)), now, holder, token.ErrMalformed},
		{"J-11 a claim twice", edit(`"tnt":"acme"`, `"tnt":"acme","tnt":"umbrella"`), now, holder, token.ErrMalformed},
		{"J-11 a claim in another case", edit(`"tnt"`, `"Tnt"`), now, holder, token.ErrMalformed},
		{"J-11 an escaped claim", edit(`"tnt"`, `"\u0074nt"`), now, holder, token.ErrMalformed},
		{"J-11 a tenant that is a number", edit(`"acme"`, `7`), now, holder, token.ErrMalformed},
		{"a claim that is missing", edit(`,"pln":"gold"`, ``), now, holder, token.ErrMalformed},
		{"a claim too many", edit(`"pln":"gold"`, `"pln":"gold","adm":true`), now, holder, token.ErrMalformed},
		{"claims in another order", edit(`"tnt":"acme","pln":"gold"`, `"pln":"gold","tnt":"acme"`), now, holder, token.ErrMalformed},
		{"a space between claims", edit(`,"tnt"`, `, "tnt"`), now, holder, token.ErrMalformed},
		{"something after the claims", forge(secret, epoch, header, payload+" "), now, holder, token.ErrMalformed},
		{"a tenant that is none", edit(`"acme"`, `"Acme"`), now, holder, token.ErrMalformed},
		{"H-13 a line break in a name", edit(`"sub":"idp`, "\"sub\":\"\r\nx-admin: 1"), now, holder, token.ErrMalformed},
		{"H-13 an escaped line break in a name", edit(`"sub":"idp`, `"sub":"\n`), now, holder, token.ErrMalformed},
		{"an escape that is not needed", edit(`"gold"`, `"\gold"`), now, holder, token.ErrMalformed},
		{"another issuer", edit(`"iss":"sluice"`, `"iss":"sluicf"`), now, holder, token.ErrMalformed},
		{"a scheme that is nobody", edit(`"sch":"jwt"`, `"sch":"nobody"`), now, holder, token.ErrMalformed},
		{"a decision in capitals", edit(`"did":"ab`, `"did":"AB`), now, holder, token.ErrMalformed},
		{"a decision that is none", edit(`"did":"ab000000000000000000000000000001"`, `"did":"00000000000000000000000000000000"`), now, holder, token.ErrMalformed},
		{"a voucher in capitals", edit(`"vch":"`+vch, `"vch":"`+strings.ToUpper(vch)), now, holder, token.ErrMalformed},
		{"a short voucher", edit(`"vch":"`+vch, `"vch":"`+vch[:30]), now, holder, token.ErrMalformed},
		{"no voucher", edit(`"vch":"`+vch+`",`, ``), now, holder, token.ErrMalformed},
		{"a holder that is no SPIFFE id", edit(`"spiffe://mesh`, `"http://mesh`), now, "http://mesh/ns/calls/sa/api", token.ErrMalformed},
		{"J-05 an exp that is a float", edit(`"exp":`, `"exp":0.`), now, holder, token.ErrMalformed},
		{"J-05 an exp with a zero before it", edit(`"exp":`, `"exp":0`), now, holder, token.ErrMalformed},
		{"J-05 a negative iat", edit(`"iat":`, `"iat":-`), now, holder, token.ErrMalformed},
		{"J-05 an exp of 2^63", edit(`"exp":`, `"exp":9223372036854775808`), now, holder, token.ErrMalformed},
		{"a life beyond an hour", edit(fmt.Sprintf(`"exp":%d`, now/second+300), fmt.Sprintf(`"exp":%d`, now/second+3601)), now, holder, token.ErrMalformed},
		{"a life beyond the credential's", edit(fmt.Sprintf(`"cxp":%d`, (now+60*minute)/second), fmt.Sprintf(`"cxp":%d`, now/second+60)), now, holder, token.ErrMalformed},
		{"nothing", "", now, holder, token.ErrMalformed},
		{"two dots", "..", now, holder, token.ErrMalformed},
		{"B-10 a kilobyte of dots", strings.Repeat(".", 1024), now, holder, token.ErrMalformed},
		{"B-10 a megabyte of dots", strings.Repeat(".", 1<<20), now, holder, token.ErrMalformed},
		{"a line break at the end", good + "\n", now, holder, token.ErrMalformed},
		{"a line break in the signature", good[:len(good)-10] + "\n" + good[len(good)-10:], now, holder, token.ErrMalformed},
		{"a line break in the claims", good[:200] + "\r" + good[200:], now, holder, token.ErrMalformed},
		{"a space before it", " " + good, now, holder, token.ErrMalformed},
		{"padding", good + "==", now, holder, token.ErrMalformed},
		{"two tokens", good + "," + good, now, holder, token.ErrMalformed},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			tokens := tokens()
			got, err := tokens.Verify(c.at, c.token, c.presenter)
			if !errors.Is(err, c.want) || !reflect.DeepEqual(got, token.Claims{}) {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
			// What is known to be well signed is refused for the rest all the same.
			if _, err := tokens.Verify(now, good, holder); err != nil {
				t.Fatal(err)
			}
			if got, err := tokens.Verify(c.at, c.token, c.presenter); err == nil || got.Tenant != "" {
				t.Errorf("after a good one: %v, %v", got, err)
			}
		})
	}
}

func TestVerifyRefusesEveryFlippedBitAndEveryCut(t *testing.T) {
	tokens, good := tokens(), mint(t, tokens(), now, claims())
	for i := range good {
		for bit := range 8 {
			bad := []byte(good)
			bad[i] ^= 1 << bit
			if _, err := tokens.Verify(now, string(bad), holder); err == nil {
				t.Fatalf("byte %d, bit %d: accepted", i, bit)
			}
		}
		if _, err := tokens.Verify(now, good[:i], holder); err == nil {
			t.Fatalf("cut at %d: accepted", i)
		}
	}
}

func TestVerifyReturnsWhatWasMinted(t *testing.T) {
	want := claims()
	want.Issued, want.Expires = now, now+5*minute
	for name, at := range map[string]int64{
		"at once": now, "from a replica whose clock is 30 s ahead": now - 30*second, "at the last moment": now + 5*minute + 30*second - 1,
	} {
		t.Run("a token is accepted "+name, func(t *testing.T) {
			tokens := tokens()
			for range 2 { // the second time from the cache
				if got, err := tokens.Verify(at, mint(t, tokens, now, claims()), holder); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%+v, %v\nwant %+v", got, err, want)
				}
			}
		})
	}
	t.Run("it is a JSON Web Token that others can read", func(t *testing.T) {
		header, payload := parts(t, mint(t, tokens(), now, claims()))
		var h, p map[string]any
		if json.Unmarshal([]byte(header), &h) != nil || json.Unmarshal([]byte(payload), &p) != nil {
			t.Fatalf("%s %s", header, payload)
		}
		if h["alg"] != "EdDSA" || h["typ"] != "sluice-tenant+jwt" || p["sub"] != `idp/a "b" \c` ||
			p["cnf"].(map[string]any)["spiffe"] != holder || p["rol"].([]any)[1] != `x\"y` {
			t.Errorf("%v %v", h, p)
		}
	})
	t.Run("without roles, and by a credential that never ends", func(t *testing.T) {
		c := claims()
		c.Principal = authz.Principal{Scheme: authz.SPIFFE, Name: "spiffe://mesh/ns/a/sa/b"}
		got, err := tokens().Verify(now, mint(t, tokens(), now, c), holder)
		c.Issued, c.Expires = now, now+5*minute
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestKeysChangeWithoutAWord(t *testing.T) {
	c := claims()
	c.Principal.Expires = 0
	midnight := now/day*day + day
	for _, x := range []struct {
		name           string
		minted, judged int64
	}{
		{"a token of the evening is good after midnight", midnight - second, midnight + 4*minute},
		{"a token of a replica that is past midnight is good before it", midnight, midnight - 29*second},
	} {
		t.Run(x.name, func(t *testing.T) {
			judge := tokens() // another replica
			if _, err := judge.Verify(x.judged-day, mint(t, tokens(), x.judged-day, c), holder); err != nil {
				t.Fatal(err)
			}
			if _, err := judge.Verify(x.judged, mint(t, tokens(), x.minted, c), holder); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMintRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*token.Claims)
		want error
	}{
		{"nobody", func(c *token.Claims) { c.Principal.Scheme = authz.Nobody }, token.ErrClaims},
		{"a scheme that there is not", func(c *token.Claims) { c.Principal.Scheme = 200 }, token.ErrClaims},
		{"a principal without a name", func(c *token.Claims) { c.Principal.Name = "" }, token.ErrClaims},
		{"H-13 a name with a line break", func(c *token.Claims) { c.Principal.Name = "a\r\nb" }, token.ErrClaims},
		{"a name that is not ASCII", func(c *token.Claims) { c.Principal.Name = "ä" }, token.ErrClaims},
		{"H-04 a tenant that is none", func(c *token.Claims) { c.Tenant = "tenаnt" }, token.ErrClaims},
		{"no tenant", func(c *token.Claims) { c.Tenant = "" }, token.ErrClaims},
		{"no decision", func(c *token.Claims) { c.Decision = [16]byte{} }, token.ErrClaims},
		{"no holder", func(c *token.Claims) { c.Holder = "" }, token.ErrClaims},
		{"a holder without mTLS", func(c *token.Claims) { c.Holder = "loopback" }, token.ErrClaims},
		{"too many roles", func(c *token.Claims) { c.Principal.Roles = make([]string, 65) }, token.ErrClaims},
		{"a credential that has ended", func(c *token.Claims) { c.Principal.Expires = now }, token.ErrExpired},
		{"a credential that ends in this second", func(c *token.Claims) { c.Principal.Expires = now + second - 1 }, token.ErrExpired},
		{"more than fits", func(c *token.Claims) { c.Principal.Name = strings.Repeat("a", 1200) }, token.ErrTooLarge},
		{"a name of a megabyte", func(c *token.Claims) { c.Principal.Name = strings.Repeat("a", 1<<20) }, token.ErrTooLarge},
	} {
		t.Run(c.name+" gets no token", func(t *testing.T) {
			cl := claims()
			c.edit(&cl)
			if b, err := tokens().Mint([]byte("before"), now, &cl); !errors.Is(err, c.want) || string(b) != "before" {
				t.Errorf("%q, %v; want %v", b, err, c.want)
			}
		})
	}
}

func TestATokenNeverOutlivesTheCredential(t *testing.T) {
	c := claims()
	c.Principal.Expires = now + 90*second
	got, err := tokens().Verify(now, mint(t, tokens(), now, c), holder)
	if err != nil || got.Expires != now+90*second {
		t.Errorf("%d after now, %v", got.Expires-now, err)
	}
}

func TestMintAppends(t *testing.T) {
	c := claims()
	b, err := tokens().Mint([]byte("x: "), now, &c)
	if err != nil || !bytes.HasPrefix(b, []byte("x: ey")) {
		t.Fatalf("%s, %v", b, err)
	}
	if _, err := tokens().Verify(now, string(b[3:]), holder); err != nil {
		t.Error(err)
	}
}

func TestTheCacheIsBoundedAndForgetsNothingThatMatters(t *testing.T) {
	tokens := token.New(token.Options{Secret: secret, Cache: 64})
	c := claims()
	var all []string
	for i := range 500 {
		c.Decision[1], c.Decision[2] = byte(i), byte(i>>8)
		all = append(all, mint(t, tokens, now, c))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, text := range all {
				got, err := tokens.Verify(now, text, holder)
				if err != nil || got.Decision[1] != byte(i) {
					t.Errorf("%d: %v", i, err)
				}
				if _, err := tokens.Verify(now, text, "spiffe://mesh/other"); !errors.Is(err, token.ErrHolder) {
					t.Errorf("%d: another holder: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if n := tokens.Cached(); n > 64 {
		t.Errorf("%d are kept, want at most 64", n)
	}
}

func TestAKnownTokenAllocatesNothing(t *testing.T) {
	tokens := tokens()
	text := mint(t, tokens, now, claims())
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := tokens.Verify(now, text, holder); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	buffer, c := make([]byte, 0, token.MaxSize), claims()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := tokens.Mint(buffer, now, &c); err != nil {
			t.Error(err)
		}
	}); n > 2 {
		t.Errorf("minting: %v allocations, want at most 2", n)
	}
}

func BenchmarkMint(b *testing.B) {
	tokens, buffer, c := tokens(), make([]byte, 0, token.MaxSize), claims()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tokens.Mint(buffer, now, &c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	good := mint(b, tokens(), now, claims())
	other := mint(b, token.New(token.Options{Secret: [32]byte{9}}), now, claims())
	b.Run("known", func(b *testing.B) {
		tokens := tokens()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tokens.Verify(now, good, holder); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("new", func(b *testing.B) {
		tokens, c := tokens(), claims()
		all := make([]string, 1<<15)
		for i := range all {
			c.Decision[1], c.Decision[2] = byte(i), byte(i>>8)
			all[i] = mint(b, tokens, now, c)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := tokens.Verify(now, all[i%len(all)], holder); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bad", func(b *testing.B) {
		tokens := tokens()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tokens.Verify(now, other, holder); err == nil {
				b.Fatal("accepted")
			}
		}
	})
}
