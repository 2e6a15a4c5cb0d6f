package nearest

import (
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	known := []string{"tenants", "plans", "at", "serviceDefaults"}
	for word, want := range map[string]string{
		"tenants": "tenants", "tenant": "tenants", "Tenats": "tenants", "plan": "plans", "servicedefault": "serviceDefaults", "serviceDefs": "",
		"a": "at", "": "", "x": "", "xy": "", "limits": "", strings.Repeat("tenants", 20): "",
	} {
		if got := Name(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"stage", "stge", 1}, {"ab", "ba", 2}} {
		if got, back := distance(c.a, c.b), distance(c.b, c.a); got != c.want || back != c.want {
			t.Errorf("%q and %q: %d and %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
}
