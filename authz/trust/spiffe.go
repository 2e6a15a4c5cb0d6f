package trust

import (
	"strconv"
	"strings"
)

// MaxSPIFFE is the longest SPIFFE id, in bytes (SPIFFE-ID specification, 2.3).
const MaxSPIFFE = 2048

const (
	spiffeScheme   = "spiffe://"
	maxTrustDomain = 255
)

// CheckSPIFFE says what is wrong with a SPIFFE id that names a workload
// (SPIFFE-ID specification, section 2); "" if nothing is. Ids that pass have one
// spelling, so they can be compared byte for byte. It allocates nothing for one that passes.
func CheckSPIFFE(id string) (wrong string) {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	if !ok {
		return "does not begin with spiffe://"
	}
	if len(id) > MaxSPIFFE {
		return "is longer than " + strconv.Itoa(MaxSPIFFE) + " bytes"
	}
	domain, path, _ := strings.Cut(rest, "/")
	if domain == "" || len(domain) > maxTrustDomain || !spiffeBytes(domain, false) {
		return "has no trust domain of a-z, 0-9, '.', '-' and '_'"
	}
	if path == "" {
		return "has no path"
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "has a path with an empty or relative segment"
		}
		if !spiffeBytes(segment, true) {
			return "has a path with other characters than letters, digits, '.', '-' and '_'"
		}
	}
	return ""
}

func spiffeBytes(s string, upper bool) bool {
	for i := range len(s) {
		c := s[i]
		if upper && c >= 'A' && c <= 'Z' {
			continue
		}
		if !isLower(c) && !isDigit(c) && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// maxForwarded is longer than what proxies write about certificates.
const maxForwarded = 16 << 10

// NotTheID reports whether x-forwarded-client-cert says of the certificate with that SPIFFE id
// that it names others beside it, which X.509-SVID (section 2) forbids, or that it has none: Envoy
// tells the first URI as the principal, and where there is none a DNS name, which can read
// like an id. by is the SPIFFE id of the workload that Envoy stands before. A value that is too
// long to be read counts too. Whoever forges one refuses only himself. It allocates nothing.
func NotTheID(id, by string, xfcc []string) bool {
	const uri = "URI="
	for i, rest := range xfcc {
		if len(rest) > maxForwarded || i == len(xfcc)-1 && strings.HasSuffix(rest, uri) && writtenBy(rest, by) {
			return true
		}
		for {
			_, after, found := strings.Cut(rest, uri)
			if !found {
				break
			}
			rest = after
			if after, ok := strings.CutPrefix(after, id); ok && strings.HasPrefix(after, ";"+uri) {
				return true
			}
		}
	}
	return false
}

// writtenBy reports whether the last element of a value is by's own, and not what a proxy
// before it said.
func writtenBy(value, by string) bool {
	const name = "By="
	at := strings.LastIndex(value, name)
	if at < 0 || by == "" {
		return false
	}
	rest, ok := strings.CutPrefix(value[at+len(name):], by)
	return ok && strings.HasPrefix(rest, ";")
}
