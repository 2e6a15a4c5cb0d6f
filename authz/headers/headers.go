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

	"github.com/voicecore-ai/sluice/authz"
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
	host          = "host"

	xfcc = "x-forwarded-client-cert"

	maxCredential = 1024       // longer than any API key that is accepted: authn refuses it whole
	maxToken      = 8<<10 + 1  // the same for a token
	maxXFCC       = 16<<10 + 1 // and for what proxies say about certificates; the header goes on to the upstream
	maxReserved   = 64
)

// Reader gathers what a request presented. The zero value is ready.
type Reader struct {
	Malformed string // why the headers can't be read one way only; "" if they can
	GRPC      bool   // the caller speaks gRPC, so it wants grpc-status

	// What is asked for, as it came: from the pseudo-headers or from Target.
	Method, Path, Host string

	keys     values // a second one is already too many
	tokens   values
	tenants  values
	xfcc     values
	reserved []string
	seen     pseudo
	size     int
	count    int
	apiKeys  int  // headers named x-api-key
	auth     int  // headers named authorization
	bearer   bool // an authorization header carried a credential
}

// values are a few of them, since more than one is already too many.
type values struct {
	v [4]string
	n int
}

func (v *values) full() bool { return v.n == len(v.v) }

// add keeps a value, cut to where it is too long for whoever judges it.
func (v *values) add(value []byte, most int) {
	if !v.full() {
		v.v[v.n] = string(value[:min(len(value), most)])
		v.n++
	}
}

func (v *values) all() []string { return v.v[:v.n] }

// pseudo is the set of headers that a request has at most once.
type pseudo uint8

const (
	pseudoAuthority pseudo = 1 << iota
	pseudoPath
	pseudoMethod
	pseudoScheme
	singleContentType
	singleHost
)

// Reset forgets everything but the memory.
func (r *Reader) Reset() {
	reserved := r.reserved[:0]
	clear(r.reserved)
	*r = Reader{reserved: reserved}
}

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
	case is(name, host): // HTTP/1's :authority: an upstream believes the one or the other
		r.once(singleHost, "there is more than one host")
		r.asks(&r.Host, value)
	case is(name, xfcc):
		r.xfcc.add(value, maxXFCC)
	case tenant.IsReservedHeader(string(name)) || overrides(name):
		if len(r.reserved) == maxReserved {
			r.malformed("there are too many reserved headers")
			return
		}
		if is(name, tenant.TokenHeader) {
			r.tenants.add(trim(value), maxToken)
		}
		r.reserved = append(r.reserved, string(name))
	}
}

// overrides reports whether a framework may take another method, path or host from a header
// of that name than the request line has, which is what the rules were asked about. An
// upstream must not see it. Marks and case do not count, as in [tenant.IsReservedHeader].
func overrides(name []byte) bool {
	if name[0]|0x20 != 'x' {
		return false
	}
	var f [len("xhttpmethodoverride")]byte
	n := 0
	for _, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			continue
		}
		if n == len(f) {
			return false
		}
		f[n] = c
		n++
	}
	switch string(f[:n]) {
	case "xhttpmethod", "xhttpmethodoverride", "xmethodoverride", // Rails, Express, Spring, ASP.NET
		"xoriginalurl", "xoriginaluri", "xrewriteurl", "xoverrideurl", // Symfony, Zend, IIS
		"xoriginalhost", "xhttphostoverride", "xhostoverride":
		return true
	}
	return false
}

func (r *Reader) pseudo(name, value []byte) {
	switch string(name) {
	case ":authority":
		r.once(pseudoAuthority, "there is more than one :authority")
		r.asks(&r.Host, value)
		if bytes.IndexByte(value, ',') >= 0 { // how Envoy joins two
			r.malformed("the :authority names more than one host")
		}
	case ":path":
		r.once(pseudoPath, "there is more than one :path")
		r.asks(&r.Path, value)
	case ":method":
		r.once(pseudoMethod, "there is more than one :method")
		r.asks(&r.Method, value)
	case ":scheme":
		r.once(pseudoScheme, "there is more than one :scheme")
	}
}

// Target reads what a protocol says of the request beside its headers; what the
// headers say too must be the same. An empty value says nothing.
func (r *Reader) Target(method, path, host []byte) {
	r.asks(&r.Method, method)
	r.asks(&r.Path, path)
	r.asks(&r.Host, host)
}

func (r *Reader) asks(into *string, value []byte) {
	switch {
	case len(value) == 0:
	case len(value) > MaxBytes:
		r.malformed("the request line is larger than 64 KiB")
	case *into == "":
		*into = string(value)
	case *into != string(value):
		r.malformed("the request has two methods, paths or hosts")
	}
}

// Credentials are what the headers present. Valid until Reset.
func (r *Reader) Credentials() authz.Credentials {
	return authz.Credentials{APIKeys: r.keys.all(), Tokens: r.tokens.all(), Tenant: r.tenants.all(), XFCC: r.xfcc.all()}
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
			if isToken(key) {
				r.tokens.add(key, maxToken)
			} else {
				r.keys.add(key, maxCredential)
			}
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
		r.keys.add(trim(piece), maxCredential)
		if !more || r.keys.full() {
			return
		}
		value = rest
	}
}

// isToken reports whether a bearer value has the form of a JSON Web Token: a JSON object
// in base64url begins with "ey", and there are two dots. An API key has neither.
func isToken(value []byte) bool {
	return bytes.HasPrefix(value, []byte("ey")) && bytes.Count(value, []byte{'.'}) == 2
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
