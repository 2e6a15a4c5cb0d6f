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
