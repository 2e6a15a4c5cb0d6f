package authz

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// maxPath is the longest :path that is read, query included. It is what common
// upstreams take as the longest request line.
const maxPath = 8 << 10

// Errors of a path. Each means 400: two programs could read the path two ways, so
// what a rule says about it could be about another resource than the upstream's.
var (
	errPathForm     = errors.New("the path must begin with one '/'")
	errPathLong     = errors.New("the path is longer than 8 KiB")
	errPathByte     = errors.New("the path has a byte that RFC 3986 allows only percent-encoded")
	errPathEmpty    = errors.New("the path has an empty segment ('//')")
	errPathRelative = errors.New("the path has a segment '.' or '..'")
	errPathEdge     = errors.New("the path has a segment that ends in '.', or begins or ends with an encoded space: some programs cut those off")
	errPathParams   = errors.New("the path has a ';', plain or encoded")
	errPathEscape   = errors.New("the path has a '%' that two hexadecimal digits do not follow")
	errPathEncoded  = errors.New("the path has an encoded character that another program would decode into structure: send letters, digits, '-', '.', '_' and '~' plain, and no encoded '/', '\\', '%', '?', '#' or control characters")
	errPathUTF8     = errors.New("the path's encoded bytes are not UTF-8")
)

// CanonicalPath is the path of an HTTP request's :path, without its query, as
// rules see it: the one spelling of all that mean the same.
//
// What two programs could read two ways is refused, not repaired, because the
// upstream gets the path as it came: anything that does not begin with one '/' (the '*' of
// OPTIONS, an authority, an absolute URI), empty or relative segments, segments with an edge that
// Windows and some frameworks cut off (a '.' at the end, an encoded space), ';', '\',
// '#', bytes that must be encoded and are not, broken escapes, escapes of bytes that
// are never encoded (%61) or that make structure (%2f, %2e, %25, %00).
//
// Two spellings are one to every reader and only they are changed: the digits of
// an escape become upper case (RFC 3986, 6.2.2.1), and an escaped '@', ':', '+' or
// other mark that a segment may hold plain becomes plain. Clients do encode those
// (a phone number begins with %2B), most upstreams decode them, and a rule
// about /calls/x:stop must hold for /calls/x%3Astop. What stays
// encoded is a space, '"', '<', '>', '[', ']', '^', '`', '{', '|', '}' and UTF-8.
//
// It costs about a nanosecond a byte, and allocates only where it changes something.
func CanonicalPath(raw string) (path string, err error) {
	if len(raw) > maxPath {
		return "", errPathLong
	}
	if raw == "" || raw[0] != '/' {
		return "", errPathForm
	}
	path = raw
	if i := strings.IndexByte(raw, '?'); i >= 0 {
		path = raw[:i]
		if !plainQuery(raw[i+1:]) {
			return "", errPathByte
		}
	}
	changes, high, err := scanPath(path)
	if err != nil {
		return "", err
	}
	if high && !utf8Escapes(path) {
		return "", errPathUTF8
	}
	if changes {
		path = rewritePath(path)
	}
	return path, nil
}

// scanPath checks the bytes and segments of a path that begins with '/'.
func scanPath(path string) (changes, high bool, err error) {
	start := 1 // of the segment
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			switch segment := path[start:i]; {
			case segment == "" && i < len(path):
				return false, false, errPathEmpty
			case segment == "." || segment == "..":
				return false, false, errPathRelative
			case strings.HasSuffix(segment, ".") || strings.HasPrefix(segment, "%20") || strings.HasSuffix(segment, "%20"):
				return false, false, errPathEdge
			}
			start = i + 1
			continue
		}
		switch c := path[i]; {
		case c == '%':
			b, ok := unescape(path, i)
			if !ok {
				return false, false, errPathEscape
			}
			switch {
			case b == ';':
				return false, false, errPathParams
			case b < ' ' || b == 0x7f || unreserved(b) || strings.IndexByte(`/\%?#`, b) >= 0:
				return false, false, errPathEncoded
			}
			high = high || b >= utf8.RuneSelf
			changes = changes || plain(b) || path[i+1] >= 'a' || path[i+2] >= 'a'
			i += 2
		case c == ';':
			return false, false, errPathParams
		case !plain(c):
			return false, false, errPathByte
		}
	}
	return changes, high, nil
}

// utf8Escapes reports whether the escapes of a path that scanPath took are UTF-8
// once decoded. Overlong forms and surrogates are not.
func utf8Escapes(path string) bool {
	var run [utf8.UTFMax]byte
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		n := 0
		for j := i; n < len(run) && j < len(path) && path[j] == '%'; j += 3 {
			run[n], _ = unescape(path, j)
			n++
		}
		r, size := utf8.DecodeRune(run[:n])
		if r == utf8.RuneError && size <= 1 {
			return false
		}
		i += 3*size - 1
	}
	return true
}

func rewritePath(path string) string {
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c != '%' {
			out = append(out, c)
			continue
		}
		b, _ := unescape(path, i)
		if plain(b) {
			out = append(out, b)
		} else {
			out = append(out, '%', upperHex[b>>4], upperHex[b&15])
		}
		i += 2
	}
	return string(out)
}

// foldPath is a canonical path as an upstream sees it to whom the case of letters
// means nothing, but for the case of ASCII letters: what is not ASCII is decoded and folded, so the Kelvin
// sign (%E2%84%AA) is k and the long s is s. A path of ASCII is returned as it is, without allocation.
func foldPath(path string) string {
	if !highEscapes(path) {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if b, ok := unescape(path, i); ok && path[i] == '%' && b >= utf8.RuneSelf {
			out = append(out, b)
			i += 2
		} else {
			out = append(out, path[i])
		}
	}
	return fold(string(out))
}

func highEscapes(path string) bool {
	for i := 0; i+1 < len(path); i++ {
		if path[i] == '%' && path[i+1] >= '8' {
			return true
		}
	}
	return false
}

const upperHex = "0123456789ABCDEF"

// unescape is the byte that the escape at path[i] stands for.
func unescape(path string, i int) (b byte, ok bool) {
	if i+2 >= len(path) {
		return 0, false
	}
	high, ok1 := hexDigit(path[i+1])
	low, ok2 := hexDigit(path[i+2])
	return high<<4 | low, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unreserved are the characters that RFC 3986, 2.3 says are never encoded.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// plain are the characters of a segment (pchar in RFC 3986, 3.3) but ';'.
func plain(c byte) bool {
	if unreserved(c) {
		return true
	}
	switch c {
	case '!', '$', '&', '\'', '(', ')', '*', '+', ',', '=', ':', '@':
		return true
	}
	return false
}

// plainQuery refuses what could end a line of a log or begin another request.
// Rules do not see the query.
func plainQuery(query string) bool {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// errHost says that an authority names no host in one way only. It means 400.
var errHost = errors.New("the :authority must be a host name or an IP address, in brackets if it is IPv6, with an optional port")

// maxHost is the longest DNS name.
const maxHost = 253

// CanonicalHost is the host of an HTTP request's :authority as rules see it:
// lower case and without the port. IPv6 addresses stay in brackets. User
// information, a trailing dot, a zone, an empty port and anything but ASCII is an error.
// It allocates only where it changes something other than the port.
func CanonicalHost(raw string) (host string, err error) {
	if len(raw) > maxHost+len(":65535") {
		return "", errHost
	}
	if strings.HasPrefix(raw, "[") {
		return canonicalIPv6(raw)
	}
	host, port, found := strings.Cut(raw, ":")
	if found && !validPort(port) || host == "" || len(host) > maxHost {
		return "", errHost
	}
	upper := false
	for i := range len(host) {
		switch c := host[i]; {
		case c == '.':
			if i == 0 || i == len(host)-1 || host[i-1] == '.' {
				return "", errHost
			}
		case c >= 'A' && c <= 'Z':
			upper = true
		case c != '~' && unreserved(c):
		default:
			return "", errHost
		}
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, nil
}

func canonicalIPv6(raw string) (string, error) {
	end := strings.IndexByte(raw, ']')
	if end < 0 {
		return "", errHost
	}
	if rest := raw[end+1:]; rest != "" && (rest[0] != ':' || !validPort(rest[1:])) {
		return "", errHost
	}
	address, err := netip.ParseAddr(raw[1:end])
	if err != nil || !address.Is6() || address.Zone() != "" {
		return "", errHost
	}
	var buf [64]byte
	text := append(address.AppendTo(append(buf[:0], '[')), ']')
	if string(text) == raw[:end+1] {
		return raw[:end+1], nil
	}
	return string(text), nil
}

func validPort(port string) bool {
	if port == "" || len(port) > 5 {
		return false
	}
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
		n = n*10 + int(port[i]-'0')
	}
	return n <= 65535
}
