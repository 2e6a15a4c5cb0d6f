package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

func TestInstall(t *testing.T) {
	m, c := newMesh(t).ready(t), connect(t)

	t.Run("comparing with an empty cluster says what would be created and creates nothing", func(t *testing.T) {
		changes, err := c.Compare(t.Context(), m.Mesh, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(actions(changes, cluster.Create)); n != 15 || len(changes) != 15 {
			t.Errorf("%d to create of %d, want 15 of 15", n, len(changes))
		}
		if exists(t, m.find("Namespace", m.ns)) {
			t.Error("the namespace is there")
		}
	})

	t.Run("it creates everything under one field manager, with the label of the inventory", func(t *testing.T) {
		var order []string
		changes, err := c.Install(t.Context(), m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if e.Done {
				order = append(order, e.Component)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(actions(changes, cluster.Create)); n != 15 {
			t.Errorf("%d created, want 15", n)
		}
		if want := []string{"namespaces", "crds", "istiod", "webhooks", "policy", "filters"}; !slices.Equal(order, want) {
			t.Errorf("done in the order %q, want %q", order, want)
		}
		id := m.inventory(t).Labels["applyset.kubernetes.io/id"]
		for _, r := range m.Components {
			for _, u := range r.Objects {
				l := live(t, u)
				if l.GetLabels()["applyset.kubernetes.io/part-of"] != id || id == "" {
					t.Errorf("%s %s has labels %v, want part-of %s", u.GetKind(), u.GetName(), l.GetLabels(), id)
				}
				if f := l.GetManagedFields()[0]; f.Manager != cluster.Manager || f.Operation != "Apply" {
					t.Errorf("%s %s is managed by %s with %s", u.GetKind(), u.GetName(), f.Manager, f.Operation)
				}
			}
		}
	})

	t.Run("the inventory is an ApplySet with versions and stage, and holds no plain password", func(t *testing.T) {
		s := m.inventory(t)
		for key, want := range map[string]string{
			"applyset.kubernetes.io/tooling":               "sluice/v-test",
			"applyset.kubernetes.io/additional-namespaces": m.ns + "-shop",
		} {
			if s.Annotations[key] != want {
				t.Errorf("%s is %q, want %q", key, s.Annotations[key], want)
			}
		}
		if kinds := s.Annotations["applyset.kubernetes.io/contains-group-kinds"]; !strings.Contains(kinds, "Deployment.apps") || !strings.Contains(kinds, "ConfigMap") {
			t.Errorf("it says it contains %q", kinds)
		}
		status, err := c.Status(t.Context(), m.ns)
		if err != nil {
			t.Fatal(err)
		}
		if status.Istio != "1.31.0" || status.Stage != "soft" || status.Revision != 1 || status.By != "v-test" || status.Unfinished != "" || !status.Ready() {
			t.Errorf("status: %+v", status)
		}
	})

	t.Run("installing the same again changes nothing", func(t *testing.T) {
		before := m.versions(t)
		changes, err := c.Install(t.Context(), m.Mesh, cluster.Options{Confirm: func([]cluster.Change) error { return errors.New("there is nothing to ask about") }})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(actions(changes, cluster.Keep)); n != 15 {
			t.Errorf("%d unchanged, want 15: %s", n, cluster.Count(changes))
		}
		if after := m.versions(t); !maps.Equal(before, after) {
			t.Errorf("resource versions before\n%v\nand after\n%v", before, after)
		}
	})

	t.Run("the lease is gone", func(t *testing.T) {
		err := admin.Get(t.Context(), client.ObjectKey{Namespace: m.ns, Name: "sluice-mesh"}, &coordinationv1.Lease{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("got %v, want that it is not found", err)
		}
	})
}

func TestPrune(t *testing.T) {
	m, c := installed(t)
	alerts, sa := m.find("ConfigMap", "alerts"), m.find("ServiceAccount", "istiod")
	space, crd := m.find("Namespace", m.ns+"-shop"), m.find("CustomResourceDefinition", "envoyfilters."+m.group)
	// Somebody took this one out of our hands.
	edit(t, sa, "kubectl-label", func(u *unstructured.Unstructured) { u.SetLabels(nil) })
	drop := func(component string, gone ...*unstructured.Unstructured) {
		r := m.component(component)
		r.Objects = slices.DeleteFunc(slices.Clone(r.Objects), func(u *unstructured.Unstructured) bool { return slices.Contains(gone, u) })
	}
	drop("policy", alerts)
	drop("istiod", sa)
	drop("namespaces", space)
	drop("crds", crd)
	changes, err := c.Install(t.Context(), m.Mesh, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := actions(changes, cluster.Delete), []string{"ConfigMap " + m.ns + "-shop/alerts"}; !slices.Equal(got, want) {
		t.Errorf("deleted %q, want %q", got, want)
	}
	if exists(t, alerts) {
		t.Error("what is no longer rendered is still there")
	}
	for _, u := range []*unstructured.Unstructured{sa, space, crd} {
		if !exists(t, u) {
			t.Errorf("%s %s is gone; it is not ours, or others live in it", u.GetKind(), u.GetName())
		}
	}
	if changes, err = c.Compare(t.Context(), m.Mesh, nil); err != nil || len(actions(changes, cluster.Keep)) != len(changes) {
		t.Errorf("afterwards %s (%v), want all unchanged", cluster.Count(changes), err)
	}
}

func TestConflict(t *testing.T) {
	t.Run("a manual edit is a difference, a conflict, and undone only when told to", func(t *testing.T) {
		m, c := installed(t)
		config := m.find("ConfigMap", "istio")
		edit(t, config, "kubectl-edit", func(u *unstructured.Unstructured) { set(t, u, "accessLogFile: ''", "data", "mesh") })

		changes, err := c.Compare(t.Context(), m.Mesh, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := actions(changes, cluster.Update), []string{"ConfigMap " + m.ns + "/istio"}; !slices.Equal(got, want) {
			t.Fatalf("differs in %q, want %q", got, want)
		}
		i := slices.IndexFunc(changes, func(c cluster.Change) bool { return c.Action == cluster.Update })
		for _, line := range []string{"\n-  mesh: 'accessLogFile: '''''\n", "\n+  mesh: 'accessLogFile: /dev/stdout'\n"} {
			if !strings.Contains(changes[i].Diff, line) {
				t.Errorf("the diff\n%s\nlacks %q", changes[i].Diff, line)
			}
		}

		set(t, m.find("ConfigMap", "alerts"), "two", "data", "rule") // must not be applied either
		before := m.versions(t)
		_, err = c.Install(t.Context(), m.Mesh, cluster.Options{})
		if !errors.Is(err, cluster.ErrConflict) {
			t.Fatalf("got %v, want a conflict", err)
		}
		for _, part := range []string{"ConfigMap " + m.ns + "/istio", ".data.mesh", `"kubectl-edit"`, `--take-ownership "kubectl-edit"`} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v\nlacks %s", err, part)
			}
		}
		if after := m.versions(t); !maps.Equal(before, after) {
			t.Error("something was changed")
		}

		if _, err = c.Install(t.Context(), m.Mesh, cluster.Options{TakeOwnership: []string{"helm"}}); !errors.Is(err, cluster.ErrConflict) {
			t.Errorf("got %v, want a conflict: another manager was named", err)
		}
		if _, err = c.Install(t.Context(), m.Mesh, cluster.Options{TakeOwnership: []string{"kubectl-edit"}}); err != nil {
			t.Fatal(err)
		}
		got, _, _ := unstructured.NestedString(live(t, config).Object, "data", "mesh")
		if want := "accessLogFile: /dev/stdout"; got != want {
			t.Errorf("mesh is %q, want %q", got, want)
		}
	})

	t.Run("what others made before is adopted only when told to, even if it is equal", func(t *testing.T) {
		m, c := newMesh(t).ready(t), connect(t)
		set(t, m.find("ServiceAccount", "istiod"), true, "automountServiceAccountToken")
		space, account := m.find("Namespace", m.ns).DeepCopy(), m.find("ServiceAccount", "istiod").DeepCopy()
		config := m.find("ConfigMap", "istio").DeepCopy()
		unstructured.RemoveNestedField(config.Object, "data") // an object without a field has no manager
		for _, u := range []*unstructured.Unstructured{space, account, config} {
			if err := admin.Create(t.Context(), u, client.FieldOwner("helm")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := c.Install(t.Context(), m.Mesh, cluster.Options{})
		if want := fmt.Sprintf(`ServiceAccount %s/istiod was there before, made by "helm"`, m.ns); !errors.Is(err, cluster.ErrConflict) || !strings.Contains(err.Error(), want) {
			t.Fatalf("got  %v\nwant %s", err, want)
		}
		if want := fmt.Sprintf(`ConfigMap %s/istio was there before, made by "unknown"`, m.ns); !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if strings.Contains(err.Error(), "Namespace") {
			t.Errorf("a namespace is shared, so that it is no conflict: %v", err)
		}
		if _, err = c.Install(t.Context(), m.Mesh, cluster.Options{TakeOwnership: []string{"helm", "unknown"}}); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("what belongs to another inventory is a conflict", func(t *testing.T) {
		m, _ := installed(t)
		other, c := newMesh(t).ready(t), connect(t)
		other.component("policy").Objects = append(other.component("policy").Objects, m.find("ConfigMap", "alerts"))
		_, err := c.Install(t.Context(), other.Mesh, cluster.Options{TakeOwnership: []string{cluster.Manager}})
		if !errors.Is(err, cluster.ErrConflict) || !strings.Contains(err.Error(), "ConfigMap "+m.ns+"-shop/alerts was there before") {
			t.Errorf("got %v, want a conflict", err)
		}
	})

	t.Run("what istiod and an autoscaler set is theirs, and no difference", func(t *testing.T) {
		m, c := installed(t)
		hook, deployment := m.find("ValidatingWebhookConfiguration", m.ns+"-validator"), m.find("Deployment", "istiod")
		edit(t, hook, "pilot-discovery", func(u *unstructured.Unstructured) {
			hooks, _, _ := unstructured.NestedSlice(u.Object, "webhooks")
			h := hooks[0].(map[string]any)
			h["failurePolicy"] = "Fail"
			h["clientConfig"].(map[string]any)["caBundle"] = "bm90IGEgY2VydGlmaWNhdGU="
			set(t, u, hooks, "webhooks")
		})
		edit(t, deployment, "kube-controller-manager", func(u *unstructured.Unstructured) { set(t, u, int64(4), "spec", "replicas") })
		changes, err := c.Install(t.Context(), m.Mesh, cluster.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(actions(changes, cluster.Keep)); n != 15 {
			t.Errorf("%s, want 15 unchanged", cluster.Count(changes))
		}
		// A change of ours beside theirs leaves theirs.
		set(t, deployment, "pilot:2", "spec", "template", "metadata", "annotations", "image")
		if changes, err = c.Install(t.Context(), m.Mesh, cluster.Options{}); err != nil || len(actions(changes, cluster.Update)) != 1 {
			t.Fatalf("%s (%v), want 1 to update", cluster.Count(changes), err)
		}
		if n, _, _ := unstructured.NestedInt64(live(t, deployment).Object, "spec", "replicas"); n != 4 {
			t.Errorf("%d replicas, want the autoscaler's 4", n)
		}
	})
}

func TestInterrupted(t *testing.T) {
	m, c := newMesh(t).ready(t), connect(t)
	ctx, interrupt := context.WithCancel(t.Context())
	_, err := c.Install(ctx, m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
		if e.Component == "policy" {
			interrupt()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that it was cancelled", err)
	}
	t.Run("status says at which component", func(t *testing.T) {
		s, err := c.Status(t.Context(), m.ns)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(s.Unfinished, "install was interrupted at component policy, begun ") || s.Ready() || s.Revision != 0 {
			t.Errorf("status: %+v", s)
		}
		if problems := s.Components[len(s.Components)-1].Problems; len(problems) != 2 || !strings.HasSuffix(problems[0], ": it is not there") {
			t.Errorf("problems of the last component: %q", problems)
		}
	})
	t.Run("running it again goes on with what is missing", func(t *testing.T) {
		changes, err := c.Install(t.Context(), m.Mesh, cluster.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if created := len(actions(changes, cluster.Create)); created == 0 || created > 4 || len(actions(changes, cluster.Keep)) < 11 {
			t.Errorf("%s, want at most 4 to create", cluster.Count(changes))
		}
		if s, err := c.Status(t.Context(), m.ns); err != nil || !s.Ready() || s.Revision != 1 {
			t.Errorf("status: %+v, %v", s, err)
		}
	})
	t.Run("an interrupted installation can be removed", func(t *testing.T) {
		m := newMesh(t).ready(t)
		ctx, interrupt := context.WithCancel(t.Context())
		if _, err := c.Install(ctx, m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if e.Component == "webhooks" {
				interrupt()
			}
		}}); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that it was cancelled", err)
		}
		if _, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{}); err != nil {
			t.Fatal(err)
		}
		if exists(t, m.find("Deployment", "istiod")) {
			t.Error("the deployment is still there")
		}
	})
}

func TestTwoAtOnce(t *testing.T) {
	m, first, second := newMesh(t).ready(t), connect(t), connect(t)
	at, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		held := false
		_, err := first.Install(t.Context(), m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if e.Component == "istiod" && !held {
				held = true
				close(at)
				<-goOn
			}
		}})
		done <- err
	}()
	<-at
	s, err := second.Status(t.Context(), m.ns)
	if err != nil || !strings.HasPrefix(s.Unfinished, "install is running at component istiod since ") {
		t.Errorf("status: %+v, %v", s, err)
	}
	_, err = second.Install(t.Context(), m.Mesh, cluster.Options{})
	if !errors.Is(err, cluster.ErrConflict) || !strings.Contains(err.Error(), "is at work on this mesh since") || !strings.Contains(err.Error(), "process ") {
		t.Errorf("the second got %v, want that the first is at work", err)
	}
	if _, err = second.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{}); !errors.Is(err, cluster.ErrConflict) {
		t.Errorf("uninstall got %v, want a conflict", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("the first: %v", err)
	}

	t.Run("a lease whose holder died is taken over", func(t *testing.T) {
		old := metav1.NewMicroTime(time.Now().Add(-time.Minute))
		l := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: "sluice-mesh"},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To("elsewhere, process 1"), LeaseDurationSeconds: ptr.To(int32(15)), AcquireTime: &old, RenewTime: &old},
		}
		if err := admin.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		set(t, m.find("ConfigMap", "alerts"), "two", "data", "rule")
		if _, err := second.Install(t.Context(), m.Mesh, cluster.Options{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("an installer goes on when its own late request is in the lease's way", func(t *testing.T) {
		set(t, m.find("ConfigMap", "alerts"), "five", "data", "rule")
		_, err := second.Install(t.Context(), m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if e.Component != "policy" || e.Done {
				return
			}
			if err := retry.RetryOnConflict(retry.DefaultRetry, func() error { // it is being renewed
				l := &coordinationv1.Lease{}
				if err := admin.Get(t.Context(), client.ObjectKey{Namespace: m.ns, Name: "sluice-mesh"}, l); err != nil {
					return err
				}
				l.Spec.RenewTime = ptr.To(metav1.NewMicroTime(time.Now()))
				return admin.Update(t.Context(), l)
			}); err != nil {
				t.Error(err)
			}
			<-time.After(6 * time.Second) // one renewal
		}})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("an installer that loses its lease stops", func(t *testing.T) {
		set(t, m.find("ConfigMap", "istio"), "changed", "data", "mesh")
		set(t, m.find("ConfigMap", "alerts"), "three", "data", "rule")
		_, err := second.Install(t.Context(), m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if e.Component != "policy" || e.Done {
				return
			}
			if err := admin.Delete(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: "sluice-mesh"}}); err != nil {
				t.Error(err)
			}
			<-time.After(12 * time.Second) // a renewal every five: the first must have been answered
		}})
		if !errors.Is(err, cluster.ErrConflict) || !strings.Contains(err.Error(), "the lease on the mesh was lost") {
			t.Errorf("got %v, want that the lease was lost", err)
		}
	})
}

func TestRollback(t *testing.T) {
	m, c := installed(t)
	alerts := m.find("ConfigMap", "alerts")
	rule := func() string {
		s, _, _ := unstructured.NestedString(live(t, alerts).Object, "data", "rule")
		return s
	}
	for _, value := range []string{"two", "three", "four"} {
		set(t, alerts, value, "data", "rule")
		m.Values.Istio.Version = "1.31." + value
		if _, err := c.Install(t.Context(), m.Mesh, cluster.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the last three revisions are kept", func(t *testing.T) {
		s, err := c.Status(t.Context(), m.ns)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range s.Revisions {
			got = append(got, fmt.Sprint(r.Number, " ", r.Istio))
		}
		if want := []string{"2 1.31.two", "3 1.31.three", "4 1.31.four"}; !slices.Equal(got, want) {
			t.Errorf("revisions %q, want %q", got, want)
		}
	})
	t.Run("it goes to the one before the last unless told", func(t *testing.T) {
		if _, err := c.Rollback(t.Context(), m.ns, 0, cluster.Options{}); err != nil {
			t.Fatal(err)
		}
		if got := rule(); got != "three" {
			t.Errorf("rule is %q, want three", got)
		}
		if s, err := c.Status(t.Context(), m.ns); err != nil || s.Revision != 5 || s.Action != "rollback to revision 3" || s.Istio != "1.31.three" {
			t.Errorf("status: %+v, %v", s, err)
		}
	})
	t.Run("one that is not kept is refused with those that are", func(t *testing.T) {
		_, err := c.Rollback(t.Context(), m.ns, 1, cluster.Options{})
		if err == nil || err.Error() != "revision 1 is not kept; there are: 3 4 5" {
			t.Error(err)
		}
	})
	t.Run("it undoes an installation that was not finished", func(t *testing.T) {
		set(t, alerts, "broken", "data", "rule")
		ctx, interrupt := context.WithCancel(t.Context())
		if _, err := c.Install(ctx, m.Mesh, cluster.Options{Progress: func(e cluster.Event) {
			if e.Component == "filters" {
				interrupt()
			}
		}}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if got := rule(); got != "broken" {
			t.Fatalf("rule is %q, want broken", got)
		}
		if _, err := c.Rollback(t.Context(), m.ns, 0, cluster.Options{}); err != nil {
			t.Fatal(err)
		}
		if got := rule(); got != "three" {
			t.Errorf("rule is %q, want three", got)
		}
	})
}
