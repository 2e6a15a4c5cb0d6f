package e2e

import (
	"bufio"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/loopback"
	"github.com/voicecore-ai/sluice/testca"
)

// The workloads of a mesh beside its gateway (envoyID).
const (
	serviceA = "spiffe://demo/ns/calls/sa/a"
	serviceB = "spiffe://demo/ns/media/sa/b"
	serviceC = "spiffe://demo/ns/batch/sa/c" // compromised
)

// mesh is a gateway, services behind an Envoy each, and one sluiced for all of
// them. Every connection but the clients' to the gateway is mutual TLS.
type mesh struct {
	*scene // seen from the gateway
	ca     *testca.Authority
	until  time.Time
	ports  map[string]string // by "<service> in" and "<service> out"
}

// hop is one service: a witness behind an Envoy that the scene looks at.
type hop struct {
	*scene
	id      string
	in, out string // addresses of its Envoy
}

// startMesh starts sluiced and the gateway, which leads to the first service.
func startMesh(t *testing.T, args ...string) *mesh {
	t.Helper()
	m := &mesh{ca: testca.New(t), until: time.Now().Add(time.Hour), ports: map[string]string{}}
	for _, name := range []string{"a in", "a out", "b in", "b out"} {
		m.ports[name] = freePort(t)
	}
	server, gateway := m.ca.Workload(t, m.until, serverID), m.ca.Workload(t, m.until, envoyID)
	const upstream = "    - name: upstream\n      type: STATIC\n"
	next := strings.Replace(mutual(m.ca, gateway), upstream, upstream+`      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      `+strings.ReplaceAll(m.secure(gateway, serviceA), "\n", "\n      ")+"\n", 1)
	next = strings.ReplaceAll(next, "${UPSTREAM_PORT}", m.ports["a in"])
	m.scene = stage(t, next, stack.Options{Args: append([]string{
		"--tls-cert", server.CertFile, "--tls-key", server.KeyFile, "--tls-client-ca", m.ca.File,
		"--peers", strings.Join([]string{envoyID, serviceA, serviceB, operatorID}, ","),
	}, args...)})
	m.conn = m.dialAs(t, m.ca.Workload(t, m.until, operatorID))
	m.quota = quotav1.NewQuotaServiceClient(m.conn)
	return m
}

// dialAs opens a connection to sluiced with a certificate.
func (m *mesh) dialAs(t *testing.T, l testca.Leaf) *grpc.ClientConn {
	t.Helper()
	return m.dial(t, way{"", credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, // Go checks names, and a SPIFFE certificate has none
		VerifyConnection:   func(s tls.ConnectionState) error { return isServer(s, m.ca.Pool()) },
		NextProtos:         []string{"h2"}, Certificates: []tls.Certificate{l.Certificate},
	})})
}

// secure is deploy/envoy/mtls.yaml for a cluster whose server has that id.
func (m *mesh) secure(l testca.Leaf, id string) string {
	return strings.NewReplacer("${TLS_CERT}", l.CertFile, "${TLS_KEY}", l.KeyFile, "${TLS_CA}", m.ca.File, "${SLUICE_ID}", id).Replace(deploy.MTLS)
}

// service starts the Envoy of deploy/envoy/mesh.yaml before a new witness. name is
// a or b, or anything else for one that no gateway knows.
func (m *mesh) service(t *testing.T, name, id string, edit ...func(config string) string) *hop {
	t.Helper()
	own := m.ca.Workload(t, m.until, id)
	h := &hop{id: id, scene: &scene{witness: startWitness(t)}}
	in, out := m.ports[name+" in"], m.ports[name+" out"]
	if in == "" {
		in, out = freePort(t), freePort(t)
	}
	admin := freePort(t)
	_, sluice, _ := strings.Cut(m.GRPC, ":")
	config := deploy.Mesh
	for _, f := range edit {
		config = f(config)
	}
	config = strings.NewReplacer(
		"${LISTEN_PORT}", in, "${OUTBOUND_PORT}", out, "${ADMIN_PORT}", admin, "${UPSTREAM_PORT}", h.witness.port,
		"${NEXT_PORT}", m.ports["b in"], "${NEXT_ID}", serviceB, "${SLUICE_PORT}", sluice, "${SLUICE_ID}", serverID,
		"${TLS_CERT}", own.CertFile, "${TLS_KEY}", own.KeyFile, "${TLS_CA}", m.ca.File, "${TRUST_DOMAIN}", "demo",
	).Replace(config)
	h.in, h.out = "127.0.0.1:"+in, "127.0.0.1:"+out
	seen, its := *m.world, *m.Stack
	its.URL, its.EnvoyAdmin = "http://"+h.in, "http://127.0.0.1:"+admin
	seen.Stack = &its
	h.world = &seen
	runEnvoy(t, "envoy-"+name, config, h.EnvoyAdmin)
	return h
}

// anyName has an Envoy believe every certificate of the mesh's authority, whatever it names.
func anyName(config string) string {
	return cutOut(config, "                  # Envoy names a peer by", "          filters:\n", "")
}

// noDemand lets callers come without a certificate, and with any.
func noDemand(config string) string {
	return strings.Replace(anyName(config), "require_client_certificate: true", "require_client_certificate: false", 1)
}

// noTLS takes plain text.
func noTLS(config string) string {
	return cutOut(config, "        - transport_socket:\n", "          filters:\n", "        -\n")
}

// believing takes what proxies say about their clients' certificates.
func believing(config string) string {
	return strings.Replace(config, "forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: FORWARD_ONLY", 1)
}

// cutOut replaces what is from one text up to another.
func cutOut(config, from, to, instead string) string {
	before, rest, found := strings.Cut(config, from)
	at := strings.Index(rest, to)
	if !found || at < 0 {
		panic("the configuration has no " + from)
	}
	return before + instead + rest[at:]
}

// runEnvoy runs one more Envoy until the test ends.
func runEnvoy(t *testing.T, name, config, admin string) {
	t.Helper()
	dir := t.TempDir()
	path, logPath := filepath.Join(dir, name+".yaml"), filepath.Join(dir, name+".log")
	log, err := os.Create(logPath)
	if err = errors.Join(err, os.WriteFile(path, []byte(patiently(config)), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(envoy(), "--config-path", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		force := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("%s: %v", name, err)
		}
		force.Stop()
		if _ = log.Close(); t.Failed() {
			text, _ := os.ReadFile(logPath)
			t.Logf("%s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
	await.That(t, name+" is ready", func() bool {
		response, err := http.Get(admin + "/ready")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	ports, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// plainly sends a request in plain text: to a gateway, or to the Envoy of the service
// that the test plays.
func plainly(t *testing.T, address, request string) reply {
	t.Helper()
	return (&world{Stack: &stack.Stack{URL: "http://" + address}}).raw(t, request)
}

// as sends a request over TLS with a certificate of the mesh, or with none.
func (m *mesh) as(t *testing.T, l *testca.Leaf, address, request string) reply {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true} // whom the attacker talks to is not his worry
	if l != nil {
		// Shown though this side can't read it: Go would leave out one with odd names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &l.Certificate, nil }
	}
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	client := tls.Client(conn, config)
	if _, err := io.WriteString(client, request); err != nil {
		return refusedAs(t, err)
	}
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		return refusedAs(t, err)
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return reply{status: response.StatusCode, header: response.Header, body: string(body)}
}

// tokens makes tenant tokens as this sluiced does: what somebody could who has its secret.
func (w *world) tokens(t *testing.T) *token.Tokens {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.Data, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := hkdf.Key(sha256.New, secret, nil, "sluice tenant tokens v1", 32)
	if err != nil {
		t.Fatal(err)
	}
	return token.New(token.Options{Secret: [32]byte(derived)})
}

// setSuspended stops a tenant, or lets it go on.
func (w *world) setSuspended(t *testing.T, name string, suspended bool) {
	t.Helper()
	_, err := w.quota.UpdateTenant(w.admin(t), &quotav1.UpdateTenantRequest{
		Tenant: &quotav1.Tenant{Name: "tenants/" + name, Suspended: suspended}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"suspended"}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// used is how much of each of its limits a tenant has used.
func (w *world) used(t *testing.T, name string) map[string]int64 {
	t.Helper()
	usage, err := w.quota.GetUsage(w.admin(t), &quotav1.GetUsageRequest{Name: "tenants/" + name + "/usage"})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]int64{}
	for _, l := range usage.GetLimits() {
		used[l.GetLimitName()] = l.GetUsed()
	}
	return used
}
