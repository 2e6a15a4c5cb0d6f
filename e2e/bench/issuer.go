package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuerName is the "iss" of the tokens; audience is what they are for.
const (
	issuerName = "https://id.bench.example"
	audience   = "voice-api"
)

// issuer signs tokens and publishes its key over https on loopback.
type issuer struct {
	key    *ecdsa.PrivateKey
	signer jose.Signer
	server *http.Server
	uri    string // of the key set
}

// newIssuer starts one. Its certificate goes into a file that SSL_CERT_FILE names from then
// on, so that a sluiced which is started later trusts it.
func newIssuer(dir string) (*issuer, error) {
	i := &issuer{}
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &i.key.PublicKey, i.key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	roots := filepath.Join(dir, "issuer.crt")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	if err := os.Setenv("SSL_CERT_FILE", roots); err != nil {
		return nil, err
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "bench", Algorithm: "ES256", Use: "sig", Key: i.key.Public()}}})
	if err != nil {
		return nil, err
	}
	l, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	i.uri = "https://" + l.Addr().String() + "/keys"
	i.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) }),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: i.key}}},
	}
	go i.server.ServeTLS(l, "", "") //nolint:errcheck // ends with close
	options := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "bench")
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, options)
	return i, err
}

func (i *issuer) close() error { return i.server.Close() }

// token is a good one of a subject, for an hour.
func (i *issuer) token(subject string) (string, error) {
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": issuerName, "aud": audience, "sub": subject, "iat": now - 10, "exp": now + 3600, "roles": []string{"agent", "calls:read"},
	})
	if err != nil {
		return "", err
	}
	signed, err := i.signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// forged is a token of a subject whose signature is none of the key's, as costly to refuse as one can be.
func (i *issuer) forged(subject int) (string, error) {
	now := time.Now().Unix()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // a map of strings and numbers
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signature := make([]byte, 64)
	_, err := rand.Read(signature)
	return part(map[string]any{"alg": "ES256", "kid": "bench", "typ": "at+jwt"}) + "." + part(map[string]any{
		"iss": issuerName, "aud": audience, "sub": fmt.Sprint(subject), "iat": now - 10, "exp": now + 3600, "roles": []string{"agent"},
	}) + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// writeCatalog writes the files of a catalogue into a new folder.
func writeCatalog(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var errs []error
	for name, text := range files {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return errors.Join(errs...)
}
