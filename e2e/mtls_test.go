package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/testca"
)

const (
	serverID   = "spiffe://demo/ns/sluice/sa/sluiced"
	envoyID    = "spiffe://demo/ns/edge/sa/gateway"
	operatorID = "spiffe://demo/ns/ops/sa/operator"
)

// mutual is the demo's configuration with deploy/envoy/mtls.yaml in the cluster of sluiced.
func mutual(ca *testca.Authority, envoy testca.Leaf) string {
	block := strings.NewReplacer(
		"${TLS_CERT}", envoy.CertFile, "${TLS_KEY}", envoy.KeyFile, "${TLS_CA}", ca.File, "${SLUICE_ID}", serverID,
	).Replace(deploy.MTLS)
	const before = "      # The default of 1024 requests in flight"
	return strings.Replace(deploy.Demo, before, "      "+strings.ReplaceAll(block, "\n", "\n      ")+"\n"+before, 1)
}

func TestMutualTLSAdmitsListedPeersAlone(t *testing.T) {
	ca, other := testca.New(t), testca.New(t)
	later := time.Now().Add(time.Hour)
	server := ca.Workload(t, later, serverID)
	gateway := ca.Workload(t, later, envoyID)
	operator := ca.Workload(t, later, operatorID)
	config := &tls.Config{ // Go checks names, and a SPIFFE certificate has none
		InsecureSkipVerify: true,
		VerifyConnection:   func(s tls.ConnectionState) error { return isServer(s, ca.Pool()) },
		NextProtos:         []string{"h2"},
		Certificates:       []tls.Certificate{operator.Certificate},
	}
	w := start(t, stack.Options{
		Config: mutual(ca, gateway),
		Args:   []string{"--tls-cert", server.CertFile, "--tls-key", server.KeyFile, "--tls-client-ca", ca.File, "--peers", envoyID + "," + operatorID},
	}, way{"", credentials.NewTLS(config.Clone())})
	key := w.tenant(t, "acme", limit("per-hour", hard, 3, time.Hour))

	t.Run("Envoy's requests are decided, and each costs one hit", func(t *testing.T) {
		if s := w.get(t.Context(), "slk_00000000_none"); s.status != http.StatusUnauthorized {
			t.Errorf("a wrong key: %d, %v", s.status, s.err)
		}
		for i, want := range []int{200, 200, 200, 429} {
			if s := w.get(t.Context(), key); s.status != want {
				t.Errorf("request %d: %d, %v, want %d", i+1, s.status, s.err, want)
			}
		}
		await.That(t, "what the same peer reports is settled", func() bool {
			return strings.Contains(w.metrics(t), `sluice_access_log_entries_total{result="settled"} 5`)
		})
		for class, want := range map[string]string{"2xx": "3", "4xx": "2", "5xx": "0"} {
			if got := w.metric(t, `sluice_requests_total{class="`+class+`",protocol="http"}`); got != want {
				t.Errorf("%s requests have ended with %s, want %s", got, class, want)
			}
		}
		if got := w.metric(t, `sluice_credentials_refused_total{reason="api_key"}`); got != "1" {
			t.Errorf("%s API keys were refused, want 1", got)
		}
	})

	none := testca.Leaf{}
	for _, c := range []struct {
		name string
		leaf testca.Leaf
		edit func(*tls.Config)
	}{
		{"an id that is not listed", ca.Workload(t, later, "spiffe://demo/ns/edge/sa/other"), nil},
		{"an id that a listed one begins with", ca.Workload(t, later, strings.TrimSuffix(envoyID, "way")), nil},
		{"a listed id in other letters", ca.Workload(t, later, strings.Replace(envoyID, "gateway", "Gateway", 1)), nil},
		{"two ids, one of them listed", ca.Workload(t, later, envoyID, "spiffe://demo/ns/edge/sa/other"), nil},
		{"no id", ca.Workload(t, later), nil},
		{"an expired certificate", ca.Workload(t, time.Now().Add(-time.Minute), envoyID), nil},
		{"another authority's certificate", other.Workload(t, later, envoyID), nil},
		{"no certificate", none, nil},
		{"TLS 1.1", gateway, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
		{"another protocol than HTTP/2", gateway, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s is refused in the handshake of a client that speaks up to %s", c.name, tls.VersionName(version)), func(t *testing.T) {
				mine := config.Clone()
				mine.MaxVersion, mine.Certificates = version, nil
				if c.leaf.PrivateKey != nil {
					mine.Certificates = []tls.Certificate{c.leaf.Certificate}
				}
				if c.edit != nil {
					c.edit(mine)
				}
				refused(t, w, func(conn net.Conn) net.Conn { return tls.Client(conn, mine) })
			})
		}
	}
	t.Run("a renewed certificate is served, and half of one changes nothing", func(t *testing.T) {
		before := served(t, w, config)
		half := ca.Workload(t, later, serverID)
		replace(t, half.CertFile, server.CertFile)
		await.That(t, "the log says that the key is another's", func() bool {
			return served(t, w, config) == before && strings.Contains(w.log(t), "those before stay in use")
		})
		replace(t, half.KeyFile, server.KeyFile)
		await.That(t, "the renewed one is served", func() bool { return served(t, w, config) != before })
		if s := w.get(t.Context(), key); s.status != http.StatusTooManyRequests {
			t.Errorf("Envoy's request: %d, %v, want the 429 of before", s.status, s.err)
		}
	})
	t.Run("plain text is refused", func(t *testing.T) {
		refused(t, w, func(conn net.Conn) net.Conn { return conn })
	})
	t.Run("a listed client is served after all of that, and the log says who was not", func(t *testing.T) {
		if s := w.get(t.Context(), key); s.status != http.StatusTooManyRequests {
			t.Errorf("%d, %v", s.status, s.err)
		}
		if log := w.log(t); !strings.Contains(log, "spiffe://demo/ns/edge/sa/other") || !strings.Contains(log, "peers") {
			t.Errorf("no line names the peer that is not listed:\n%s", log)
		}
	})
}

// isServer is what Envoy's validation context checks.
func isServer(s tls.ConnectionState, roots *x509.CertPool) error {
	cert := s.PeerCertificates[0]
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		return err
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != serverID {
		return errors.New("not sluiced")
	}
	return nil
}

// served is the serial number of the certificate that sluiced shows.
func served(t *testing.T, w *world, config *tls.Config) string {
	t.Helper()
	conn, err := tls.Dial("tcp", w.GRPC, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// replace puts one file in the place of another at once, as whoever renews certificates does.
func replace(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err = errors.Join(err, os.WriteFile(to+".new", text, 0o600), os.Rename(to+".new", to)); err != nil {
		t.Fatal(err)
	}
}

// refused wants a connection to end before the server has said a word of HTTP/2.
// In TLS 1.3 a client learns of its refusal with the first byte that it reads.
func refused(t *testing.T, w *world, wrap func(net.Conn) net.Conn) {
	t.Helper()
	plain, err := net.Dial("tcp", w.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	conn := wrap(plain)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = conn.Write([]byte(http2.ClientPreface)); err == nil {
		err = http2.NewFramer(conn, conn).WriteSettings()
	}
	if err == nil {
		var frame http2.Frame
		if frame, err = http2.NewFramer(nil, conn).ReadFrame(); err == nil {
			t.Fatalf("the server answered with %v", frame)
		}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("neither served nor refused: %v", err)
	}
	t.Log(err)
}
