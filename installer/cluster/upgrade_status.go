package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// UpgradeStatus says who is attached to which control plane.
type UpgradeStatus struct {
	// From and To are nil if no upgrade is under way.
	From  *plane    `json:"from,omitempty"`
	To    *plane    `json:"to,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Unfinished says what was begun and not finished, and whether somebody is at it.
	Unfinished string `json:"unfinished,omitempty"`
	// Validator is the Service that validates what names no revision.
	Validator  string           `json:"validator,omitempty"`
	Namespaces []namespaceProxy `json:"namespaces"`
}

// namespaceProxy is where a namespace's proxies are attached.
type namespaceProxy struct {
	Namespace string `json:"namespace"`
	// Label chooses the control plane of new pods; empty if none does.
	Label string `json:"label,omitempty"`
	// Proxies are counted by revision, "default" for the one without a name.
	Proxies map[string]int `json:"proxies"`
	// Ending are the proxies of Pods that are about to go; they are not counted above.
	Ending int `json:"ending,omitempty"`
}

// String counts the proxies: "1-31-5 2, default 3".
func (n *namespaceProxy) String() string {
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(n.Proxies)) {
		parts = append(parts, fmt.Sprintf("%s %d", r, n.Proxies[r]))
	}
	if n.Ending > 0 {
		parts = append(parts, fmt.Sprintf("ending %d", n.Ending))
	}
	return strings.Join(parts, ", ")
}

// Done is true if everything is attached to the new control plane.
func (s *UpgradeStatus) Done() bool {
	if s.To == nil {
		return true
	}
	return s.Unfinished == "" && !slices.ContainsFunc(s.Namespaces, func(n namespaceProxy) bool {
		return n.Proxies[shownRevision(s.From.Revision)] > 0 || n.Label == labelFor(s.From.Revision)
	})
}

// UpgradeStatus reads the labels of all namespaces and the proxies of all pods.
func (c *Cluster) UpgradeStatus(ctx context.Context, namespace string) (*UpgradeStatus, error) {
	inv, err := c.readInventory(ctx, namespace)
	if err != nil {
		return nil, err
	}
	if inv.secret == nil {
		return nil, notInstalled(namespace)
	}
	s := &UpgradeStatus{}
	if u := inv.Upgrade; u != nil {
		s.From, s.To, s.Since = &u.From, &u.To, u.Since
	}
	if s.Unfinished, err = c.unfinished(ctx, namespace, inv); err != nil {
		return nil, c.explain(err)
	}
	hooks := &admissionv1.ValidatingWebhookConfiguration{}
	err = c.client.Get(ctx, client.ObjectKey{Name: validator}, hooks)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, c.explain(fmt.Errorf("reading the validator: %w", err))
	}
	if len(hooks.Webhooks) > 0 && hooks.Webhooks[0].ClientConfig.Service != nil {
		s.Validator = hooks.Webhooks[0].ClientConfig.Service.Name
	}
	s.Namespaces, err = c.proxies(ctx)
	return s, c.explain(err)
}

// proxies are those of all namespaces that choose a control plane or have a proxy.
func (c *Cluster) proxies(ctx context.Context) ([]namespaceProxy, error) {
	spaces, pods := &corev1.NamespaceList{}, &corev1.PodList{}
	if err := c.client.List(ctx, spaces); err != nil {
		return nil, fmt.Errorf("listing the namespaces: %w", err)
	}
	if err := c.client.List(ctx, pods); err != nil {
		return nil, fmt.Errorf("listing the Pods: %w", err)
	}
	counted := map[string]*namespaceProxy{}
	for i := range spaces.Items {
		n := &spaces.Items[i]
		counted[n.Name] = &namespaceProxy{Namespace: n.Name, Proxies: map[string]int{}}
		if rev, injected := chosen(n.Labels); injected {
			counted[n.Name].Label = labelFor(rev)
		}
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		rev, ok := proxyRevision(p)
		switch n := counted[p.Namespace]; {
		case n == nil || !ok || ended(p):
		case p.DeletionTimestamp != nil:
			n.Ending++
		default:
			n.Proxies[shownRevision(rev)]++
		}
	}
	var out []namespaceProxy
	for _, n := range counted {
		if n.Label != "" || len(n.Proxies) > 0 || n.Ending > 0 {
			out = append(out, *n)
		}
	}
	slices.SortFunc(out, func(a, b namespaceProxy) int { return strings.Compare(a.Namespace, b.Namespace) })
	return out, nil
}
