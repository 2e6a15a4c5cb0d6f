package token_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz/token"
)

// Whatever text is read as claims is the one text that says them.
func FuzzPayload(f *testing.F) {
	_, payload := parts(f, mint(f, tokens(), now, claims()))
	f.Add(payload)
	f.Add(strings.Replace(payload, `"gold"`, `"\gold"`, 1))
	f.Add(strings.Replace(payload, `["admin",`, `[`, 1))
	f.Add(`{"iss":"sluice","sub":"`)
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := token.ParsePayload(s)
		if !ok {
			return
		}
		if again := string(token.AppendPayload(nil, &c)); again != s {
			t.Errorf("read %q, would write %q", s, again)
		}
	})
}

// Verify accepts only what Mint makes: every accepted text is minted again, byte for byte.
func FuzzVerify(f *testing.F) {
	verifier := tokens()
	good := mint(f, verifier, now, claims())
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good + "\n")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Fuzz(func(t *testing.T, s string) {
		c, err := verifier.Verify(now, s, holder)
		if err != nil {
			return
		}
		if again := mint(t, verifier, c.Issued, c); again != s {
			t.Errorf("accepted %q, would mint %q", s, again)
		}
	})
}

// TestVerifyOfTenKilobytesNeedsLittleMemory is the bound that every parser keeps.
func TestVerifyOfTenKilobytesNeedsLittleMemory(t *testing.T) {
	verifier := tokens()
	good := mint(t, verifier, now, claims())
	header, _, _ := strings.Cut(good, ".")
	for _, s := range []string{
		strings.Repeat("a", 10<<10), strings.Repeat(".", 10<<10), good + strings.Repeat("A", 10<<10),
		header + "." + strings.Repeat("A", token.MaxSize-len(header)-1),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := verifier.Verify(now, s, holder); err == nil {
			t.Error("accepted")
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%d bytes for %d", grown, len(s))
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		_, ok := token.ParsePayload(`{"iss":"sluice","sub":"` + strings.Repeat(`\"`, 5<<10))
		if ok {
			t.Error("accepted")
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
}
