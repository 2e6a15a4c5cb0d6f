// Package trust is who may vouch for principals: the issuers of tokens that the catalogue lists, and what
// makes a SPIFFE id that can be believed. Tokens and certificates are judged in authz/authn.
//
// It fetches nothing and knows no key. Finding the issuer of a token costs a map access and, where issuers
// have realms, a look at each of those; it allocates nothing.
package trust

import (
	"crypto/sha256"
	"encoding/json"
)

// Issuer is who may vouch for principals by JSON Web Tokens (RFC 7519), as
// people write it. Issuer and audience are mandatory in every token.
type Issuer struct {
	Name string `json:"name" yaml:"name"` // begins the names of its principals
	// Issuer is the exact "iss". One path segment, or one label of the host, may be
	// {tenant}: one realm for each tenant.
	Issuer string `json:"issuer" yaml:"issuer"`
	// Audiences are those of which a token must name one. At least one.
	Audiences []string `json:"audiences" yaml:"audiences"`
	// JWKSURI is where the keys are (RFC 7517): https, public, not redirected. {tenant}
	// stands for the realm of the token where Issuer has one.
	JWKSURI string `json:"jwks_uri" yaml:"jwks_uri"`
	// Algorithms are accepted; default RS256, ES256 and EdDSA. None is never, and
	// neither are those with a shared secret.
	Algorithms []string `json:"algorithms,omitempty" yaml:"algorithms,omitempty"`
	// Tenant is whom the tokens speak for; or TenantClaim names the claim that
	// says so, by dots for nested ones (ClaimPath); or Issuer has {tenant}. Exactly one of them.
	Tenant      string `json:"tenant,omitempty" yaml:"tenant,omitempty"`
	TenantClaim string `json:"tenant_claim,omitempty" yaml:"tenant_claim,omitempty"`
	// RolesClaim names the claim with the principal's roles: a list of strings, or
	// one string with spaces between them.
	RolesClaim string `json:"roles_claim,omitempty" yaml:"roles_claim,omitempty"`
	// Types are the accepted "typ" of the header; default at+jwt, JWT and none,
	// which stands for a token without one.
	Types []string `json:"types,omitempty" yaml:"types,omitempty"`
	// AllowPrivate lets JWKSURI resolve to a private or loopback address, for an
	// issuer inside the cluster. Metadata addresses are refused all the same. Not settable by API.
	AllowPrivate bool `json:"allow_private,omitempty" yaml:"allow_private,omitempty"`
}

// Voucher is what principals for whom a compiled issuer vouched keep of it. It changes with every field, and
// replicas with the same catalogue agree on it. It costs some microseconds.
func (i *Issuer) Voucher() [16]byte {
	text, err := json.Marshal(i)
	if err != nil {
		panic(err) // strings and booleans can always be written
	}
	sum := sha256.Sum256(text)
	return [16]byte(sum[:16])
}
