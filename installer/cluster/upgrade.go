package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// An upgrade is a second control plane beside the first, to which namespaces and
// gateways move one after another. Only definitions, control planes, gateways, the
// labels that choose between them and the validator change; everything else stays
// as it was laid down until the next installation.
const (
	// upgradeFrom and upgradeTo keep both meshes in the inventory while one turns
	// into the other, so that every step can be taken on another machine, by
	// another version of this program.
	upgradeFrom = "upgrade-from"
	upgradeTo   = "upgrade-to"
	// The components of which there are two during an upgrade.
	componentCRDs     = "crds"
	componentIstiod   = "istiod"
	componentWebhooks = "webhooks"
	// componentGateways moves last.
	componentGateways = "gateways"
	// validator is of the objects that name no revision. There is one, and it must ask an istiod that lives.
	validator = "istiod-default-validator"
)

// upgrading is an upgrade that was begun.
type upgrading struct {
	From  plane     `json:"from"`
	To    plane     `json:"to"`
	Since time.Time `json:"since"`
	// Started: the new control plane is there whole.
	Started bool `json:"started,omitempty"`
	// Finishing: the old one is no longer there whole.
	Finishing bool `json:"finishing,omitempty"`
}

// may refuses to move to a control plane that is not there whole.
func (u *upgrading) may(forward bool) error {
	switch {
	case u.Finishing:
		return fmt.Errorf("%w: the old control plane is going already; run 'sluice mesh upgrade finish' again", ErrRefused)
	case forward && !u.Started:
		return fmt.Errorf("%w: the new control plane is not there whole; run 'sluice mesh upgrade start' again", ErrRefused)
	}
	return nil
}

// plane is a control plane.
type plane struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // empty: the default one
}

func planeOf(v *profile.Values) plane {
	return plane{Version: v.Istio.Version, Revision: v.Istio.Revision}
}

// String is the control plane in a sentence: "1.31.4 (revision 1-31-4)".
func (p plane) String() string {
	return fmt.Sprintf("%s (revision %s)", p.Version, shownRevision(p.Revision))
}

// shownRevision is what Istio calls a revision: the one without a name is "default".
func shownRevision(r string) string {
	if r == "" {
		return "default"
	}
	return r
}

// settled refuses to install while an upgrade is under way, and to change the
// control plane of a mesh at once: all proxies would be without one.
func (inv *inventory) settled(m *Mesh) error {
	if u := inv.Upgrade; u != nil {
		return fmt.Errorf("%w: an upgrade from %s to %s is under way; end it first, with 'sluice mesh upgrade finish' or 'sluice mesh upgrade rollback --remove'", ErrRefused, u.From, u.To)
	}
	if now := m.Values.Istio.Revision; inv.Revision > 0 && inv.IstioRevision != now {
		return fmt.Errorf("%w: proxies are attached to control plane %s, and these values would replace it by %s at once; say --set istio.revision=%s, or move with 'sluice mesh upgrade start'",
			ErrRefused, shownRevision(inv.IstioRevision), shownRevision(now), inv.IstioRevision)
	}
	return nil
}

// meshes are what the mesh was before the upgrade and what it is to be.
type meshes struct {
	inv      *inventory
	from, to *revision
	gateway  map[string]bool                       // objects of the gateways, by key
	renewed  map[string]*unstructured.Unstructured // objects of the new mesh, by key
}

// upgrade reads the upgrade that is under way.
func (c *Cluster) upgrade(ctx context.Context, namespace string) (*meshes, error) {
	inv, err := c.readInventory(ctx, namespace)
	switch {
	case err != nil:
		return nil, err
	case inv.secret == nil:
		return nil, notInstalled(namespace)
	case inv.Upgrade == nil:
		return nil, fmt.Errorf("%w: no upgrade is under way; begin one with 'sluice mesh upgrade start --to VERSION'", ErrRefused)
	}
	m := &meshes{inv: inv}
	if m.from, err = unpack(inv.secret.Data[upgradeFrom]); err != nil {
		return nil, fmt.Errorf("%s in the inventory is damaged: %w", upgradeFrom, err)
	}
	if m.to, err = unpack(inv.secret.Data[upgradeTo]); err != nil {
		return nil, fmt.Errorf("%s in the inventory is damaged: %w", upgradeTo, err)
	}
	m.gateway, m.renewed = map[string]bool{}, map[string]*unstructured.Unstructured{}
	for _, r := range m.from.Components {
		for _, u := range r.Objects {
			m.gateway[refOf(u, "").key()] = r.Name == componentGateways
		}
	}
	for _, r := range m.to.Components {
		for _, u := range r.Objects {
			m.renewed[refOf(u, "").key()] = u
		}
	}
	return m, nil
}

// StartUpgrade lays the control plane of another mesh down beside the one that
// is there. No proxy moves yet. The new one needs a revision of its own.
func (c *Cluster) StartUpgrade(ctx context.Context, to *Mesh, o Options) ([]Change, error) {
	namespace := to.namespace()
	inv, err := c.readInventory(ctx, namespace)
	if err != nil {
		return nil, err
	}
	if err := inv.mayStart(to); err != nil {
		return nil, err
	}
	from, err := inv.revision(inv.Revision)
	if err != nil {
		return nil, err
	}
	beside, err := secondPlane(from, to)
	if err != nil {
		return nil, err
	}
	// Of an empty inventory: nothing is to be deleted.
	changes, err := c.compare(ctx, beside, &inventory{}, o.TakeOwnership)
	if err != nil {
		return nil, err
	}
	if conflicts := conflicting(changes); len(conflicts) > 0 {
		return changes, conflictError(conflicts)
	}
	if o.Confirm != nil {
		if err := o.Confirm(changes); err != nil {
			return changes, err
		}
	}
	held, release, err := c.hold(ctx, namespace)
	if err != nil {
		return changes, err
	}
	defer release()
	w := &work{cluster: c, mesh: beside, inv: inv, changes: changes, options: &o, action: "upgrade start"}
	if err := w.start(held, from, to); err != nil {
		return changes, c.explain(cause(held, err))
	}
	return changes, nil
}

func (inv *inventory) mayStart(to *Mesh) error {
	now := planeOf(to.Values)
	switch u := inv.Upgrade; {
	case inv.secret == nil:
		return notInstalled(to.namespace())
	case u != nil && u.To != now:
		return fmt.Errorf("%w: an upgrade from %s to %s is under way already; end it first, with 'sluice mesh upgrade finish' or 'sluice mesh upgrade rollback --remove'", ErrRefused, u.From, u.To)
	case u != nil && u.Finishing:
		return u.may(true)
	case u == nil && inv.Pending != nil:
		return fmt.Errorf("%w: %s was begun and not finished; finish it first, see 'sluice mesh status'", ErrRefused, inv.Pending.Action)
	case inv.Revision == 0:
		return fmt.Errorf("%w: the first installation was not finished; run it again first", ErrRefused)
	case now.Revision == "" || now.Revision == inv.IstioRevision:
		return fmt.Errorf("%w: revision %s is that of the control plane that is there; choose another with --revision", ErrRefused, shownRevision(now.Revision))
	}
	return nil
}

// secondPlane is what start lays down: the definitions, which both share and
// which only grow, and the new control plane without the default validator.
func secondPlane(from *revision, to *Mesh) (*Mesh, error) {
	there := map[string]bool{}
	for _, r := range from.Components {
		for _, u := range r.Objects {
			there[refOf(u, "").key()] = true
		}
	}
	out := &Mesh{Values: to.Values}
	for _, r := range to.Components {
		switch r.Name {
		case componentCRDs:
			if older(to.Values.Istio.Version, from.Values.Istio.Version) {
				continue // older definitions could orphan what is stored
			}
			out.Components = append(out.Components, r)
		case componentIstiod, componentWebhooks:
			r.Name += "-" + to.Values.Istio.Revision
			r.Objects = slices.DeleteFunc(slices.Clone(r.Objects), func(u *unstructured.Unstructured) bool { return u.GetName() == validator })
			for _, u := range r.Objects {
				if name := refOf(u, ""); there[name.key()] {
					return nil, fmt.Errorf("both control planes would have %s, so that they can't stand beside each other; use charts that name it by its revision", name)
				}
			}
			out.Components = append(out.Components, r)
		}
	}
	if n := len(out.Components); n < 2 {
		return nil, fmt.Errorf("the new mesh has no components %s and %s", componentIstiod, componentWebhooks)
	}
	return out, nil
}

// older compares versions such as 1.31.4 as far as they are numbers.
func older(a, b string) bool {
	var x, y [3]int
	_, _ = fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2])
	_, _ = fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	return slices.Compare(x[:], y[:]) < 0
}

func (w *work) start(ctx context.Context, from *revision, to *Mesh) error {
	inv, c := w.inv, w.cluster
	packed, err := pack(from)
	if err != nil {
		return fmt.Errorf("packing the mesh for the inventory: %w", err)
	}
	next, err := pack(&revision{Action: w.action, At: c.now(), By: c.version, Values: to.Values, Components: to.Components})
	if err != nil {
		return fmt.Errorf("packing the mesh for the inventory: %w", err)
	}
	inv.secret.Data[upgradeFrom], inv.secret.Data[upgradeTo] = packed, next
	if inv.Upgrade == nil {
		inv.Upgrade = &upgrading{From: planeOf(from.Values), To: planeOf(to.Values), Since: c.now()}
	}
	inv.Objects = beside(inv.Objects, w.refs())
	return w.step(ctx, func() error {
		for _, r := range w.mesh.Components {
			if err := w.component(ctx, r); err != nil {
				return err
			}
		}
		inv.Upgrade.Started = true
		return nil
	})
}

// step records that an action was begun, takes it, and records that it was finished.
func (w *work) step(ctx context.Context, do func() error) error {
	w.inv.Pending = &pending{Action: w.action, Since: w.cluster.now(), Holder: w.cluster.holder}
	if err := w.save(ctx); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	w.inv.Pending = nil
	return w.save(ctx)
}

// beside puts the new control plane behind the old one, so that an
// uninstallation takes both up after what needs them.
func beside(old, added []ref) []ref {
	known := map[string]bool{}
	at := 0
	for i, r := range old {
		known[r.key()] = true
		if r.Component == componentWebhooks {
			at = i + 1
		}
	}
	added = slices.DeleteFunc(slices.Clone(added), func(r ref) bool { return known[r.key()] })
	return slices.Insert(slices.Clone(old), at, added...)
}

// without is the objects of a control plane that is to go, last laid down first.
func (m *meshes) without(gone, stays *revision) []ref {
	kept := map[string]bool{}
	for _, r := range stays.Components {
		for _, u := range r.Objects {
			kept[refOf(u, "").key()] = true
		}
	}
	var out []ref
	for _, r := range gone.Components {
		if r.Name != componentIstiod && r.Name != componentWebhooks {
			continue
		}
		for _, u := range r.Objects {
			if name := refOf(u, r.Name); !kept[name.key()] {
				out = append(out, name)
			}
		}
	}
	slices.Reverse(out)
	return out
}

// FinishUpgrade removes the old control plane, and only it. It refuses while a
// proxy or a namespace is attached to it.
func (c *Cluster) FinishUpgrade(ctx context.Context, namespace string, o Options) error {
	return c.end(ctx, namespace, true, &o)
}

// end removes the control plane that nobody needs: the old one when the upgrade is finished, else the new one.
func (c *Cluster) end(ctx context.Context, namespace string, finish bool, o *Options) error {
	m, err := c.upgrade(ctx, namespace)
	if err != nil {
		return err
	}
	stays, goes := m.to, m.from
	action := "upgrade finish"
	if !finish {
		stays, goes, action = m.from, m.to, "upgrade rollback --remove"
	}
	if u := m.inv.Upgrade; !u.Started || !finish {
		if err := u.may(finish); err != nil {
			return err
		}
	}
	if err := c.detached(ctx, planeOf(goes.Values), o); err != nil {
		return c.explain(err)
	}
	held, release, err := c.hold(ctx, namespace)
	if err != nil {
		return err
	}
	defer release()
	w := &work{cluster: c, mesh: &Mesh{Values: stays.Values, Components: stays.Components}, inv: m.inv, options: o, action: action}
	return c.explain(cause(held, w.end(held, m, stays, goes)))
}

func (w *work) end(ctx context.Context, m *meshes, stays, goes *revision) error {
	// From here on, nothing moves to what goes, also if this is interrupted.
	if stays == m.to {
		w.inv.Upgrade.Finishing = true
	} else {
		w.inv.Upgrade.Started = false
	}
	w.inv.Pending = &pending{Action: w.action, Since: w.cluster.now(), Holder: w.cluster.holder}
	if err := w.save(ctx); err != nil {
		return err
	}
	if err := w.validate(ctx, stays); err != nil {
		return err
	}
	gone := m.without(goes, stays)
	removal := UninstallOptions{Timeout: w.options.Timeout, Progress: w.options.Progress}
	if err := w.cluster.removeAll(ctx, w.mesh.namespace(), "control plane "+shownRevision(goes.Values.Istio.Revision), gone, &removal); err != nil {
		return err
	}
	w.inv.Objects = slices.DeleteFunc(w.inv.Objects, func(r ref) bool {
		return slices.ContainsFunc(gone, func(g ref) bool { return g.key() == r.key() })
	})
	for i := range w.inv.Objects { // the second control plane is the only one now
		r := &w.inv.Objects[i]
		r.Component = strings.TrimSuffix(r.Component, "-"+stays.Values.Istio.Revision)
	}
	w.inv.Upgrade = nil
	delete(w.inv.secret.Data, upgradeFrom)
	delete(w.inv.secret.Data, upgradeTo)
	if stays == m.from {
		w.inv.Pending = nil
		return w.save(ctx)
	}
	w.mesh.Components = m.moved()
	sum, err := digest(w.mesh)
	if err != nil {
		return err
	}
	w.digest = sum
	return w.finish(ctx, w.inv.Objects)
}

// moved is the mesh after the upgrade: definitions, control plane, gateways and
// what chooses it from the new one, the rest as it was laid down.
func (m *meshes) moved() []render.Rendered {
	var out []render.Rendered
	for _, r := range m.from.Components {
		switch r.Name {
		case componentCRDs, componentIstiod, componentWebhooks:
			if i := slices.IndexFunc(m.to.Components, func(n render.Rendered) bool { return n.Name == r.Name }); i >= 0 {
				r = m.to.Components[i]
			}
		default:
			objects := slices.Clone(r.Objects)
			for i, u := range objects {
				objects[i] = m.attached(u, m.to)
			}
			r.Objects = objects
		}
		out = append(out, r)
	}
	return out
}
