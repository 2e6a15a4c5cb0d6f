package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
)

// masker replaces credentials by digests under a key: the same one has the same
// digest, and who has the log but not the key can't test guesses.
type masker struct{ key [32]byte }

// NewMask returns what a log does to each text: credentials in it are replaced by digests under
// the key. It is for other logs that quote callers; a text without any costs a look at each byte.
func NewMask(key [32]byte) func(string) string {
	m := masker{key}
	return func(s string) string {
		for i := range len(s) {
			if classes[s[i]] == suspect && suspicious(s, i) {
				return m.redact(s, false)
			}
		}
		return s
	}
}

// maskStart begins what stands for a credential.
const maskStart = "[masked:"

func (m *masker) append(b []byte, secret string) []byte {
	mac := hmac.New(sha256.New, m.key[:])
	mac.Write([]byte(secret))
	sum := mac.Sum(nil)
	return append(hex.AppendEncode(append(b, maskStart...), sum[:8]), ']')
}

// suspicious reports whether what ends at s[i] may begin a credential: an API key or an
// admin token (slk_, sla_), JSON in base64url (ey…, ew…), "bearer" and a blank, or what is percent-encoded.
// It may be wrong in that direction only; redact looks closer.
func suspicious(s string, i int) bool {
	switch s[i] {
	case '_':
		return isKeyPrefix(s, i-3)
	case 'A', 'I', 'J', 'K', 'L':
		return i >= 2 && s[i-1] == 'y' && s[i-2] == 'e'
	case 'w':
		return i >= 1 && s[i-1] == 'e' && i+1 < len(s) && (s[i+1] == '0' || s[i+1] >= 'k' && s[i+1] <= 'r')
	case ' ', '\t', '+':
		return endsInBearer(s[:i])
	case '%':
		return true
	}
	return false
}

// isKeyPrefix reports whether s has slk_ or sla_ at i.
func isKeyPrefix(s string, i int) bool {
	return i >= 0 && i+4 <= len(s) && s[i]|0x20 == 's' && s[i+1]|0x20 == 'l' && (s[i+2]|0x20 == 'k' || s[i+2]|0x20 == 'a') && s[i+3] == '_'
}

func endsInBearer(s string) bool {
	const word = "bearer"
	return len(s) >= len(word) && strings.EqualFold(s[len(s)-len(word):], word)
}

func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// redact returns s with every credential replaced. cut says that s goes on beyond its end.
func (m *masker) redact(s string, cut bool) string {
	// What is encoded once or twice is looked at as an upstream might; if that
	// shows a credential, nothing of the text is safe to show.
	for decoded, n := s, 0; n < 2 && strings.Contains(decoded, "%"); n++ {
		decoded = percentDecode(decoded)
		if decoded != s && m.credentials(decoded, cut) != decoded {
			return string(m.append(nil, s))
		}
	}
	return m.credentials(s, cut)
}

func (m *masker) credentials(s string, cut bool) string {
	var out []byte
	from := 0
	for i := 0; i < len(s); {
		start, end := credentialAt(s, i, cut)
		if end == 0 {
			i++
			continue
		}
		out = m.append(append(out, s[from:start]...), s[start:end])
		from, i = end, end
	}
	if from == 0 {
		return s
	}
	return string(append(out, s[from:]...))
}

// credentialAt finds the credential that begins at s[i], or after the blanks that follow a
// "bearer" which begins there; end is 0 if none does.
func credentialAt(s string, i int, cut bool) (start, end int) {
	switch c := s[i] | 0x20; {
	case c == 's' && isKeyPrefix(s, i):
		if end = run(s, i+4); end > i+4 {
			return i, end
		}
		return 0, 0
	case s[i] == 'e':
		return i, tokenEnd(s, i, cut)
	case c == 'b':
		const word = "bearer"
		blank := i + len(word)
		if blank >= len(s) || !strings.EqualFold(s[i:blank], word) {
			return 0, 0
		}
		start = blank
		for start < len(s) && strings.IndexByte(" \t+", s[start]) >= 0 {
			start++
		}
		end = start
		for end < len(s) && strings.IndexByte(" \t\r\n\"',;", s[end]) < 0 {
			end++
		}
		if start == blank || end == start {
			return 0, 0
		}
		return start, end
	}
	return 0, 0
}

func run(s string, i int) int {
	for i < len(s) && isToken(s[i]) {
		i++
	}
	return i
}

// tokenEnd is the end of a JWT or JWE that begins at i, 0 if none does. The header of one is a
// JSON object in base64url: eyJ is '{"' and a letter, and long enough it is taken for a token anywhere, even
// without the other parts. Other beginnings of an object (ew…) look like host names, so
// they must stand alone, have three parts and decode to JSON.
func tokenEnd(s string, i int, cut bool) int {
	const shortest = 12 // '{"alg":""' is that long
	header := run(s, i)
	if header-i < shortest {
		return 0
	}
	parts, end := 1, header
	for end < len(s) && s[end] == '.' && parts < 5 {
		end = run(s, end+1)
		parts++
	}
	if s[i+1] == 'y' && s[i+2] == 'J' {
		return end
	}
	if s[i+1] != 'y' && s[i+1] != 'w' || i > 0 && isToken(s[i-1]) || parts < 3 && (!cut || end < len(s)) {
		return 0
	}
	raw, err := base64.RawURLEncoding.DecodeString(s[i:header])
	if err != nil || raw[0] != '{' || !json.Valid(raw) && header < len(s) {
		return 0
	}
	return end
}

func percentDecode(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			var c [1]byte
			if _, err := hex.Decode(c[:], []byte(s[i+1:i+3])); err == nil {
				b = append(b, c[0])
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
