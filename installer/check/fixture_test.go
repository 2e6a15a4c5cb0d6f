package check

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
	"github.com/voicecore-ai/sluice/installer/wiring/istiodtest"
)

// at is the time of all fixtures.
var at = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// recorded is a cluster as a client sees it: its objects, and what this account may not.
type recorded struct {
	client.Client // nil: what is not recorded is not asked
	objects       []*unstructured.Unstructured
	denied        func(group, resource, verb string) bool
	injects       bool
	mu            sync.Mutex
	asked         int
}

func (r *recorded) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	u := list.(*unstructured.UnstructuredList)
	gvk := u.GroupVersionKind()
	kind := strings.TrimSuffix(gvk.Kind, "List")
	if r.denied != nil && r.denied(gvk.Group, strings.ToLower(kind)+"s", "list") {
		return apierrors.NewForbidden(schema.GroupResource{Group: gvk.Group, Resource: strings.ToLower(kind) + "s"}, "", errors.New("no"))
	}
	var o client.ListOptions
	o.ApplyOptions(opts)
	r.mu.Lock()
	r.asked++
	r.mu.Unlock()
	u.Items = nil
	for _, have := range r.objects {
		if k := have.GroupVersionKind(); k.Group == gvk.Group && k.Kind == kind && (o.Namespace == "" || o.Namespace == have.GetNamespace()) {
			u.Items = append(u.Items, *have.DeepCopy())
		}
	}
	if len(u.Items) == 0 && !slices.Contains([]string{"", "apps", "policy", "autoscaling", "discovery.k8s.io"}, gvk.Group) {
		return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gvk.Group, Kind: kind}}
	}
	return nil
}

func (r *recorded) Get(_ context.Context, key client.ObjectKey, to client.Object, _ ...client.GetOption) error {
	for _, have := range r.objects {
		if _, secret := to.(*corev1.Secret); secret && have.GetKind() == "Secret" && have.GetNamespace() == key.Namespace && have.GetName() == key.Name {
			return runtime.DefaultUnstructuredConverter.FromUnstructured(have.Object, to)
		}
	}
	if r.denied != nil && r.denied("", "secrets", "get") {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, key.Name, errors.New("no"))
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

func (r *recorded) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	switch o := o.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		a := o.Spec.ResourceAttributes
		o.Status.Allowed = r.denied == nil || !r.denied(a.Group, a.Resource, a.Verb)
	case *corev1.Pod:
		if r.injects {
			always := corev1.ContainerRestartPolicyAlways
			o.Spec.InitContainers = append(o.Spec.InitContainers, corev1.Container{Name: proxyContainer, RestartPolicy: &always})
		}
	}
	return nil
}

func (r *recorded) RESTMapper() meta.RESTMapper { return meta.NewDefaultRESTMapper(nil) }

// envoy is one proxy's administration, as recorded.
type envoy struct {
	listeners  []map[string]any
	rejected   map[string]string // listener name → details
	clusters   []map[string]any
	certs      []map[string]any
	roots      []map[string]any
	stats      map[string]int
	version    string
	istio      string
	unanswered bool
}

func (e *envoy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.unanswered {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	var out any
	switch r.URL.Path + "?" + r.URL.Query().Get("resource") {
	case "/server_info?":
		out = map[string]any{"version": "abc/" + e.version + "/Clean/RELEASE/BoringSSL", "node": map[string]any{"metadata": map[string]any{"ISTIO_VERSION": e.istio}}}
	case "/config_dump?dynamic_listeners":
		configs := []any{}
		for _, l := range e.listeners {
			c := map[string]any{"name": l["name"], "active_state": map[string]any{"version_info": "1", "listener": l}}
			if details := e.rejected[fmt.Sprint(l["name"])]; details != "" {
				c["error_state"] = map[string]any{"details": details}
			}
			configs = append(configs, c)
		}
		out = map[string]any{"configs": configs}
	case "/config_dump?dynamic_active_clusters":
		configs := []any{}
		for _, c := range e.clusters {
			configs = append(configs, map[string]any{"version_info": "1", "cluster": c})
		}
		out = map[string]any{"configs": configs}
	case "/certs?":
		out = map[string]any{"certificates": []any{map[string]any{"ca_cert": e.roots, "cert_chain": e.certs}}}
	case "/stats?":
		for name, n := range e.stats {
			_, _ = fmt.Fprintf(w, "%s: %d\n", name, n)
		}
		return
	case "/?":
		return // a console
	default:
		if strings.HasSuffix(r.URL.Path, "/ready") || strings.HasSuffix(r.URL.Path, "health") || strings.HasSuffix(r.URL.Path, "healthz") {
			return
		}
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

// fixture is a mesh that can be given faults before it is checked.
type fixture struct {
	values   *profile.Values
	mesh     *cluster.Mesh
	cluster  *recorded
	envoys   map[string]*envoy // by pod, namespace/name
	status   *cluster.Status
	changes  []cluster.Change
	failed   error // of the comparison
	version  string
	there    time.Time
	probe    *Probe
	only     string
	rendered []*unstructured.Unstructured
}

// rendered is voicecore's mesh, rendered once for all tests.
var voicecore = sync.OnceValues(func() (*cluster.Mesh, error) {
	v, err := profile.Load(profile.Options{Profile: "voicecore", Sets: []string{
		"sluice.doors.extProc.enabled=true", "sluice.doors.rateLimit.enabled=true", "sluice.values.image.repository=registry.example/sluiced", "sluice.values.secrets.existingSecret=sluice", "istio.ingress.tlsSecret=edge",
	}})
	if err != nil {
		return nil, err
	}
	components, err := render.All(v)
	return &cluster.Mesh{Values: v, Components: components}, err
})

// healthy is voicecore's mesh, laid down and well.
func healthy(t *testing.T) *fixture {
	t.Helper()
	m, err := voicecore()
	if err != nil {
		t.Fatal(err)
	}
	v := *m.Values
	f := &fixture{
		values: &v, mesh: &cluster.Mesh{Values: &v, Components: m.Components}, cluster: &recorded{injects: true}, envoys: map[string]*envoy{},
		status: &cluster.Status{Stage: "enforced", Revision: 1}, version: "v1.36.2", there: at,
	}
	ca := certificatePEM(t, at.Add(-time.Hour), at.Add(10*365*24*time.Hour))
	for _, c := range m.Components {
		for _, u := range c.Objects {
			if u.GetKind() != "CustomResourceDefinition" { // a megabyte, which no fault changes
				u = u.DeepCopy()
			}
			f.rendered = append(f.rendered, u)
			f.cluster.objects = append(f.cluster.objects, u)
			if hooks, ok, _ := unstructured.NestedSlice(u.Object, "webhooks"); ok {
				for _, h := range hooks {
					_ = unstructured.SetNestedField(h.(map[string]any), base64Of(ca), "clientConfig", "caBundle")
				}
				_ = unstructured.SetNestedSlice(u.Object, hooks, "webhooks")
			}
			if u.GetKind() == "Service" {
				f.endpoints(t, u.GetNamespace(), u.GetName(), true)
			}
		}
	}
	f.add(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: istio-ca-root-cert, namespace: istio-system}}`)
	_ = unstructured.SetNestedField(f.object(t, "ConfigMap istio-system/istio-ca-root-cert").Object, string(ca), "data", "root-cert.pem")
	f.add(t, `{apiVersion: v1, kind: Secret, metadata: {name: sluice, namespace: sluice-system}, data: {secret: eA==, admin.token.sha256: eA==}}`)
	f.add(t, `{apiVersion: v1, kind: Secret, metadata: {name: edge, namespace: istio-system}}`)
	_ = unstructured.SetNestedField(f.object(t, "Secret istio-system/edge").Object, base64Of(certificatePEM(t, at.Add(-24*time.Hour), at.Add(60*24*time.Hour))), "data", "tls.crt")
	f.add(t, `{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {allocatable: {cpu: "8", memory: 32Gi}, conditions: [{type: Ready, status: "True"}]}}`)
	for i := range v.Mesh.Services {
		f.workload(t, v.Mesh.Namespace, v.Mesh.Services[i].Name, map[string]string{"app": v.Mesh.Services[i].Name}, false)
		f.endpoints(t, v.Mesh.Namespace, v.Mesh.Services[i].Name, true)
	}
	f.workload(t, v.Istio.Namespace, "istio-ingressgateway", map[string]string{"app": "istio-ingressgateway", "istio": "ingressgateway"}, true)
	f.workload(t, v.Istio.Namespace, "istio-egressgateway", map[string]string{"app": "istio-egressgateway", "istio": "egressgateway"}, true)
	f.workload(t, v.Sluice.Namespace, "sluice", map[string]string{"app.kubernetes.io/name": "sluice"}, false)
	for _, c := range []string{"prometheus", "jaeger", "grafana", "kiali"} {
		f.console(t, c)
	}
	return f
}

// add adds an object to the cluster.
func (f *fixture) add(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	f.cluster.objects = append(f.cluster.objects, u)
	return u
}

// object is one of the cluster's, "Kind namespace/name".
func (f *fixture) object(t *testing.T, is string) *unstructured.Unstructured {
	t.Helper()
	for _, u := range f.cluster.objects {
		if name(u) == is {
			return u
		}
	}
	t.Fatalf("the fixture has no %s", is)
	return nil
}

func (f *fixture) remove(t *testing.T, is string) {
	t.Helper()
	gone := f.object(t, is)
	f.cluster.objects = slices.DeleteFunc(slices.Clone(f.cluster.objects), func(u *unstructured.Unstructured) bool { return u == gone })
}

// set changes a field of an object of the cluster.
func (f *fixture) set(t *testing.T, is string, value any, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(f.object(t, is).Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) endpoints(t *testing.T, namespace, service string, ready bool) {
	t.Helper()
	f.add(t, fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: %s-1, namespace: %s, labels: {kubernetes.io/service-name: %s}},
addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: %t}}]}`, service, namespace, service, ready))
}

func (f *fixture) pod(t *testing.T, namespace, name string, labels map[string]string, containers string) *unstructured.Unstructured {
	t.Helper()
	u := f.add(t, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: %s, annotations: {sidecar.istio.io/status: x}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: x, uid: x}]},
spec: {nodeName: n1, %s}, status: {phase: Running, conditions: [{type: Ready, status: "True"}]}}`, name, namespace, containers))
	u.SetLabels(labels)
	return u
}

func (f *fixture) console(t *testing.T, c string) {
	t.Helper()
	selector, _, _ := unstructured.NestedStringMap(f.object(t, "Service "+f.values.Addons.Namespace+"/"+c).Object, "spec", "selector")
	f.pod(t, f.values.Addons.Namespace, c+"-1", selector, "containers: [{name: console, image: x}]")
	f.envoys[f.values.Addons.Namespace+"/"+c+"-1"] = &envoy{}
}

// workload is a pod with a proxy that runs what istiod makes of the mesh's objects.
func (f *fixture) workload(t *testing.T, namespace, service string, labels map[string]string, gateway bool) {
	t.Helper()
	containers := "initContainers: [{name: istio-proxy, image: x, restartPolicy: Always}], containers: [{name: app, image: x}]"
	if gateway {
		containers = "containers: [{name: istio-proxy, image: x}]"
	}
	f.pod(t, namespace, service+"-1", labels, containers)
	e := &envoy{
		version: "1.38.4-dev", istio: f.values.Istio.Version, stats: map[string]int{"listener_manager.lds.update_success": 3, "listener_manager.lds.update_rejected": 0, "cluster_manager.cds.update_rejected": 0},
		clusters: []map[string]any{{
			"name": "outbound|9090||sluice.sluice-system.svc.cluster.local",
			"transport_socket_matches": []any{
				map[string]any{"name": "tlsMode-istio", "match": map[string]any{"tlsMode": "istio"}, "transport_socket": map[string]any{"name": "envoy.transport_sockets.tls"}},
				map[string]any{"name": "tlsMode-disabled", "match": map[string]any{}, "transport_socket": map[string]any{"name": "envoy.transport_sockets.raw_buffer"}},
			},
		}},
		roots: []map[string]any{entry("r1", "", at.Add(-time.Hour), at.Add(10*365*24*time.Hour))},
		certs: []map[string]any{entry(service, "spiffe://cluster.local/ns/"+namespace+"/sa/"+service, at.Add(-24*time.Hour), at.Add(89*24*time.Hour))},
	}
	f.envoys[namespace+"/"+service+"-1"] = e
	f.configure(t, e, labels, gateway, f.rendered)
}

// configure has a proxy run what istiod makes of EnvoyFilters and CUSTOM policies.
func (f *fixture) configure(t *testing.T, e *envoy, labels map[string]string, gateway bool, objects []*unstructured.Unstructured) {
	t.Helper()
	file := "testdata/virtualInbound.yaml"
	if gateway {
		file = "../wiring/istiodtest/testdata/gateway-before.json"
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	base, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	applied, err := istiodtest.Apply(base, objects, istiodtest.Proxy{Labels: labels, Gateway: gateway})
	if err != nil {
		t.Fatal(err)
	}
	var l map[string]any
	if err := json.Unmarshal(applied, &l); err != nil {
		t.Fatal(err)
	}
	custom := slices.ContainsFunc(objects, func(u *unstructured.Unstructured) bool {
		if u.GetKind() != "AuthorizationPolicy" {
			return false
		}
		var s policySpec
		if spec(u.Object, &s); s.Action != "CUSTOM" {
			return false
		}
		for k, v := range s.Selector.Labels {
			if labels[k] != v {
				return false
			}
		}
		return true
	})
	if !custom { // istiod has no ext_authz there
		eachFilter(l, func(filters []any) []any {
			return slices.DeleteFunc(filters, func(x any) bool { return x.(map[string]any)["name"] == authzFilter })
		})
	}
	e.listeners = []map[string]any{l}
}

// eachFilter changes the HTTP filters of every HTTP connection manager of a listener.
func eachFilter(l map[string]any, change func([]any) []any) {
	for _, c := range l["filter_chains"].([]any) {
		for _, x := range c.(map[string]any)["filters"].([]any) {
			config := x.(map[string]any)["typed_config"].(map[string]any)
			if filters, ok := config["http_filters"].([]any); ok {
				config["http_filters"] = change(filters)
			}
		}
	}
}

func entry(serial, id string, from, to time.Time) map[string]any {
	e := map[string]any{"serial_number": serial, "valid_from": from.Format(time.RFC3339), "expiration_time": to.Format(time.RFC3339)}
	if id != "" {
		e["subject_alt_names"] = []any{map[string]any{"uri": id}}
	}
	return e
}

// open is the Mesh of the fixture.
func (f *fixture) open(t *testing.T) *Mesh {
	t.Helper()
	m := newMesh(Options{Mesh: f.mesh, Probe: f.probe, Pod: f.only, Now: at})
	servers := map[string]*httptest.Server{}
	for pod, e := range f.envoys {
		servers[pod] = httptest.NewServer(e)
		t.Cleanup(servers[pod].Close)
	}
	m.reads = reads{
		client: f.cluster,
		dial: func(ctx context.Context, pod types.NamespacedName, _ int) (net.Conn, error) {
			s := servers[pod.String()]
			if s == nil {
				return nil, fmt.Errorf("there is no pod %s", pod)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
		},
		server:    func(context.Context) (string, time.Time, error) { return f.version, f.there, nil },
		installed: func(context.Context) (*cluster.Status, error) { return f.status, nil },
		changes:   func(context.Context) ([]cluster.Change, error) { return f.changes, f.failed },
	}
	return m
}

func certificatePEM(t *testing.T, from, to time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{Organization: []string{"cluster.local"}}, NotBefore: from, NotAfter: to, DNSNames: []string{"voicecore.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func base64Of(data []byte) string {
	var out string
	raw, _ := json.Marshal(data)
	_ = json.Unmarshal(raw, &out)
	return out
}

// codes are those of findings that fail or warn, each once.
func codes(found []Finding) []string {
	set := map[string]bool{}
	for _, f := range found {
		if f.Severity != Info {
			set[f.Code] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
