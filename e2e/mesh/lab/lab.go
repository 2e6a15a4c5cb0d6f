// Package lab is a Kubernetes cluster with a service mesh on one machine, for tests: etcd,
// kube-apiserver, kube-controller-manager, kube-proxy, istiod, pilot-agent and Envoy, all real,
// as processes in namespaces of the test's own. Nothing listens outside them, and the end of the
// test, even by SIGKILL, is the end of all of it.
//
// Not real are the kubelet and the images (see package kubelet), the scheduler (there is one node),
// the DNS server, the load balancer, the services (see [Answer]), and Istio's own build of Envoy: upstream's lacks
// Istio's filters, so istiod is told to leave two of them out, and the mesh under test must not ask
// for a third (see [NoMetrics]).
//
// A test's TestMain calls [Main]. A cluster takes about ten seconds to start and 1 GB of memory.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
	"github.com/voicecore-ai/sluice/e2e/mesh/lab/kubelet"
)

// NoMetrics turns off Istio's metrics filter, which Istio's build of Envoy has and upstream's has not:
// a proxy that is told to use it refuses its configuration.
const NoMetrics = `apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: no-metrics, namespace: istio-system}
spec: {metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: ALL_METRICS}, disabled: true}]}]}
`

// Main runs the tests in the lab's namespaces and exits. It needs root.
func Main(m *testing.M) {
	if filepath.Base(os.Args[0]) == appName {
		os.Exit(app())
	}
	os.Exit(box.Main(m.Run))
}

// Image says which program of this machine stands for a container image.
type Image = kubelet.Image

// Options say what a cluster has beside Kubernetes, Istio, and Sluice as built in the folder SLUICE_BIN.
type Options struct {
	// Images by the last part of their name, without tag: "redis". A container of any other
	// image is reported running, and nothing runs.
	Images map[string]Image
}

// Cluster is a running cluster. There is one at a time in a process.
type Cluster struct {
	tools      tools
	dir        string
	kubeconfig string
	rest       *rest.Config
	client     *kubernetes.Clientset
	informers  informers.SharedInformerFactory
	network    *box.Network
	names      *names
	ca         *authority
	processes  []*process
}

// tools is the folder of what scripts/build-mesh-tools builds.
type tools string

func (t tools) path(name string) string { return filepath.Join(string(t), name) }

// Start brings a cluster up, and stops it when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{tools: tools(os.Getenv("SLUICE_MESH_TOOLS")), dir: filepath.Join(box.Dir, "cluster")}
	for _, name := range []string{"SLUICE_MESH_TOOLS", "SLUICE_ENVOY", "SLUICE_BIN"} {
		if os.Getenv(name) == "" {
			t.Fatalf("%s is not set; 'make test-mesh' builds what it names, and sets it", name)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	images := knownImages(c.tools, os.Getenv("SLUICE_ENVOY"), os.Getenv("SLUICE_BIN"), self)
	maps.Copy(images, o.Images)
	began := time.Now()
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatalf("is another cluster running? %v", err)
	}
	if err := os.MkdirAll(filepath.Join(box.Dir, "pods"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var node *kubelet.Kubelet
	t.Cleanup(func() {
		if t.Failed() {
			c.tell(t)
		}
		cancel()
		if node != nil {
			node.Wait()
		}
		c.stop(t)
	})
	ca, err := newAuthority(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	c.ca = ca
	if c.network, err = box.NewNetwork(serviceRange, balancerRange); err != nil {
		t.Fatal(err)
	}
	if err := c.startControlPlane(ctx, ca); err != nil {
		t.Fatal(err)
	}
	c.informers = informers.NewSharedInformerFactory(c.client, 0)
	if c.names, err = startNames(c.informers); err != nil {
		t.Fatal(err)
	}
	if err := c.balance(ctx); err != nil {
		t.Fatal(err)
	}
	if node, err = c.startKubelet(ctx, ca, images); err != nil {
		t.Fatal(err)
	}
	// Without it, no pod is admitted.
	Until(t, patience, func() error {
		_, err := c.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	t.Logf("the cluster is up after %.1f s", time.Since(began).Seconds())
	return c
}

func (c *Cluster) startKubelet(ctx context.Context, ca *authority, images map[string]Image) (*kubelet.Kubelet, error) {
	serving, err := ca.server("kubelet", []net.IP{box.Node.AsSlice()})
	if err != nil {
		return nil, err
	}
	config, err := ca.only(serving)
	if err != nil {
		return nil, err
	}
	return kubelet.Start(ctx, kubelet.Options{
		Client: c.client, Informers: c.informers, Network: c.network, Resolver: box.Node.String(), TLS: config,
		Logf: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "kubelet: "+format+"\n", args...) },
		Image: func(name string) (Image, bool) {
			image, ok := images[imageName(name)]
			return image, ok
		},
	})
}

// knownImages is Istio's two images, ours, and the app that this program is. istiod is told what this Envoy has not.
func knownImages(t tools, envoy, ours, self string) map[string]Image {
	const bin = "/usr/local/bin/"
	return map[string]Image{
		appName:   {Entrypoint: []string{bin + appName}, User: 65532, Files: map[string]string{bin + appName: self}},
		"sluiced": {Entrypoint: []string{"/sluiced"}, User: 65532, Files: map[string]string{"/sluiced": filepath.Join(ours, "sluiced")}},
		"sluice":  {Entrypoint: []string{"/sluice"}, User: 65532, Files: map[string]string{"/sluice": filepath.Join(ours, "sluice")}},
		"pilot": {
			Entrypoint: []string{bin + "pilot-discovery"}, User: 1337,
			Files: map[string]string{bin + "pilot-discovery": t.path("pilot-discovery")},
			Env:   []string{"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false"},
		},
		"proxyv2": {
			Entrypoint: []string{bin + "pilot-agent"},
			Files: map[string]string{
				bin + "pilot-agent": t.path("pilot-agent"), bin + "envoy": envoy,
				"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": t.path("envoy_bootstrap.json"),
			},
		},
	}
}

// imageName is "pilot" for registry.example/istio/pilot:1.31@sha256:…
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}

// stop ends the control plane and forgets everything.
func (c *Cluster) stop(t testing.TB) {
	for _, p := range c.processes {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	if c.names != nil {
		_ = c.names.conn.Close()
	}
	for _, dir := range []string{"cluster", "pods", "boxes"} {
		if err := os.RemoveAll(filepath.Join(box.Dir, dir)); err != nil {
			t.Error(err)
		}
	}
}

// Kubeconfig is the file of a cluster admin.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// REST is a cluster admin's configuration for client-go.
func (c *Cluster) REST() *rest.Config { return rest.CopyConfig(c.rest) }

// Tool is the path of one of the mesh's tools: kubectl, istioctl.
func (c *Cluster) Tool(name string) string { return c.tools.path(name) }

// Kubectl runs kubectl as a cluster admin and returns what it prints.
func (c *Cluster) Kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(c.tools.path("kubectl"), append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, problems.String())
	}
	return out.String()
}

// Apply lays manifests down, as 'kubectl apply --server-side' does.
func (c *Cluster) Apply(t testing.TB, manifests string) {
	t.Helper()
	c.Kubectl(t, manifests, "apply", "--server-side", "-f", "-")
}

// Until polls until f returns nil, and fails the test with its last error after a while.
func Until(t testing.TB, patience time.Duration, f func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %v", patience, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Client makes requests from the node, outside the mesh. Names are the cluster's; connections are not kept.
func (c *Cluster) Client() *http.Client { return c.clientFrom("", "default") }

// clientFrom makes requests from a network ("" is the node's), with the names of a namespace.
func (c *Cluster) clientFrom(network, namespace string) *http.Client {
	dial := func(ctx context.Context, kind, address string) (conn net.Conn, err error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if net.ParseIP(host) == nil {
			addrs := c.names.find(host, namespace)
			if len(addrs) == 0 {
				return nil, fmt.Errorf("the cluster knows no name %s", host)
			}
			host = addrs[0].String()
		}
		connect := func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, kind, net.JoinHostPort(host, port))
			return err
		}
		if network == "" {
			err = connect()
		} else {
			err = box.In(network, connect)
		}
		return conn, err
	}
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// serve serves on a port of a network until it is told to stop.
func serve(t testing.TB, network string, port int, h http.Handler) (stop func()) {
	t.Helper()
	var l net.Listener
	if err := box.In(network, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, Protocols: cleartext()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	return func() {
		_ = server.Close()
		<-done
	}
}

// tell says what a failed test's reader wants to know: which pods are not ready, and why.
func (c *Cluster) tell(t testing.TB) {
	for _, p := range c.processes {
		if err := p.ended(); err != nil {
			t.Log(err)
		}
	}
	if c.client == nil {
		return
	}
	pods, err := c.client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Log(err)
		return
	}
	for i := range pods.Items {
		tellPod(t, &pods.Items[i])
	}
	if to := os.Getenv("SLUICE_MESH_LOGS"); to != "" {
		to = filepath.Join(to, strings.ReplaceAll(t.Name(), "/", "_"))
		for _, dir := range []string{"cluster", "pods"} {
			if out, err := exec.Command("sh", "-c", `mkdir -p "$2" && cd "$1" && find . -path '*/logs/*' -o -name '*.log' | tar -cf - -T - | tar -xf - -C "$2"`, "sh", filepath.Join(box.Dir, dir), to).CombinedOutput(); err != nil {
				t.Logf("keeping logs: %v: %s", err, out)
			}
		}
		t.Logf("logs are kept in %s", to)
	}
}

func tellPod(t testing.TB, p *corev1.Pod) {
	if ready(p) || p.Status.Phase == corev1.PodSucceeded {
		return
	}
	t.Logf("pod %s/%s is %s, not ready. %s", p.Namespace, p.Name, p.Status.Phase, p.Status.Message)
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if !s.Ready {
			t.Logf("  %s: restarted %d times, %v\n%s", s.Name, s.RestartCount, s.State, tail(logFile(p, s.Name), 15))
		}
	}
}

func logFile(p *corev1.Pod, container string) string {
	return filepath.Join(kubelet.Home(p.Namespace, p.Name, p.UID), "logs", container)
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
