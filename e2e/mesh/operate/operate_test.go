// Package operate looks after a running mesh, with the built command: consoles,
// and what is packed for who is to help.
package operate

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const patience = 5 * time.Minute

// values over the profile minimal.
const values = `
istio:
  stats: false # upstream's Envoy has not Istio's metrics filter
  ingress: {serviceType: LoadBalancer, hosts: [shop.example.com]}
mesh:
  services:
  - {name: shop, callers: [ingress], paths: [/]}
addons:
  prometheus: {enabled: true}
  analyze: {enabled: true, image: "registry.example.com/sluice:dev"}
`

// What no archive may have in it: each is planted where it could be.
const (
	plantedValue = "Zq7PlantedSecretValue93"
	plantedKey   = "slk_PlantedKeyOfATenant"
)

// plantedToken is a JWT; its middle part is what must not be found.
func plantedToken() (token, middle string) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	middle = part(`{"sub":"planted","iss":"https://issuer.example.com"}`)
	return part(`{"alg":"RS256","typ":"JWT"}`) + "." + middle + "." + part("signature of it"), middle
}

const workload = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: shop, namespace: apps}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: apps}
spec: {selector: {app: shop}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Secret
metadata: {name: planted, namespace: apps}
stringData: {password: VALUE}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: apps}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      serviceAccountName: shop
      containers:
      - name: app
        image: lab/app
        env: [{name: DATABASE, value: VALUE}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: planted, namespace: apps}
spec:
  priority: 10
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: planted
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: |
              function envoy_on_request(handle)
                handle:headers():add("x-backend-token", "VALUE")
                handle:logInfo("TOKEN")
              end
---
apiVersion: v1
kind: Event
metadata: {name: planted, namespace: apps}
involvedObject: {kind: Pod, namespace: apps, name: shop}
type: Warning
reason: Planted
message: "denied: authorization: Bearer VALUE"
lastTimestamp: NOW
`

func install(t *testing.T) (*lab.Cluster, string) {
	t.Helper()
	c := lab.Start(t, lab.Options{})
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := sluice(t, c, "install", "--yes", "--skip-checks", "--profile", "minimal", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	token, _ := plantedToken()
	c.Apply(t, strings.NewReplacer("VALUE", plantedValue, "TOKEN", token, "NOW", time.Now().UTC().Format(time.RFC3339)).Replace(workload))
	c.Pod(t, "apps", "app=shop")
	address := c.Kubectl(t, "", "-n", "istio-system", "wait", "service/istio-ingressgateway",
		"--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=5m", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	return c, address
}

func sluice(t *testing.T, c *lab.Cluster, args ...string) *exec.Cmd {
	t.Helper()
	all := append([]string{"mesh"}, append(args, "--kubeconfig", c.Kubeconfig())...)
	return exec.CommandContext(t.Context(), filepath.Join(os.Getenv("SLUICE_BIN"), "sluice"), all...)
}

func TestOperate(t *testing.T) {
	c, address := install(t)
	t.Run("M-23 support packs objects, logs and what proxies run, and nothing that was planted", func(t *testing.T) { supportPacks(t, c, address) })
	t.Run("support leaves out what has no room, and says so", func(t *testing.T) { supportIsBounded(t, c) })
	t.Run("M-24 dashboard shows a console on this machine until Ctrl-C", func(t *testing.T) { dashboardShows(t, c) })
	t.Run("dashboard says what mends it when the mesh has no such console", func(t *testing.T) {
		out, err := sluice(t, c, "dashboard", "kiali").CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(string(out), "--set addons.kiali.enabled=true") {
			t.Errorf("dashboard kiali: %v, want exit status 3\n%s", err, out)
		}
	})
	t.Run("M-27 the scheduled analysis runs in its own pod, and fails when something undoes a decision", func(t *testing.T) { analyzes(t, c) })
	t.Run("the scheduled analysis may list what it reads, and nothing else", func(t *testing.T) { analystMay(t, c) })
	t.Run("the scheduled analysis needs all that it may", func(t *testing.T) { analystNeeds(t, c) })
}

// supportPacks has requests logged with secrets in them, and packs.
func supportPacks(t *testing.T, c *lab.Cluster, address string) {
	token, middle := plantedToken()
	path := "/v1/calls?access_token=" + token + "&api_key=" + plantedKey
	lab.Until(t, patience, func() error {
		status, answer, err := lab.Ask(c.Client(), "http://"+address+path, http.Header{"Host": {"shop.example.com"}})
		if err == nil && (status != http.StatusOK || answer == nil || answer.Header.Get("X-Backend-Token") != plantedValue) {
			err = fmt.Errorf("status %d, %v", status, answer)
		}
		return err
	})
	shop, gateway := c.Pod(t, "apps", "app=shop"), c.Pod(t, "istio-system", "app=istio-ingressgateway")
	lab.Until(t, patience, func() error { // each Envoy writes its access log once a second, and the gateway logged requests that came no farther
		if !strings.Contains(gateway.Logs(t, "istio-proxy"), middle) || !strings.Contains(shop.Logs(t, "istio-proxy"), "GET /v1/calls") {
			return errors.New("one of both has not logged the path yet")
		}
		return nil
	})
	file := filepath.Join(t.TempDir(), "mesh.tgz")
	out, err := sluice(t, c, "support", "-o", file).CombinedOutput()
	if err != nil {
		t.Fatalf("support: %v\n%s", err, out)
	}
	t.Log(string(out))
	files := unpack(t, file)
	for name, text := range files {
		for what, secret := range map[string]string{"the value": plantedValue, "the JWT": middle, "the API key": plantedKey, "the value in base64": base64.StdEncoding.EncodeToString([]byte(plantedValue))} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s is in %s", what, name)
			}
		}
	}
	for name, want := range map[string]string{
		"index.json":   `"redacted": `,
		"status.json":  `"profile": "minimal"`,
		"proxies.json": `"namespace": "apps"`,
		"objects/istio-system/Deployment-istiod.yaml": "image: docker.io/istio/pilot",
		"events/apps.txt":                                        "Warning Planted Pod/shop",
		"pods/apps/" + shop.Name + ".yaml":                       "name: DATABASE",
		"logs/istio-system/" + gateway.Name + "/istio-proxy.log": "GET /v1/calls?access_token=[redacted]",
		"logs/apps/" + shop.Name + "/istio-proxy.log":            "GET /v1/calls",
		"proxies/apps/" + shop.Name + "/config_dump.json":        "handle:logInfo",
		"proxies/istio-system/" + gateway.Name + "/clusters.txt": "outbound|8080||shop.apps.svc.cluster.local",
		"proxies/istio-system/" + gateway.Name + "/certs.json":   "spiffe://cluster.local",
	} {
		if !bytes.Contains(files[name], []byte(want)) {
			t.Errorf("%s has no %q", name, want)
		}
	}
	for name := range files {
		if strings.HasSuffix(name, "/app.log") {
			t.Errorf("%s is a service's log, which is none of ours", name)
		}
	}
	var index struct{ Redacted int }
	if err := json.Unmarshal(files["index.json"], &index); err != nil || index.Redacted < 5 {
		t.Errorf("%d places redacted, %v, want 5 at least", index.Redacted, err)
	}
	if out, err := sluice(t, c, "support", "-o", file).CombinedOutput(); err == nil {
		t.Errorf("a second archive went over the first\n%s", out)
	}
}

// unpack is the files of an archive, without the folder that they are in.
func unpack(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the archive: %v, %v", info.Mode(), err)
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = text
	}
}

func supportIsBounded(t *testing.T, c *lab.Cluster) {
	file := filepath.Join(t.TempDir(), "small.tgz")
	out, err := sluice(t, c, "support", "-o", file, "--max-size", "1").CombinedOutput()
	if err != nil {
		t.Fatalf("support: %v\n%s", err, out)
	}
	size := 0
	for name, text := range unpack(t, file) {
		if name != "index.json" {
			size += len(text)
		}
	}
	if size > 1_000_000 || !strings.Contains(string(out), "bytes more than there is room for") {
		t.Errorf("%d bytes, want a million at most, and that something is left out\n%s", size, out)
	}
}

// dashboardShows opens Prometheus, which the test itself answers for, and replaces its pod.
func dashboardShows(t *testing.T, c *lab.Cluster) {
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	c.Pod(t, "istio-system", "app=prometheus").Serve(t, 9090, answer("the first prometheus"))
	cmd := sluice(t, c, "dashboard", "prometheus", "--no-browser")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || strings.TrimSpace(url) != "http://127.0.0.1:9090/" {
		t.Fatalf("it printed %q, %v\n%s", url, err, stderr.String())
	}
	get := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSpace(url), http.NoBody)
		if err != nil {
			return "", err
		}
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	if got, err := get(); err != nil || got != "the first prometheus" {
		t.Errorf("it answers %q, %v", got, err)
	}
	c.Kubectl(t, "", "-n", "istio-system", "delete", "pod", "-l", "app=prometheus", "--timeout=5m")
	c.Pod(t, "istio-system", "app=prometheus").Serve(t, 9090, answer("the second prometheus"))
	lab.Until(t, patience, func() error {
		got, err := get()
		if err == nil && got != "the second prometheus" {
			err = fmt.Errorf("it answers %q", got)
		}
		return err
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v, want exit status 0\n%s", err, stderr.String())
	}
}
