package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// restartedAt is the annotation by which kubectl restarts a workload, too.
	restartedAt = "kubectl.kubernetes.io/restartedAt"
	// sidecarStatus is what the injector writes on each pod that it gave a proxy.
	sidecarStatus = "sidecar.istio.io/status"
	// gatewayTemplate names in a pod's annotations that its proxy is a gateway.
	gatewayTemplate = "inject.istio.io/templates"
)

// proxyRevision is the revision of the control plane that injected a pod's proxy; ok is false if it has none.
func proxyRevision(p *corev1.Pod) (rev string, ok bool) {
	status, ok := p.Annotations[sidecarStatus]
	if !ok {
		return "", false
	}
	rev = p.Annotations[labelRevision]
	if rev == "" {
		var injected struct{ Revision string }
		_ = json.Unmarshal([]byte(status), &injected) // what says nothing is the default
		rev = injected.Revision
	}
	if rev == "default" {
		rev = ""
	}
	return rev, true
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// workload is what keeps pods running.
type workload struct {
	ref
	selector labels.Selector
	gateway  bool
}

// workloads are those of a namespace: in the order of their names, gateways last.
func (c *Cluster) workloads(ctx context.Context, namespace string) ([]workload, error) {
	var out []workload
	add := func(kind string, meta *metav1.ObjectMeta, match *metav1.LabelSelector, template *corev1.PodTemplateSpec) error {
		s, err := metav1.LabelSelectorAsSelector(match)
		if err != nil {
			return fmt.Errorf("the selector of %s %s/%s: %w", kind, namespace, meta.Name, err)
		}
		r := ref{Group: "apps", Version: "v1", Kind: kind, Namespace: namespace, Name: meta.Name}
		out = append(out, workload{r, s, strings.Contains(template.Annotations[gatewayTemplate], "gateway")})
		return nil
	}
	deployments, sets, daemons := &appsv1.DeploymentList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}
	for _, list := range []client.ObjectList{deployments, sets, daemons} {
		if err := c.client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("listing the workloads of namespace %s: %w", namespace, err)
		}
	}
	for i := range deployments.Items {
		w := &deployments.Items[i]
		if err := add("Deployment", &w.ObjectMeta, w.Spec.Selector, &w.Spec.Template); err != nil {
			return nil, err
		}
	}
	for i := range sets.Items {
		w := &sets.Items[i]
		if err := add("StatefulSet", &w.ObjectMeta, w.Spec.Selector, &w.Spec.Template); err != nil {
			return nil, err
		}
	}
	for i := range daemons.Items {
		w := &daemons.Items[i]
		if err := add("DaemonSet", &w.ObjectMeta, w.Spec.Selector, &w.Spec.Template); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b workload) int {
		if a.gateway != b.gateway {
			if a.gateway {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// restartAll restarts the workloads of a namespace that have pods of another control plane.
func (v *mover) restartAll(ctx context.Context, namespace string) (restarted int, err error) {
	all, err := v.cluster.workloads(ctx, namespace)
	if err != nil {
		return 0, err
	}
	for i := range all {
		elsewhere, proxies, err := v.elsewhere(ctx, &all[i])
		switch {
		case err != nil:
		case len(elsewhere) > 0:
			restarted++
			err = v.restart(ctx, &all[i])
		case proxies > 0: // restarted before an interruption, perhaps
			err = v.rolled(ctx, all[i].ref)
		}
		if err != nil {
			return restarted, err
		}
	}
	return restarted, nil
}

// elsewhere are the pods of a workload whose proxy is not the target's, of so many that have one.
func (v *mover) elsewhere(ctx context.Context, w *workload) (names []string, proxies int, err error) {
	pods := &corev1.PodList{}
	if err := v.cluster.client.List(ctx, pods, client.InNamespace(w.Namespace), client.MatchingLabelsSelector{Selector: w.selector}); err != nil {
		return nil, 0, fmt.Errorf("listing the Pods of %s: %w", w.ref, err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		rev, ok := proxyRevision(p)
		if !ok || p.DeletionTimestamp != nil || ended(p) {
			continue
		}
		proxies++
		if rev != v.target.Values.Istio.Revision {
			names = append(names, p.Name)
		}
	}
	return names, proxies, nil
}

// restart replaces the pods of a workload as 'kubectl rollout restart' does, and waits for the new ones.
func (v *mover) restart(ctx context.Context, w *workload) error {
	v.options.say(w.Namespace, "restarting %s", w.ref)
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]any{restartedAt: v.cluster.now().UTC().Format(time.RFC3339)},
	}}}})
	if err != nil {
		return err
	}
	if err := v.cluster.client.Patch(ctx, w.empty(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(Manager)); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // deleted meanwhile, and its pods with it
		}
		return fmt.Errorf("restarting %s: %w", w.ref, err)
	}
	if err := v.rolled(ctx, w.ref); err != nil {
		return err
	}
	left, _, err := v.elsewhere(ctx, w)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: %s was restarted, and its Pods %s still have a proxy of another control plane; is the update strategy OnDelete, or does the template name a revision? Delete the Pods or change the label %s of the template, then run this again",
			ErrNotReady, w.ref, strings.Join(left, ", "), labelRevision)
	}
	return nil
}

// rolled waits until a workload has only new pods, all of them ready.
func (v *mover) rolled(ctx context.Context, r ref) error {
	u := r.empty()
	if err := v.cluster.wait(ctx, r.Namespace, []*unstructured.Unstructured{u}, v.options); err != nil {
		if errors.Is(err, ErrNotReady) {
			err = fmt.Errorf("%w\nnothing after it was moved; run this again to go on, or 'sluice mesh upgrade rollback' to go back", err)
		}
		return err
	}
	return nil
}

// detached refuses while something is attached to a control plane, and waits for pods that end.
func (c *Cluster) detached(ctx context.Context, p plane, o *Options) error {
	spaces := &corev1.NamespaceList{}
	if err := c.client.List(ctx, spaces); err != nil {
		return fmt.Errorf("listing the namespaces: %w", err)
	}
	var found []string
	for i := range spaces.Items {
		n := &spaces.Items[i]
		if rev, injected := chosen(n.Labels); injected && rev == p.Revision && n.DeletionTimestamp == nil {
			found = append(found, fmt.Sprintf("Namespace %s: its label is %s, so new Pods would get no proxy, or none that works", n.Name, labelFor(p.Revision)))
		}
	}
	bounded, cancel := context.WithTimeout(ctx, o.timeout())
	defer cancel()
	var ending []string
	err := wait.PollUntilContextCancel(bounded, c.poll, true, func(ctx context.Context) (bool, error) {
		pods := &corev1.PodList{}
		if err := c.client.List(ctx, pods); err != nil {
			return false, fmt.Errorf("listing the Pods: %w", err)
		}
		was := len(ending)
		ending = nil
		for i := range pods.Items {
			pod := &pods.Items[i]
			rev, ok := proxyRevision(pod)
			switch {
			case !ok || rev != p.Revision || ended(pod):
			case pod.DeletionTimestamp != nil:
				ending = append(ending, pod.Namespace+"/"+pod.Name)
			default:
				found = append(found, fmt.Sprintf("Pod %s/%s%s", pod.Namespace, pod.Name, keeper(pod)))
			}
		}
		if len(ending) > 0 && len(ending) != was {
			o.say("proxies", "waiting for %d Pods of %s to end", len(ending), shownRevision(p.Revision))
		}
		return len(found) > 0 || len(ending) == 0, nil
	})
	switch {
	case len(found) > 0:
		shown := found[:min(len(found), 20)]
		if more := len(found) - len(shown); more > 0 {
			shown = append(slices.Clone(shown), fmt.Sprintf("and %d more", more))
		}
		return fmt.Errorf("%w: control plane %s is still needed:\n%s\nmove them first with 'sluice mesh upgrade promote' or 'rollback'; restart by hand what no workload restarts", ErrRefused, shownRevision(p.Revision), lines(shown))
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return fmt.Errorf("%w: these Pods of %s were still ending after %s:\n%s", ErrNotReady, shownRevision(p.Revision), o.timeout(), lines(ending))
	}
	return err
}

// keeper says what would have to be restarted for a pod to be replaced.
func keeper(p *corev1.Pod) string {
	owner := metav1.GetControllerOf(p)
	switch {
	case owner == nil:
		return ", which nothing restarts"
	case owner.Kind == "ReplicaSet":
		return ""
	}
	return fmt.Sprintf(" of %s %s", owner.Kind, owner.Name)
}
