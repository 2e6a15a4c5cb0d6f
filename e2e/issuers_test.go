package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/testca"
)

// issuers is a server of key sets over https. A path is a set.
type issuers struct {
	*httptest.Server

	mu      sync.Mutex
	answers map[string]http.HandlerFunc
	fetches map[string]int
}

// startIssuers starts one on loopback whose certificate every process of this test trusts.
func startIssuers(t *testing.T) *issuers {
	t.Helper()
	ca := testca.New(t)
	own := ca.Issue(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}})
	i := &issuers{answers: map[string]http.HandlerFunc{}, fetches: map[string]int{}}
	i.Server = httptest.NewUnstartedServer(i)
	i.TLS = &tls.Config{Certificates: []tls.Certificate{own.Certificate}}
	i.StartTLS()
	t.Cleanup(func() { i.CloseClientConnections(); i.Close() })
	t.Setenv("SSL_CERT_FILE", ca.File)
	return i
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (i *issuers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.fetches[r.URL.Path]++
	answer := i.answers[r.URL.Path]
	i.mu.Unlock()
	if answer == nil {
		http.Error(w, "no such set", http.StatusInternalServerError)
		return
	}
	answer(w, r)
}

func (i *issuers) answer(path string, with http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answers[path] = with
}

// publish answers with a set of keys.
func (i *issuers) publish(path string, keys ...map[string]any) {
	text, _ := json.Marshal(map[string]any{"keys": keys})
	i.answer(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })
}

func (i *issuers) fetched(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches[path]
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// ecJWK and rsaJWK are public keys as RFC 7518 writes them.
func ecJWK(kid string, k *ecdsa.PrivateKey) map[string]any {
	return map[string]any{"kty": "EC", "crv": "P-256", "use": "sig", "kid": kid, "x": b64(k.X.FillBytes(make([]byte, 32))), "y": b64(k.Y.FillBytes(make([]byte, 32)))}
}

func rsaJWK(kid string, k *rsa.PublicKey) map[string]any {
	return map[string]any{"kty": "RSA", "use": "sig", "kid": kid, "n": b64(k.N.Bytes()), "e": "AQAB"}
}

// claims are the members of a token's payload, each as JSON; "" leaves one out.
type claims map[string]string

// signer makes tokens of one issuer.
type signer struct {
	key    *ecdsa.PrivateKey
	kid    string
	issuer string
	n      int
	mu     sync.Mutex
}

// token is one that is good for acme, but for what is said. Each is another one.
func (s *signer) token(with claims) string {
	return s.sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, s.kid), with)
}

func (s *signer) sign(header string, with claims) string {
	s.mu.Lock()
	s.n++
	n := s.n
	s.mu.Unlock()
	now := time.Now().Unix()
	all := claims{
		"iss": fmt.Sprintf("%q", s.issuer), "aud": `"voice-api"`, "sub": `"jo"`, "tenant": `"acme"`, "jti": fmt.Sprintf(`"%p-%d"`, s, n),
		"iat": fmt.Sprint(now), "exp": fmt.Sprint(now + 600),
	}
	var more string
	for name, value := range with {
		if strings.HasPrefix(name, "+") { // as text, after the others
			more += "," + value
			continue
		}
		all[name] = value
	}
	var members []string
	for name, value := range all {
		if value != "" {
			members = append(members, fmt.Sprintf("%q:%s", name, value))
		}
	}
	return signES256(s.key, b64([]byte(header))+"."+b64([]byte("{"+strings.Join(members, ",")+more+"}")))
}

func signES256(key *ecdsa.PrivateKey, message string) string {
	sum := sha256.Sum256([]byte(message))
	r, v, _ := ecdsa.Sign(rand.Reader, key, sum[:])
	return message + "." + b64(append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...))
}

// issuerFile writes a catalogue of two tenants, a rule that lets them do everything on the
// record, and issuers; each is the text of one entry.
func issuerFile(t *testing.T, audit string, entries ...string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	text := `plans:
  - {name: gold, limits: [{name: many, limit: 100000000, window: 1s}]}
tenants:
  - {id: acme, plan: gold}
  - {id: umbrella, plan: gold}
rules:
  - {name: tenants-may, effect: allow` + audit + `}
issuers:
` + strings.Join(entries, "")
	if err := os.WriteFile(filepath.Join(folder, "issuers.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

// entry is an issuer of a catalogue file whose keys are at uri.
func entry(name, uri, more string) string {
	return fmt.Sprintf("  - {name: %s, issuer: %q, audiences: [voice-api], jwks_uri: %q, tenant_claim: tenant%s}\n", name, issuerOf(name), uri, more)
}

func issuerOf(name string) string { return "https://" + name + ".example.com" }

const private = ", allow_private: true"
