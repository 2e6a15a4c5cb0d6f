package authz_test

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz"
)

func TestI02SPIFFEIdsHaveOneSpelling(t *testing.T) {
	for id, want := range map[string]string{
		"spiffe://td/ns/a/sa/b":                   "",
		"spiffe://cluster.local/ns/acme/sa/App_1": "",
		"":                           "does not begin",
		"SPIFFE://td/ns/a/sa/b":      "does not begin",
		"spiffe:///ns/a":             "no trust domain",
		"spiffe://TD/ns/a":           "no trust domain",
		"spiffe://td:8443/ns/a":      "no trust domain",
		"spiffe://u@td/ns/a":         "no trust domain",
		"spiffe://td":                "no path",
		"spiffe://td/":               "no path",
		"spiffe://td/ns/a/sa/b/":     "empty or relative",
		"spiffe://td//ns/a":          "empty or relative",
		"spiffe://td/ns/a/sa/b/../c": "empty or relative",
		"spiffe://td/./a":            "empty or relative",
		"spiffe://td/ns/a%2fsa/b":    "other characters",
		"spiffe://td/ns/a/sa/b?c":    "other characters",
		"spiffe://td/ns/a/sa/b#c":    "other characters",
		"spiffe://td/ns/a/sa/b\x00":  "other characters",
		"spiffe://td/ns/ä":           "other characters",
		"spiffe://" + strings.Repeat("a", 256) + "/a":  "no trust domain",
		"spiffe://td/" + strings.Repeat("a", 2048):     "longer than",
		"spiffe://td/ns/cert-manager/sa/cert-manager.": "",
	} {
		got := authz.CheckSPIFFE(id)
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { authz.CheckSPIFFE("spiffe://td/ns/a/sa/b") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
