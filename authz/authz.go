// Package authz is the vocabulary of admission: who asks (Principal) and what
// they present (Credentials). Credentials become principals in authz/authn.
package authz

import "errors"

// Scheme says how a principal proved itself.
type Scheme uint8

// The schemes. The zero value is nobody.
const (
	Nobody Scheme = iota
	SPIFFE
	APIKey
)

// Principal is a proven identity.
type Principal struct {
	Scheme Scheme
	Name   string // the SPIFFE id, or the API key's id; safe to log
}

// Credentials are what a request presented, as a door read them. Each holds
// every value that the request carried, so that a second one is seen.
type Credentials struct {
	SPIFFE  string   // from the peer certificate, as Envoy reports it; "" without mTLS
	APIKeys []string // values of x-api-key and of "authorization: Bearer"
}

// Errors of authentication. Each means 401.
var (
	ErrNoCredentials   = errors.New("no credentials: send an API key in x-api-key or as 'Authorization: Bearer'")
	ErrManyCredentials = errors.New("more than one credential: send exactly one")
	ErrBadCredential   = errors.New("the credential is unknown, expired or malformed")
)
