package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/render"
)

const (
	rev       = "istio.io/rev"
	injection = "istio-injection"
)

// planes is a small mesh under revision "a" and the same under "b". The revisions
// begin with the mesh's own namespace: promote looks at all namespaces, and other tests have some.
type planes struct {
	*mesh
	base *mesh // of which both are made
	next *mesh
	c    *cluster.Cluster
	a, b string
}

// upgradable is an installed mesh that can move, with a gateway and with the validator, of which a cluster has one.
func upgradable(t *testing.T) *planes {
	t.Helper()
	return upgradableFrom(t, "-a")
}

// upgradableFrom is an installed mesh of a revision with this ending; without one, of the default revision.
func upgradableFrom(t *testing.T, ending string) *planes {
	t.Helper()
	p := &planes{base: newMesh(t), c: connect(t)}
	p.mesh = p.base
	p.b = p.ns + "-b"
	if ending != "" {
		p.a = p.ns + ending
	}
	p.next = p.revised(p.b, "1.32.0")
	p.mesh = p.revised(p.a, "1.31.0")
	settleUntilEnd(t, p.ns)
	if _, err := p.c.Install(t.Context(), p.Mesh, cluster.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("admissionregistration.k8s.io/v1")
		u.SetKind("ValidatingWebhookConfiguration")
		u.SetName("istiod-default-validator")
		if err := admin.Delete(context.Background(), u); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return p
}

// revised is the mesh as render gives it for a revision: what is of the control plane has it in its name.
func (p *planes) revised(revision, version string) *mesh {
	m := &mesh{Mesh: &cluster.Mesh{}, ns: p.ns, group: p.group}
	values, suffix := *p.base.Values, "-"+revision
	if revision == "" {
		suffix = ""
	}
	values.Istio.Revision, values.Istio.Version = revision, version
	m.Values = &values
	for _, r := range p.base.Components {
		out := render.Rendered{Name: r.Name, Ready: r.Ready}
		for _, u := range r.Objects {
			u = u.DeepCopy()
			switch {
			case r.Name == "istiod" || r.Name == "webhooks":
				u.SetName(u.GetName() + suffix)
			case u.GetKind() == "Namespace" && u.GetLabels() != nil && revision != "":
				u.SetLabels(map[string]string{rev: revision})
			}
			out.Objects = append(out.Objects, u)
		}
		if r.Name == "istiod" {
			hpa := out.Objects[len(out.Objects)-1]
			_ = unstructured.SetNestedField(hpa.Object, "istiod"+suffix, "spec", "scaleTargetRef", "name")
		}
		if r.Name == "webhooks" {
			all := out.Objects[0].DeepCopy()
			all.SetName("istiod-default-validator")
			hooks, _, _ := unstructured.NestedSlice(all.Object, "webhooks")
			hooks[0].(map[string]any)["clientConfig"].(map[string]any)["service"].(map[string]any)["name"] = "istiod" + suffix
			_ = unstructured.SetNestedSlice(all.Object, hooks, "webhooks")
			out.Objects = append(out.Objects, all)
		}
		m.Components = append(m.Components, out)
		if r.Name == "webhooks" {
			gateway := deployment(p.ns, "gateway")
			labels := map[string]string{"app": "gateway", "sidecar.istio.io/inject": "true"}
			if revision != "" {
				labels[rev] = revision
			}
			_ = unstructured.SetNestedStringMap(gateway.Object, labels, "spec", "template", "metadata", "labels")
			m.Components = append(m.Components, render.Rendered{Name: "gateways", Ready: true, Objects: render.Objects{gateway}})
		}
	}
	return m
}

func deployment(namespace, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"app": name}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": name}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "app", "image": "app:1"}}},
			},
		},
	}}
}

// workload makes a Deployment with a pod whose proxy is of a revision, as the controllers and the injector would.
func workload(t *testing.T, namespace, name, revision string) *corev1.Pod {
	t.Helper()
	if err := admin.Create(t.Context(), deployment(namespace, name)); err != nil {
		t.Fatal(err)
	}
	return proxy(t, namespace, name, revision)
}

func proxy(t *testing.T, namespace, app, revision string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, GenerateName: app + "-", Labels: map[string]string{"app": app},
			Annotations: map[string]string{"sidecar.istio.io/status": "{}", rev: revision},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}},
	}
	if err := admin.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// replace is what a rollout does: pods of the old control plane go, ones of the new come.
func replace(t *testing.T, old *corev1.Pod, revision string) *corev1.Pod {
	t.Helper()
	if err := admin.Delete(t.Context(), old, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	return proxy(t, old.Namespace, old.Labels["app"], revision)
}

func (p *planes) start(t *testing.T) {
	t.Helper()
	if _, err := p.c.StartUpgrade(t.Context(), p.next.Mesh, cluster.Options{}); err != nil {
		t.Fatal(err)
	}
}

func labels(t *testing.T, namespace string) (rev1, injected string) {
	t.Helper()
	n := &corev1.Namespace{}
	if err := admin.Get(t.Context(), client.ObjectKey{Name: namespace}, n); err != nil {
		t.Fatal(err)
	}
	return n.Labels[rev], n.Labels[injection]
}

func restarted(t *testing.T, namespace, name string) bool {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, d); err != nil {
		t.Fatal(err)
	}
	return d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] != ""
}

func (p *planes) validator(t *testing.T) string {
	t.Helper()
	s, err := p.c.UpgradeStatus(t.Context(), p.ns)
	if err != nil {
		t.Fatal(err)
	}
	return s.Validator
}

func refused(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("got %v, want that it is refused", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %v\nwant %q in it", err, part)
		}
	}
}

func TestUpgradeStart(t *testing.T) {
	p := upgradable(t)
	t.Run("it is refused for the revision that is there", func(t *testing.T) {
		_, err := p.c.StartUpgrade(t.Context(), p.revised(p.a, "1.32.0").Mesh, cluster.Options{})
		refused(t, err, "revision "+p.a, "--revision")
	})
	t.Run("no step goes before it", func(t *testing.T) {
		refused(t, p.c.FinishUpgrade(t.Context(), p.ns, cluster.Options{}), "upgrade start --to VERSION")
		refused(t, p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{}), "upgrade start --to VERSION")
	})
	t.Run("interrupted, it can be seen, keeps promote away and goes on when run again", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		_, err := p.c.StartUpgrade(ctx, p.next.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if strings.HasPrefix(e.Component, "webhooks") {
				interrupt()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that it was cancelled", err)
		}
		s, err := p.c.UpgradeStatus(t.Context(), p.ns)
		if err != nil || !strings.HasPrefix(s.Unfinished, "upgrade start was interrupted at component webhooks-"+p.b) || s.Done() {
			t.Errorf("status: %+v, %v", s, err)
		}
		refused(t, p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{}), "is not there whole")
		p.start(t)
	})
	t.Run("the new control plane is there, the old one too, and the validator asks the old one", func(t *testing.T) {
		for _, u := range []*unstructured.Unstructured{p.find("Deployment", "istiod-"+p.a), p.next.find("Deployment", "istiod-"+p.b)} {
			if !exists(t, u) {
				t.Errorf("Deployment %s is not there", u.GetName())
			}
		}
		if got := p.validator(t); got != "istiod-"+p.a {
			t.Errorf("the validator asks %s", got)
		}
		if r, _ := labels(t, p.ns+"-shop"); r != p.a {
			t.Errorf("the namespace moved to %s", r)
		}
	})
	t.Run("while it is under way, installing, comparing, rolling back and another upgrade are refused", func(t *testing.T) {
		_, err := p.c.Install(t.Context(), p.Mesh, cluster.Options{})
		refused(t, err, "upgrade from 1.31.0", "1.32.0", "finish", "rollback --remove")
		_, err = p.c.Compare(t.Context(), p.Mesh, nil)
		refused(t, err)
		_, err = p.c.Rollback(t.Context(), p.ns, 1, cluster.Options{})
		refused(t, err)
		_, err = p.c.StartUpgrade(t.Context(), p.revised(p.ns+"-c", "1.33.0").Mesh, cluster.Options{})
		refused(t, err, "under way already")
	})
	t.Run("giving it up that was interrupted leaves nothing to promote to, until start lays it down again", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		err := p.c.RollbackUpgrade(ctx, p.ns, cluster.MoveOptions{Remove: true, Options: cluster.Options{Progress: func(e cluster.Event) {
			if strings.HasPrefix(e.Text, "deleting Service") {
				interrupt()
			}
		}}})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that it was cancelled", err)
		}
		refused(t, p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{}), "start' again")
		refused(t, p.c.FinishUpgrade(t.Context(), p.ns, cluster.Options{}), "start' again")
		p.start(t)
	})
	t.Run("given up, nothing of it is left and the mesh is as it was", func(t *testing.T) {
		if err := p.c.RollbackUpgrade(t.Context(), p.ns, cluster.MoveOptions{Remove: true}); err != nil {
			t.Fatal(err)
		}
		if exists(t, p.next.find("Deployment", "istiod-"+p.b)) {
			t.Error("the new istiod is still there")
		}
		changes, err := p.c.Compare(t.Context(), p.Mesh, nil)
		if err != nil || len(actions(changes, cluster.Keep)) != len(changes) {
			t.Errorf("%s (%v), want all unchanged", cluster.Count(changes), err)
		}
		if s := p.inventory(t); s.Data["upgrade-from"] != nil || s.Data["upgrade-to"] != nil {
			t.Error("the inventory still has both meshes")
		}
	})
	t.Run("an upgrade under way can be uninstalled whole", func(t *testing.T) {
		p.start(t)
		if _, err := p.c.Uninstall(t.Context(), p.ns, cluster.UninstallOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*mesh{p.mesh, p.next} {
			if exists(t, m.component("istiod").Objects[0]) {
				t.Errorf("%s is still there", m.component("istiod").Objects[0].GetName())
			}
		}
	})
}

func TestUpgradeMoves(t *testing.T) {
	p := upgradable(t)
	shop := p.ns + "-shop"
	one, two := workload(t, shop, "one", p.a), workload(t, shop, "two", p.a)
	gate := proxy(t, p.ns, "gateway", p.a)
	p.start(t)

	t.Run("promote stops at the first workload that is not ready, and touches nothing after it", func(t *testing.T) {
		err := p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{Options: cluster.Options{Timeout: 5 * time.Second}})
		if !errors.Is(err, cluster.ErrNotReady) || !strings.Contains(err.Error(), "Deployment "+shop+"/one") || !strings.Contains(err.Error(), "upgrade rollback") {
			t.Fatalf("got %v, want that Deployment one is not ready and how to go back", err)
		}
		if !restarted(t, shop, "one") || restarted(t, shop, "two") {
			t.Error("want that one was restarted and two was not")
		}
		if got, _, _ := unstructured.NestedString(live(t, p.find("Deployment", "gateway")).Object, "spec", "template", "metadata", "labels", rev); got != p.a {
			t.Errorf("the gateway moved to %s, though it comes last", got)
		}
		if got := p.validator(t); got != "istiod-"+p.a {
			t.Errorf("the validator moved to %s", got)
		}
	})
	settleUntilEnd(t, shop)
	t.Run("running it again goes on; what still has an old proxy after its restart stops it", func(t *testing.T) {
		replace(t, one, p.b)
		err := p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{})
		if !errors.Is(err, cluster.ErrNotReady) || !strings.Contains(err.Error(), "Deployment "+shop+"/two was restarted, and its Pods "+two.Name) {
			t.Fatalf("got %v, want that two still has an old proxy", err)
		}
		two = replace(t, two, p.b)
		if err := p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := p.validator(t); got != "istiod-"+p.b {
			t.Errorf("the validator asks %s, want the new istiod", got)
		}
	})
	t.Run("finish names who is attached to the old control plane, with what keeps it", func(t *testing.T) {
		job := proxy(t, shop, "job", p.a)
		other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.ns + "-late", Labels: map[string]string{rev: p.a}}}
		if err := admin.Create(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		refused(t, p.c.FinishUpgrade(t.Context(), p.ns, cluster.Options{}),
			"Pod "+gate.Namespace+"/"+gate.Name, "Pod "+shop+"/"+job.Name+", which nothing restarts", "Namespace "+other.Name+": its label is "+rev+"="+p.a)
		if !exists(t, p.find("Deployment", "istiod-"+p.a)) {
			t.Error("the old istiod is gone")
		}
		replace(t, gate, p.b)
		for _, o := range []client.Object{job, other} {
			if err := admin.Delete(t.Context(), o, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("finish waits for a pod that is ending, and says so when it does not end", func(t *testing.T) {
		ending := proxy(t, shop, "slow", p.a)
		ending.Finalizers = []string{"example.com/slow"}
		if err := errors.Join(admin.Update(t.Context(), ending), admin.Delete(t.Context(), ending, client.GracePeriodSeconds(0))); err != nil {
			t.Fatal(err)
		}
		err := p.c.FinishUpgrade(t.Context(), p.ns, cluster.Options{Timeout: 4 * time.Second})
		if !errors.Is(err, cluster.ErrNotReady) || !strings.Contains(err.Error(), ending.Name) {
			t.Fatalf("got %v, want that %s is still ending", err, ending.Name)
		}
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(ending), ending); err != nil {
			t.Fatal(err)
		}
		ending.Finalizers = nil
		if err := admin.Update(t.Context(), ending); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("finish that was interrupted goes on, and until then nothing moves back", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		err := p.c.FinishUpgrade(ctx, p.ns, cluster.Options{Progress: func(e cluster.Event) {
			if strings.HasPrefix(e.Text, "deleting Service") {
				interrupt()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that it was cancelled", err)
		}
		refused(t, p.c.RollbackUpgrade(t.Context(), p.ns, cluster.MoveOptions{}), "finish' again")
		_, err = p.c.StartUpgrade(t.Context(), p.next.Mesh, cluster.Options{})
		refused(t, err, "finish' again")
	})
	t.Run("finish removes the old control plane and nothing else", func(t *testing.T) {
		if err := p.c.FinishUpgrade(t.Context(), p.ns, cluster.Options{}); err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Components {
			for _, u := range r.Objects {
				want := r.Name != "istiod" && r.Name != "webhooks" || u.GetName() == "istiod-default-validator"
				if exists(t, u) != want {
					t.Errorf("%s %s is there: %v, want %v", u.GetKind(), u.GetName(), !want, want)
				}
			}
		}
		changes, err := p.c.Install(t.Context(), p.next.Mesh, cluster.Options{})
		if err != nil || len(actions(changes, cluster.Keep)) != len(changes) {
			t.Errorf("installing the new mesh: %s (%v), want all unchanged", cluster.Count(changes), err)
		}
		s, err := p.c.Status(t.Context(), p.ns)
		if err != nil || s.Istio != "1.32.0" || !s.Ready() {
			t.Errorf("status: %+v, %v", s, err)
		}
		for i := range s.Components {
			if strings.Contains(s.Components[i].Name, p.b) {
				t.Errorf("component %s is still that of a second control plane", s.Components[i].Name)
			}
		}
	})
	t.Run("an installation that would replace the control plane at once is refused", func(t *testing.T) {
		_, err := p.c.Install(t.Context(), p.Mesh, cluster.Options{})
		refused(t, err, "istio.revision="+p.b, "upgrade start")
	})
}

func TestUpgradeLabels(t *testing.T) {
	p := upgradable(t)
	shop := p.ns + "-shop"
	settleUntilEnd(t, shop)
	p.start(t)
	move := func(t *testing.T, namespace string) {
		t.Helper()
		if err := p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{Namespace: namespace}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a namespace of somebody else's moves, and comes back with its own label", func(t *testing.T) {
		other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.ns + "-other", Labels: map[string]string{rev: p.a, "team": "x"}}}
		if err := admin.Create(t.Context(), other, client.FieldOwner("kubectl-create")); err != nil {
			t.Fatal(err)
		}
		move(t, other.Name)
		if r, i := labels(t, other.Name); r != p.b || i != "" {
			t.Errorf("labels %q and %q, want %q and none", r, i, p.b)
		}
		if err := p.c.RollbackUpgrade(t.Context(), p.ns, cluster.MoveOptions{Namespace: other.Name}); err != nil {
			t.Fatal(err)
		}
		if r, i := labels(t, other.Name); r != p.a || i != "" {
			t.Errorf("labels %q and %q, want %q and none", r, i, p.a)
		}
	})
	t.Run("a namespace of ours that somebody else labelled the same moves too", func(t *testing.T) {
		gitops(t, shop, rev, p.a)
		move(t, shop)
		if r, i := labels(t, shop); r != p.b || i != "" {
			t.Errorf("labels %q and %q, want %q and none", r, i, p.b)
		}
	})
	t.Run("a namespace that chooses neither control plane is refused", func(t *testing.T) {
		plain := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.ns + "-plain"}}
		if err := admin.Create(t.Context(), plain); err != nil {
			t.Fatal(err)
		}
		refused(t, p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{Namespace: plain.Name}), "no label of either control plane")
	})
}

// gitops has another manager apply a label to a namespace.
func gitops(t *testing.T, namespace, label, value string) {
	t.Helper()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	apply := fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q,"labels":{%q:%q}}}`, namespace, label, value)
	if err := admin.Patch(t.Context(), n, client.RawPatch("application/apply-patch+yaml", []byte(apply)), client.FieldOwner("gitops")); err != nil {
		t.Fatal(err)
	}
}

func TestUpgradeFromTheDefaultRevision(t *testing.T) {
	p := upgradableFrom(t, "")
	shop := p.ns + "-shop"
	settleUntilEnd(t, shop)
	p.start(t)
	for _, c := range []struct {
		name   string
		before func(t *testing.T)
	}{
		{"its own label changes in one request", func(*testing.T) {}},
		{"one that somebody else set too does not stay beside the new one", func(t *testing.T) { gitops(t, shop, injection, "enabled") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.before(t)
			seen := watch(t, shop)
			if err := p.c.PromoteUpgrade(t.Context(), p.ns, cluster.MoveOptions{Namespace: shop}); err != nil {
				t.Fatal(err)
			}
			if r, i := labels(t, shop); r != p.b || i != "" {
				t.Errorf("%s=%q and %s=%q, want %q and none", rev, r, injection, i, p.b)
			}
			if err := p.c.RollbackUpgrade(t.Context(), p.ns, cluster.MoveOptions{Namespace: shop}); err != nil {
				t.Fatal(err)
			}
			if r, i := labels(t, shop); r != "" || i != "enabled" {
				t.Errorf("%s=%q and %s=%q, want none and enabled", rev, r, injection, i)
			}
			for _, s := range seen() {
				if s != "/enabled" && s != p.b+"/" {
					t.Errorf("for a moment, the labels were %s", s)
				}
			}
		})
	}
}

// watch notes the two labels of a namespace, each time that they change.
func watch(t *testing.T, namespace string) (seen func() []string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan []string, 1)
	go func() {
		var all []string
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			n := &corev1.Namespace{}
			if admin.Get(ctx, client.ObjectKey{Name: namespace}, n) == nil {
				all = append(all, n.Labels[rev]+"/"+n.Labels[injection])
			}
			<-tick.C
		}
		done <- slices.Compact(all)
	}()
	return func() []string { stop(); return <-done }
}
