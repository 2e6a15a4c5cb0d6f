// Package render turns the values of a mesh into Kubernetes objects: a table of
// components in the order in which they are laid down. It reads no cluster; the
// same values give the same bytes.
package render

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// Objects are Kubernetes objects, in the order in which they are applied.
type Objects = []*unstructured.Unstructured

// Component is one part of the mesh: laid down, waited for and removed as a whole.
type Component struct {
	// Name is what progress, diff and the inventory call it.
	Name string
	// Ready says that the next component needs this one's objects ready, not only applied.
	Ready bool
	// Objects renders it; none when the values switch it off.
	Objects func(v *profile.Values) (Objects, error)
}

// Rendered is a component's objects.
type Rendered struct {
	Name    string
	Ready   bool
	Objects Objects
}

// All renders every component, in the order in which they are laid down.
// Removal goes the other way.
func All(v *profile.Values) ([]Rendered, error) {
	out := make([]Rendered, 0, len(components))
	for _, c := range components {
		objects, err := c.Objects(v)
		if err != nil {
			return nil, fmt.Errorf("rendering %s: %w", c.Name, err)
		}
		if len(objects) > 0 {
			out = append(out, Rendered{Name: c.Name, Ready: c.Ready, Objects: objects})
		}
	}
	return out, nil
}

// components is the mesh, in the order in which it is laid down: what others
// need comes first, and nothing that refuses or intercepts requests comes
// before what answers for it is ready.
var components = []Component{
	{Name: "namespaces", Objects: namespaces},
	{Name: "crds", Ready: true, Objects: crds},
	{Name: "istiod", Ready: true, Objects: istiod},
	{Name: "webhooks", Ready: true, Objects: webhooks},
	{Name: "gateways", Ready: true, Objects: gateways},
	{Name: "mutual-tls", Objects: mutualTLS},
	{Name: "callers", Objects: allow},
	{Name: "traffic", Objects: traffic},
	{Name: "egress", Objects: egress},
	{Name: "telemetry", Objects: telemetryDefaults},
	{Name: "addons", Ready: true, Objects: addons},
	{Name: "analyze", Objects: analyze},
	{Name: "sluice", Ready: true, Objects: sluice},
	// Last: from here on, proxies ask, and refuse when nobody answers.
	{Name: "filters", Objects: wiring.Objects},
}
