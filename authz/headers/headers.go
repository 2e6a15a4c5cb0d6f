// Package headers reads the headers of one request as far as admission needs
// them: which credentials they carry, whether they can be read one way only, and
// which of them an upstream must not see. The doors feed it pairs.
//
// It is not for attributes that no header carries (the mTLS principal), and it
// judges no credential. A pair costs tens of nanoseconds; it allocates for a
// credential and for each reserved header that a client sent.
package headers

import (
	"bytes"
	"strings"

	"github.com/voicecore-ai/sluice/tenant"
)

// Bounds of what is read. Envoy's own defaults are 60 KiB and 100 headers.
const (
	MaxBytes = 64 << 10 // names and values together
	MaxCount = 1024
)

const (
	apiKey        = "x-api-key"
	authorization = "authorization"
	contentType   = "content-type"

	maxCredential = 1024 // longer than any that is accepted: authn refuses it whole
	maxReserved   = 64
)

// Reader gathers what a request presented. The zero value is ready.
type Reader struct {
	Malformed string // why the headers can't be read one way only; "" if they can
	GRPC      bool   // the caller speaks gRPC, so it wants grpc-status

	keys     [4]string // a second one is already too many
	n        int
	reserved []string
	seen     pseudo
	size     int
	count    int
	apiKeys  int  // headers named x-api-key
	auth     int  // headers named authorization
	bearer   bool // an authorization header carried a credential
}

// pseudo is the set of headers that a request has at most once.
type pseudo uint8

const (
	pseudoAuthority pseudo = 1 << iota
	pseudoPath
	pseudoMethod
	pseudoScheme
	singleContentType
)

// Reset forgets everything but the memory.
func (r *Reader) Reset() {
	reserved := r.reserved[:0]
	clear(r.reserved)
	*r = Reader{reserved: reserved}
}

// APIKeys are the values that may be API keys, up to four. Valid until Reset.
func (r *Reader) APIKeys() []string { return r.keys[:r.n] }

// Add reads one header. It keeps neither slice.
func (r *Reader) Add(name, value []byte) {
	r.count++
	r.size += len(name) + len(value)
	switch {
	case r.size > MaxBytes:
		r.malformed("the headers are larger than 64 KiB")
		return
	case r.count > MaxCount:
		r.malformed("there are more than 1024 headers")
		return
	case !token(name):
		r.malformed("a header name is not a token")
		return
	}
	switch {
	case is(name, apiKey):
		r.apiKeys++
		r.addKeys(value)
	case is(name, authorization):
		if r.auth++; r.auth > 1 {
			r.malformed("there is more than one authorization header")
		}
		r.authorization(value)
	case is(name, contentType):
		r.once(singleContentType, "there is more than one content-type")
		r.GRPC = speaksGRPC(value)
	case name[0] == ':':
		r.pseudo(name, value)
	case tenant.IsReservedHeader(string(name)):
		if len(r.reserved) == maxReserved {
			r.malformed("there are too many reserved headers")
			return
		}
		r.reserved = append(r.reserved, string(name))
	}
}

func (r *Reader) pseudo(name, value []byte) {
	switch string(name) {
	case ":authority":
		r.once(pseudoAuthority, "there is more than one :authority")
		if bytes.IndexByte(value, ',') >= 0 { // how Envoy joins two
			r.malformed("the :authority names more than one host")
		}
	case ":path":
		r.once(pseudoPath, "there is more than one :path")
	case ":method":
		r.once(pseudoMethod, "there is more than one :method")
	case ":scheme":
		r.once(pseudoScheme, "there is more than one :scheme")
	}
}

func (r *Reader) once(p pseudo, why string) {
	if r.seen&p != 0 {
		r.malformed(why)
	}
	r.seen |= p
}

func (r *Reader) malformed(why string) {
	if r.Malformed == "" {
		r.Malformed = why
	}
}

// authorization takes the credential out of "Bearer <key>". Other schemes belong
// to the upstream. No scheme that Sluice reads has a comma, so a value with one that names
// Bearer anywhere is several headers that a proxy joined.
func (r *Reader) authorization(value []byte) {
	if bytes.IndexByte(value, ',') < 0 {
		if key, ok := bearer(value); ok {
			r.bearer = true
			r.addKey(key)
		}
		return
	}
	for piece := range bytes.SplitSeq(value, []byte{','}) {
		if _, ok := bearer(piece); ok {
			r.bearer = true
			r.addKeys(value)
			return
		}
	}
}

func bearer(value []byte) (key []byte, ok bool) {
	const scheme = "bearer"
	value = trim(value)
	if len(value) < len(scheme) || !bytes.EqualFold(value[:len(scheme)], []byte(scheme)) {
		return nil, false
	}
	rest := value[len(scheme):]
	if len(rest) > 0 && rest[0] != ' ' && rest[0] != '\t' {
		return nil, false
	}
	return trim(rest), true
}

// addKeys adds every value of a header that Envoy may have joined with commas.
func (r *Reader) addKeys(value []byte) {
	for {
		piece, rest, more := bytes.Cut(value, []byte{','})
		r.addKey(trim(piece))
		if !more || r.n == len(r.keys) {
			return
		}
		value = rest
	}
}

func (r *Reader) addKey(key []byte) {
	if r.n == len(r.keys) {
		return
	}
	r.keys[r.n] = string(key[:min(len(key), maxCredential)])
	r.n++
}

// Written says whether Sluice sets a header of that name on the request it admits.
type Written func(name string) bool

// AppendStripped appends the names of the headers that an upstream must not
// see: credentials, and reserved spellings that are not about to be overwritten. A name
// that is overwritten and removed at once could end as neither.
func (r *Reader) AppendStripped(names []string, written Written) []string {
	if r.apiKeys > 0 {
		names = append(names, apiKey)
	}
	if r.bearer {
		names = append(names, authorization)
	}
next:
	for i, name := range r.reserved {
		if written(name) {
			continue
		}
		for _, earlier := range r.reserved[:i] {
			if strings.EqualFold(earlier, name) {
				continue next
			}
		}
		names = append(names, name)
	}
	return names
}

// speaksGRPC follows Envoy's own test, on which its local replies depend.
// gRPC-Web is HTTP to it where no grpc_web filter ran.
func speaksGRPC(value []byte) bool {
	const grpc = "application/grpc"
	if len(value) < len(grpc) || !bytes.EqualFold(value[:len(grpc)], []byte(grpc)) {
		return false
	}
	return len(value) == len(grpc) || value[len(grpc)] == '+' || value[len(grpc)] == ';'
}

func is(name []byte, want string) bool {
	return len(name) == len(want) && (string(name) == want || strings.EqualFold(string(name), want))
}

// token reports whether name is what RFC 9110 allows, or a pseudo-header.
// Whoever sets a header name back to Envoy may rely on it.
func token(name []byte) bool {
	if len(name) > 0 && name[0] == ':' {
		name = name[1:]
	}
	for _, c := range name {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(name) > 0
}

var tokenBytes = func() (t [256]bool) {
	const marks = "!#$%&'*+-.^_`|~"
	for c := range t {
		b := byte(c)
		t[c] = b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte(marks, b) >= 0
	}
	return t
}()

func trim(b []byte) []byte { return bytes.Trim(b, " \t") }
