package authn

import "github.com/golang-jwt/jwt/v5"

// methods are the algorithms that a key can have (RFC 7518, 3; RFC 8037).
//
// Of the library only they are used. Its parser, and that of every other JOSE library, reads the header in its own way once
// more, and keys and certificates that the sender put there, before anything is verified (docs/adr/0010).
var methods = map[string]jwt.SigningMethod{
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": strictPSS(jwt.SigningMethodPS256), "PS384": strictPSS(jwt.SigningMethodPS384), "PS512": strictPSS(jwt.SigningMethodPS512),
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA,
}

// strictPSS wants a salt as long as the hash (RFC 7518, 3.5); the library takes any when it verifies.
func strictPSS(m *jwt.SigningMethodRSAPSS) jwt.SigningMethod {
	return &jwt.SigningMethodRSAPSS{SigningMethodRSA: m.SigningMethodRSA, Options: m.Options}
}

// signed reports whether signature is k's of message under alg, which must be one of k's own.
func (k *key) signed(alg, message string, signature []byte) bool {
	method, known := methods[alg]
	return known && k.verifies(alg) && method.Verify(message, signature, k.public) == nil
}
