// Package upgrade moves a mesh from one control plane to another and back, with
// real istiods and proxies, while requests go through it.
package upgrade

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	root     = "istio-system"
	patience = 5 * time.Minute
	public   = "shop.example.com"
)

// values over the profile minimal: one service that is public, and no retry that could hide a failure.
const values = `
istio:
  stats: false # upstream's Envoy has not Istio's metrics filter
  ingress: {serviceType: LoadBalancer, hosts: [shop.example.com]}
mesh:
  stage: enforced
  serviceDefaults:
    pool: {connectTimeout: 10s} # a handshake that a busy machine answers late is no failed request
  services:
  - {name: shop, callers: [ingress], paths: [/], retries: {attempts: 0}}
`

// mesh is the mesh under test, and the command that moves it.
type mesh struct {
	*lab.Cluster
	values string
}

func (m *mesh) try(t *testing.T, args ...string) (string, int) {
	t.Helper()
	c := exec.Command(filepath.Join(os.Getenv("SLUICE_BIN"), "sluice"), append([]string{"mesh"}, append(args, "--kubeconfig", m.Kubeconfig())...)...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); c.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), c.ProcessState.ExitCode()
}

// command runs 'sluice mesh' and wants exit status 0.
func (m *mesh) command(t *testing.T, args ...string) string {
	t.Helper()
	out, status := m.try(t, args...)
	if status != 0 {
		t.Fatalf("sluice mesh %s: exit status %d\n%s", strings.Join(args, " "), status, out)
	}
	return out
}

// traffic sends requests through the gateway until it is stopped, each on a connection of its own.
type traffic struct {
	mu     sync.Mutex
	sent   int
	pods   map[string]bool
	failed []string
	during string
}

func (m *mesh) traffic(t *testing.T, address string) (run *traffic, stop func()) {
	t.Helper()
	run = &traffic{pods: map[string]bool{}}
	done := make(chan struct{})
	var senders sync.WaitGroup
	for range 3 {
		senders.Go(func() {
			client := m.Client()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-done:
					return
				case <-tick.C:
				}
				status, answer, err := lab.Ask(client, "http://"+address+"/", http.Header{"Host": {public}})
				run.note(status, answer, err)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { close(done); senders.Wait() }) }
	t.Cleanup(stop)
	return run, stop
}

func (r *traffic) note(status int, a *lab.Answer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	if status != http.StatusOK || a == nil {
		r.failed = append(r.failed, fmt.Sprintf("%s during %s: status %d, %v", time.Now().Format("15:04:05.000"), r.during, status, err))
		return
	}
	r.pods[a.Pod] = true
}

// flawless wants that no request failed since the last time, and that there were some.
func (r *traffic) flawless(t *testing.T, next string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("during %s: %d requests, %d failed", r.during, r.sent, len(r.failed))
	if len(r.failed) > 0 {
		t.Errorf("%d of %d requests failed, want 0:\n%s", len(r.failed), r.sent, strings.Join(r.failed[:min(len(r.failed), 10)], "\n"))
	}
	if r.sent == 0 {
		t.Errorf("no request was sent during %s", r.during)
	}
	r.sent, r.failed, r.during = 0, nil, next
}

// revisions lists the control planes of a namespace's proxies, as the injector wrote them on the pods.
func (m *mesh) revisions(t *testing.T, namespace string) string {
	t.Helper()
	var out []string
	lines := m.Kubectl(t, "", "-n", namespace, "get", "pods", "-o",
		`jsonpath={range .items[*]}{.metadata.deletionTimestamp}|{.metadata.annotations.istio\.io/rev}|{.metadata.annotations.sidecar\.istio\.io/status}{"\n"}{end}`)
	for line := range strings.Lines(lines) {
		parts := strings.SplitN(strings.TrimSpace(line), "|", 3)
		if parts[0] == "" && parts[2] != "" {
			out = append(out, parts[1])
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

// label is what chooses the control plane of a namespace: both labels, one of which must be empty.
func (m *mesh) label(t *testing.T, namespace string) string {
	t.Helper()
	return m.Kubectl(t, "", "get", "namespace", namespace, "-o", `jsonpath={.metadata.labels.istio-injection}/{.metadata.labels.istio\.io/rev}`)
}

func (m *mesh) validator(t *testing.T) string {
	t.Helper()
	return m.Kubectl(t, "", "get", "validatingwebhookconfiguration", "istiod-default-validator", "-o", "jsonpath={.webhooks[0].clientConfig.service.name}")
}

// where wants a namespace's label and proxies on a control plane.
func (m *mesh) where(t *testing.T, namespace, label, revision string) {
	t.Helper()
	if got := m.label(t, namespace); label != "" && got != label {
		t.Errorf("namespace %s has the labels %s, want %s", namespace, got, label)
	}
	if got := m.revisions(t, namespace); got != revision {
		t.Errorf("the proxies of namespace %s are on %q, want %q", namespace, got, revision)
	}
}

// refuses wants that the validator answers: it knows a bad route from a good one.
func (m *mesh) refuses(t *testing.T) {
	t.Helper()
	c := exec.Command(m.Tool("kubectl"), "--kubeconfig", m.Kubeconfig(), "apply", "--dry-run=server", "-f", "-")
	c.Stdin = strings.NewReader("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad, namespace: apps}\nspec: {hosts: [bad], http: [{route: [{destination: {host: bad}, weight: -1}]}]}\n")
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "validation.istio.io") || !strings.Contains(string(out), "weight") {
		t.Errorf("a route with a negative weight: %v, want that istiod refuses it\n%s", err, out)
	}
}

func install(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{Cluster: lab.Start(t, lab.Options{}), values: filepath.Join(t.TempDir(), "values.yaml")}
	if err := os.WriteFile(m.values, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	m.command(t, "install", "--yes", "--profile", "minimal", "-f", m.values)
	m.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: canary, labels: {istio-injection: enabled}}\n"+lab.Workload("canary", "bird")+lab.Workload("apps", "shop"))
	m.Pod(t, "canary", "app=bird")
	m.Pod(t, "apps", "app=shop")
	return m
}

func TestUpgradeWithTrafficRunning(t *testing.T) {
	m := install(t)
	address := m.Kubectl(t, "", "-n", root, "wait", "service/istio-ingressgateway",
		"--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=5m", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	lab.Until(t, patience, func() error {
		status, answer, err := lab.Ask(m.Client(), "http://"+address+"/", http.Header{"Host": {public}})
		if err == nil && (status != http.StatusOK || answer == nil) {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	run, stop := m.traffic(t, address)
	run.flawlessFrom("start")

	t.Run("M-20 start lays a second control plane down, and no proxy moves", func(t *testing.T) {
		out, status := m.try(t, "upgrade", "check", "--to", "1.31.5")
		if status != 0 || strings.Contains(out, "FAIL") || strings.Contains(out, "not checked") {
			t.Errorf("check of a healthy mesh: exit status %d\n%s", status, out)
		}
		t.Log(m.command(t, "upgrade", "start", "--to", "1.31.5", "--yes"))
		m.Pod(t, root, "app=istiod,istio.io/rev=1-31-5")
		m.Pod(t, root, "app=istiod,istio.io/rev=default")
		m.where(t, "apps", "enabled/", "default")
		m.where(t, "canary", "enabled/", "default")
		m.where(t, root, "", "default")
		if got := m.validator(t); got != "istiod" {
			t.Errorf("the default validator asks %s, want the old istiod", got)
		}
		if out, status := m.try(t, "install", "--yes", "--profile", "minimal", "-f", m.values); status != 3 || !strings.Contains(out, "upgrade") {
			t.Errorf("install during an upgrade: exit status %d, want 3\n%s", status, out)
		}
		run.flawless(t, "promote of one namespace")
	})
	t.Run("M-20 promote of one namespace moves this one only", func(t *testing.T) {
		t.Log(m.command(t, "upgrade", "promote", "--namespace", "canary", "--yes"))
		m.where(t, "canary", "/1-31-5", "1-31-5")
		m.where(t, "apps", "enabled/", "default")
		m.where(t, root, "", "default")
		out, status := m.try(t, "upgrade", "finish", "--yes")
		if status != 3 || !strings.Contains(out, "Pod apps/shop-") || !strings.Contains(out, "Namespace apps") || strings.Contains(out, "canary/") {
			t.Errorf("finish while proxies are on the old control plane: exit status %d, want 3 and who they are\n%s", status, out)
		}
		if _, status := m.try(t, "upgrade", "status"); status != 4 {
			t.Errorf("status of half an upgrade: exit status %d, want 4", status)
		}
		run.flawless(t, "promote")
	})
	promoted := func(t *testing.T) {
		m.where(t, "canary", "/1-31-5", "1-31-5")
		m.where(t, "apps", "/1-31-5", "1-31-5")
		m.where(t, root, "", "1-31-5")
		if got := m.validator(t); got != "istiod-1-31-5" {
			t.Errorf("the default validator asks %s, want the new istiod", got)
		}
		m.refuses(t)
	}
	t.Run("M-20 promote moves the rest, gateways too", func(t *testing.T) {
		t.Log(m.command(t, "upgrade", "promote", "--yes"))
		promoted(t)
		m.command(t, "upgrade", "status")
		run.flawless(t, "rollback")
	})
	t.Run("M-20 rollback moves all of it back", func(t *testing.T) {
		t.Log(m.command(t, "upgrade", "rollback", "--yes"))
		m.where(t, "canary", "enabled/", "default")
		m.where(t, "apps", "enabled/", "default")
		m.where(t, root, "", "default")
		if got := m.validator(t); got != "istiod" {
			t.Errorf("the default validator asks %s, want the old istiod", got)
		}
		m.refuses(t)
		run.flawless(t, "the second promote")
	})
	t.Run("M-20 a second promote moves it again", func(t *testing.T) {
		m.command(t, "upgrade", "promote", "--yes")
		promoted(t)
		run.flawless(t, "finish")
	})
	t.Run("M-20 finish removes the old control plane, and only it", func(t *testing.T) { m.finish(t) })
	stop()
	run.flawless(t, "")
	if n := len(run.pods); n < 4 {
		t.Errorf("%d pods answered, want one before, and one after each of three restarts", n)
	}
}

// flawlessFrom begins to count.
func (r *traffic) flawlessFrom(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.during = what
}

func (m *mesh) finish(t *testing.T) {
	const list = `jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{"\n"}{end}`
	kinds := "deployment,service,serviceaccount,configmap,role,rolebinding,clusterrole,clusterrolebinding,horizontalpodautoscaler,poddisruptionbudget," +
		"mutatingwebhookconfiguration,validatingwebhookconfiguration,virtualservice,destinationrule,gateway.networking.istio.io,peerauthentication,authorizationpolicy,crd"
	get := func() []string {
		return strings.Split(m.Kubectl(t, "", "get", kinds, "-A", "-l", "applyset.kubernetes.io/part-of", "-o", list), "\n")
	}
	before := get()
	t.Log(m.command(t, "upgrade", "finish", "--yes"))
	after := get()
	var gone []string
	for _, o := range before {
		if !slices.Contains(after, o) {
			gone = append(gone, o)
		}
	}
	want := []string{
		"ClusterRole//istiod-clusterrole-istio-system", "ClusterRoleBinding//istiod-clusterrole-istio-system",
		"ConfigMap/istio-system/istio", "ConfigMap/istio-system/istio-sidecar-injector", "ConfigMap/istio-system/values",
		"Deployment/istio-system/istiod", "MutatingWebhookConfiguration//istio-sidecar-injector", "Role/istio-system/istiod",
		"RoleBinding/istio-system/istiod", "Service/istio-system/istiod", "ServiceAccount/istio-system/istiod",
		"ValidatingWebhookConfiguration//istio-validator-istio-system",
	}
	slices.Sort(gone)
	if !slices.Equal(gone, want) {
		t.Errorf("finish removed\n%s\nwant\n%s", strings.Join(gone, "\n"), strings.Join(want, "\n"))
	}
	m.refuses(t)
	// A pod that starts now gets its proxy from the one that is left.
	m.Kubectl(t, "", "-n", "canary", "rollout", "restart", "deployment/bird")
	m.Kubectl(t, "", "-n", "canary", "rollout", "status", "deployment/bird", "--timeout=5m")
	m.where(t, "canary", "/1-31-5", "1-31-5")
	if out, status := m.try(t, "install", "--yes", "--profile", "minimal", "-f", m.values); status != 3 || !strings.Contains(out, "istio.revision") {
		t.Errorf("an installation that would replace the control plane at once: exit status %d, want 3\n%s", status, out)
	}
	m.command(t, "diff", "--profile", "minimal", "-f", m.values, "--set", "istio.version=1.31.5", "--set", "istio.revision=1-31-5")
	out := m.command(t, "status")
	if !strings.Contains(out, "Istio 1.31.5") {
		t.Errorf("status does not name the new version:\n%s", out)
	}
}
