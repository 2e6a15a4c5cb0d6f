package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

func TestUninstall(t *testing.T) {
	m, c := newMesh(t).ready(t), connect(t)
	// This one was there before, with things of its own.
	shop := m.find("Namespace", m.ns+"-shop").DeepCopy()
	shop.SetLabels(map[string]string{"team": "shop"})
	if err := admin.Create(t.Context(), shop, client.FieldOwner("kubectl")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Install(t.Context(), m.Mesh, cluster.Options{}); err != nil {
		t.Fatal(err)
	}
	alerts := m.find("ConfigMap", "alerts")
	edit(t, alerts, "kubectl-label", func(u *unstructured.Unstructured) { u.SetLabels(nil) })
	for _, o := range []client.Object{
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: "istio-ca-secret"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: m.ns, Name: "istio-leader"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: m.ns + "-shop", Name: "istio-ca-root-cert"}},
	} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	left := []string{
		"CustomResourceDefinition authorizationpolicies." + m.group, "CustomResourceDefinition envoyfilters." + m.group,
		"ConfigMap " + m.ns + "-shop/alerts", "ConfigMap " + m.ns + "/istio-leader", "ConfigMap istio-ca-root-cert",
		"Namespace " + m.ns, "Namespace " + m.ns + "-shop", "Secret " + m.ns + "/istio-ca-secret",
	}
	slices.Sort(left)

	t.Run("a dry run says it all and deletes nothing", func(t *testing.T) {
		r, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Deleted) != 10 || !exists(t, m.find("EnvoyFilter", "sluice")) {
			t.Errorf("would delete %q", r.Deleted)
		}
	})

	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: m.ns + "-shop", Name: "cart", Annotations: map[string]string{"sidecar.istio.io/status": "{}"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a:1"}}},
	}
	gateway := pod.DeepCopy()
	gateway.Namespace, gateway.Name, gateway.Labels = m.ns, "gateway", map[string]string{"app": "istiod"}
	pods := []*corev1.Pod{pod, gateway}
	for _, p := range pods {
		if err := admin.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("it refuses while a Pod has a sidecar, but not for the mesh's own", func(t *testing.T) {
		_, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{})
		if !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "1 Pods still have a sidecar") || !strings.Contains(err.Error(), m.ns+"-shop/cart") {
			t.Errorf("got %v, want that the Pod of the shop is named", err)
		}
	})
	for _, p := range pods {
		if err := admin.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("an answer of no stops it", func(t *testing.T) {
		no := errors.New("no")
		_, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{Confirm: func(*cluster.Removal) error { return no }})
		if !errors.Is(err, no) || !exists(t, m.find("EnvoyFilter", "sluice")) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("it deletes filters first, then the rest in reverse, and leaves what it lists", func(t *testing.T) {
		r, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"EnvoyFilter " + m.ns + "-shop/sluice", "AuthorizationPolicy " + m.ns + "-shop/ask-sluice",
			"AuthorizationPolicy " + m.ns + "-shop/deny", "ValidatingWebhookConfiguration " + m.ns + "-validator",
			"HorizontalPodAutoscaler " + m.ns + "/istiod", "Deployment " + m.ns + "/istiod", "Service " + m.ns + "/istiod",
			"Secret " + m.ns + "/password", "ConfigMap " + m.ns + "/istio", "ServiceAccount " + m.ns + "/istiod",
		}
		if !slices.Equal(r.Deleted, want) {
			t.Errorf("deleted\n%s\nwant\n%s", strings.Join(r.Deleted, "\n"), strings.Join(want, "\n"))
		}
		var got []string
		for _, l := range r.Left {
			got = append(got, l.Object)
			if l.Why == "" {
				t.Errorf("%s stays, without a reason", l.Object)
			}
		}
		// Other tests' namespaces are in one line with this one's.
		slices.Sort(got)
		if !slices.Equal(got, left) {
			t.Errorf("left\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(left, "\n"))
		}
		m.nothingBut(t, left)
	})

	t.Run("the namespace that was there before has only its own labels again", func(t *testing.T) {
		l := live(t, shop).GetLabels()
		delete(l, "kubernetes.io/metadata.name")
		if len(l) != 1 || l["team"] != "shop" {
			t.Errorf("labels: %v", l)
		}
	})

	filter := m.find("EnvoyFilter", "sluice").DeepCopy()
	filter.SetName("users-own")
	if err := admin.Create(t.Context(), filter); err != nil {
		t.Fatal(err)
	}
	t.Run("definitions that others use are deleted only by force", func(t *testing.T) {
		_, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{CRDs: true})
		if !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "EnvoyFilter "+m.ns+"-shop/users-own") {
			t.Fatalf("got %v, want that the user's filter is named", err)
		}
		r, err := c.Uninstall(t.Context(), m.ns, cluster.UninstallOptions{CRDs: true, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Deleted) != 2 || exists(t, m.find("CustomResourceDefinition", "envoyfilters."+m.group)) {
			t.Errorf("deleted %q, want both definitions", r.Deleted)
		}
	})

	t.Run("where nothing is installed it says so", func(t *testing.T) {
		_, err := c.Uninstall(t.Context(), "default", cluster.UninstallOptions{})
		if !errors.Is(err, cluster.ErrNotInstalled) || !strings.Contains(err.Error(), "--istio-namespace") {
			t.Errorf("got %v", err)
		}
	})
}

// nothingBut looks through the mesh's namespaces, and for its label in the whole cluster.
func (m *mesh) nothingBut(t *testing.T, expected []string) {
	t.Helper()
	seen := 0
	for _, r := range m.Components {
		for _, u := range r.Objects {
			name := u.GetKind() + " " + strings.TrimPrefix(u.GetNamespace()+"/"+u.GetName(), "/")
			if exists(t, u) && !slices.Contains(expected, name) {
				t.Errorf("%s is still there, unlisted", name)
			}
			seen++
		}
	}
	if seen != 15 {
		t.Errorf("looked for %d objects, want 15", seen)
	}
	for _, kind := range []string{"Secret", "ConfigMap", "ServiceAccount", "Service", "Pod"} {
		for _, ns := range []string{m.ns, m.ns + "-shop"} {
			all := &unstructured.UnstructuredList{}
			all.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
			if err := admin.List(t.Context(), all, client.InNamespace(ns)); err != nil {
				t.Fatal(err)
			}
			for i := range all.Items {
				name := kind + " " + ns + "/" + all.Items[i].GetName()
				if !slices.Contains(expected, name) && all.Items[i].GetName() != "istio-ca-root-cert" {
					t.Errorf("%s is still there, unlisted", name)
				}
			}
		}
	}
}
