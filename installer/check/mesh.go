package check

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/forward"
	"github.com/voicecore-ai/sluice/installer/profile"
)

// Options say which mesh is checked, and how far.
type Options struct {
	// Mesh is what is, or is to be, laid down.
	Mesh *cluster.Mesh
	// Probe is what is asked of the mesh by requests; nil sends none.
	Probe *Probe
	// TakeOwnership lists the field managers whose fields may be taken over, as in an installation.
	TakeOwnership []string
	// Compared says that the caller compares the mesh with the cluster, so that no check has to.
	Compared bool
	// Pod keeps to one proxy, namespace/name.
	Pod string
	// Now is the time against which certificates are measured. Zero is the clock's.
	Now time.Time
}

// Mesh is what checks read. Each part of it is fetched when the first check asks for it, and once.
// It is not for concurrent use.
type Mesh struct {
	values   *profile.Values
	rendered []*unstructured.Unstructured
	probe    *Probe
	only     string // namespace/name of the one pod; empty for all
	now      time.Time
	reads    reads

	lists   map[schema.GroupKind]*listed
	proxied *proxied
}

// reads is how a cluster is read.
type reads struct {
	client client.Client
	// dial connects to a port of a pod.
	dial func(ctx context.Context, pod types.NamespacedName, port int) (net.Conn, error)
	// server is the API server's version, and the time that it believes it is.
	server func(context.Context) (version string, now time.Time, err error)
	// installed and changes are the inventory and the drift.
	installed func(context.Context) (*cluster.Status, error)
	changes   func(context.Context) ([]cluster.Change, error)
}

type listed struct {
	items []*unstructured.Unstructured
	err   error
}

// Open prepares the checks of a mesh. It asks the cluster nothing yet.
func Open(c *cluster.Cluster, o Options) (*Mesh, error) {
	config := c.REST()
	plain, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	m := newMesh(o)
	m.reads = reads{
		client:    plain,
		dial:      forward.Dialer(config),
		server:    serverOf(config),
		installed: func(ctx context.Context) (*cluster.Status, error) { return c.Status(ctx, m.values.Istio.Namespace) },
		changes: func(ctx context.Context) ([]cluster.Change, error) {
			if o.Compared {
				return nil, nil
			}
			return c.Compare(ctx, o.Mesh, o.TakeOwnership)
		},
	}
	return m, nil
}

func newMesh(o Options) *Mesh {
	m := &Mesh{values: o.Mesh.Values, probe: o.Probe, only: o.Pod, now: o.Now, lists: map[schema.GroupKind]*listed{}}
	for _, r := range o.Mesh.Components {
		m.rendered = append(m.rendered, r.Objects...)
	}
	if m.now.IsZero() {
		m.now = time.Now()
	}
	return m
}

// pageSize bounds what the API server holds in memory for one answer.
const pageSize = 500

// list returns all objects of a kind. A kind that the cluster does not have has none.
func (m *Mesh) list(ctx context.Context, group, version, kind string) ([]*unstructured.Unstructured, error) {
	key := schema.GroupKind{Group: group, Kind: kind}
	if have, ok := m.lists[key]; ok {
		return have.items, have.err
	}
	have := &listed{}
	m.lists[key] = have
	page := &unstructured.UnstructuredList{}
	page.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind + "List"})
	in := client.InNamespace("")
	if kind == "ConfigMap" { // of which only istiod's are read
		in = client.InNamespace(m.values.Istio.Namespace)
	}
	for {
		err := m.reads.client.List(ctx, page, in, client.Limit(pageSize), client.Continue(page.GetContinue()))
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			have.err = fmt.Errorf("listing %s: %w", kind, err)
			return nil, have.err
		}
		for i := range page.Items {
			have.items = append(have.items, &page.Items[i])
		}
		if page.GetContinue() == "" {
			return have.items, nil
		}
	}
}

// into lists a kind as its typed struct.
func into[T any](ctx context.Context, m *Mesh, group, version, kind string) ([]*T, error) {
	items, err := m.list(ctx, group, version, kind)
	if err != nil {
		return nil, err
	}
	out := make([]*T, 0, len(items))
	for _, u := range items {
		t := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, t); err != nil {
			return nil, fmt.Errorf("%s: %w", name(u), err)
		}
		out = append(out, t)
	}
	return out, nil
}

func (m *Mesh) pods(ctx context.Context) ([]*corev1.Pod, error) {
	return into[corev1.Pod](ctx, m, "", "v1", "Pod")
}

// namespaces are those that the mesh is made of.
func (m *Mesh) namespaces() []string {
	all := []string{m.values.Istio.Namespace, m.values.Mesh.Namespace, m.values.Sluice.Namespace, m.values.Addons.Namespace}
	slices.Sort(all)
	return slices.Compact(all)
}

// name is an object as output names it.
func name(o client.Object) string {
	kind := o.GetObjectKind().GroupVersionKind().Kind
	if o.GetNamespace() == "" {
		return kind + " " + o.GetName()
	}
	return kind + " " + o.GetNamespace() + "/" + o.GetName()
}

func podName(p *corev1.Pod) string { return "Pod " + p.Namespace + "/" + p.Name }

// unread is what helps when the cluster could not be read.
func unread(err error) string {
	switch {
	case apierrors.IsForbidden(err):
		return "have the permission to read it granted, or use another --context"
	case apierrors.IsUnauthorized(err):
		return "log in again, or use another --context"
	}
	return "try again; kubectl get --raw /readyz says how the API server is"
}

// httpClient makes requests to a port of a pod, whatever host their URL names, until ctx ends.
// Its connections are kept until CloseIdleConnections.
func (m *Mesh) httpClient(ctx context.Context, pod types.NamespacedName, port int) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return m.reads.dial(ctx, pod, port) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch gets a URL and wants a 200.
func fetch(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := c.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", request.URL.Path, response.Status)
	}
	return body, err
}
