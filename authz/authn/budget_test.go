package authn_test

import (
	"context"
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

// flooded is a world, and how to show it a token from a source.
type flooded struct{ *world }

func (w flooded) try(at int64, token, source string) error {
	_, _, err := w.a.Identify(context.Background(), at, w.snapshot, &authz.Credentials{Tokens: []string{token}, Source: source})
	return err
}

// read is how many of the bad tokens had their signature checked.
func (w flooded) read(t *testing.T, at int64, bad []string, source func(int) string) (n int) {
	t.Helper()
	for i, token := range bad {
		switch err := w.try(at, token, source(i)); {
		case errors.Is(err, authn.ErrBadCredential):
			n++
		case !errors.Is(err, authn.ErrTooManyBad):
			t.Fatalf("the bad token %d: %v", i, err)
		}
	}
	return n
}

func only(source string) func(int) string { return func(int) string { return source } }

func fresh(id string) string { return token(nil, m{"jti": `"` + id + `"`}) }

const (
	ownBurst   = 100 // of one source
	spareBurst = 100 // of all sources that have spent theirs
	strangers  = 500 // of all sources without an address
)

func TestL10ASourceMayWasteOnlySoManySignatures(t *testing.T) {
	w := flooded{newWorld(t, authn.Options{})}
	remembered := fresh("a")
	const attacker = "192.0.2.1"
	if err := w.try(now, remembered, attacker); err != nil {
		t.Fatal(err)
	}
	bad := forged(2000)
	const most = ownBurst + spareBurst
	if n := w.read(t, now, bad[:most+10], only(attacker)); n != most {
		t.Errorf("%d signatures were checked, want %d", n, most)
	}
	before := w.a.Refusals()["token_signature"]
	if err := w.try(now, bad[most+10], attacker); !errors.Is(err, authn.ErrTooManyBad) || w.a.Refusals()["token_signature"] != before {
		t.Errorf("a bad token too many: %v", err)
	}
	if err := w.try(now, fresh("b"), attacker); !errors.Is(err, authn.ErrTooManyBad) {
		t.Errorf("a new token, good or not, costs crypto too: %v", err)
	}
	if err := w.try(now, bad[most-1], attacker); !errors.Is(err, authn.ErrBadCredential) {
		t.Errorf("a bad token that is known as one: %v", err)
	}
	if err := w.try(now, remembered, attacker); err != nil {
		t.Errorf("a remembered good token is affected: %v", err)
	}
	for _, other := range []string{"192.0.2.2", "", "2001:db8::1"} {
		if err := w.try(now, fresh(other+"x"), other); err != nil {
			t.Errorf("another source %q is affected: %v", other, err)
		}
	}
	// A second later it has 50 of its own again, and all that have spent theirs their burst.
	if n := w.read(t, now+second, bad[most+10:], only(attacker)); n != 50+spareBurst {
		t.Errorf("%d signatures a second later, want %d", n, 50+spareBurst)
	}
	if err := w.try(now-3600*second, token(nil, m{"jti": `"b"`, "iat": ""}), attacker); err != nil {
		t.Errorf("after the clock was set back: %v", err)
	}
}

func TestL10GoodNewTokensFromTheAddressOfAFloodGetThroughSometimes(t *testing.T) {
	w := flooded{newWorld(t, authn.Options{})}
	bad, at, through := forged(20_000), now, 0
	const nat = "192.0.2.1"
	for round := range 100 { // ten seconds of 2,000 bad tokens a second, with ten good ones
		at += second / 10
		w.read(t, at, bad[round*200:round*200+100], only(nat))
		if w.try(at, fresh(fmt.Sprint("good", round)), nat) == nil {
			through++
		}
		w.read(t, at+second/20, bad[round*200+100:round*200+200], only(nat))
		if w.try(at+second/20+5_000, fresh(fmt.Sprint("late", round)), nat) == nil {
			through++
		}
	}
	if through < 50 {
		t.Errorf("%d of 200 good new tokens got through", through)
	}
}

func TestWhatCostsNoCryptoTakesNothingOfTheSpareBudget(t *testing.T) {
	w := flooded{newWorld(t, authn.Options{})}
	const attacker = "192.0.2.1"
	w.read(t, now, forged(ownBurst), only(attacker))
	for i := range 1000 {
		if err := w.try(now, token(nil, m{"aud": fmt.Sprintf(`"%d"`, i)}), attacker); !errors.Is(err, authn.ErrBadCredential) {
			t.Fatal(err)
		}
	}
	if err := w.try(now, fresh("a"), attacker); err != nil {
		t.Errorf("a good new token: %v", err)
	}
}

func TestL10SourcesWithoutAnAddressShareABudgetOfTheirOwn(t *testing.T) {
	w := flooded{newWorld(t, authn.Options{})}
	bad := forged(2000)
	unknown := func(i int) string { return []string{"", "@", "/run/envoy.sock", "localhost"}[i%4] }
	if n := w.read(t, now, bad[:1000], unknown); n != strangers {
		t.Errorf("%d signatures were checked, want %d", n, strangers)
	}
	if err := w.try(now, fresh("a"), ""); !errors.Is(err, authn.ErrTooManyBad) {
		t.Errorf("a new token without an address: %v", err)
	}
	if err := w.try(now, fresh("b"), "192.0.2.1"); err != nil {
		t.Errorf("a new token from an address: %v", err)
	}
	if n := w.read(t, now, bad[1000:1300], only("192.0.2.1")); n != ownBurst+spareBurst {
		t.Errorf("%d signatures were checked for an address, want %d", n, ownBurst+spareBurst)
	}
	if err := w.try(now+2_000, fresh("c"), ""); err != nil {
		t.Errorf("a new token without an address, 2 ms later: %v", err)
	}
}

func TestL10ManySourcesTogetherAreHeldToLessEach(t *testing.T) {
	w := flooded{newWorld(t, authn.Options{})}
	const sources, together = 200, 3004
	from := func(i int) string { return fmt.Sprintf("10.0.%d.%d", i%sources/100, i%100) }
	bad := forged(together + 50*sources)
	if n := w.read(t, now, bad[:together], from); n != together {
		t.Fatalf("%d of the first %d signatures were checked", n, together)
	}
	// All have wasted what they may together. In the next second each sends 50 more, which
	// alone it might waste; what they get is the rate of all, of spare, and one each.
	n := 0
	for step := range 50 {
		at := now + int64(step+1)*second/50
		n += w.read(t, at, bad[together+step*sources:][:sources], from)
		if err := w.try(at, fresh(fmt.Sprint(step)), fmt.Sprintf("192.0.2.%d", step)); err != nil {
			t.Errorf("a source that has done nothing wrong: %v", err)
		}
	}
	if most := 3_000 + 500 + spareBurst + 2*sources; n > most || n < 3_000 {
		t.Errorf("%d signatures were checked in a second, want 3,000 to %d", n, most)
	}
}

func TestWhatCostsNoCryptoIsFree(t *testing.T) {
	w := newWorld(t, authn.Options{})
	for i := range 1000 {
		bad := token(nil, m{"aud": fmt.Sprintf(`"%d"`, i)})
		if _, _, err := w.identify(authz.Credentials{Tokens: []string{bad}, Source: "192.0.2.1"}); !errors.Is(err, authn.ErrBadCredential) {
			t.Fatal(err)
		}
	}
}

func TestAnIPv6CallerHasOneBudgetForItsNetwork(t *testing.T) {
	w := newWorld(t, authn.Options{})
	refused := 0
	for i, token := range forged(ownBurst + spareBurst + 50) {
		_, _, err := w.identify(authz.Credentials{Tokens: []string{token}, Source: fmt.Sprintf("2001:db8:1:2:%x::1", i)})
		if errors.Is(err, authn.ErrTooManyBad) {
			refused++
		}
	}
	if refused != 50 {
		t.Errorf("%d were refused unread, want 50", refused)
	}
}

func TestSourcesBeyondTheTableShareABudget(t *testing.T) {
	w := newWorld(t, authn.Options{})
	bad := forged(20_000)
	read := 0
	for i, token := range bad {
		source := fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		if _, _, err := w.identify(authz.Credentials{Tokens: []string{token}, Source: source}); errors.Is(err, authn.ErrBadCredential) {
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
	}{{now, nil}, {now + 300*second - 1, nil}, {now + 300*second, authn.ErrBadCredential}} {
		if _, _, err := w.a.Identify(t.Context(), tt.at, w.snapshot, &c); !errors.Is(err, tt.want) {
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
