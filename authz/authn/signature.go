package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"math/big"
)

// signed reports whether signature is k's of message under alg (RFC 7518, 3; RFC 8037).
// The primitives are Go's. A JOSE library would read the header once more, in its own way, and
// parse certificates and keys that the sender put there, before anything is verified.
func (k *key) signed(alg string, message, signature []byte) bool {
	if !k.verifies(alg) {
		return false
	}
	hash, digest := hashFor(alg, message)
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		switch alg[:2] {
		case "RS":
			return rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil
		case "PS":
			return rsa.VerifyPSS(public, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case *ecdsa.PublicKey:
		size := (public.Params().BitSize + 7) / 8
		if alg[:2] != "ES" || len(signature) != 2*size { // r and s side by side, never DER
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(public, digest, r, s)
	case ed25519.PublicKey:
		return alg == "EdDSA" && ed25519.Verify(public, message, signature)
	}
	return false
}

// hashFor is the hash that the end of alg names, and the digest of message.
func hashFor(alg string, message []byte) (crypto.Hash, []byte) {
	switch alg[len(alg)-3:] {
	case "384":
		sum := sha512.Sum384(message)
		return crypto.SHA384, sum[:]
	case "512":
		sum := sha512.Sum512(message)
		return crypto.SHA512, sum[:]
	case "256":
		sum := sha256.Sum256(message)
		return crypto.SHA256, sum[:]
	}
	return 0, nil // EdDSA hashes itself
}
