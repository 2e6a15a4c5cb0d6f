// Package voicecore lays the profile voicecore down on an empty cluster, with
// the built programs, and asks real proxies whether it acts. Each sub-test has
// the id by which docs/mesh.md names it.
package voicecore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	patience = 5 * time.Minute
	apps     = "voicecore-ai"
	public   = "voicecore.example.com"
)

// mesh is the profile on a cluster, with services in it.
type mesh struct {
	*lab.Cluster
	dir     string   // of the files of values
	values  []string // the flags that name them
	edge    string   // the ingress gateway's address
	admin   string   // the token of the quota API
	sluices int      // replicas of the server
}

// values over the profile: what a cluster of this kind needs, a host outside, time for
// a machine with all of it on a few cores, and the switchable pieces of the description switched on.
const values = `
istio:
  stats: false # upstream's Envoy has not Istio's metrics filter
mesh:
  serviceDefaults:
    pool: {connectTimeout: 10s}
  services:
  - name: gateway-service
    # As many retries as attempts show, without waiting for a busy machine.
    streams: [/stream/]
  - name: crm-service
    canary: {stable: v1, canary: v2, weight: 10}
  - name: billing-service
    # Late is what takes longer than that, and on a busy machine that must not be an answer which is under way.
    timeout: 6s
    retries: {attempts: 3, perTry: 1500ms}
    fault: {abortPercent: 100, abortStatus: 418, header: please}
  - name: tenant-service
    localLimit: {tokens: 5, interval: 1h}
  - name: call-service
    outlier: {interval: 1s}
  - name: integration-service
    pool: {maxConnections: 1, maxPending: 1, maxRequests: 1}
  external:
  - {name: partner, host: partner.example.net, port: 80, protocol: HTTP, callers: [gateway-service]}
sluice:
  doors:
    extAuthz: {timeout: 10s}
    extProc: {timeout: 10s}
    rateLimit: {timeout: 10s}
  values:
    image: {repository: registry.example.com/sluiced, tag: dev}
    secrets: {existingSecret: sluice-secrets}
    catalogue: {files: {rules.yaml: "rules: [{name: tenants-may, effect: allow}, {name: nobody-is-admin, effect: deny, what: {paths: ['/admin/**']}}]"}}
  excludedPaths: [/healthz]
`

// sluiceCommand runs the operator's command line and returns its output and exit status.
func sluiceCommand(t *testing.T, args ...string) (string, int) {
	t.Helper()
	c := exec.Command(filepath.Join(os.Getenv("SLUICE_BIN"), "sluice"), args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), c.ProcessState.ExitCode()
}

// mesh runs 'sluice mesh' against the cluster and wants exit status 0.
func (m *mesh) command(t *testing.T, args ...string) string {
	t.Helper()
	out, status := m.try(t, args...)
	if status != 0 {
		t.Fatalf("sluice mesh %s: exit status %d\n%s", strings.Join(args, " "), status, out)
	}
	return out
}

func (m *mesh) try(t *testing.T, args ...string) (string, int) {
	t.Helper()
	all := append([]string{"mesh", args[0], "--kubeconfig", m.Kubeconfig()}, args[1:]...)
	switch args[0] {
	case "install":
		// The consoles' images run nothing here, so 'verify', which asks them, would fail.
		all = append(all, "--skip-checks")
		fallthrough
	case "diff", "verify", "doctor":
		all = append(append(all, "--profile", "voicecore"), m.values...)
	}
	return sluiceCommand(t, all...)
}

// install lays the profile down as its page says: the Secret that holds no default, then one command.
func install(t *testing.T, more string) *mesh {
	t.Helper()
	m := &mesh{Cluster: lab.Start(t, lab.Options{}), sluices: 1, dir: t.TempDir()}
	m.overlay(t, values+more)
	data := filepath.Join(t.TempDir(), "made")
	if out, err := exec.Command(filepath.Join(os.Getenv("SLUICE_BIN"), "sluiced"), "init", "--data", data).CombinedOutput(); err != nil {
		t.Fatalf("sluiced init: %v\n%s", err, out)
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	m.admin = strings.TrimSpace(string(token))
	m.Kubectl(t, "", "create", "namespace", "sluice-system")
	m.Kubectl(t, "", "-n", "sluice-system", "create", "secret", "generic", "sluice-secrets",
		"--from-file="+filepath.Join(data, "secret"), "--from-file="+filepath.Join(data, "admin.token.sha256"))
	t.Log(m.command(t, "install", "--yes"))
	m.edge = m.Kubectl(t, "", "-n", "istio-system", "wait", "service/istio-ingressgateway",
		"--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=5m", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	return m
}

// service is a workload with an identity of its own, in as many pods; a version labels them.
func service(name, version string, replicas int) string {
	return strings.NewReplacer("NAME", name, "VERSION", version, "REPLICAS", fmt.Sprint(replicas)).Replace(`
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: NAME, namespace: voicecore-ai}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: voicecore-ai}
spec: {selector: {app: NAME}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME-VERSION, namespace: voicecore-ai}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: NAME, version: VERSION}}
  template:
    metadata: {labels: {app: NAME, version: VERSION}}
    spec:
      serviceAccountName: NAME
      containers: [{name: app, image: lab/app, readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}, lifecycle: {preStop: {sleep: {seconds: 5}}}}]
`)
}

// overlay puts values over those that the mesh has; the next install takes them.
func (m *mesh) overlay(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(m.dir, fmt.Sprintf("values-%d.yaml", len(m.values)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.values = append(m.values, "-f", file)
}

// replicas are the server's pods, which are others after a restart.
func (m *mesh) replicas(t *testing.T) []*lab.Pod {
	t.Helper()
	return m.Pods(t, "sluice-system", "app.kubernetes.io/name=sluice", m.sluices)
}

// sluice is one of them.
func (m *mesh) sluice(t *testing.T) *lab.Pod {
	t.Helper()
	return m.replicas(t)[0]
}

// call asks the quota API, as somebody who may open a port of the pod.
func (m *mesh) call(t *testing.T, method, path, body string, into any) {
	t.Helper()
	request, err := http.NewRequest(method, "http://127.0.0.1:9091/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+m.admin)
	request.Header.Set("Content-Type", "application/json")
	response, err := m.sluice(t).Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v %s", method, path, response.Status, err, answer)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			t.Fatal(err)
		}
	}
}

// tenant makes a tenant of its own with a plan of one limit an hour, and returns its key.
func (m *mesh) tenant(t *testing.T, name string, limit int) (key string) {
	t.Helper()
	m.call(t, "POST", "plans?plan_id="+name, fmt.Sprintf(`{"limits": [{"name": "hourly", "algorithm": "hard", "limit": %d, "window": "3600s"}]}`, limit), nil)
	m.call(t, "POST", "tenants?tenant_id="+name, `{"plan": "plans/`+name+`"}`, nil)
	var made struct{ Secret string }
	m.call(t, "POST", "tenants/"+name+"/apiKeys", `{}`, &made)
	if made.Secret == "" {
		t.Fatal("the API showed no key")
	}
	return made.Secret
}

// used is what the tenant's one limit counts.
func (m *mesh) used(t *testing.T, tenant string) int {
	t.Helper()
	var usage struct {
		Limits []struct {
			Used json.Number
		}
	}
	m.call(t, "GET", "tenants/"+tenant+"/usage", "", &usage)
	n, err := usage.Limits[0].Used.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// enter sends a request from outside, through the ingress gateway.
func (m *mesh) enter(t *testing.T, path, key string, more ...string) (int, *lab.Answer) {
	t.Helper()
	header := http.Header{"Host": {public}}
	if key != "" {
		header.Set("X-Api-Key", key)
	}
	for i := 0; i < len(more); i += 2 {
		header.Set(more[i], more[i+1])
	}
	status, answer, err := lab.Ask(m.Client(), "http://"+m.edge+path, header)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

// token is what the gateway-service got with a request of the tenant, to show it to the next service.
func (m *mesh) token(t *testing.T, key string) string {
	t.Helper()
	var answer *lab.Answer
	lab.Until(t, patience, func() error { // the gateway learns of the service
		status, got := m.enter(t, "/", key)
		if answer = got; status != http.StatusOK || answer == nil {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	token := answer.Header.Get("X-Sluice-Tenant-Token")
	if token == "" {
		t.Fatalf("the service got no tenant token: %v", answer.Header)
	}
	return token
}

// between sends a request from one service to another, with the tenant's token.
func between(t *testing.T, from *lab.Pod, url, token string, more ...string) (int, *lab.Answer) {
	t.Helper()
	header := http.Header{"X-Sluice-Tenant-Token": {token}}
	for i := 0; i < len(more); i += 2 {
		header.Set(more[i], more[i+1])
	}
	status, answer, err := lab.Ask(from.Client(), url, header)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

// reaches waits until the caller's proxy knows the service.
func reaches(t *testing.T, from *lab.Pod, url, token string) {
	t.Helper()
	lab.Until(t, patience, func() error {
		if status, _ := between(t, from, url, token); status != http.StatusOK {
			return fmt.Errorf("%s: status %d", url, status)
		}
		return nil
	})
}
