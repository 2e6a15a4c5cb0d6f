package app

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/testca"
)

const peerID = "spiffe://demo/ns/edge/sa/gateway"

// serverFiles are the settings of a server with a certificate.
type serverFiles struct {
	testca.Leaf
	ca *testca.Authority
}

func newServerFiles(t *testing.T) serverFiles {
	t.Helper()
	ca := testca.New(t)
	return serverFiles{ca.Workload(t, time.Now().Add(time.Hour), peerID), ca}
}

func (f serverFiles) args() []string {
	return []string{"--tls-cert", f.CertFile, "--tls-key", f.KeyFile, "--tls-client-ca", f.ca.File, "--peers", peerID}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// put writes a file whole, as whoever renews certificates does.
func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// shows reports whether a handshake shows that certificate.
func (s *server) shows(t *testing.T, want, client testca.Leaf) bool {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Addr("grpc-listen").String(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{client.Certificate}, // a SPIFFE certificate has no name
	})
	if err != nil {
		t.Error(err)
		return false
	}
	defer conn.Close()
	return bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, want.Certificate.Certificate[0])
}

func TestADiskThatHangsHoldsUpNoHandshake(t *testing.T) {
	files := newServerFiles(t)
	client, renewed := files.ca.Workload(t, time.Now().Add(time.Hour), peerID), files.ca.Workload(t, time.Now().Add(time.Hour), peerID)
	s := run(t, files.args()...)
	pipe(t, files.CertFile)
	await.That(t, "the renewal hangs", func() bool {
		return slices.ContainsFunc(running(), func(g string) bool { return strings.Contains(g, "(*certificates).load") })
	})
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if !s.shows(t, files.Leaf, client) {
				t.Error("a handshake shows another certificate")
			}
		})
	}
	callers.Wait()
	hanging, err := os.OpenFile(files.CertFile, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	put(t, files.KeyFile, read(t, renewed.KeyFile))
	put(t, files.CertFile, read(t, renewed.CertFile)) // or the next to open the pipe would hang again
	_, err = hanging.Write(read(t, renewed.CertFile)) // the disk answers
	if err = errors.Join(err, hanging.Close()); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the renewed certificate is shown", func() bool { return s.shows(t, renewed, client) })
}

func TestABrokenCertificateKeepsTheLastGoodOneAndIsReported(t *testing.T) {
	const refused = `sluice_files_refused{setting="tls-cert"} `
	files := newServerFiles(t)
	until := time.Now().Add(30 * time.Minute)
	client, renewed := files.ca.Workload(t, time.Now().Add(time.Hour), peerID), files.ca.Workload(t, until, peerID)
	s := run(t, files.args()...)
	has := func(line string) func() bool {
		return func() bool { return strings.Contains(s.page(t), line+"\n") }
	}
	if !has(refused + "0")() {
		t.Errorf("from the start the page says otherwise than %s0", refused)
	}
	first := read(t, files.CertFile)
	for _, c := range []struct {
		name, path string
		broken     []byte
		says       string
	}{
		{"half a certificate", files.CertFile, first[:len(first)/2], "tls-cert, tls-key: "},
		{"a certificate whose key is still the old one", files.CertFile, read(t, renewed.CertFile), "private key does not match"},
		{"an authority that is none", files.ca.File, []byte("nothing\n"), "holds no PEM certificate"},
	} {
		t.Run(c.name+" changes nothing but a metric and a line of the log", func(t *testing.T) {
			before := read(t, c.path)
			put(t, c.path, c.broken)
			await.That(t, "the metric says so", has(refused+"1"))
			await.That(t, "the log says "+c.says, func() bool {
				log := s.log.String()
				return strings.Contains(log, "those before stay in use") && strings.Contains(log, c.says)
			})
			if !s.shows(t, files.Leaf, client) {
				t.Error("a handshake shows another certificate")
			}
			put(t, c.path, before)
			await.That(t, "it is as it was", has(refused+"0"))
		})
	}
	t.Run("a whole one is used, and the metric says until when", func(t *testing.T) {
		put(t, files.KeyFile, read(t, renewed.KeyFile))
		put(t, files.CertFile, read(t, renewed.CertFile))
		await.That(t, "it is shown", func() bool { return s.shows(t, renewed, client) })
		if line := fmt.Sprintf("sluice_tls_certificate_expiry_timestamp_seconds %g", float64(until.Unix())); !has(line)() || !has(refused+"0")() {
			t.Errorf("not there: %s\n%s", line, s.page(t))
		}
	})
	if n := strings.Count(s.log.String(), "those before stay in use"); n > 4 {
		t.Errorf("%d lines about three files", n) // the key is put before the certificate: at most one line of that
	}
}
