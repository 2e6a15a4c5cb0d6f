package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// Mesh is what is to be on the cluster.
type Mesh struct {
	Values     *profile.Values
	Components []render.Rendered
}

func (m *Mesh) namespace() string { return m.Values.Istio.Namespace }

func (m *Mesh) objects() []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, r := range m.Components {
		out = append(out, r.Objects...)
	}
	return out
}

// Action is what happens to an object.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
	Keep   Action = "unchanged"
)

// Change is what an installation would do with one object.
type Change struct {
	Component string `json:"component"`
	Object    string `json:"object"`
	Action    Action `json:"action"`
	// Diff is a unified diff of YAML, from what is there to what would be. Secrets are digests in it.
	Diff string `json:"diff,omitempty"`
	// Conflicts stop the installation until they are resolved.
	Conflicts []Conflict `json:"conflicts,omitempty"`
	// Note says what could not be found out.
	Note string `json:"note,omitempty"`

	ref ref
}

// Compare asks the API server what installing the mesh would change, and changes
// nothing. Fields that others own and that the mesh doesn't set are no change.
// The objects come in the order of installation, then those that would be deleted.
func (c *Cluster) Compare(ctx context.Context, m *Mesh, take []string) ([]Change, error) {
	inv, err := c.readInventory(ctx, m.namespace())
	if err != nil {
		return nil, err
	}
	if err := inv.settled(m); err != nil {
		return nil, err
	}
	return c.compare(ctx, m, inv, take)
}

func (c *Cluster) compare(ctx context.Context, m *Mesh, inv *inventory, take []string) ([]Change, error) {
	x := comparing{
		cluster: c, id: applySetID(m.namespace()), take: take,
		scaled: scaledBy(m.objects()), kinds: rendersKinds(m.objects()), spaces: map[string]bool{},
	}
	var all []Change
	var objects []*unstructured.Unstructured
	seen := map[string]string{}
	for _, r := range m.Components {
		for _, u := range r.Objects {
			name := refOf(u, r.Name)
			if other, twice := seen[name.key()]; twice {
				return nil, fmt.Errorf("%s is rendered twice, by %s and by %s", name, other, r.Name)
			}
			seen[name.key()] = r.Name
			if name.isNamespace() {
				x.spaces[name.Name] = true
			}
			all = append(all, Change{Component: r.Name, Object: name.String(), ref: name})
			objects = append(objects, u)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range all {
		g.Go(func() error { return x.one(gctx, &all[i], objects[i]) })
	}
	if err := g.Wait(); err != nil {
		return nil, c.explain(err)
	}
	for _, old := range slices.Backward(inv.Objects) {
		if _, still := seen[old.key()]; still || old.kept() {
			continue
		}
		change, err := x.removed(ctx, old)
		if err != nil {
			return nil, c.explain(err)
		}
		if change != nil {
			all = append(all, *change)
		}
	}
	return all, nil
}

// comparing is what all comparisons of one mesh share.
type comparing struct {
	cluster *Cluster
	id      string
	take    []string
	scaled  map[string]bool
	kinds   map[schema.GroupKind]bool // that the mesh's own CRDs will make
	spaces  map[string]bool           // namespaces that the mesh makes
}

// one fills in what applying the object would change.
func (x *comparing) one(ctx context.Context, change *Change, u *unstructured.Unstructured) error {
	live := change.ref.empty()
	err := x.cluster.client.Get(ctx, client.ObjectKeyFromObject(u), live)
	switch {
	case meta.IsNoMatchError(err):
		if !x.kinds[change.ref.gvk().GroupKind()] {
			return fmt.Errorf("%s: this cluster has no kind %s in %s, and the mesh doesn't bring it; install what does, or switch off what needs it",
				change.Object, change.ref.Kind, schema.GroupVersion{Group: change.ref.Group, Version: change.ref.Version})
		}
		return change.created(u, "its kind is not there yet")
	case apierrors.IsNotFound(err):
		live = nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", change.Object, err)
	}
	if live != nil {
		change.Conflicts = foreign(live, &change.ref, x.id, x.take)
	}
	a := &applying{object: labelled(u, x.id), dry: true, take: x.take, scaled: x.scaled}
	conflicts, err := x.cluster.apply(ctx, a)
	if len(conflicts) > 0 {
		// Show what would come of it, and whom it would take from.
		change.Conflicts = append(change.Conflicts, conflicts...)
		a = &applying{object: labelled(u, x.id), dry: true, take: managers(conflicts, x.take), scaled: x.scaled}
		_, err = x.cluster.apply(ctx, a)
	}
	switch {
	case live == nil && apierrors.IsNotFound(err) && x.spaces[u.GetNamespace()]:
		return change.created(u, "its namespace is not there yet")
	case live == nil && passing(err):
		return change.created(u, "not checked: "+whyNot(err))
	case live == nil && err == nil:
		return change.created(a.object, "")
	case passing(err):
		change.Action, change.Note = Update, "not checked: "+whyNot(err)
		return nil
	case err != nil:
		return fmt.Errorf("applying %s would fail: %w", change.Object, err)
	}
	return change.updated(live, a.object)
}

func managers(conflicts []Conflict, take []string) []string {
	out := slices.Clone(take)
	for _, c := range conflicts {
		out = append(out, c.Manager)
	}
	return out
}

// foreign says whose an existing object is, if it isn't ours. Namespaces and CRDs
// are shared, so that they are adopted, unless another inventory claims them.
func foreign(live *unstructured.Unstructured, r *ref, id string, take []string) []Conflict {
	owner := live.GetLabels()[labelPartOf]
	switch {
	case owner == id:
		return nil
	case owner != "":
		return []Conflict{{Object: r.String(), Manager: owner}}
	}
	r.Found = true
	if r.kept() {
		return nil
	}
	managers := map[string]bool{}
	for _, f := range live.GetManagedFields() {
		if f.Subresource == "" {
			managers[f.Manager] = true
		}
	}
	if len(managers) == 0 { // nobody set a field; still, somebody made it
		managers["unknown"] = true
	}
	delete(managers, Manager) // our own, whose label somebody took off, comes back
	var out []Conflict
	for _, m := range slices.Sorted(maps.Keys(managers)) {
		if !slices.Contains(take, m) {
			out = append(out, Conflict{Object: r.String(), Manager: m})
		}
	}
	return out
}

func (c *Change) created(u *unstructured.Unstructured, note string) (err error) {
	c.Action, c.Note = Create, note
	c.Diff, err = unified(c.Object, nil, u)
	return err
}

func (c *Change) updated(live, dry *unstructured.Unstructured) (err error) {
	before, after := stripped(live), stripped(dry)
	c.Action = Keep
	if !equality.Semantic.DeepEqual(before.Object, after.Object) {
		c.Action = Update
		c.Diff, err = unified(c.Object, live, dry)
		return err
	}
	if !bytes.Equal(ownFields(live), ownFields(dry)) {
		c.Action, c.Note = Update, "only which of its fields are ours"
	}
	return nil
}

// removed is the deletion of what is no longer rendered, if it is there and ours.
func (x *comparing) removed(ctx context.Context, r ref) (*Change, error) {
	live := r.empty()
	err := x.cluster.client.Get(ctx, client.ObjectKeyFromObject(live), live)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r, err)
	}
	if live.GetLabels()[labelPartOf] != x.id {
		return nil, nil
	}
	out := &Change{Component: r.Component, Object: r.String(), Action: Delete, ref: r}
	out.Diff, err = unified(out.Object, live, nil)
	return out, err
}

// stripped is an object without what the API server keeps about it.
func stripped(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := u.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(out.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(out.Object, "status")
	return out
}

// ownFields is the set of fields that we own.
func ownFields(u *unstructured.Unstructured) []byte {
	for _, f := range u.GetManagedFields() {
		if f.Manager == Manager && f.Operation == "Apply" && f.Subresource == "" && f.FieldsV1 != nil {
			return f.FieldsV1.GetRawBytes()
		}
	}
	return nil
}

// unified is the difference of two objects; either may be nil.
func unified(name string, before, after *unstructured.Unstructured) (string, error) {
	texts := [2][]byte{}
	for i, u := range []*unstructured.Unstructured{before, after} {
		if u == nil {
			continue
		}
		shown := stripped(u)
		veil(shown)
		text, err := yaml.Marshal(shown.Object)
		if err != nil {
			return "", fmt.Errorf("writing %s as YAML: %w", name, err)
		}
		texts[i] = text
	}
	return string(diff.Diff("on the cluster: "+name, texts[0], "to be installed: "+name, texts[1])), nil
}

// veil replaces the values of a Secret by digests: enough to see a change, not to know a value.
func veil(u *unstructured.Unstructured) {
	if u.GroupVersionKind().GroupKind() != (schema.GroupKind{Kind: "Secret"}) {
		return
	}
	for _, field := range []string{"data", "stringData"} {
		data, ok, _ := unstructured.NestedMap(u.Object, field)
		if !ok {
			continue
		}
		for _, k := range slices.Collect(maps.Keys(data)) {
			text := fmt.Sprint(data[k])
			if plain, err := base64.StdEncoding.DecodeString(text); field == "data" && err == nil {
				text = string(plain)
			}
			data[k] = fmt.Sprintf("(sha256 %.8x)", sha256.Sum256([]byte(text)))
		}
		_ = unstructured.SetNestedMap(u.Object, data, field)
	}
}

// rendersKinds are the kinds that the CRDs among the objects make.
func rendersKinds(objects []*unstructured.Unstructured) map[schema.GroupKind]bool {
	out := map[schema.GroupKind]bool{}
	for _, u := range objects {
		if r := refOf(u, ""); r.isCRD() {
			group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
			out[schema.GroupKind{Group: group, Kind: kind}] = true
		}
	}
	return out
}

// conflicting are all conflicts of the changes.
func conflicting(changes []Change) []Conflict {
	var out []Conflict
	for i := range changes {
		out = append(out, changes[i].Conflicts...)
	}
	return out
}

// Count tells how many of the changes are of each action, as a sentence.
func Count(changes []Change) string {
	n := map[Action]int{}
	for i := range changes {
		n[changes[i].Action]++
	}
	var parts []string
	for _, a := range []Action{Create, Update, Delete, Keep} {
		if n[a] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[a], map[Action]string{Create: "to create", Update: "to update", Delete: "to delete", Keep: "unchanged"}[a]))
		}
	}
	return strings.Join(parts, ", ")
}
