package trust_test

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz/trust"
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
		got := trust.CheckSPIFFE(id)
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { trust.CheckSPIFFE("spiffe://td/ns/a/sa/b") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestI05ACertificateWithSeveralIdsOrNone(t *testing.T) {
	const id, other, by = "spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/c", "spiffe://td/ns/s/sa/s"
	for _, c := range []struct {
		name string
		xfcc []string
		want bool
	}{
		{"nothing is said", nil, false},
		{"one id", []string{"By=x;Hash=y;URI=" + id}, false},
		{"one id, of somebody else", []string{"URI=" + other + ";URI=https://x"}, false},
		{"a proxy before said something about its client, and the peer has one", []string{"URI=" + other + ";URI=" + other + ",By=x;URI=" + id}, false},
		{"an id that this one begins", []string{"URI=" + id + "2;URI=" + other}, false},
		{"two ids", []string{"By=x;URI=" + id + ";URI=" + other}, true},
		{"the same one twice", []string{"URI=" + id + ";URI=" + id}, true},
		{"two ids after what somebody else said", []string{`Subject="` + `,By=x;URI=` + id + ";URI=" + other}, true},
		{"two ids in the second value", []string{"URI=" + id, "URI=" + id + ";URI=" + other}, true},
		{"no id, so that the principal is a DNS name", []string{"By=" + by + ";Hash=y;URI="}, true},
		{"no id after what somebody else said", []string{"URI=" + id + ",By=" + by + ";URI="}, true},
		{"the gateway's client had none, and this Envoy adds nothing", []string{"By=" + id + ";Hash=y;URI="}, false},
		{"somebody else's client had none", []string{"By=x;URI=,By=y;URI=" + id}, false},
		{"more than is read", []string{strings.Repeat("x", 17<<10)}, true},
	} {
		t.Run("I-05 "+c.name, func(t *testing.T) {
			if got := trust.NotTheID(id, by, c.xfcc); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { trust.NotTheID(id, by, []string{"By=x;URI=" + id}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
