package authn_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
)

// forged are distinct tokens with a wrong signature.
func forged(n int) []string {
	good := token(nil, nil)
	end := strings.LastIndexByte(good, '.')
	head := good[:strings.IndexByte(good, '.')]
	all := make([]string, n)
	for i := range all {
		all[i] = head + "." + b64(payload(m{"jti": fmt.Sprint(i)})) + good[end:]
	}
	return all
}

func TestL10ASourceMayWasteOnlySoManySignatures(t *testing.T) {
	w := newWorld(t, authn.Options{})
	remembered, fresh := token(nil, m{"jti": `"a"`}), token(nil, m{"jti": `"b"`, "iat": ""})
	try := func(at int64, token, source string) error {
		_, _, err := w.a.Identify(at, w.snapshot, &authz.Credentials{Tokens: []string{token}, Source: source})
		return err
	}
	const attacker = "192.0.2.1"
	if err := try(now, remembered, attacker); err != nil {
		t.Fatal(err)
	}
	bad := forged(400)
	for i, token := range bad[:100] {
		if err := try(now, token, attacker); !errors.Is(err, authz.ErrBadCredential) {
			t.Fatalf("the bad token %d: %v", i, err)
		}
	}
	before := w.a.Refusals()["token_signature"]
	for _, token := range bad[100:110] {
		if err := try(now, token, attacker); !errors.Is(err, authz.ErrTooManyBad) {
			t.Errorf("a bad token too many: %v", err)
		}
	}
	if n := w.a.Refusals()["token_signature"]; n != before {
		t.Error("a signature was checked after the budget was spent")
	}
	if err := try(now, fresh, attacker); !errors.Is(err, authz.ErrTooManyBad) {
		t.Errorf("a new token, good or not, costs crypto too: %v", err)
	}
	if err := try(now, bad[99], attacker); !errors.Is(err, authz.ErrBadCredential) {
		t.Errorf("a bad token that is known as one: %v", err)
	}
	if err := try(now, remembered, attacker); err != nil {
		t.Errorf("a remembered good token is affected: %v", err)
	}
	for _, other := range []string{"192.0.2.2", "", "2001:db8::1"} {
		if err := try(now, token(nil, m{"jti": `"` + other + `x"`}), other); err != nil {
			t.Errorf("another source %q is affected: %v", other, err)
		}
	}

	// It recovers at 50 a second.
	admitted, at := 0, now+second
	for _, token := range bad[110:] {
		if err := try(at, token, attacker); errors.Is(err, authz.ErrBadCredential) {
			admitted++
		}
	}
	if admitted != 50 {
		t.Errorf("%d signatures a second later, want 50", admitted)
	}
	if err := try(at-3600*second, fresh, attacker); err != nil {
		t.Errorf("after the clock was set back: %v", err)
	}
}

func TestWhatCostsNoCryptoIsFree(t *testing.T) {
	w := newWorld(t, authn.Options{})
	for i := range 1000 {
		bad := token(nil, m{"aud": fmt.Sprintf(`"%d"`, i)})
		if _, _, err := w.identify(authz.Credentials{Tokens: []string{bad}, Source: "192.0.2.1"}); !errors.Is(err, authz.ErrBadCredential) {
			t.Fatal(err)
		}
	}
}

func TestAnIPv6CallerHasOneBudgetForItsNetwork(t *testing.T) {
	w := newWorld(t, authn.Options{})
	refused := 0
	for i, token := range forged(150) {
		_, _, err := w.identify(authz.Credentials{Tokens: []string{token}, Source: fmt.Sprintf("2001:db8:1:2:%x::1", i)})
		if errors.Is(err, authz.ErrTooManyBad) {
			refused++
		}
	}
	if refused != 50 {
		t.Errorf("%d of 150 were refused unread, want 50", refused)
	}
}

func TestSourcesBeyondTheTableShareABudget(t *testing.T) {
	w := newWorld(t, authn.Options{})
	bad := forged(20_000)
	read := 0
	for i, token := range bad {
		source := fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		if _, _, err := w.identify(authz.Credentials{Tokens: []string{token}, Source: source}); errors.Is(err, authz.ErrBadCredential) {
			read++
		}
	}
	// 16 shards of 1,024 sources have one each, and each shard 100 for the rest.
	if read > 16*1024+16*100 || read < 16*1024-1024 {
		t.Errorf("%d signatures were checked", read)
	}
}

func TestTheTokenCacheIsBounded(t *testing.T) {
	w := newWorld(t, authn.Options{MaxTokens: 128})
	for i := range 1000 {
		if _, _, err := w.identify(authz.Credentials{Tokens: []string{token(nil, m{"jti": fmt.Sprint(i)})}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.a.Remembered(); n > 128 || n < 64 {
		t.Errorf("%d tokens are remembered, want at most 128", n)
	}
}

func TestATokenDiesWithItsExp(t *testing.T) {
	w := newWorld(t, authn.Options{})
	c := authz.Credentials{Tokens: []string{token(nil, nil)}}
	for _, tt := range []struct {
		at   int64
		want error
	}{{now, nil}, {now + 300*second - 1, nil}, {now + 300*second, authz.ErrBadCredential}} {
		if _, _, err := w.a.Identify(tt.at, w.snapshot, &c); !errors.Is(err, tt.want) {
			t.Errorf("at %d: %v, want %v", tt.at-now, err, tt.want)
		}
	}
	if n := w.a.Remembered(); n != 0 {
		t.Errorf("%d dead tokens are remembered", n)
	}
}

func TestB10BadTokensCostLittle(t *testing.T) {
	w := newWorld(t, authn.Options{})
	for name, bad := range map[string]string{
		"a megabyte of dots":     strings.Repeat(".", 1<<20),
		"a header of brackets":   b64(strings.Repeat("[", 5900)) + ".e30.AA",
		"a header of objects":    b64(`{"a":[`+strings.Repeat("{},", 1900)+"{}]}") + ".e30.AA",
		"a header of names":      b64(`{`+strings.Repeat(`"",`, 1900)+`"":1}`) + ".e30.AA",
		"a payload of numbers":   b64(header(nil)) + "." + b64(`{"a":[`+strings.Repeat("1,", 2700)+"1]}") + ".AA",
		"a payload of strings":   b64(header(nil)) + "." + b64(`{"a":["`+strings.Repeat(`\ud800`, 900)+`"]}`) + ".AA",
		"a payload of audiences": b64(header(nil)) + "." + b64(payload(m{"aud": "[" + strings.Repeat(`"",`, 1700) + `""]`})) + ".AA",
	} {
		c := authz.Credentials{Tokens: []string{bad}}
		var before, after runtime.MemStats
		const rounds = 10
		runtime.ReadMemStats(&before)
		for range rounds {
			if _, _, err := w.identify(c); err == nil {
				t.Fatal(name)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / rounds; n > 64<<10 {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
}
