package chart

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/testca"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mount lays files out as kubelet does: links to a folder that is swapped as a whole.
func mount(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	generation, err := os.MkdirTemp(mkdir(t, dir), "..2026_")
	must(t, err)
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(generation, name), []byte(text), 0o600))
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	must(t, os.Symlink(filepath.Base(generation), filepath.Join(dir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	links, err := filepath.Glob(filepath.Join(dir, "[^.]*"))
	must(t, err)
	for _, link := range links {
		if _, still := files[filepath.Base(link)]; !still {
			must(t, os.Remove(link))
		}
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	return dir
}

// agent writes what Istio's agent writes for OUTPUT_CERTS, in its order.
func agent(t *testing.T, mesh *testca.Authority, dir string) {
	t.Helper()
	own := issue(t, mesh, "spiffe://cluster.local/ns/sluice/sa/sluice")
	for _, f := range []struct{ name, from string }{{"key.pem", own.KeyFile}, {"cert-chain.pem", own.CertFile}, {"root-cert.pem", mesh.File}} {
		copyTo(t, filepath.Join(mkdir(t, dir), f.name), f.from)
	}
}

// issue is a certificate as a mesh's authority makes it: one SPIFFE id in each.
func issue(t *testing.T, mesh *testca.Authority, id string) testca.Leaf {
	t.Helper()
	return mesh.Workload(t, time.Now().Add(time.Hour), id)
}

func copyTo(t *testing.T, path, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(path, text, 0o600))
}

// pod is a sluiced that has what its pod has, elsewhere.
type pod struct {
	*app.App
	root   string // of its file system
	mesh   *testca.Authority
	all    []any
	status string
}

func run(t *testing.T, v map[string]any) *pod {
	t.Helper()
	p := &pod{root: t.TempDir(), mesh: testca.New(t), all: objects(t, v)}
	c := config(t, p.all)
	for _, path := range []*string{&c.Data, &c.Secrets, &c.Catalog, &c.RLSConfig, &c.TLSCert, &c.TLSKey, &c.TLSClientCA} {
		if *path != "" {
			*path = filepath.Join(p.root, *path)
		}
	}
	if first := one[appsv1.StatefulSet](t, p.all).Name + "-0"; c.Redis.URL == "" && c.OnlyHost != first {
		t.Errorf("only %q may count, and the pod is %s", c.OnlyHost, first)
	}
	c.OnlyHost = "" // this machine has another name
	made := filepath.Join(t.TempDir(), "made")
	_, err := app.Init(made)
	must(t, err)
	secrets := map[string]string{}
	for _, i := range volume(t, p.all, "secrets").Secret.Items {
		text, err := os.ReadFile(filepath.Join(made, i.Key))
		must(t, err)
		secrets[i.Path] = string(text)
	}
	mkdir(t, c.Data)
	mount(t, c.Secrets, secrets)
	for _, o := range p.all {
		m, ok := o.(*corev1.ConfigMap)
		if at := map[string]string{"sluice-catalogue": c.Catalog, "sluice-descriptors": c.RLSConfig}; ok && at[m.Name] != "" {
			mount(t, at[m.Name], m.Data)
		}
	}
	agent(t, p.mesh, filepath.Dir(c.TLSCert))
	c.GRPCListen, c.HTTPListen, c.StatusListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.AuditOTLP, c.OTLPEndpoint, c.DrainDelay, c.DrainTimeout = false, "", 0, time.Second
	p.App, err = app.New(c, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, p.Stop(context.Background())) })
	must(t, p.Start())
	p.status = "http://" + p.Addr("status-listen").String()
	return p
}

func volume(t *testing.T, all []any, name string) corev1.VolumeSource {
	t.Helper()
	for _, v := range one[appsv1.StatefulSet](t, all).Spec.Template.Spec.Volumes {
		if v.Name == name {
			return v.VolumeSource
		}
	}
	t.Fatalf("no volume %s", name)
	return corev1.VolumeSource{}
}

func (p *pod) get(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get(p.status + path)
	must(t, err)
	body, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s: %d\n%s", path, response.StatusCode, body)
	}
	return string(body)
}

func TestProbesAlertsAndScrapesFindWhatTheyAskFor(t *testing.T) {
	p := run(t, values(t, "everything"))
	c := one[appsv1.StatefulSet](t, p.all).Spec.Template.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if probe.HTTPGet.Port.String() != "http-status" {
			t.Errorf("a probe asks at %s", probe.HTTPGet.Port.String())
		}
		p.get(t, probe.HTTPGet.Path)
	}
	endpoint := one[monitoring.ServiceMonitor](t, p.all).Spec.Endpoints[0]
	if endpoint.Port != "http-status" {
		t.Errorf("scraped at %s", endpoint.Port)
	}
	metrics := p.get(t, endpoint.Path)
	documented, err := os.ReadFile("../../docs/reference/metrics.md") // a test of app compares it with a running server
	must(t, err)
	name, reasons := regexp.MustCompile(`sluice_[a-z_]+`), regexp.MustCompile(`reason=~"([a-z_|]+)"`)
	alerts, seen := 0, 0
	for _, r := range one[monitoring.PrometheusRule](t, p.all).Spec.Groups[0].Rules {
		if alerts++; !strings.Contains(r.Expr.StrVal, `{namespace="sluice", job="sluice"`) {
			t.Errorf("%s looks at more than this release: %s", r.Alert, r.Expr.StrVal)
		}
		for _, m := range name.FindAllString(r.Expr.StrVal, -1) {
			seen++
			if !strings.Contains(string(documented), "\n| `"+m+"` |") {
				t.Errorf("%s: sluiced has no metric %s", r.Alert, m)
			}
		}
		for _, m := range reasons.FindAllStringSubmatch(r.Expr.StrVal, -1) {
			for reason := range strings.SplitSeq(m[1], "|") {
				if !strings.Contains(metrics, fmt.Sprintf("sluice_decisions_total{reason=%q}", reason)) {
					t.Errorf("%s: no decision has the reason %s", r.Alert, reason)
				}
			}
		}
	}
	if alerts != 20 || seen != 23 {
		t.Errorf("%d alerts over %d metrics", alerts, seen)
	}
}

// revision is what sluiced decides by.
func (p *pod) revision(t *testing.T) (n int64) {
	t.Helper()
	var ready struct{ Revision int64 }
	must(t, json.Unmarshal([]byte(p.get(t, "/readyz")), &ready))
	return ready.Revision
}

func TestAnEditOfTheCatalogueNeedsNoRestart(t *testing.T) {
	v := values(t, "everything")
	p := run(t, v)
	before := p.revision(t)
	edited := objects(t, with(v, map[string]any{"catalogue.files": map[string]any{"other.yaml": "tenants: [{id: acme, plan: gold}]\nplans: [{name: gold}]\n"}}))
	checksum := func(all []any) string {
		return one[appsv1.StatefulSet](t, all).Spec.Template.Annotations["checksum/config"]
	}
	if checksum(edited) != checksum(p.all) {
		t.Error("an edit of the catalogue would restart the pod")
	}
	for _, o := range edited {
		if m, ok := o.(*corev1.ConfigMap); ok && m.Name == "sluice-catalogue" {
			mount(t, filepath.Join(p.root, "etc", "sluice", "catalogue"), m.Data)
		}
	}
	await.That(t, "the edit", func() bool { return p.revision(t) > before })
	if other := objects(t, with(v, map[string]any{"settings.log-level": "debug"})); checksum(other) == checksum(p.all) {
		t.Error("an edit of the settings would not restart the pod")
	}
}

// asks calls the door's port with what is left of the handshake to the caller's choice.
func (p *pod) asks(t *testing.T, creds credentials.TransportCredentials) error {
	t.Helper()
	conn, err := grpc.NewClient(p.Addr("grpc-listen").String(), grpc.WithTransportCredentials(creds))
	must(t, err)
	defer conn.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// sidecar is the TLS of an Istio sidecar's cluster for a gRPC port.
func (p *pod) sidecar(t *testing.T, from *testca.Authority, id string) *tls.Config {
	t.Helper()
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{issue(t, from, id).Certificate},
		ServerName: "outbound_.9090_._.sluice.sluice.svc.cluster.local",
		NextProtos: []string{"istio-peer-exchange", "istio", "h2"},
		// As Envoy: the chain and the SPIFFE id, and no DNS name, which mesh certificates have not.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: p.mesh.Pool()}); err != nil {
				return err
			}
			if got := s.PeerCertificates[0].URIs[0].String(); got != "spiffe://cluster.local/ns/sluice/sa/sluice" || s.NegotiatedProtocol != "h2" {
				return fmt.Errorf("it is %s, and speaks %q", got, s.NegotiatedProtocol)
			}
			return nil
		},
	}
}

// TestOnlyListedProxiesReachADoor is the chart's promise about the mesh, with what the
// agent and a sidecar do: whoever can call a door can claim any principal.
func TestOnlyListedProxiesReachADoor(t *testing.T) {
	const listed = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway"
	p := run(t, values(t, "minimal"))
	must(t, p.asks(t, credentials.NewTLS(p.sidecar(t, p.mesh, listed))))
	stranger := p.sidecar(t, p.mesh, listed)
	stranger.Certificates = nil
	for who, creds := range map[string]credentials.TransportCredentials{
		"another workload of the mesh":       credentials.NewTLS(p.sidecar(t, p.mesh, "spiffe://cluster.local/ns/acme/sa/agent")),
		"sluiced's own identity":             credentials.NewTLS(p.sidecar(t, p.mesh, "spiffe://cluster.local/ns/sluice/sa/sluice")),
		"the listed name from another mesh":  credentials.NewTLS(p.sidecar(t, testca.New(t), listed)),
		"a caller without a certificate":     credentials.NewTLS(stranger),
		"plain text, as by a port-forward":   insecure.NewCredentials(),
		"the listed name in another account": credentials.NewTLS(p.sidecar(t, p.mesh, listed+"x")),
	} {
		t.Run(who+" is refused", func(t *testing.T) {
			if p.asks(t, creds) == nil {
				t.Error("it was answered")
			}
		})
	}
	// The agent renews: the key first, then the chain. Between the two sluiced keeps the pair before.
	folder := filepath.Join(p.root, "etc", "sluice", "tls")
	copyTo(t, filepath.Join(folder, "key.pem"), issue(t, p.mesh, "spiffe://cluster.local/ns/sluice/sa/sluice").KeyFile)
	must(t, p.asks(t, credentials.NewTLS(p.sidecar(t, p.mesh, listed))))
	p.mesh = testca.New(t)
	agent(t, p.mesh, folder)
	await.That(t, "the new root", func() bool { return p.asks(t, credentials.NewTLS(p.sidecar(t, p.mesh, listed))) == nil })
}

// TestWithoutTheAgentNothingStarts: no sidecar, no certificate, no door.
func TestWithoutTheAgentNothingStarts(t *testing.T) {
	c := config(t, objects(t, values(t, "minimal")))
	c.Data = filepath.Join(t.TempDir(), "data")
	_, err := app.Init(c.Data)
	must(t, err)
	c.OnlyHost, c.Secrets, c.GRPCListen, c.HTTPListen, c.StatusListen = "", "", "127.0.0.1:0", "", ""
	if _, err := app.New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/etc/sluice/tls/cert-chain.pem") {
		t.Errorf("it said %v", err)
	}
}
