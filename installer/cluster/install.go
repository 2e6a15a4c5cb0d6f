package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/render"
)

// Options are how to install.
type Options struct {
	// Timeout bounds how long each component may take to become ready. 0 is five minutes.
	Timeout time.Duration
	// TakeOwnership lists the field managers whose fields may be taken over.
	TakeOwnership []string
	// Progress hears what is done; nil for nobody.
	Progress func(Event)
	// Confirm is asked once, before the first change; an error stops. Nil is yes.
	Confirm func([]Change) error
}

// Event is one step, for whoever watches.
type Event struct {
	Component string
	// Text is what happens; Done ends the component.
	Text string
	Done bool
}

func (o *Options) timeout() time.Duration {
	if o.Timeout == 0 {
		return 5 * time.Minute
	}
	return o.Timeout
}

func (o *Options) say(component, format string, args ...any) {
	if o.Progress != nil {
		o.Progress(Event{Component: component, Text: fmt.Sprintf(format, args...)})
	}
}

func (o *Options) done(component, format string, args ...any) {
	if o.Progress != nil {
		o.Progress(Event{Component: component, Text: fmt.Sprintf(format, args...), Done: true})
	}
}

// Install makes the cluster what the mesh says, component by component, and
// waits until all is ready. Conflicts are looked for in everything before
// anything is changed. It returns what was to be changed, also with an error. An
// interrupted installation goes on when it is run again.
func (c *Cluster) Install(ctx context.Context, m *Mesh, o Options) ([]Change, error) {
	return c.install(ctx, m, "install", &o)
}

// Rollback lays an earlier revision of the inventory down again; 0 is the one
// before the last. CRDs stay as they are: an older one could orphan what is stored.
func (c *Cluster) Rollback(ctx context.Context, namespace string, number int, o Options) ([]Change, error) {
	inv, err := c.readInventory(ctx, namespace)
	if err != nil {
		return nil, err
	}
	if inv.secret == nil {
		return nil, notInstalled(namespace)
	}
	if number == 0 {
		kept := revisions(inv.secret)
		// An unfinished installation is undone by its predecessor, the last that was finished.
		earlier := slices.DeleteFunc(kept, func(n int) bool { return n > inv.Revision || n == inv.Revision && inv.Pending == nil })
		if len(earlier) == 0 {
			return nil, errors.New("there is no earlier revision to go back to; see 'sluice mesh status'")
		}
		number = earlier[len(earlier)-1]
	}
	r, err := inv.revision(number)
	if err != nil {
		return nil, err
	}
	m := &Mesh{Values: r.Values}
	for _, component := range r.Components {
		component.Objects = slices.DeleteFunc(slices.Clone(component.Objects), func(u *unstructured.Unstructured) bool { return refOf(u, "").isCRD() })
		m.Components = append(m.Components, component)
	}
	return c.install(ctx, m, "rollback to revision "+strconv.Itoa(number), &o)
}

func notInstalled(namespace string) error {
	return fmt.Errorf("%w: there is no inventory in namespace %s; was it installed with another --istio-namespace?", ErrNotInstalled, namespace)
}

func (c *Cluster) install(ctx context.Context, m *Mesh, action string, o *Options) ([]Change, error) {
	inv, err := c.readInventory(ctx, m.namespace())
	if err != nil {
		return nil, err
	}
	if err := inv.settled(m); err != nil {
		return nil, err
	}
	changes, err := c.compare(ctx, m, inv, o.TakeOwnership)
	if err != nil {
		return nil, err
	}
	if conflicts := conflicting(changes); len(conflicts) > 0 {
		return changes, conflictError(conflicts)
	}
	sum, err := digest(m)
	if err != nil {
		return changes, err
	}
	changed := slices.ContainsFunc(changes, func(c Change) bool { return c.Action != Keep })
	if !changed && inv.Pending == nil && inv.Digest == sum {
		return changes, c.wait(ctx, "mesh", m.objects(), o)
	}
	if o.Confirm != nil {
		if err := o.Confirm(changes); err != nil {
			return changes, err
		}
	}
	if err := c.ensureNamespace(ctx, m, o); err != nil {
		return changes, c.explain(err)
	}
	held, release, err := c.hold(ctx, m.namespace())
	if err != nil {
		return changes, err
	}
	defer release()
	w := &work{cluster: c, mesh: m, inv: inv, changes: changes, options: o, digest: sum, action: action}
	if err := w.run(held); err != nil {
		return changes, c.explain(cause(held, err))
	}
	return changes, nil
}

// ensureNamespace makes the namespace of the inventory, which comes before everything else.
func (c *Cluster) ensureNamespace(ctx context.Context, m *Mesh, o *Options) error {
	r := ref{Version: "v1", Kind: kindNamespace, Name: m.namespace()}
	err := c.client.Get(ctx, client.ObjectKey{Name: r.Name}, r.empty())
	if !apierrors.IsNotFound(err) {
		return err
	}
	for _, u := range m.objects() {
		if refOf(u, "").key() == r.key() {
			_, err := c.apply(ctx, &applying{object: labelled(u, applySetID(m.namespace())), take: o.TakeOwnership})
			return err
		}
	}
	return fmt.Errorf("namespace %s is neither there nor part of the mesh; create it first", m.namespace())
}

// work is one installation that holds the lease.
type work struct {
	cluster *Cluster
	mesh    *Mesh
	inv     *inventory
	changes []Change
	options *Options
	digest  string
	action  string
}

func (w *work) run(ctx context.Context) error {
	old, refs := w.inv.Objects, w.refs()
	w.inv.Objects = joined(old, refs)
	w.inv.Pending = &pending{Action: w.action, Since: w.cluster.now(), Holder: w.cluster.holder, Digest: w.digest}
	if err := w.save(ctx); err != nil {
		return err
	}
	waiting := map[string]bool{}
	for _, component := range w.mesh.Components {
		if err := w.component(ctx, component); err != nil {
			return err
		}
		waiting[component.Name] = !component.Ready
	}
	for _, component := range w.mesh.Components {
		if waiting[component.Name] {
			if err := w.cluster.wait(ctx, component.Name, component.Objects, w.options); err != nil {
				return err
			}
		}
	}
	if err := w.prune(ctx); err != nil {
		return err
	}
	return w.finish(ctx, refs)
}

// refs are the objects of this installation, for the inventory. Kept ones that
// are no longer rendered stay in it: they are still there.
func (w *work) refs() []ref {
	found := map[string]bool{}
	for _, r := range w.inv.Objects {
		found[r.key()] = r.Found
	}
	var out []ref
	rendered := map[string]bool{}
	for i := range w.changes {
		change := &w.changes[i]
		if change.Action == Delete {
			continue
		}
		r := change.ref
		r.Found = change.Action != Create && (r.Found || found[r.key()])
		rendered[r.key()] = true
		out = append(out, r)
	}
	for _, r := range w.inv.Objects {
		if r.kept() && !rendered[r.key()] {
			out = append(out, r)
		}
	}
	return out
}

func (w *work) save(ctx context.Context) error {
	return w.cluster.write(ctx, w.mesh.namespace(), w.inv)
}

// component applies what changes of one component, and waits where the next one needs it.
func (w *work) component(ctx context.Context, r render.Rendered) error {
	w.inv.Pending.Component = r.Name
	if err := w.save(ctx); err != nil {
		return err
	}
	actions := map[string]Action{}
	for i := range w.changes {
		actions[w.changes[i].ref.key()] = w.changes[i].Action
	}
	scaled := scaledBy(w.mesh.objects())
	n := 0
	var crds []*unstructured.Unstructured
	for _, u := range r.Objects {
		name := refOf(u, r.Name)
		if len(crds) > 0 && !name.isCRD() {
			if err := w.cluster.wait(ctx, r.Name, crds, w.options); err != nil {
				return err
			}
			crds = nil
		}
		if name.isCRD() {
			crds = append(crds, u)
		}
		if actions[name.key()] == Keep {
			continue
		}
		n++
		w.options.say(r.Name, "%s (%s)", name, actions[name.key()])
		a := &applying{object: labelled(u, applySetID(w.mesh.namespace())), take: w.options.TakeOwnership, scaled: scaled}
		conflicts, err := w.cluster.applyPatiently(ctx, a, w.options.timeout(), func(err error) {
			w.options.say(r.Name, "waiting to apply %s: %s", name, whyNot(err))
		})
		if err != nil {
			return fmt.Errorf("applying %s of %s: %w", name, r.Name, err)
		}
		if len(conflicts) > 0 {
			return conflictError(conflicts)
		}
	}
	wait := crds
	if r.Ready {
		wait = r.Objects
	}
	if err := w.cluster.wait(ctx, r.Name, wait, w.options); err != nil {
		return err
	}
	w.options.done(r.Name, "%d changed, %d unchanged", n, len(r.Objects)-n)
	return nil
}

// prune deletes what was laid down before and is no longer rendered, last laid down first.
func (w *work) prune(ctx context.Context) error {
	n := 0
	for i := range w.changes {
		change := &w.changes[i]
		if change.Action != Delete {
			continue
		}
		w.options.say("prune", "%s", change.Object)
		if _, err := w.cluster.remove(ctx, change.ref, applySetID(w.mesh.namespace())); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		w.options.done("prune", "%d deleted", n)
	}
	return nil
}

func (w *work) finish(ctx context.Context, refs []ref) error {
	v := w.mesh.Values
	s := &w.inv.state
	s.Revision++
	s.Profile, s.Istio, s.IstioRevision, s.Stage = v.Profile, v.Istio.Version, v.Istio.Revision, v.Mesh.Stage
	s.By, s.Action, s.At, s.Digest = w.cluster.version, w.action, w.cluster.now(), w.digest
	s.Objects, s.Pending = refs, nil
	data, err := pack(&revision{Action: w.action, At: s.At, By: s.By, Values: v, Components: w.mesh.Components})
	if err != nil {
		return fmt.Errorf("packing the revision for the inventory: %w", err)
	}
	w.inv.secret.Data[revisionPrefix+strconv.Itoa(s.Revision)] = data
	return w.save(ctx)
}

// remove deletes an object if it is there and carries our label. It says what it left, and why.
func (c *Cluster) remove(ctx context.Context, r ref, id string) (left string, err error) {
	live := r.empty()
	err = c.client.Get(ctx, client.ObjectKeyFromObject(live), live)
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("reading %s: %w", r, err)
	case live.GetLabels()[labelPartOf] != id:
		return "it doesn't carry the inventory's label any more, so it is somebody else's", nil
	}
	uid := live.GetUID()
	err = c.client.Delete(ctx, live, client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("deleting %s: %w", r, err)
	}
	return "", nil
}

// lines joins what a list says, one a line.
func lines(all []string) string { return "  " + strings.Join(all, "\n  ") }
