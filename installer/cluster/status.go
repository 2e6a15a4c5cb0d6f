package cluster

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Status is what is installed and how it is.
type Status struct {
	Server    string `json:"server"`
	Namespace string `json:"namespace"`
	Profile   string `json:"profile,omitempty"`
	Istio     string `json:"istio,omitempty"`
	Stage     string `json:"stage,omitempty"`
	// Revision counts finished installations; Action, By and At are of the last.
	Revision int       `json:"revision"`
	Action   string    `json:"action,omitempty"`
	By       string    `json:"by,omitempty"`
	At       time.Time `json:"at,omitzero"`
	// Unfinished says what was begun and not finished, and whether somebody is at it.
	Unfinished string            `json:"unfinished,omitempty"`
	Components []ComponentStatus `json:"components"`
	// Revisions can be gone back to.
	Revisions []revisionStatus `json:"revisions"`
}

// Ready is true if the last installation was finished and everything is ready.
func (s *Status) Ready() bool {
	for i := range s.Components {
		if s.Components[i].Ready != s.Components[i].Objects {
			return false
		}
	}
	return s.Unfinished == ""
}

// ComponentStatus counts the objects of a component that are ready.
type ComponentStatus struct {
	Name     string   `json:"name"`
	Objects  int      `json:"objects"`
	Ready    int      `json:"ready"`
	Problems []string `json:"problems,omitempty"`
}

// revisionStatus is an installation that is kept.
type revisionStatus struct {
	Number int       `json:"number"`
	Action string    `json:"action"`
	At     time.Time `json:"at"`
	Istio  string    `json:"istio"`
	Stage  string    `json:"stage"`
}

// Status reads the inventory and looks at every object in it.
func (c *Cluster) Status(ctx context.Context, namespace string) (*Status, error) {
	inv, err := c.readInventory(ctx, namespace)
	if err != nil {
		return nil, err
	}
	if inv.secret == nil {
		return nil, notInstalled(namespace)
	}
	s := &Status{
		Server: c.Server, Namespace: namespace, Profile: inv.Profile, Istio: inv.Istio, Stage: string(inv.Stage),
		Revision: inv.Revision, Action: inv.Action, By: inv.By, At: inv.At,
	}
	if s.Unfinished, err = c.unfinished(ctx, namespace, inv); err != nil {
		return nil, c.explain(err)
	}
	for _, r := range inv.Objects {
		if len(s.Components) == 0 || s.Components[len(s.Components)-1].Name != r.Component {
			s.Components = append(s.Components, ComponentStatus{Name: r.Component})
		}
		component := &s.Components[len(s.Components)-1]
		component.Objects++
		ready, why, err := c.readiness(ctx, r)
		switch {
		case meta.IsNoMatchError(err):
			component.Problems = append(component.Problems, r.String()+": its kind is not there")
		case err != nil:
			return nil, c.explain(err)
		case ready:
			component.Ready++
		default:
			component.Problems = append(component.Problems, r.String()+": "+why)
		}
	}
	for _, n := range revisions(inv.secret) {
		r, err := inv.revision(n)
		if err != nil {
			return nil, err
		}
		s.Revisions = append(s.Revisions, revisionStatus{Number: n, Action: r.Action, At: r.At, Istio: r.Values.Istio.Version, Stage: string(r.Values.Mesh.Stage)})
	}
	return s, nil
}

// unfinished is a sentence about what was begun, empty if nothing was.
func (c *Cluster) unfinished(ctx context.Context, namespace string, inv *inventory) (string, error) {
	p := inv.Pending
	if p == nil {
		return "", nil
	}
	at := ""
	if p.Component != "" {
		at = " at component " + p.Component
	}
	l := &coordinationv1.Lease{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: inventoryName}, l)
	if err != nil && !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("reading the lease on the mesh: %w", err)
	}
	since := p.Since.UTC().Format(time.RFC3339)
	if by, left := leaseLeft(l, c.now()); left > 0 {
		return fmt.Sprintf("%s is running%s since %s (%s)", p.Action, at, since, by), nil
	}
	return fmt.Sprintf("%s was interrupted%s, begun %s; run it again to go on", p.Action, at, since), nil
}
