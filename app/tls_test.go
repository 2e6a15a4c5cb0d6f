package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const peerID = "spiffe://demo/ns/edge/sa/gateway"

// authority signs certificates as a mesh's would.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mesh"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{dir: t.TempDir(), key: newKey(t)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(a.dir, "ca.crt"), text("CERTIFICATE", der))
	return a
}

// leaf is a certificate of a peer and its key, in PEM.
type leaf struct{ cert, key []byte }

func (a *authority) issue(t *testing.T, serial int64, until time.Time) leaf {
	t.Helper()
	id, err := url.Parse(peerID)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: until, URIs: []*url.URL{id},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return leaf{text("CERTIFICATE", der), text("PRIVATE KEY", keyDER)}
}

// serverFiles are the settings of a server whose certificate has the serial number 2.
type serverFiles struct{ cert, key, ca string }

func (a *authority) serverFiles(t *testing.T) serverFiles {
	t.Helper()
	f := serverFiles{filepath.Join(a.dir, "tls.crt"), filepath.Join(a.dir, "tls.key"), filepath.Join(a.dir, "ca.crt")}
	first := a.issue(t, 2, time.Now().Add(time.Hour))
	put(t, f.cert, first.cert)
	put(t, f.key, first.key)
	return f
}

func (f serverFiles) args() []string {
	return []string{"--tls-cert", f.cert, "--tls-key", f.key, "--tls-client-ca", f.ca, "--peers", peerID}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func text(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// put writes a file whole, as whoever renews certificates does.
func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// shown is the serial number of the certificate that a handshake shows.
func shown(t *testing.T, s *server, client leaf) int64 {
	t.Helper()
	mine, err := tls.X509KeyPair(client.cert, client.key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", s.Addr("grpc-listen").String(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{mine}, // a SPIFFE certificate has no name
	})
	if err != nil {
		t.Error(err)
		return 0
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestADiskThatHangsHoldsUpNoHandshake(t *testing.T) {
	ca := newAuthority(t)
	files := ca.serverFiles(t)
	client, renewed := ca.issue(t, 3, time.Now().Add(time.Hour)), ca.issue(t, 4, time.Now().Add(time.Hour))
	s := run(t, files.args()...)
	pipe(t, files.cert)
	eventually(t, "the renewal hangs", func() bool {
		return slices.ContainsFunc(running(), func(g string) bool { return strings.Contains(g, "(*certificates).load") })
	})
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if serial := shown(t, s, client); serial != 2 {
				t.Errorf("a handshake shows %d", serial)
			}
		})
	}
	callers.Wait()
	put(t, files.key, renewed.key)
	if err := os.WriteFile(files.cert, renewed.cert, 0o600); err != nil { // the disk answers
		t.Fatal(err)
	}
	put(t, files.cert, renewed.cert)
	eventually(t, "the renewed certificate is shown", func() bool { return shown(t, s, client) == 4 })
}

