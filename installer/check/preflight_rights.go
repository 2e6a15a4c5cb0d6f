package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var rightsChecks = []Check{
	{Code: "SP121", Title: "this account may do what the installation needs", Severity: Fail, run: rights},
}

// right is one thing that is done to one kind in one namespace.
type right struct{ group, resource, namespace, verb string }

// rights asks for each right by itself, unless everything is allowed.
func rights(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.allowed(ctx, right{"*", "*", "", "*"})
	if err != nil || all {
		return nil, err
	}
	needed := m.needed()
	allowed := make([]bool, len(needed))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, r := range needed {
		g.Go(func() (err error) {
			allowed[i], err = m.allowed(gctx, r)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// One finding a resource and namespace, with all its verbs.
	verbs, order := map[right][]string{}, []right(nil)
	for i, r := range needed {
		if allowed[i] {
			continue
		}
		verb := r.verb
		r.verb = ""
		if verbs[r] == nil {
			order = append(order, r)
		}
		verbs[r] = append(verbs[r], verb)
	}
	var out []Finding
	for _, r := range order {
		where := "cluster-wide"
		if r.namespace != "" {
			where = "in namespace " + r.namespace
		}
		resource := schema.GroupResource{Group: r.group, Resource: r.resource}.String()
		out = append(out, Finding{
			Object: resource, Says: fmt.Sprintf("%s is not allowed %s", strings.Join(verbs[r], ", "), where),
			Evidence: "SelfSubjectAccessReview", Fix: "have a role with these verbs bound to this account; kubectl auth whoami says which it is",
		})
	}
	return out, nil
}

func (m *Mesh) allowed(ctx context.Context, r right) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
		Group: r.group, Resource: r.resource, Namespace: r.namespace, Verb: r.verb,
	}}}
	if err := m.reads.client.Create(ctx, review); err != nil {
		return false, fmt.Errorf("asking for permissions: %w", err)
	}
	return review.Status.Allowed, nil
}

// needed are the rights that laying down, comparing and taking up need: of what is
// rendered, of the inventory, and of what is looked at on the way.
func (m *Mesh) needed() (out []right) {
	plurals := pluralsOf(m.rendered)
	root := m.values.Istio.Namespace
	add := func(r right, verbs ...string) {
		for _, verb := range verbs {
			r.verb = verb
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	for _, u := range m.rendered {
		kind := u.GroupVersionKind().GroupKind()
		add(right{kind.Group, m.plural(kind, plurals), u.GetNamespace(), ""}, "get", "create", "patch", "delete")
	}
	add(right{"", "secrets", root, ""}, "get", "create", "update", "delete")                   // the inventory
	add(right{"coordination.k8s.io", "leases", root, ""}, "get", "create", "update", "delete") // who is at work
	add(right{"", "pods", "", ""}, "list")
	add(right{"", "pods/portforward", root, ""}, "create")
	return out
}

// pluralsOf are the resources of the kinds that the mesh itself defines.
func pluralsOf(objects []*unstructured.Unstructured) map[schema.GroupKind]string {
	out := map[schema.GroupKind]string{}
	for _, u := range objects {
		if u.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
		out[schema.GroupKind{Group: group, Kind: kind}], _, _ = unstructured.NestedString(u.Object, "spec", "names", "plural")
	}
	return out
}

// plural is the resource of a kind: as the mesh defines it, as the cluster says, or as it is usually made.
func (m *Mesh) plural(kind schema.GroupKind, own map[schema.GroupKind]string) string {
	if p := own[kind]; p != "" {
		return p
	}
	if mapping, err := m.reads.client.RESTMapper().RESTMapping(kind); err == nil {
		return mapping.Resource.Resource
	}
	guess, _ := meta.UnsafeGuessKindToResource(kind.WithVersion(""))
	return guess.Resource
}
