package authn

import (
	"strings"

	"github.com/voicecore-ai/sluice/authz/trust"
)

// maxXFCC is longer than what a proxy writes for one certificate and its chain.
const maxXFCC = 16 << 10

// forwarded is the SPIFFE id of the client for which a trusted proxy speaks. It
// must be the only element, with one URI: of several nobody can say which is the caller's.
func forwarded(values []string) (id string, ok bool) {
	if len(values) != 1 {
		return "", false
	}
	id, ok = parseXFCC(values[0])
	return id, ok && trust.CheckSPIFFE(id) == ""
}

// parseXFCC is the URI of a value of x-forwarded-client-cert with one element,
// in the grammar that Envoy documents: pairs with ';' between them, values that hold
// one of ",;=" in quotes, with \" for a quote. It is strict where Envoy is: nothing but what it writes.
func parseXFCC(value string) (uri string, ok bool) {
	if value == "" || len(value) > maxXFCC {
		return "", false
	}
	found := false
	for rest := value; ; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok || !letters(name) {
			return "", false
		}
		isURI := strings.EqualFold(name, "URI")
		text, after, ok := xfccValue(after)
		if !ok || isURI && (found || text == "") {
			return "", false
		}
		if isURI {
			uri, found = text, true
		}
		if after == "" {
			return uri, found
		}
		if after[0] != ';' { // a ',' begins another element
			return "", false
		}
		rest = after[1:]
	}
}

// xfccValue takes a value off the front of s, and leaves what begins with its separator.
func xfccValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ",;")
		if end < 0 {
			end = len(s)
		}
		// A blank is how somebody else than Envoy joins headers.
		return s[:end], s[end:], !strings.ContainsAny(s[:end], "\"=\\ \t")
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			// \\" ends the value for who unescapes in pairs, and does not for who knows \" alone.
			if i+1 == len(s) || s[i+1] == '\\' && i+2 < len(s) && s[i+2] == '"' {
				return "", "", false
			}
			i++
		case '"':
			rest = s[i+1:]
			if rest != "" && rest[0] != ';' && rest[0] != ',' {
				return "", "", false
			}
			return strings.ReplaceAll(s[1:i], `\"`, `"`), rest, true
		}
	}
	return "", "", false
}

func letters(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return s != ""
}
