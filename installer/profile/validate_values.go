package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Checks of single values.

func (p *validator) label(path, name string) {
	p.unless(len(validation.IsDNS1123Label(name)) == 0, path, quoted(name)+" is not a DNS label",
		"1 to 63 lower-case letters, digits and '-', such as voicecore-ai")
}

func (p *validator) subdomain(path, name, of string) {
	p.unless(len(validation.IsDNS1123Subdomain(name)) == 0, path, quoted(name)+" can't name "+of, "lower-case letters, digits, '-' and '.'")
}

func (p *validator) domain(path, name string) {
	p.unless(len(validation.IsDNS1123Subdomain(name)) == 0, path, quoted(name)+" is not a domain", "such as cluster.local")
}

// host is a full name, with '*' for its first label where that is allowed.
func (p *validator) host(path, host string, wild bool) {
	name, want := host, "a host name such as api.example.com"
	if wild {
		name, want = strings.TrimPrefix(host, "*."), want+", or *.example.com"
	}
	p.unless(strings.Contains(name, ".") && len(validation.IsDNS1123Subdomain(name)) == 0, path, quoted(host)+" is not a full host name", want)
}

func (p *validator) port(path string, port int32) {
	p.unless(port >= 1 && port <= 65535, path, fmt.Sprintf("%d is not a port", port), "1 to 65535")
}

func (p *validator) prefix(path, prefix string) {
	p.unless(strings.HasPrefix(prefix, "/") && !strings.ContainsAny(prefix, "*?# "), path, quoted(prefix)+" is not the beginning of a path", "such as /v1/calls/")
}

func (p *validator) percent(path string, n float64) {
	p.unless(n >= 0 && n <= 100, path, fmt.Sprint(n)+" is no share of the requests", "0 to 100")
}

func (p *validator) positive(path string, d metav1.Duration) {
	p.unless(d.Duration > 0, path, d.Duration.String()+" is no time", "more than 0, such as 250ms: without a bound a silent peer holds requests forever")
}

func (p *validator) oneOf(path, s string, choices []string) {
	p.unless(slices.Contains(choices, s), path, quoted(s)+" is not known here", "one of "+strings.Join(choices, ", "))
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
