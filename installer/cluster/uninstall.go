package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// UninstallOptions are how to take a mesh up.
type UninstallOptions struct {
	// Force goes on although Pods still have a sidecar, or others' objects would be lost with --crds.
	Force bool
	// CRDs and Namespaces are kept unless asked for; what was there before the first installation always is.
	CRDs, Namespaces bool
	// DryRun only says what would be done.
	DryRun bool
	// Timeout bounds how long deleted objects may take to be gone. 0 is five minutes.
	Timeout time.Duration
	// Progress hears what is done; nil for nobody.
	Progress func(Event)
	// Confirm is asked once, before the first deletion; an error stops. Nil is yes.
	Confirm func(*Removal) error
}

// Removal is what an uninstallation deletes, and what it leaves.
type Removal struct {
	Deleted []string `json:"deleted"`
	Left    []left   `json:"left"`

	filters, rest, crds, spaces []ref
	found                       []ref // namespaces that were there before: only our fields are taken back
}

// left is an object that stays, with the reason.
type left struct {
	Object string `json:"object"`
	Why    string `json:"why"`
}

func (r *Removal) leave(object, why string, args ...any) {
	r.Left = append(r.Left, left{Object: object, Why: fmt.Sprintf(why, args...)})
}

// Uninstall deletes what the inventory lists and carries its label: first what
// intercepts requests (filters and CUSTOM policies), then the components in
// reverse order, last the inventory. It refuses while Pods outside the mesh's own
// still have a sidecar, since they would lose who configures them.
func (c *Cluster) Uninstall(ctx context.Context, namespace string, o UninstallOptions) (*Removal, error) {
	inv, err := c.readInventory(ctx, namespace)
	if err != nil {
		return nil, err
	}
	r, err := c.removal(ctx, namespace, inv, &o)
	if err != nil {
		return r, c.explain(err)
	}
	if o.DryRun {
		return r, nil
	}
	if o.Confirm != nil {
		if err := o.Confirm(r); err != nil {
			return r, err
		}
	}
	if inv.secret == nil {
		return r, c.explain(c.removeKept(ctx, namespace, r, &o))
	}
	held, release, err := c.hold(ctx, namespace)
	if err != nil {
		return r, err
	}
	defer release()
	if err := c.takeUp(held, namespace, inv, r, &o); err != nil {
		return r, c.explain(cause(held, err))
	}
	release() // before its namespace goes
	return r, c.explain(c.removeKept(ctx, namespace, r, &o))
}

// removal sorts the objects into those that go, in order, and those that stay.
func (c *Cluster) removal(ctx context.Context, namespace string, inv *inventory, o *UninstallOptions) (*Removal, error) {
	objects, err := c.withLabelled(ctx, namespace, inv)
	if err != nil {
		return nil, err
	}
	if inv.secret == nil && len(objects) == 0 {
		return nil, notInstalled(namespace)
	}
	if err := c.injected(ctx, inv.Objects, o); err != nil {
		return nil, err
	}
	r := &Removal{}
	for _, name := range slices.Backward(objects) {
		if err := c.sort(ctx, r, name, applySetID(namespace), o); err != nil {
			return nil, err
		}
	}
	for _, list := range [][]ref{r.filters, r.rest, r.crds, r.spaces} {
		for _, name := range list {
			r.Deleted = append(r.Deleted, name.String())
		}
	}
	if err := c.strangers(ctx, r, applySetID(namespace), o); err != nil {
		return nil, err
	}
	return r, c.leftovers(ctx, namespace, r)
}

func (c *Cluster) sort(ctx context.Context, r *Removal, name ref, id string, o *UninstallOptions) error {
	live := name.empty()
	err := c.client.Get(ctx, client.ObjectKeyFromObject(live), live)
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", name, err)
	}
	action, _, _ := unstructured.NestedString(live.Object, "spec", "action")
	switch {
	case live.GetLabels()[labelPartOf] != id:
		r.leave(name.String(), "it doesn't carry the inventory's label any more, so it is somebody else's")
	case name.kept() && name.Found:
		r.leave(name.String(), "it was there before the first installation")
		if name.isNamespace() {
			r.found = append(r.found, name)
		}
	case name.isCRD() && !o.CRDs:
		r.leave(name.String(), "what users made of it would be lost; --crds removes it")
	case name.isNamespace() && !o.Namespaces:
		r.leave(name.String(), "what is in it would be lost; --namespaces removes it")
	case name.isCRD():
		r.crds = append(r.crds, name)
	case name.isNamespace():
		r.spaces = append(r.spaces, name)
	case name.Kind == "EnvoyFilter", name.Kind == "AuthorizationPolicy" && action == "CUSTOM":
		r.filters = append(r.filters, name)
	default:
		r.rest = append(r.rest, name)
	}
	return nil
}

// withLabelled adds the namespaces and CRDs that an earlier uninstallation kept.
func (c *Cluster) withLabelled(ctx context.Context, namespace string, inv *inventory) ([]ref, error) {
	out := slices.Clone(inv.Objects)
	known := map[string]bool{}
	for _, r := range out {
		known[r.key()] = true
	}
	for _, kind := range []ref{{Version: "v1", Kind: kindNamespace}, {Group: apiextensionsGroup, Version: "v1", Kind: kindCRD}} {
		all := &unstructured.UnstructuredList{}
		all.SetGroupVersionKind(kind.gvk())
		if err := c.client.List(ctx, all, client.MatchingLabels{labelPartOf: applySetID(namespace)}); err != nil {
			return nil, fmt.Errorf("listing each %s: %w", kind.Kind, err)
		}
		for i := range all.Items {
			if r := refOf(&all.Items[i], "kept"); !known[r.key()] {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// takeUp deletes everything but namespaces and CRDs, and the inventory last.
func (c *Cluster) takeUp(ctx context.Context, namespace string, inv *inventory, r *Removal, o *UninstallOptions) error {
	inv.Pending = &pending{Action: "uninstall", Since: c.now(), Holder: c.holder}
	if err := c.write(ctx, namespace, inv); err != nil {
		return err
	}
	if err := c.removeAll(ctx, namespace, "filters and CUSTOM policies", r.filters, o); err != nil {
		return err
	}
	for i := 0; i < len(r.rest); {
		component := r.rest[i].Component
		end := i
		for end < len(r.rest) && r.rest[end].Component == component {
			end++
		}
		if err := c.removeAll(ctx, namespace, component, r.rest[i:end], o); err != nil {
			return err
		}
		i = end
	}
	err := c.client.Delete(ctx, inv.secret, client.Preconditions{UID: &inv.secret.UID})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the inventory: %w", err)
	}
	return nil
}

// removeKept deletes CRDs and namespaces, and takes our fields out of those that were there before.
func (c *Cluster) removeKept(ctx context.Context, namespace string, r *Removal, o *UninstallOptions) error {
	if err := c.removeAll(ctx, namespace, "custom resource definitions", r.crds, o); err != nil {
		return err
	}
	for _, name := range r.found {
		if _, err := c.apply(ctx, &applying{object: name.empty()}); err != nil {
			return fmt.Errorf("taking our labels off %s: %w", name, err)
		}
	}
	return c.removeAll(ctx, namespace, "namespaces", r.spaces, o)
}

// removeAll deletes objects and waits until they are gone.
func (c *Cluster) removeAll(ctx context.Context, namespace, component string, objects []ref, o *UninstallOptions) error {
	if len(objects) == 0 {
		return nil
	}
	p := Options{Timeout: o.Timeout, Progress: o.Progress}
	for _, r := range objects {
		p.say(component, "deleting %s", r)
		if _, err := c.remove(ctx, r, applySetID(namespace)); err != nil {
			return err
		}
	}
	var still []string
	bounded, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	err := wait.PollUntilContextCancel(bounded, c.poll, true, func(ctx context.Context) (bool, error) {
		still = nil
		for _, r := range objects {
			live := r.empty()
			err := c.client.Get(ctx, client.ObjectKeyFromObject(live), live)
			switch {
			case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
			case err != nil && !passing(err):
				return false, err
			case len(live.GetFinalizers()) > 0:
				still = append(still, fmt.Sprintf("%s: waits for its finalizers %q", r, live.GetFinalizers()))
			default:
				still = append(still, r.String()+": is being deleted")
			}
		}
		return len(still) == 0, nil
	})
	switch {
	case err == nil:
		p.done(component, "%d deleted", len(objects))
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("deleting %s: %w", component, ctx.Err())
	case bounded.Err() != nil && len(still) > 0:
		return fmt.Errorf("%w: not everything of %s was gone within %s:\n%s", ErrNotReady, component, p.timeout(), lines(still))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the API server didn't say within %s whether %s is gone", ErrNotReady, p.timeout(), component)
	}
	return err
}
