package check

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What pods with a proxy have: its container, and the port of Envoy's administration.
const (
	proxyContainer = "istio-proxy"
	adminPort      = 15000
	atOnce         = 8 // proxies that are read side by side
)

// proxy is an Envoy of the mesh and what it runs.
type proxy struct {
	pod       *corev1.Pod
	gateway   bool
	listeners []listener
	clusters  map[string]*envoyCluster
	certs     []certificate
	stats     map[string]uint64
	// envoy is Envoy's version, istio that of the agent beside it.
	envoy, istio string
	wanted       *wanted // what the mesh makes of it; nil until asked
	err          error   // why it could not be read
}

func (p *proxy) String() string { return podName(p.pod) }

type proxied struct {
	all []*proxy
	err error
}

// proxies reads every running Envoy of the mesh's namespaces. One that can't be read has an err.
func (m *Mesh) proxies(ctx context.Context) ([]*proxy, error) {
	if m.proxied != nil {
		return m.proxied.all, m.proxied.err
	}
	m.proxied = &proxied{}
	pods, err := m.pods(ctx)
	if err != nil {
		m.proxied.err = err
		return nil, err
	}
	g := errgroup.Group{}
	g.SetLimit(atOnce)
	for _, pod := range pods {
		if !hasProxy(pod) || pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil || !m.selects(pod) {
			continue
		}
		p := &proxy{pod: pod, gateway: isGateway(pod)}
		m.proxied.all = append(m.proxied.all, p)
		g.Go(func() error {
			p.err = m.readProxy(ctx, p)
			return nil
		})
	}
	_ = g.Wait() // each keeps its own
	return m.proxied.all, ctx.Err()
}

// readable are the proxies that could be read; checks of what they run leave the others to unreadProxies.
func (m *Mesh) readable(ctx context.Context) ([]*proxy, error) {
	all, err := m.proxies(ctx)
	return slices.DeleteFunc(slices.Clone(all), func(p *proxy) bool { return p.err != nil }), err
}

// selects keeps to the mesh's namespaces, or to the one pod that is asked about.
func (m *Mesh) selects(pod *corev1.Pod) bool {
	if m.only != "" {
		return m.only == pod.Namespace+"/"+pod.Name
	}
	return slices.Contains(m.namespaces(), pod.Namespace)
}

// hasProxy reports whether a pod has a proxy; a native sidecar is an init container that keeps running.
func hasProxy(pod *corev1.Pod) bool {
	is := func(c corev1.Container) bool { return c.Name == proxyContainer }
	native := func(c corev1.Container) bool {
		return is(c) && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	return slices.ContainsFunc(pod.Spec.Containers, is) || slices.ContainsFunc(pod.Spec.InitContainers, native)
}

// isGateway reports whether the proxy is all there is in the pod.
func isGateway(pod *corev1.Pod) bool {
	return len(pod.Spec.Containers) == 1 && pod.Spec.Containers[0].Name == proxyContainer
}

func (m *Mesh) readProxy(ctx context.Context, p *proxy) error {
	c := m.httpClient(ctx, types.NamespacedName{Namespace: p.pod.Namespace, Name: p.pod.Name}, adminPort)
	defer c.CloseIdleConnections()
	for _, part := range []struct {
		path string
		read func([]byte) error
	}{
		{"/server_info", p.readInfo},
		{"/config_dump?resource=dynamic_listeners", p.readListeners},
		{"/config_dump?resource=dynamic_active_clusters", p.readClusters},
		{"/certs", p.readCerts},
		{"/stats?filter=" + "%5E(cluster_manager.cds%7Clistener_manager.lds).update_(rejected%7Csuccess)%24", p.readStats},
	} {
		body, err := fetch(ctx, c, "http://envoy"+part.path)
		if err == nil {
			err = part.read(body)
		}
		if err != nil {
			path, _, _ := strings.Cut(part.path, "?")
			return fmt.Errorf("Envoy's %s: %w", path, err) //nolint:revive,staticcheck // a name
		}
	}
	return nil
}

func (p *proxy) readInfo(body []byte) error {
	var info struct {
		Version string
		Node    struct{ Metadata map[string]any }
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return err
	}
	// commit/1.40.0/Clean/RELEASE/BoringSSL
	if parts := strings.Split(info.Version, "/"); len(parts) > 1 {
		p.envoy = parts[1]
	}
	p.istio, _ = info.Node.Metadata["ISTIO_VERSION"].(string)
	return nil
}

func (p *proxy) readStats(body []byte) error {
	p.stats = map[string]uint64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			p.stats[name] = n
		}
	}
	return nil
}

// certificate is one that a proxy holds.
type certificate struct {
	root       bool
	serial, id string
	from, to   time.Time
}

func (p *proxy) readCerts(body []byte) error {
	type entry struct {
		Serial string    `json:"serial_number"`
		From   time.Time `json:"valid_from"`
		To     time.Time `json:"expiration_time"`
		Names  []struct {
			URI string `json:"uri"`
			DNS string `json:"dns"`
		} `json:"subject_alt_names"`
	}
	var all struct {
		Certificates []struct {
			Root  []entry `json:"ca_cert"`
			Chain []entry `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	seen := map[string]bool{}
	add := func(root bool, e entry) {
		if e.To.IsZero() || seen[e.Serial] {
			return // the same one stands in many clusters
		}
		seen[e.Serial] = true
		c := certificate{root: root, serial: e.Serial, from: e.From, to: e.To}
		for _, n := range e.Names {
			c.id = cmp.Or(c.id, n.URI, n.DNS)
		}
		p.certs = append(p.certs, c)
	}
	for _, c := range all.Certificates {
		for _, e := range c.Root {
			add(true, e)
		}
		for _, e := range c.Chain {
			add(false, e)
		}
	}
	return nil
}
