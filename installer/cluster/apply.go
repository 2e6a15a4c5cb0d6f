package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Conflict is an object, or a field of one, that somebody else set.
type Conflict struct {
	Object string `json:"object"`
	// Field is empty if the whole object is somebody else's.
	Field   string `json:"field,omitempty"`
	Manager string `json:"manager"`
}

// String is the conflict as a line of output.
func (c Conflict) String() string {
	if c.Field == "" {
		return fmt.Sprintf("%s was there before, made by %q", c.Object, c.Manager)
	}
	return fmt.Sprintf("%s: %s was set by %q", c.Object, c.Field, c.Manager)
}

// conflictError is every conflict, with the remedy.
func conflictError(all []Conflict) error {
	var managers, lines []string
	for _, c := range all {
		lines = append(lines, "  "+c.String())
		if !slices.Contains(managers, c.Manager) {
			managers = append(managers, c.Manager)
		}
	}
	var flags []string
	for _, m := range managers {
		flags = append(flags, fmt.Sprintf("--take-ownership %q", m))
	}
	return fmt.Errorf("%w: others own what would be changed:\n%s\nmake them let go, or take over what they set with %s",
		ErrConflict, strings.Join(lines, "\n"), strings.Join(flags, " "))
}

// ceded are fields that a controller sets after us, and that are then its own:
// istiod fills in a webhook's caBundle and makes it fail closed once it answers,
// and an autoscaler chooses the number of replicas.
var ceded = []struct {
	kind  string
	field *regexp.Regexp
}{
	{"ValidatingWebhookConfiguration", webhookField},
	{"MutatingWebhookConfiguration", webhookField},
	{"Deployment", replicasField},
	{"StatefulSet", replicasField},
}

var (
	webhookField  = regexp.MustCompile(`^\.webhooks\[name="([^"]+)"\]\.(failurePolicy|clientConfig\.caBundle)$`)
	replicasField = regexp.MustCompile(`^\.spec\.replicas$`)
	managerText   = regexp.MustCompile(`conflict with "([^"]*)"`)
)

// applying is one object on its way to the cluster.
type applying struct {
	object *unstructured.Unstructured // replaced by the server's answer
	dry    bool
	// take lists the managers whose fields may be taken over.
	take []string
	// scaled are the workloads with an autoscaler of the mesh, as "Kind namespace/name".
	scaled map[string]bool
}

// apply writes one object, or asks what writing it would give. It returns the
// conflicts that nobody allowed to resolve; then nothing was written.
func (c *Cluster) apply(ctx context.Context, a *applying) ([]Conflict, error) {
	desired := a.object.DeepCopy()
	name := refOf(desired, "").String()
	force := false
	for {
		err := c.applyOnce(ctx, a, desired, force)
		conflicts := conflictsOf(name, err)
		if len(conflicts) == 0 {
			return nil, err
		}
		var open []Conflict
		changed := false
		for _, conflict := range conflicts {
			switch {
			case cede(desired, conflict.Field, a.scaled[name]):
				changed = true
			case !slices.Contains(a.take, conflict.Manager):
				open = append(open, conflict)
			}
		}
		if len(open) > 0 || force {
			return open, nil
		}
		// Everything that is left is either given up or may be taken.
		force = !changed
	}
}

func (c *Cluster) applyOnce(ctx context.Context, a *applying, desired *unstructured.Unstructured, force bool) error {
	options := []client.ApplyOption{client.FieldOwner(Manager)}
	if a.dry {
		options = append(options, client.DryRunAll)
	}
	if force {
		options = append(options, client.ForceOwnership)
	}
	answer := desired.DeepCopy()
	if err := c.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(answer), options...); err != nil {
		return err
	}
	a.object = answer
	return nil
}

// conflictsOf reads the conflicts out of the API server's answer.
func conflictsOf(object string, err error) []Conflict {
	var status apierrors.APIStatus
	if !apierrors.IsConflict(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	var out []Conflict
	for _, cause := range status.Status().Details.Causes {
		if cause.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		manager := cause.Message
		if m := managerText.FindStringSubmatch(cause.Message); m != nil {
			manager = m[1]
		}
		out = append(out, Conflict{Object: object, Field: cause.Field, Manager: manager})
	}
	return out
}

// cede takes a field that its controller owns out of what is applied.
func cede(u *unstructured.Unstructured, field string, scaled bool) bool {
	for _, c := range ceded {
		m := c.field.FindStringSubmatch(field)
		if c.kind != u.GetKind() || m == nil {
			continue
		}
		if c.field == replicasField {
			if scaled {
				unstructured.RemoveNestedField(u.Object, "spec", "replicas")
			}
			return scaled
		}
		return dropWebhookField(u, m[1], strings.Split(m[2], "."))
	}
	return false
}

func dropWebhookField(u *unstructured.Unstructured, webhook string, path []string) bool {
	hooks, _, _ := unstructured.NestedSlice(u.Object, "webhooks")
	for i := range hooks {
		h, ok := hooks[i].(map[string]any)
		if !ok || h["name"] != webhook {
			continue
		}
		unstructured.RemoveNestedField(h, path...)
		return unstructured.SetNestedSlice(u.Object, hooks, "webhooks") == nil
	}
	return false
}

// scaledBy lists the workloads that the autoscalers among the objects scale.
func scaledBy(objects []*unstructured.Unstructured) map[string]bool {
	out := map[string]bool{}
	for _, u := range objects {
		if u.GetKind() != "HorizontalPodAutoscaler" {
			continue
		}
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "scaleTargetRef", "kind")
		name, _, _ := unstructured.NestedString(u.Object, "spec", "scaleTargetRef", "name")
		out[ref{Kind: kind, Namespace: u.GetNamespace(), Name: name}.String()] = true
	}
	return out
}

// applyPatiently repeats what may pass by itself: istiod's own webhooks answer a
// moment after its Pods are ready. waiting is called with the first error.
func (c *Cluster) applyPatiently(ctx context.Context, a *applying, timeout time.Duration, waiting func(error)) (conflicts []Conflict, err error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	polled := wait.PollUntilContextCancel(bounded, c.poll, true, func(bounded context.Context) (bool, error) {
		was := err
		var tried error
		conflicts, tried = c.apply(bounded, a)
		if bounded.Err() == nil || was == nil {
			err = tried // the last error that is more than that the time is over
		}
		if was == nil && passing(err) {
			waiting(err)
		}
		return !passing(tried), nil
	})
	switch {
	case ctx.Err() != nil:
		return conflicts, ctx.Err()
	case polled != nil && passing(err):
		return conflicts, fmt.Errorf("%w within %s: %w", ErrNotReady, timeout, err)
	}
	return conflicts, err
}
