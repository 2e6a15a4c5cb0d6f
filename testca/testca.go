// Package testca signs certificates for tests, as a mesh's authority or a company's does. It is
// for tests alone: nothing is kept of it but files in the test's folder. A certificate costs a tenth of a millisecond.
package testca

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	Cert *x509.Certificate
	File string // PEM of Cert

	key *ecdsa.PrivateKey
}

// Leaf is a certificate with its key, and the PEM files of both.
type Leaf struct {
	tls.Certificate
	CertFile, KeyFile string
}

// New makes an authority that is valid for an hour.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{}
	root := a.Issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "mesh"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	cert, err := x509.ParseCertificate(root.Certificate.Certificate[0])
	must(t, err)
	a.Cert, a.File, a.key = cert, root.CertFile, root.PrivateKey.(*ecdsa.PrivateKey) //nolint:forcetypeassert // made below
	return a
}

// Pool holds the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// Workload signs a certificate that is valid until the given time and names these URIs, such as a SPIFFE id.
func (a *Authority) Workload(t testing.TB, until time.Time, uris ...string) Leaf {
	t.Helper()
	template := &x509.Certificate{NotAfter: until}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		must(t, err)
		template.URIs = append(template.URIs, parsed)
	}
	return a.Issue(t, template)
}

// Issue signs a certificate under a new key. What template does not say is chosen: a serial number, two hours ago
// until in an hour, and use by servers and clients. What no parser takes is signed as well.
func (a *Authority) Issue(t testing.TB, template *x509.Certificate) Leaf {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	template.SerialNumber = cmp.Or(template.SerialNumber, big.NewInt(now.UnixNano()))
	if template.NotBefore = now.Add(-2 * time.Hour); template.NotAfter.IsZero() {
		template.NotAfter = now.Add(time.Hour)
	}
	template.KeyUsage |= x509.KeyUsageDigitalSignature
	if template.ExtKeyUsage == nil && !template.IsCA {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	parent, by := a.Cert, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	return Leaf{
		Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		CertFile:    write(t, filepath.Join(dir, "tls.crt"), "CERTIFICATE", der),
		KeyFile:     write(t, filepath.Join(dir, "tls.key"), "PRIVATE KEY", private),
	}
}

func write(t testing.TB, path, kind string, der []byte) string {
	t.Helper()
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
