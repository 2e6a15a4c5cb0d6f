package authn_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
)

// FuzzToken feeds a header, a payload and a signature that the fuzzer chose. Nothing but
// what the key signed may pass, and the key signed one message.
func FuzzToken(f *testing.F) {
	good := token(nil, nil)
	parts := strings.Split(good, ".")
	f.Add([]byte(header(nil)), []byte(payload(nil)), parts[2])
	f.Add([]byte(`{"alg":"none"}`), []byte(payload(nil)), "")
	f.Add([]byte(header(m{"crit": `["x"]`})), []byte(payload(m{"exp": "1e309"})), "AA")
	w := newWorld(f, authn.Options{})
	f.Fuzz(func(t *testing.T, header, payload []byte, signature string) {
		raw := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + signature
		_, account, err := w.identify(authz.Credentials{Tokens: []string{raw}})
		if (err == nil) != (account != nil) || err == nil && raw != good {
			t.Errorf("%q: %v, %v", raw, account, err)
		}
	})
}

// FuzzClaims compares the strict reader with encoding/json: what it accepts, they accept.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"a":2}`, `{"a":[{"b":{}}]}`, "{\"a\":\"\xff\"}", `{"a":1}x`, `{"\u0061":1,"a":2}`} {
		f.Add([]byte(s))
	}
	a := authn.New(authn.Options{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v map[string]any
		ok := a.ReadClaims(base64.RawURLEncoding.EncodeToString(raw))
		if ok && json.Unmarshal(raw, &v) != nil {
			t.Errorf("%q is accepted", raw)
		}
	})
}
