package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The labels by which a namespace or a pod chooses its control plane.
const (
	labelInjection = "istio-injection"
	labelRevision  = "istio.io/rev"
	labelInject    = "sidecar.istio.io/inject"
)

// MoveOptions are how proxies move between two control planes.
type MoveOptions struct {
	Options
	// Namespace is the only one that moves; empty moves all, then the gateways.
	Namespace string
	// Remove, of a rollback, ends the upgrade: the new control plane goes when nobody is attached to it.
	Remove bool
}

// PromoteUpgrade moves namespaces to the new control plane: each gets its label,
// and its workloads are restarted one after another, each when the one before is
// ready. The mesh's own gateways come last, and then the validator. It stops at
// the first workload that does not become ready; running it again goes on there.
func (c *Cluster) PromoteUpgrade(ctx context.Context, namespace string, o MoveOptions) error {
	return c.move(ctx, namespace, true, &o)
}

// RollbackUpgrade moves everything back to the old control plane, the validator
// first. The new one stays for another try, unless Remove is said.
func (c *Cluster) RollbackUpgrade(ctx context.Context, namespace string, o MoveOptions) error {
	if err := c.move(ctx, namespace, false, &o); err != nil || !o.Remove {
		return err
	}
	return c.end(ctx, namespace, false, &o.Options)
}

func (c *Cluster) move(ctx context.Context, namespace string, forward bool, o *MoveOptions) error {
	m, err := c.upgrade(ctx, namespace)
	if err != nil {
		return err
	}
	target, other, action := m.to, m.from, "upgrade promote"
	if !forward {
		target, other, action = m.from, m.to, "upgrade rollback"
	}
	if err := m.inv.Upgrade.may(forward); err != nil {
		return err
	}
	v := &mover{
		meshes: m, target: target, all: o.Namespace == "",
		work: &work{cluster: c, mesh: &Mesh{Values: m.from.Values, Components: m.from.Components}, inv: m.inv, options: &o.Options, action: action},
	}
	spaces, err := v.namespaces(ctx, other, o.Namespace)
	if err != nil {
		return c.explain(err)
	}
	held, release, err := c.hold(ctx, namespace)
	if err != nil {
		return err
	}
	defer release()
	err = v.step(held, func() error { return v.run(held, spaces, forward) })
	return c.explain(cause(held, err))
}

// mover takes namespaces and gateways from one control plane to another.
type mover struct {
	*work
	meshes *meshes
	target *revision
	all    bool
}

// namespaces are those to move, by name. Those that moved already are among them: their workloads may not have.
func (v *mover) namespaces(ctx context.Context, other *revision, only string) ([]string, error) {
	all := &corev1.NamespaceList{}
	if err := v.cluster.client.List(ctx, all); err != nil {
		return nil, fmt.Errorf("listing the namespaces: %w", err)
	}
	var out []string
	for i := range all.Items {
		n := &all.Items[i]
		rev, injected := chosen(n.Labels)
		switch {
		case only != "" && n.Name != only:
			continue
		case n.DeletionTimestamp != nil:
			continue
		case only != "" && only == v.mesh.namespace():
			return []string{only}, nil // the gateways'
		case injected && (rev == v.target.Values.Istio.Revision || rev == other.Values.Istio.Revision):
			out = append(out, n.Name)
		case only != "":
			return nil, fmt.Errorf("%w: namespace %s has no label of either control plane (%s, %s), so nothing in it would move; label it first",
				ErrRefused, only, labelFor(v.target.Values.Istio.Revision), labelFor(other.Values.Istio.Revision))
		}
	}
	if only != "" && len(out) == 0 {
		return nil, fmt.Errorf("there is no namespace %s", only)
	}
	slices.Sort(out)
	return out, nil
}

// chosen is the revision that a namespace's labels choose; injected is false if they choose none.
func chosen(labels map[string]string) (rev string, injected bool) {
	switch r, ok := labels[labelRevision]; {
	case labels[labelInjection] == "enabled":
		return "", true
	case labels[labelInjection] != "" || !ok:
		return "", false
	case r == "default":
		return "", true
	default:
		return r, true
	}
}

// labelFor is the label of a namespace that chooses a revision.
func labelFor(revision string) string {
	if revision == "" {
		return labelInjection + "=enabled"
	}
	return labelRevision + "=" + revision
}

func (v *mover) run(ctx context.Context, spaces []string, forward bool) error {
	root := v.mesh.namespace()
	if !forward && v.all {
		if err := v.validate(ctx, v.target); err != nil {
			return err
		}
	}
	for _, name := range spaces {
		if name == root {
			continue
		}
		if err := v.space(ctx, name); err != nil {
			return err
		}
	}
	if v.all || slices.Contains(spaces, root) {
		if err := v.gateways(ctx, spaces); err != nil {
			return err
		}
	}
	if forward && v.all {
		return v.validate(ctx, v.target)
	}
	return nil
}

// space moves a namespace.
func (v *mover) space(ctx context.Context, name string) error {
	v.inv.Pending.Component = "namespace " + name
	if err := v.save(ctx); err != nil {
		return err
	}
	if err := v.relabel(ctx, name); err != nil {
		return err
	}
	n, err := v.own(ctx, func(u *unstructured.Unstructured) bool { return u.GetNamespace() == name })
	if err != nil {
		return err
	}
	more, err := v.restartAll(ctx, name)
	if err != nil {
		return err
	}
	v.options.done(name, "on %s, %d restarted", shownRevision(v.target.Values.Istio.Revision), n+more)
	return nil
}

// gateways moves the mesh's gateways, and its workloads outside the namespaces that have moved.
func (v *mover) gateways(ctx context.Context, moved []string) error {
	v.inv.Pending.Component = componentGateways
	if err := v.save(ctx); err != nil {
		return err
	}
	n, err := v.own(ctx, func(u *unstructured.Unstructured) bool {
		return u.GetNamespace() == v.mesh.namespace() || v.all && !slices.Contains(moved, u.GetNamespace())
	})
	if err != nil {
		return err
	}
	v.options.done(componentGateways, "on %s, %d restarted", shownRevision(v.target.Values.Istio.Revision), n)
	return nil
}

// relabel gives a namespace the label of the target and takes the other one, in
// one request: with both, or with none for a moment, a pod would start with the
// wrong sidecar or without.
func (v *mover) relabel(ctx context.Context, name string) error {
	live := &corev1.Namespace{}
	if err := v.cluster.client.Get(ctx, client.ObjectKey{Name: name}, live); err != nil {
		return fmt.Errorf("reading Namespace %s: %w", name, err)
	}
	labels := choosing(v.target.Values.Istio.Revision)
	var own *unstructured.Unstructured
	for _, u := range v.mesh.objects() {
		if r := refOf(u, ""); r.isNamespace() && r.Name == name {
			own = v.meshes.attached(u, v.target)
		}
	}
	if own != nil {
		a := &applying{object: labelled(own, applySetID(v.mesh.namespace())), dry: true, take: v.options.TakeOwnership}
		conflicts, err := v.cluster.apply(ctx, a)
		if err != nil {
			return fmt.Errorf("labelling Namespace %s: %w", name, err)
		}
		if len(conflicts) == 0 && chooses(a.object.GetLabels(), labels) {
			return v.lay(ctx, own)
		}
	}
	// It is not ours, or somebody else set these labels too and would keep the other one there.
	if !chooses(live.Labels, labels) {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
		if err != nil {
			return err
		}
		if err := v.cluster.client.Patch(ctx, live, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(Manager)); err != nil {
			return fmt.Errorf("labelling Namespace %s: %w", name, err)
		}
	}
	if own != nil {
		return v.lay(ctx, own)
	}
	return nil
}

// chooses says whether labels are as wanted; nil wants none.
func chooses(labels map[string]string, want map[string]any) bool {
	for k, value := range want {
		now, ok := labels[k]
		if ok != (value != nil) || ok && now != value {
			return false
		}
	}
	return true
}

// choosing are the labels by which a namespace chooses a revision; nil takes one away.
func choosing(revision string) map[string]any {
	if revision == "" {
		return map[string]any{labelInjection: "enabled", labelRevision: nil}
	}
	return map[string]any{labelInjection: nil, labelRevision: revision}
}

// own lays what of the mesh itself is attached to a control plane down again, which restarts it.
func (v *mover) own(ctx context.Context, which func(*unstructured.Unstructured) bool) (restarted int, err error) {
	for _, u := range v.mesh.objects() {
		if !which(u) || !v.meshes.follows(u) {
			continue
		}
		name := refOf(u, "")
		before, err := v.generation(ctx, name)
		if err != nil {
			return restarted, err
		}
		if err := v.lay(ctx, v.meshes.attached(u, v.target)); err != nil {
			return restarted, err
		}
		after, err := v.generation(ctx, name)
		if err != nil {
			return restarted, err
		}
		if name.Group == "apps" && before != after {
			restarted++
			v.options.say(name.Namespace, "restarting %s", name)
		}
		if err := v.rolled(ctx, name); err != nil {
			return restarted, err
		}
	}
	return restarted, nil
}

func (v *mover) generation(ctx context.Context, r ref) (int64, error) {
	live := r.empty()
	err := v.cluster.client.Get(ctx, client.ObjectKeyFromObject(live), live)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("reading %s: %w", r, err)
	}
	return live.GetGeneration(), nil
}

// lay applies one of the mesh's objects as an installation would.
func (w *work) lay(ctx context.Context, u *unstructured.Unstructured) error {
	name := refOf(u, "")
	a := &applying{object: labelled(u, applySetID(w.mesh.namespace())), take: w.options.TakeOwnership, scaled: scaledBy(w.mesh.objects())}
	conflicts, err := w.cluster.applyPatiently(ctx, a, w.options.timeout(), func(err error) {
		w.options.say(name.Namespace, "waiting to apply %s: %s", name, whyNot(err))
	})
	if err != nil {
		return fmt.Errorf("applying %s: %w", name, err)
	}
	if len(conflicts) > 0 {
		return conflictError(conflicts)
	}
	return nil
}

// validate has what names no revision validated by the istiod of a mesh.
func (w *work) validate(ctx context.Context, by *revision) error {
	for _, r := range by.Components {
		for _, u := range r.Objects {
			if r.Name != componentWebhooks || u.GetName() != validator {
				continue
			}
			if err := w.lay(ctx, u); err != nil {
				return err
			}
			w.options.done("validator", "asks %s", shownRevision(by.Values.Istio.Revision))
			return nil
		}
	}
	return errors.New("the mesh has no " + validator)
}

// templateLabels are where a workload's template says which control plane its pods choose.
var templateLabels = []string{"spec", "template", "metadata", "labels"}

// choosesIn says whether a workload's template names its control plane.
func choosesIn(u *unstructured.Unstructured) bool {
	labels, _, _ := unstructured.NestedStringMap(u.Object, templateLabels...)
	return u.GroupVersionKind().Group == "apps" && labels[labelInject] != "false" && (labels[labelRevision] != "" || labels[labelInject] == "true")
}

// follows says whether an object changes with its control plane: the gateways,
// which are of Istio's version as that is, and whose template names it.
func (m *meshes) follows(u *unstructured.Unstructured) bool {
	return choosesIn(u) || m.gateway[refOf(u, "").key()]
}

// attached is an object of the old mesh, attached to the control plane of a mesh.
func (m *meshes) attached(u *unstructured.Unstructured, to *revision) *unstructured.Unstructured {
	name := refOf(u, "")
	next := m.renewed[name.key()]
	switch {
	case to == m.from:
		return u
	case name.isNamespace():
		if _, injected := chosen(u.GetLabels()); !injected {
			return u
		}
		out := u.DeepCopy()
		labels := out.GetLabels()
		delete(labels, labelInjection)
		labels[labelRevision] = to.Values.Istio.Revision
		out.SetLabels(labels)
		return out
	case m.gateway[name.key()] && next != nil:
		return next
	case !choosesIn(u):
		return u
	}
	out := u.DeepCopy()
	labels, _, _ := unstructured.NestedStringMap(out.Object, templateLabels...)
	labels[labelRevision] = to.Values.Istio.Revision
	if next != nil {
		// As the new mesh has it, so that its installation changes nothing more.
		now, _, _ := unstructured.NestedStringMap(next.Object, templateLabels...)
		for _, k := range []string{labelRevision, labelInject} {
			delete(labels, k)
			if value, ok := now[k]; ok {
				labels[k] = value
			}
		}
	}
	_ = unstructured.SetNestedStringMap(out.Object, labels, templateLabels...) // it was a map just now
	return out
}
