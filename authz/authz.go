// Package authz is the vocabulary of admission: who asks (Principal), what they
// present (Credentials), what they ask for (Action), and the rules that say whether
// they may (Rule, Rules). Credentials become principals in authz/authn; whose word is believed there is authz/trust.
//
// It knows no protocol and no store. Deciding about an action costs about a
// microsecond with two conditions in CEL, and allocates little.
package authz

import "github.com/voicecore-ai/sluice/tenant"

// Scheme says how a principal proved itself.
type Scheme uint8

// The schemes. The zero value is nobody.
const (
	Nobody Scheme = iota
	SPIFFE
	APIKey
	JWT
	schemes
)

var schemeNames = [schemes]string{"nobody", "spiffe", "api_key", "jwt"}

// String is the scheme's name in rules and in the audit log.
func (s Scheme) String() string {
	if s < schemes {
		return schemeNames[s]
	}
	return schemeNames[Nobody]
}

// Principal is a proven identity.
type Principal struct {
	Scheme Scheme
	Name   string   // the SPIFFE id, the API key's id, or "<issuer's name>/<subject>"; safe to log
	Roles  []string // an API key's scopes, a token's roles; shared: never changed
	// Expires is when the proof ends, Unix µs; 0 for never. A stream that was
	// admitted by it must not outlive it.
	Expires int64
	// Voucher stands for the entry of the catalogue that the proof hangs on, as it was: an issuer and
	// all that it may vouch for, an API key's digest. Who was admitted and is asked about again stands
	// only while there is such an entry. Zero for a workload, whose name is all there is. It is no secret.
	Voucher [16]byte
}

// Credentials are what a request presented, as a door read them. Each holds
// every value that the request carried, so that a second one is seen.
type Credentials struct {
	SPIFFE  string   // from the peer certificate, as Envoy reports it; "" without mTLS
	XFCC    []string // x-forwarded-client-cert; believed only from a proxy on a list
	APIKeys []string // values of x-api-key and of "authorization: Bearer"
	Tokens  []string // values of "authorization: Bearer" that have the form of a JWT
	Tenant  []string // tenant tokens (tenant.TokenHeader): Sluice's own, from the hop before
	Source  string   // the client's address without port, as Envoy saw it; "" if unknown
}

// Action is what a request asks for, as one door read it. Its slices are valid
// for the call only.
type Action struct {
	// Service names what is asked: what the operator's route says (ext_authz: "service" of its context extensions;
	// ext_proc: tenant.ServiceMetadata), else, by the gate, the SPIFFE id of the workload that Envoy stands before.
	Service string
	Host    string // lower case, without port
	Method  string // as it came: methods are case-sensitive (RFC 9110, 9.1)
	Path    string // as it came, query included, until the gate makes it canonical
	GRPC    bool   // content-type application/grpc: Path is /package.Service/Method
	Headers []Header
	// HeadersCut says that Headers is not all of them: a condition that reads one is an error, and so a denial.
	HeadersCut bool
	Body       Body
}

// Header is one header field as it came. The name is lower case.
type Header struct{ Name, Value []byte }

// Confidential reports whether h is for authn, or for the service, and for nobody else: a credential of either,
// or a name that only Sluice may write, as that of its tenant token. No condition can read it, and who
// keeps the headers of a request keeps them without it. It allocates nothing.
func (h Header) Confidential() bool {
	return isCredential(string(h.Name)) || tenant.IsReservedHeader(string(h.Name))
}

func isCredential(name string) bool {
	switch name {
	case "authorization", "proxy-authorization", "x-api-key", "cookie":
		return true
	}
	return false
}

// Body is what a door has of the request's body.
type Body struct {
	Bytes []byte
	// Whole is true only if Bytes is all of it. A condition that reads the body
	// of a request that is not whole is an error, and so a denial.
	Whole bool
}

// Input is all that rules are asked about.
type Input struct {
	Now       int64 // Unix µs
	Principal *Principal
	Tenant    tenant.ID
	Plan      string
	Action    *Action // Path is canonical
}
