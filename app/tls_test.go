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
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
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
	await.That(t, "the renewal hangs", func() bool {
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
	await.That(t, "the renewed certificate is shown", func() bool { return shown(t, s, client) == 4 })
}

func TestABrokenCertificateKeepsTheLastGoodOneAndIsReported(t *testing.T) {
	const refused = `sluice_files_refused{setting="tls-cert"} `
	ca := newAuthority(t)
	files := ca.serverFiles(t)
	until := time.Now().Add(30 * time.Minute)
	client, renewed := ca.issue(t, 3, time.Now().Add(time.Hour)), ca.issue(t, 4, until)
	s := run(t, files.args()...)
	has := func(line string) func() bool {
		return func() bool { return strings.Contains(s.page(t), line+"\n") }
	}
	if !has(refused + "0")() {
		t.Errorf("from the start the page says otherwise than %s0", refused)
	}
	first, err := os.ReadFile(files.cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		broken     []byte
		says       string
	}{
		{"half a certificate", files.cert, first[:len(first)/2], "tls-cert, tls-key: "},
		{"a certificate whose key is still the old one", files.cert, renewed.cert, "private key does not match"},
		{"an authority that is none", files.ca, []byte("nothing\n"), "holds no PEM certificate"},
	} {
		t.Run(c.name+" changes nothing but a metric and a line of the log", func(t *testing.T) {
			before, err := os.ReadFile(c.path)
			if err != nil {
				t.Fatal(err)
			}
			put(t, c.path, c.broken)
			await.That(t, "the metric says so", has(refused+"1"))
			if log := s.log.String(); !strings.Contains(log, "those before stay in use") || !strings.Contains(log, c.says) {
				t.Errorf("the log does not say %q:\n%s", c.says, log)
			}
			if serial := shown(t, s, client); serial != 2 {
				t.Errorf("a handshake shows %d", serial)
			}
			put(t, c.path, before)
			await.That(t, "it is as it was", has(refused+"0"))
		})
	}
	t.Run("a whole one is used, and the metric says until when", func(t *testing.T) {
		put(t, files.key, renewed.key)
		put(t, files.cert, renewed.cert)
		await.That(t, "it is shown", func() bool { return shown(t, s, client) == 4 })
		if line := fmt.Sprintf("sluice_tls_certificate_expiry_timestamp_seconds %g", float64(until.Unix())); !has(line)() || !has(refused+"0")() {
			t.Errorf("not there: %s\n%s", line, s.page(t))
		}
	})
	if n := strings.Count(s.log.String(), "those before stay in use"); n > 4 {
		t.Errorf("%d lines about three files", n) // the key is put before the certificate: at most one line of that
	}
}
