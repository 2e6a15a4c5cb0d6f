package authn_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
)

// bad is a token that must be refused, and why.
type bad struct{ name, token, why string }

func TestTokensThatAreRefused(t *testing.T) {
	corpus := slices.Concat(badForms(), badHeaders(), badSignatures(), badClaims(), badTimes())
	if len(corpus) < 200 {
		t.Errorf("the corpus has %d tokens, want 200", len(corpus))
	}
	w := newWorld(t, authn.Options{})
	fetches := w.fetches.Load()
	for i, tt := range corpus {
		t.Run(tt.name, func(t *testing.T) {
			c := authz.Credentials{Tokens: []string{tt.token}, Source: fmt.Sprint(i)} // each its own budget
			why := w.refused(func() {
				p, account, err := w.identify(c)
				if !errors.Is(err, authn.ErrBadCredential) || account != nil || p.Name != "" {
					t.Errorf("got %+v, %v, %v", p, account, err)
				}
			})
			if why != tt.why {
				t.Errorf("refused for %q, want %q", why, tt.why)
			}
		})
	}
	if n := w.fetches.Load() - fetches; n > 3 { // two realms, and one for all the unknown kids
		t.Errorf("%d fetches", n)
	}
}

func badForms() []bad {
	good := token(nil, nil)
	parts := strings.Split(good, ".")
	all := []bad{
		{"no text at all", "", "token_form"},
		{"one part", parts[0], "token_form"},
		{"two parts", parts[0] + "." + parts[1], "token_form"},
		{"four parts", good + ".", "token_form"},
		{"B10 five parts (JWE)", good + ".a.b", "token_form"},
		{"B10 a megabyte of dots", strings.Repeat(".", 1<<20), "token_form"},
		{"B10 8 KiB of dots", strings.Repeat(".", 8<<10), "token_form"},
		{"B10 longer than 8 KiB", token(nil, m{"pad": `"` + strings.Repeat("a", 8<<10) + `"`}), "token_form"},
		{"two dots and nothing else", "..", "token_form"},
		{"an empty header", "." + parts[1] + "." + parts[2], "token_form"},
		{"an empty payload", parts[0] + ".." + parts[2], "token_form"},
		{"an empty signature", parts[0] + "." + parts[1] + ".", "token_form"},
		{"a blank in front", " " + good, "token_form"},
		{"a blank behind", good + " ", "token_form"},
		{"a line break behind, which the library skips", good + "\n", "token_form"},
		{"a line break inside", parts[0] + "\r\n." + parts[1] + "." + parts[2], "token_form"},
		{"padding", parts[0] + "." + parts[1] + "." + parts[2] + "==", "token_form"},
		{"the other base64 alphabet", parts[0] + "." + parts[1] + "." + strings.Repeat("+", 86), "token_form"},
	}
	last := parts[2][:len(parts[2])-1] // 64 bytes leave 4 bits that must be 0
	for _, c := range "BCDEFGHIJKLMNOPRSTUVWX" {
		other := last + string(c)
		if strings.ContainsRune("AQgw", c) || other == parts[2] {
			continue
		}
		all = append(all, bad{"unused bits that are not 0: " + string(c), parts[0] + "." + parts[1] + "." + other, "token_form"})
	}
	for name, text := range map[string]string{
		"no JSON": "hello", "a list": "[]", "a string": `"a"`, "null": "null", "a number": "1", "nothing": " ",
		"two objects": "{}{}", "an object cut off": `{"a":1`, "a comma too many": `{"alg":"ES256",}`, "a byte order mark": "\ufeff{}",
		"bytes that are no UTF-8": "{\"alg\":\"ES256\xff\"}", "a comment": `{/**/}`, "single quotes": `{'alg':'ES256'}`,
		"not a number": `{"alg":NaN}`, "a name without quotes": `{alg:"ES256"}`, "UTF-16": "\xfe\xff\x00{\x00}",
		"nine levels": strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9), "5,000 levels": strings.Repeat("[", 5000),
		"lists nine deep":     `{"a":` + strings.Repeat("[", 8) + strings.Repeat("]", 8) + `}`,
		"J-11 one name twice": `{"alg":"ES256","alg":"ES256"}`, "129 members": `{` + strings.Join(numbered(129), ",") + `}`,
		"J-11 a name twice, once escaped": `{"alg":"ES256","\u0061lg":"ES256"}`,
	} {
		all = append(all,
			bad{"a header that is " + name, sign(text, payload(nil), "ES256", p256()), "token_form"},
			bad{"a payload that is " + name, sign(header(nil), text, "ES256", p256()), "token_form"})
	}
	slices.SortFunc(all, func(a, b bad) int { return strings.Compare(a.name, b.name) })
	return all
}

func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"m%d":%d`, i, i)
	}
	return all
}

func badHeaders() []bad {
	all := []bad{
		{"J-02 alg none without a signature", sign(header(m{"alg": `"none"`}), payload(nil), "ES256", nil) + "AA", "token_algorithm"},
		{"no alg", token(m{"alg": ""}, nil), "token_algorithm"},
	}
	for _, alg := range []string{
		`"none"`, `"None"`, `"NONE"`, `"nOnE"`, `"HS256"`, `"HS384"`, `"HS512"`, `"es256"`, `"Es256"`, `"ES256 "`, `" ES256"`, `"ES256\u0000"`,
		`"ES256K"`, `"RSA-OAEP"`, `"dir"`, `"PBES2-HS256+A128KW"`, `"A128GCM"`, `""`, `null`, `1`, `true`, `["ES256"]`, `{"alg":"ES256"}`, `"RS1"`, `"Ed448"`, `"S"`,
	} {
		all = append(all, bad{"J-02 the alg " + alg, token(m{"alg": alg}, nil), "token_algorithm"})
	}
	for _, kid := range []string{
		`""`, `null`, `1`, `["p256"]`, `"` + strings.Repeat("a", 129) + `"`, `"` + strings.Repeat("a", 4<<10) + `"`,
		`"P256"`, `"p256 "`, `"p256\u0000"`, `"../../../dev/null"`, `"/etc/passwd"`, `"' OR 1=1 --"`, `"https://evil.example.com/keys"`,
		`"file:///etc/passwd"`, `"$(id)"`, `"|id"`, `"\r\nx: y"`, `"\u202e"`, `"nobody"`,
	} {
		all = append(all, bad{"B8 the kid " + kid[:min(len(kid), 40)], token(m{"kid": kid}, nil), "token_key"})
	}
	for _, crit := range []string{`[]`, `["exp"]`, `["b64"]`, `["x"]`, `null`, `"exp"`} {
		all = append(all, bad{"J-05 crit " + crit, token(m{"crit": crit, "x": "1"}, nil), "token_header"})
	}
	for name, value := range map[string]string{"b64": "false", "enc": `"A128GCM"`, "zip": `"DEF"`} {
		all = append(all, bad{"B10 the header " + name, token(m{name: value}, nil), "token_header"})
	}
	for _, name := range []string{"Alg", "ALG", "Kid", "TYP", "Crit", "CRIT", "B64", "\u212aid"} {
		all = append(all, bad{"J-11 a header in another case: " + name, token(m{name: `"ES256"`}, nil), "token_form"})
	}
	for _, typ := range []string{`"id+jwt"`, `"secevent+jwt"`, `"dpop+jwt"`, `"application/"`, `"none"`, `""`, `null`, `1`, `"JWT "`, `"application/application/jwt"`, `"logout+jwt"`, `"JOSE"`} {
		all = append(all, bad{"J-05 the typ " + typ, token(m{"typ": typ}, nil), "token_type"})
	}
	return append(all,
		bad{"J-05 a type that this issuer does not use", token(m{"typ": `"JWT"`}, m{"iss": `"https://claim.example.com"`}), "token_type"},
		bad{"J-05 no typ where this issuer wants one", token(m{"typ": ""}, m{"iss": `"https://claim.example.com"`}), "token_type"},
		bad{"an algorithm that this issuer does not use", sign(header(m{"alg": `"ES384"`, "kid": `"p384"`}), payload(m{"iss": `"https://claim.example.com"`}), "ES384", p384()), "token_algorithm"},
	)
}

func badSignatures() []bad {
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rsaKey().Public()))})
	attacker := string(must(json.Marshal(jwk("p256", "ES256", other256().Public()))))
	message := b64(header(nil)) + "." + b64(payload(nil))
	raw := signature(message, "ES256", p256())
	der := must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])}))
	with := func(sig []byte) string { return message + "." + base64.RawURLEncoding.EncodeToString(sig) }
	n := p256().Params().N.FillBytes(make([]byte, 32))
	flipped := func(i int, mask byte) []byte {
		b := slices.Clone(raw)
		b[i] ^= mask
		return b
	}
	rsaHead := header(m{"alg": `"RS256"`, "kid": `"rsa"`})
	edHead := header(m{"alg": `"EdDSA"`, "kid": `"ed"`})
	all := []bad{
		{"J-02 HS256 with the RSA key's PEM as the secret", sign(header(m{"alg": `"HS256"`, "kid": `"rsa"`}), payload(nil), "HS256", publicPEM), "token_algorithm"},
		{"J-02 RS256 said, HMAC with the RSA key's PEM done", sign(rsaHead, payload(nil), "HS256", publicPEM), "token_signature"},
		{"J-02 ES256 in DER", with(der), "token_signature"},
		{"B8 ES256 with r and s of 0", with(make([]byte, 64)), "token_signature"},
		{"B8 ES256 with r and s of n", with(slices.Concat(n, n)), "token_signature"},
		{"B8 ES256 with r of 0", with(slices.Concat(make([]byte, 32), raw[32:])), "token_signature"},
		{"B8 ES256 with s of 0", with(slices.Concat(raw[:32], make([]byte, 32))), "token_signature"},
		{"ES256 with r and s the other way around", with(slices.Concat(raw[32:], raw[:32])), "token_signature"},
		{"ES256 a byte short", with(raw[:63]), "token_signature"},
		{"ES256 a byte long", with(append(slices.Clone(raw), 0)), "token_signature"},
		{"ES256 of 96 bytes", with(make([]byte, 96)), "token_signature"},
		{"one byte", with([]byte{1}), "token_signature"},
		{"another key of that kind", sign(header(nil), payload(nil), "ES256", other256()), "token_signature"},
		{"another RSA key", sign(rsaHead, payload(nil), "RS256", otherRSA()), "token_signature"},
		{"RS256 said, PS256 done", sign(rsaHead, payload(nil), "PS256", rsaKey()), "token_signature"},
		{"RS256 said, RS512 done", sign(rsaHead, payload(nil), "RS512", rsaKey()), "token_signature"},
		{"PS256 said, RS256 done", sign(header(m{"alg": `"PS256"`, "kid": `"rsa"`}), payload(nil), "RS256", rsaKey()), "token_signature"},
		{"an RSA signature of 0", b64(rsaHead) + "." + b64(payload(nil)) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 256)), "token_signature"},
		{"an Ed25519 signature of 0", b64(edHead) + "." + b64(payload(nil)) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), "token_signature"},
		{"an Ed25519 signature that is short", b64(edHead) + "." + b64(payload(nil)) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 63)), "token_signature"},
		{"EdDSA of another message", b64(edHead) + "." + b64(payload(nil)) + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(edKey(), []byte("x"))), "token_signature"},
		{"PS256 with a salt of another length", saltedPSS(), "token_signature"},
		{"a payload that was not signed", message[:len(b64(header(nil)))] + "." + b64(payload(m{"sub": `"admin"`})) + "." + base64.RawURLEncoding.EncodeToString(raw), "token_signature"},
		{"J-08 the attacker's key in jwk", sign(header(m{"jwk": attacker}), payload(nil), "ES256", other256()), "token_signature"},
		{"J-08 the attacker's address in jku", sign(header(m{"jku": `"https://evil.example.com/keys"`}), payload(nil), "ES256", other256()), "token_signature"},
		{"J-08 the attacker's address in x5u", sign(header(m{"x5u": `"https://evil.example.com/c"`}), payload(nil), "ES256", other256()), "token_signature"},
		{"J-08 the attacker's chain in x5c", sign(header(m{"x5c": `["MIIB"]`}), payload(nil), "ES256", other256()), "token_signature"},
		{"J-08 jku with a kid of its own", sign(header(m{"jku": `"https://169.254.169.254/"`, "kid": `"mine"`}), payload(nil), "ES256", other256()), "token_key"},
		{"J-08 jwk without a kid, where the set has another key", sign(header(m{"jwk": attacker, "kid": ""}), payload(nil), "ES256", other256()), "token_signature"},
		{"J-04 one realm's token signed by another's key of the same kid", sign(header(nil), payload(m{"iss": `"https://id.example.com/realms/acme"`}), "ES256", other256()), "token_signature"},
		{"J-04 the other way around", sign(header(nil), payload(m{"iss": `"https://id.example.com/realms/umbrella"`}), "ES256", p256()), "token_signature"},
	}
	for _, alg := range []string{"RS256", "PS256", "ES384", "ES512", "EdDSA"} {
		all = append(all, bad{"J-02 " + alg + " said of a P-256 key", sign(header(m{"alg": `"` + alg + `"`}), payload(nil), "ES256", p256()), "token_key"})
	}
	for _, kid := range []string{"rsa", "p384", "p521", "ed"} {
		all = append(all, bad{"J-02 ES256 said of the key " + kid, token(m{"kid": `"` + kid + `"`}, nil), "token_key"})
	}
	for i := 0; i < 64; i += 5 {
		all = append(all, bad{fmt.Sprintf("byte %d of the signature is another", i), with(flipped(i, 1)), "token_signature"})
	}
	return all
}

func saltedPSS() string {
	message := b64(header(m{"alg": `"PS256"`, "kid": `"rsa"`})) + "." + b64(payload(nil))
	sum := sha256.Sum256([]byte(message))
	sig := must(rsa.SignPSS(rand.Reader, rsaKey(), 5, sum[:], &rsa.PSSOptions{SaltLength: 8})) // 5: crypto.SHA256
	return message + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func badClaims() []bad {
	var all []bad
	add := func(why, claim string, values ...string) {
		for _, v := range values {
			all = append(all, bad{"J-05 the " + claim + " " + v[:min(len(v), 40)], token(nil, m{claim: v}), why})
		}
	}
	add("token_issuer", "iss", "", `""`, `null`, `1`, `["https://id.example.com/"]`, `"https://id.example.com"`, `"https://id.example.com//"`,
		`"https://ID.example.com/"`, `"http://id.example.com/"`, `"https://id.example.com:443/"`, `"https://id.example.com/ "`, `"https://evil.com/"`,
		`"https://id.example.com/realms/"`, `"https://id.example.com/realms/acme/"`, `"https://id.example.com/realms/{tenant}"`,
		`"https://id.example.com/realms/../realms/acme"`, `"https://id.example.com/realms/ACME"`)
	add("token_audience", "aud", "", `null`, `""`, `"API"`, `"api "`, `"other"`, `1`, `true`, `[]`, `["other"]`, `{"aud":"api"}`, `["api",1]`, `[["api"]]`, `"api,api2"`, `"api api2"`)
	add("token_subject", "sub", "", `null`, `""`, `1`, `["user-1"]`, `"a b"`, `"a\tb"`, `"a\r\nx-admin: 1"`, `"ü"`, `"a\u0000"`, `"a\u007f"`, `"`+strings.Repeat("a", 257)+`"`, `" "`)
	add("token_form", "Sub", `"admin"`)
	add("token_form", "ISS", `"https://id.example.com/"`)
	add("token_form", "Exp", `9999999999`)
	add("token_form", "AUD", `"api"`)
	add("token_form", "i\u017fs", `"x"`) // the long s, which folds to s
	roles := func(why, v string) {
		all = append(all, bad{"roles " + v[:min(len(v), 40)], token(nil, m{"realm_access": v}), why})
	}
	for _, v := range []string{
		`1`, `"admin"`, `[]`, `null`, `{"roles":1}`, `{"roles":null}`, `{"roles":{}}`, `{"roles":["a",1]}`, `{"roles":[""]}`, `{"roles":[["a"]]}`,
		`{"roles":["a\u0000"]}`, `{"roles":["` + strings.Repeat("a", 129) + `"]}`, `{"roles":[` + strings.Repeat(`"a",`, 64) + `"a"]}`,
		`{"roles":["a"],"roles":["b"]}`, `{"x":1,"\u0078":2}`, `{"Roles":["a"]}`, `{"roles":["a"],"ROLES":["b"]}`,
	} {
		roles("token_roles", v)
	}
	all = append(all, bad{"J-11 Realm_access beside realm_access", token(nil, m{"realm_access": `{"roles":["a"]}`, "Realm_access": `{"roles":["b"]}`}), "token_roles"})
	for _, org := range []string{
		"", `null`, `"acme"`, `{}`, `{"tenant":1}`, `{"tenant":null}`, `{"tenant":"Acme"}`, `{"tenant":""}`, `{"tenant":"a/b"}`, `{"tenant":["acme"]}`,
		`{"tenant":"\u0061cme "}`, `{"Tenant":"acme"}`, `{"tenant":"acme","Tenant":"umbrella"}`, `{"tenant":"acme","tenant":"umbrella"}`, `[{"tenant":"acme"}]`, `{"tenant":"nobody"}`, `{"tenant":1e309}`, `{"tenant":"ten\u0430nt"}`, `{"tenant":"acme\r\nx-admin: 1"}`,
	} {
		all = append(all, bad{"H-07, H-13, J-11 the org " + org, token(nil, m{"iss": `"https://claim.example.com"`, "org": org}), "token_tenant"})
	}
	return append(all,
		bad{"J-11 Org beside org", token(nil, m{"iss": `"https://claim.example.com"`, "org": `{"tenant":"acme"}`, "Org": `{}`}), "token_tenant"},
		bad{"a realm of no tenant", token(nil, m{"iss": `"https://id.example.com/realms/nobody"`}), "token_tenant"},
	)
}

func badTimes() []bad {
	var all []bad
	at := now / second
	for _, v := range []string{
		"", `null`, `"1900000000"`, `-1`, `0`, `1`, fmt.Sprint(at), fmt.Sprint(at - 1), `1900000000.5`, `1e309`, `-1e309`, `9223372036854775807`, `9223372036854775808`,
		`18446744073709551616`, `253402300800`, `1e300`, `true`, `[1900000000]`, `{}`, `1e-5`, `1` + strings.Repeat("0", 400),
	} {
		all = append(all, bad{"J-05 exp " + v[:min(len(v), 40)], token(nil, m{"exp": v}), "token_expired"})
	}
	for _, claim := range []string{"nbf", "iat"} {
		for _, v := range []string{fmt.Sprint(at + 31), `"1"`, `null`, `1.5`, `-1`, `1e309`, `9223372036854775807`, `true`} {
			all = append(all, bad{"J-05 " + claim + " " + v, token(nil, m{claim: v}), "token_time"})
		}
	}
	return all
}

func TestTokensThatAreAccepted(t *testing.T) {
	at := now / second
	for _, tt := range []struct {
		name, token, principal, tenant string
		roles                          []string
		expires                        int64
	}{
		{name: "a plain one", token: token(nil, nil)},
		{name: "two audiences", token: token(nil, m{"aud": `["other","api2"]`})},
		{name: "no typ", token: token(m{"typ": ""}, nil)},
		{name: "typ JWT", token: token(m{"typ": `"jwt"`}, nil)},
		{name: "typ with application/", token: token(m{"typ": `"Application/AT+JWT"`}, nil)},
		{name: "exp a second from now", token: token(nil, m{"exp": fmt.Sprint(at + 1)}), expires: at + 1},
		{name: "exp an integer written as a float", token: token(nil, m{"exp": fmt.Sprintf("%d.000", at+9)}), expires: at + 9},
		{name: "exp with an exponent", token: token(nil, m{"exp": `1.9e9`}), expires: 1_900_000_000},
		{name: "nbf and iat within the skew", token: token(nil, m{"nbf": fmt.Sprint(at + 30), "iat": fmt.Sprint(at + 30)})},
		{name: "no iat", token: token(nil, m{"iat": ""})},
		{name: "J-08 jku, jwk and x5c that nobody looks at", token: token(m{"jku": `"https://evil"`, "jwk": `{"kty":1}`, "x5c": `[1]`, "x5t": `""`}, nil)},
		{name: "claims that nobody asks for, 8 levels deep", token: token(nil, m{"x": strings.Repeat("[", 7) + strings.Repeat("]", 7), "tenant": `"umbrella"`})},
		{name: "brackets inside strings", token: token(nil, m{"x": `"` + strings.Repeat(`[{\"`, 20) + `"`})},
		{name: "an escaped name", token: sign(header(nil), strings.Replace(payload(nil), `"sub"`, `"\u0073ub"`, 1), "ES256", p256())},
		{name: "a long subject", token: token(nil, m{"sub": `"` + strings.Repeat("~", 256) + `"`}), principal: "main/" + strings.Repeat("~", 256)},
		{name: "roles in a list", token: token(nil, m{"realm_access": `{"roles":["b","a b"]}`}), roles: []string{"b", "a b"}},
		{name: "roles in a string", token: token(nil, m{"realm_access": `{"roles":" b  a "}`}), roles: []string{"b", "a"}},
		{name: "no roles", token: token(nil, m{"realm_access": `{}`})},
		{
			name: "the tenant in a claim, roles under a URI", token: token(nil, m{"iss": `"https://claim.example.com"`, "org": `{"tenant":"umbrella"}`, "https://acme.com/roles": `["x"]`}),
			principal: "claim/user-1", tenant: "umbrella", roles: []string{"x"},
		},
		{name: "a realm", token: token(nil, m{"iss": `"https://id.example.com/realms/acme"`}), principal: "realms/user-1"},
		{
			name: "another realm with its key of the same kid", token: sign(header(nil), payload(m{"iss": `"https://id.example.com/realms/umbrella"`}), "ES256", other256()),
			principal: "realms/user-1", tenant: "umbrella",
		},
		{name: "no kid, where one key has that alg", token: token(m{"kid": ""}, nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, authn.Options{})
			for range 2 { // verified, then remembered
				p, account, err := w.identify(authz.Credentials{Tokens: []string{tt.token}})
				if err != nil {
					t.Fatalf("%v, %v", err, w.a.Refusals())
				}
				want := authz.Principal{Scheme: authz.JWT, Name: tt.principal, Roles: tt.roles, Expires: tt.expires * second}
				if want.Name == "" {
					want.Name = "main/user-1"
				}
				if want.Expires == 0 {
					want.Expires = now + 300*second
				}
				if p.Scheme != want.Scheme || p.Name != want.Name || !slices.Equal(p.Roles, want.Roles) || p.Expires != want.Expires {
					t.Errorf("got %+v, want %+v", p, want)
				}
				if id := tt.tenant; string(account.Tenant) != id && (id != "" || account.Tenant != "acme") {
					t.Errorf("the tenant is %q", account.Tenant)
				}
			}
		})
	}
}

func TestEveryAlgorithmIsVerified(t *testing.T) {
	w := newWorld(t, authn.Options{})
	for _, tt := range []struct {
		kid  string
		key  any
		algs []string
	}{
		{"rsa", rsaKey(), []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}},
		{"p256", p256(), []string{"ES256"}},
		{"p384", p384(), []string{"ES384"}},
		{"p521", p521(), []string{"ES512"}},
		{"ed", edKey(), []string{"EdDSA"}},
	} {
		for _, alg := range tt.algs {
			t.Run(alg+" by the key "+tt.kid, func(t *testing.T) {
				good := sign(header(m{"alg": `"` + alg + `"`, "kid": `"` + tt.kid + `"`}), payload(nil), alg, tt.key)
				if _, _, err := w.identify(authz.Credentials{Tokens: []string{good}}); err != nil {
					t.Errorf("%v, %v", err, w.a.Refusals())
				}
				// The first byte of the signature is another: what the key signed is not this.
				dot := strings.LastIndexByte(good, '.') + 1
				c := "A"
				if good[dot] == 'A' {
					c = "B"
				}
				if _, _, err := w.identify(authz.Credentials{Tokens: []string{good[:dot] + c + good[dot+1:]}}); !errors.Is(err, authn.ErrBadCredential) {
					t.Errorf("a changed signature: %v", err)
				}
			})
		}
	}
}

func TestWithoutIssuersNoTokenIsBelieved(t *testing.T) {
	w := newWorld(t, authn.Options{})
	good := authz.Credentials{Tokens: []string{token(nil, nil)}}
	if _, _, err := w.identify(good); err != nil {
		t.Fatal(err)
	}
	w.snapshot.Issuers = nil
	if _, _, err := w.identify(good); !errors.Is(err, authn.ErrBadCredential) {
		t.Errorf("without issuers: %v", err)
	}
	keyless := authn.New(authn.Options{Pepper: pepper})
	if _, _, err := keyless.Identify(t.Context(), now, compile(t, 1, testIssuers()), &good); !errors.Is(err, authn.ErrBadCredential) {
		t.Errorf("without keys: %v", err)
	}
}
