package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// istio renders Istio as 'istioctl install' would lay it down.
func istio(t *testing.T, c *Cluster, set ...string) string {
	t.Helper()
	args := []string{"manifest", "generate", "--set", "hub=registry.istio.io/release", "--set", "tag=1.31.0", "--set", "values.telemetry.enabled=false"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	out, err := exec.Command(c.Tool("istioctl"), args...).Output()
	if err != nil {
		t.Fatalf("istioctl %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

const apps = `
apiVersion: v1
kind: Namespace
metadata: {name: apps, labels: {istio-injection: enabled}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: apps, namespace: apps}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [apps.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: apps, namespace: apps}
spec:
  hosts: [apps.example.com]
  gateways: [apps]
  http: [{route: [{destination: {host: b, port: {number: 8080}}}]}]
`

func TestAMeshOnOneMachine(t *testing.T) {
	c := Start(t, Options{})
	c.Kubectl(t, "", "create", "namespace", "istio-system")
	c.Apply(t, istio(t, c))
	c.Pod(t, "istio-system", "app=istiod")
	c.Pod(t, "istio-system", "app=istio-ingressgateway")
	c.Apply(t, apps+Workload("apps", "a")+Workload("apps", "b"))
	a, b := c.Pod(t, "apps", "app=a"), c.Pod(t, "apps", "app=b")

	// identities waits for a 200 and wants both workloads' identities in the hop's certificate header.
	identities := func(t *testing.T, client *http.Client, url, host, from string) {
		t.Helper()
		var xfcc string
		Until(t, patience, func() error {
			status, answer, err := Ask(client, url, http.Header{"Host": {host}})
			if err == nil && (status != http.StatusOK || answer == nil) {
				err = fmt.Errorf("status %d", status)
			}
			if err == nil {
				xfcc = answer.Header.Get("X-Forwarded-Client-Cert")
			}
			return err
		})
		for _, want := range []string{"By=spiffe://cluster.local/ns/apps/sa/b;", "URI=spiffe://cluster.local/ns/" + from} {
			if !strings.Contains(xfcc, want) {
				t.Errorf("x-forwarded-client-cert is %q, want %q in it", xfcc, want)
			}
		}
	}
	t.Run("a call from sidecar to sidecar is mutual TLS with both identities", func(t *testing.T) {
		identities(t, a.Client(), "http://b:8080/", "", "apps/sa/a")
	})
	t.Run("a call through the gateway is mutual TLS from there on", func(t *testing.T) {
		gateway := c.Kubectl(t, "", "-n", "istio-system", "get", "service", "istio-ingressgateway", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
		identities(t, c.Client(), "http://"+gateway+"/", "apps.example.com", "istio-system/sa/istio-ingressgateway-service-account")
	})
	t.Run("plaintext is refused while STRICT holds, and only then", func(t *testing.T) {
		Until(t, patience, func() error { // b may have got its configuration before istiod knew of the policy
			if status, answer, err := Ask(c.Client(), "http://"+b.IP+":8080/", nil); err == nil {
				return fmt.Errorf("a call in plaintext got %d, %v", status, answer)
			}
			return nil
		})
		c.Apply(t, "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: apps}\nspec: {mtls: {mode: PERMISSIVE}}\n")
		Until(t, patience, func() error {
			_, _, err := Ask(c.Client(), "http://"+b.IP+":8080/", nil)
			return err
		})
	})
	t.Run("a host outside is reached by name", func(t *testing.T) {
		c.Outside(t, "api.example.net", 80, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
		Until(t, patience, func() error {
			status, _, err := Ask(a.Client(), "http://api.example.net/", nil)
			if err == nil && status != http.StatusTeapot {
				err = fmt.Errorf("status %d", status)
			}
			return err
		})
	})
	t.Run("istioctl finds every proxy by port-forward", func(t *testing.T) {
		out, err := exec.Command(c.Tool("istioctl"), "proxy-status", "--kubeconfig", c.Kubeconfig()).CombinedOutput()
		if n := strings.Count(string(out), "CDS,LDS,EDS,RDS"); err != nil || n != 3 {
			t.Errorf("%d proxies have clusters, listeners, endpoints and routes, want 3; %v\n%s", n, err, out)
		}
	})
	t.Run("a rolling restart fails no request", func(t *testing.T) {
		restarted := make(chan struct{})
		go func() {
			defer close(restarted)
			c.Kubectl(t, "", "-n", "apps", "rollout", "restart", "deployment/b")
			c.Kubectl(t, "", "-n", "apps", "wait", "--for=delete", "pod/"+b.Name, "--timeout=5m")
		}()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		good, from := 0, map[string]bool{}
		for running := true; running; <-tick.C {
			select {
			case <-restarted:
				running = false
			default:
			}
			status, answer, err := Ask(a.Client(), "http://b:8080/", nil)
			if err != nil || answer == nil {
				t.Errorf("a request got %d, %v", status, err)
				continue
			}
			good++
			from[answer.Pod] = true
		}
		if len(from) != 2 || good < 20 {
			t.Errorf("%d requests were answered by %v, want more, and by an old and a new pod", good, from)
		}
		b = c.Pod(t, "apps", "app=b")
	})
	t.Run("the proxies reject nothing of what istiod says", func(t *testing.T) {
		for _, p := range []*Pod{a, b, c.Pod(t, "istio-system", "app=istio-ingressgateway")} {
			stats := p.Admin(t, "/stats?filter=update_(rejected|success)")
			updated := 0
			for line := range strings.Lines(stats) {
				name, count, _ := strings.Cut(strings.TrimSpace(line), ": ")
				if strings.HasSuffix(name, "update_rejected") && count != "0" {
					t.Errorf("%s: %s is %s", p.Name, name, count)
				}
				if strings.HasSuffix(name, "update_success") && count != "0" {
					updated++
				}
			}
			if updated < 2 {
				t.Errorf("%s took no clusters or no listeners from istiod:\n%s", p.Name, stats)
			}
		}
	})
}

// TestAKilledLabLeavesNothing starts this program again, a lab within the lab, and kills it.
func TestAKilledLabLeavesNothing(t *testing.T) {
	if os.Getenv("LAB_TO_KILL") != "" {
		c := Start(t, Options{})
		c.Apply(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: default}\nspec: {containers: [{name: app, image: test}]}\n")
		c.Pods(t, "default", "", 1)
		fmt.Println("READY")
		select {}
	}
	outer := exec.Command("/proc/self/exe", "-test.run=^TestAKilledLabLeavesNothing$")
	outer.Env = append(os.Environ(), "LAB_TO_KILL=yes")
	outer.Stderr = os.Stderr
	out, err := outer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	before := processes(t)
	if err := outer.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "READY" {
		t.Log(lines.Text())
	}
	during := processes(t)
	if n := len(during) - len(before); n < 6 { // twice this program, etcd, apiserver, manager, proxy
		t.Errorf("%d processes run in the lab to be killed, want 6 at least: %v", n, during)
	}
	if err := outer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = outer.Wait()
	Until(t, patience, func() error {
		if now := processes(t); len(now) != len(before) {
			return fmt.Errorf("left over: %v; there were %v", now, before)
		}
		return nil
	})
}

// processes lists what runs in this lab and in those inside it, each with its network.
func processes(t *testing.T) (list []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		network, err2 := os.Readlink(filepath.Join(dir, "ns", "net"))
		if errors.Join(err, err2) != nil || len(line) == 0 {
			continue // ended meanwhile, or a zombie
		}
		name, _, _ := strings.Cut(string(line), "\x00")
		list = append(list, name+" "+network)
	}
	return list
}
