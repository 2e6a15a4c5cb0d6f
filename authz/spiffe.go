package authz

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

// SeveralIDs reports whether a value of x-forwarded-client-cert says of the
// certificate with that SPIFFE id that it names others beside it, which X.509-SVID (section 2) forbids:
// Envoy tells only the first as the principal. One that is too long to be read says so too.
// Whoever forges such a value refuses only himself. It allocates nothing.
func SeveralIDs(id string, xfcc []string) bool {
	const uri = "URI="
	for _, rest := range xfcc {
		if len(rest) > maxForwarded {
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
