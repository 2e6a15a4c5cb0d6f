// Package cluster tests what lays a mesh down against a real API server and etcd.
// There are no controllers and no nodes: the tests say what these would.
package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// The control plane of all tests, a client that may do everything, and the command line.
var (
	control    *envtest.Environment
	admin      client.Client
	kubeconfig string
	binary     string
)

// In a place of its own, so that a killed test leaves no API server behind, and no connection takes the ports that were chosen for it.
func TestMain(m *testing.M) {
	os.Exit(box.Main(func() int { return run(m) }))
}

func run(m *testing.M) int {
	log.SetLogger(logr.Discard())
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "the control plane for the tests:", err)
		return 1
	}
	for _, name := range []string{"SLUICE_MESH_TOOLS", "SLUICE_BIN"} {
		if os.Getenv(name) == "" {
			return fail(fmt.Errorf("%s is not set; 'make test-mesh' builds what it names, and sets it", name))
		}
	}
	binary = filepath.Join(os.Getenv("SLUICE_BIN"), "sluice")
	control = &envtest.Environment{BinaryAssetsDirectory: os.Getenv("SLUICE_MESH_TOOLS"), ControlPlaneStartTimeout: 5 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	// Without it, a webhook's Service is called by an address that leads nowhere; with it, by endpoints, of which there are none.
	control.ControlPlane.GetAPIServer().Configure().Append("enable-aggregator-routing", "true")
	// It wants an address to tell others, and finds none by itself: this place has no route to anywhere.
	if _, err := box.NewNetwork(); err != nil {
		return fail(err)
	}
	control.ControlPlane.GetAPIServer().Configure().Append("advertise-address", box.Node.String())
	config, err := control.Start()
	if err != nil {
		return fail(err)
	}
	defer func() { _ = control.Stop() }()
	if admin, err = client.New(config, client.Options{}); err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "sluice-mesh")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, control.KubeConfig, 0o600); err != nil {
		return fail(err)
	}
	return m.Run()
}

func connect(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Connect(t.Context(), cluster.Target{Kubeconfig: kubeconfig, Version: "v-test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var numbered atomic.Int32

// mesh is a small mesh with one object of each kind that is treated in a way of
// its own, under names that no other test uses.
type mesh struct {
	*cluster.Mesh
	ns, group string
}

const smallMesh = `
namespaces:
- {apiVersion: v1, kind: Namespace, metadata: {name: NS}}
- {apiVersion: v1, kind: Namespace, metadata: {name: NS-shop, labels: {istio-injection: enabled}}}
crds:
- apiVersion: apiextensions.k8s.io/v1
  kind: CustomResourceDefinition
  metadata: {name: envoyfilters.GROUP}
  spec:
    group: GROUP
    names: {kind: EnvoyFilter, plural: envoyfilters, singular: envoyfilter, listKind: EnvoyFilterList}
    scope: Namespaced
    versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}]
- apiVersion: apiextensions.k8s.io/v1
  kind: CustomResourceDefinition
  metadata: {name: authorizationpolicies.GROUP}
  spec:
    group: GROUP
    names: {kind: AuthorizationPolicy, plural: authorizationpolicies, singular: authorizationpolicy, listKind: AuthorizationPolicyList}
    scope: Namespaced
    versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}]
istiod:
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: istiod, namespace: NS}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: NS}, data: {mesh: "accessLogFile: /dev/stdout"}}
- {apiVersion: v1, kind: Secret, metadata: {name: password, namespace: NS}, data: {password: aHVudGVyMg==}}
- {apiVersion: v1, kind: Service, metadata: {name: istiod, namespace: NS}, spec: {type: LoadBalancer, selector: {app: istiod}, ports: [{name: grpc, port: 15010}]}}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: istiod, namespace: NS}
  spec:
    replicas: 2
    selector: {matchLabels: {app: istiod}}
    template: {metadata: {labels: {app: istiod}}, spec: {serviceAccountName: istiod, containers: [{name: discovery, image: "pilot:1"}]}}
- apiVersion: autoscaling/v2
  kind: HorizontalPodAutoscaler
  metadata: {name: istiod, namespace: NS}
  spec: {minReplicas: 2, maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: istiod}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}
webhooks:
- apiVersion: admissionregistration.k8s.io/v1
  kind: ValidatingWebhookConfiguration
  metadata: {name: NS-validator}
  webhooks:
  - name: rev.validation.istio.io
    failurePolicy: Ignore
    sideEffects: None
    admissionReviewVersions: [v1]
    rules: [{apiGroups: [nothing.example.com], apiVersions: ["*"], operations: [CREATE], resources: ["*"]}]
    clientConfig: {service: {name: istiod, namespace: NS, path: /validate}}
policy:
- {apiVersion: GROUP/v1, kind: AuthorizationPolicy, metadata: {name: deny, namespace: NS-shop}, spec: {}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: alerts, namespace: NS-shop}, data: {rule: one}}
filters:
- {apiVersion: GROUP/v1, kind: AuthorizationPolicy, metadata: {name: ask-sluice, namespace: NS-shop}, spec: {action: CUSTOM, provider: {name: sluice}}}
- {apiVersion: GROUP/v1, kind: EnvoyFilter, metadata: {name: sluice, namespace: NS-shop}, spec: {priority: 10}}
`

// newMesh renders the small mesh. Workloads become ready unless the test says otherwise.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	ns := fmt.Sprintf("istio-%d", numbered.Add(1))
	m := &mesh{ns: ns, group: "networking." + ns + ".example.com"}
	m.Mesh = &cluster.Mesh{Values: &profile.Values{Profile: "test"}}
	m.Values.Istio.Namespace, m.Values.Istio.Version, m.Values.Mesh.Stage = ns, "1.31.0", profile.Soft
	text := strings.NewReplacer("GROUP", m.group, "NS", ns).Replace(smallMesh)
	var all map[string][]map[string]any
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"namespaces", "crds", "istiod", "webhooks", "policy", "filters"} {
		r := render.Rendered{Name: name, Ready: name == "istiod"}
		for _, o := range all[name] {
			r.Objects = append(r.Objects, &unstructured.Unstructured{Object: o})
		}
		m.Components = append(m.Components, r)
	}
	return m
}

// component is one component's objects, to change.
func (m *mesh) component(name string) *render.Rendered {
	for i := range m.Components {
		if m.Components[i].Name == name {
			return &m.Components[i]
		}
	}
	panic("no component " + name)
}

// find is one rendered object, to change.
func (m *mesh) find(kind, name string) *unstructured.Unstructured {
	for _, r := range m.Components {
		for _, u := range r.Objects {
			if u.GetKind() == kind && u.GetName() == name {
				return u
			}
		}
	}
	panic("no " + kind + " " + name)
}

// live is an object as the API server has it.
func live(t *testing.T, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	out.SetGroupVersionKind(u.GroupVersionKind())
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(u), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func exists(t *testing.T, u *unstructured.Unstructured) bool {
	t.Helper()
	out := &unstructured.Unstructured{}
	out.SetGroupVersionKind(u.GroupVersionKind())
	err := admin.Get(t.Context(), client.ObjectKeyFromObject(u), out)
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil && out.GetDeletionTimestamp() == nil
}

// ready plays the controllers of workloads for the mesh until the test ends.
func (m *mesh) ready(t *testing.T) *mesh {
	t.Helper()
	settleUntilEnd(t, m.ns)
	return m
}

// settleUntilEnd plays the controllers of workloads for some namespaces.
func settleUntilEnd(t *testing.T, namespaces ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for _, ns := range namespaces {
					settle(ctx, ns)
				}
				if slices.Contains(namespaces, "istio-system") {
					tolerate(ctx)
				}
			}
		}
	}()
	t.Cleanup(func() { stop(); <-done })
}

// settle reports every Deployment and StatefulSet of a namespace as available.
func settle(ctx context.Context, namespace string) {
	all := &appsv1.DeploymentList{}
	if admin.List(ctx, all, client.InNamespace(namespace)) != nil {
		return
	}
	for i := range all.Items {
		d := &all.Items[i]
		n := *d.Spec.Replicas
		if d.Status.ObservedGeneration == d.Generation && d.Status.AvailableReplicas == n {
			continue
		}
		d.Status = appsv1.DeploymentStatus{
			ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
			Conditions: []appsv1.DeploymentCondition{
				{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue},
				{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"},
			},
		}
		_ = admin.Status().Update(ctx, d) // a conflict is tried again
	}
	sets := &appsv1.StatefulSetList{}
	if admin.List(ctx, sets, client.InNamespace(namespace)) != nil {
		return
	}
	for i := range sets.Items {
		s := &sets.Items[i]
		n := *s.Spec.Replicas
		if s.Status.ObservedGeneration == s.Generation && s.Status.ReadyReplicas == n {
			continue
		}
		s.Status = appsv1.StatefulSetStatus{
			ObservedGeneration: s.Generation, Replicas: n, CurrentReplicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
			CurrentRevision: "one", UpdateRevision: "one",
		}
		_ = admin.Status().Update(ctx, s)
	}
}

// tolerate plays istiod's part in its own webhooks as far as that goes without
// it: nobody answers, so they must not fail closed.
func tolerate(ctx context.Context) {
	all := &admissionv1.ValidatingWebhookConfigurationList{}
	if admin.List(ctx, all) != nil {
		return
	}
	for i := range all.Items {
		changed := false
		for j := range all.Items[i].Webhooks {
			if w := &all.Items[i].Webhooks[j]; ptr.Deref(w.FailurePolicy, admissionv1.Fail) == admissionv1.Fail {
				w.FailurePolicy, changed = ptr.To(admissionv1.Ignore), true
			}
		}
		if changed {
			_ = admin.Update(ctx, &all.Items[i], client.FieldOwner("pilot-discovery")) // a conflict is tried again
		}
	}
}

// installed is a mesh that was installed.
func installed(t *testing.T) (*mesh, *cluster.Cluster) {
	t.Helper()
	m, c := newMesh(t).ready(t), connect(t)
	if _, err := c.Install(t.Context(), m.Mesh, cluster.Options{}); err != nil {
		t.Fatal(err)
	}
	return m, c
}

// versions are the resource versions of all that is rendered, and of the inventory.
func (m *mesh) versions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range m.Components {
		for _, u := range r.Objects {
			out[u.GetKind()+" "+u.GetName()] = live(t, u).GetResourceVersion()
		}
	}
	out["inventory"] = m.inventory(t).ResourceVersion
	return out
}

func (m *mesh) inventory(t *testing.T) *corev1.Secret {
	t.Helper()
	s := &corev1.Secret{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: m.ns, Name: "sluice-mesh"}, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// edit changes a live object as another manager.
func edit(t *testing.T, u *unstructured.Unstructured, manager string, change func(*unstructured.Unstructured)) {
	t.Helper()
	l := live(t, u)
	change(l)
	if err := admin.Update(t.Context(), l, client.FieldOwner(manager)); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, u *unstructured.Unstructured, value any, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(u.Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

// actions are the objects of one action.
func actions(changes []cluster.Change, a cluster.Action) (out []string) {
	for i := range changes {
		if changes[i].Action == a {
			out = append(out, changes[i].Object)
		}
	}
	return out
}
