package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// waited are the kinds that become ready some time after they were applied. A
// Service is not among them: where nobody provides load balancers, one would
// never be ready, and the mesh works all the same.
var waited = map[string]bool{
	"apps/Deployment": true, "apps/StatefulSet": true, "apps/DaemonSet": true, "batch/Job": true, "/Pod": true,
	"/PersistentVolumeClaim": true, apiextensionsGroup + "/" + kindCRD: true,
}

func waitedFor(r ref) bool { return waited[r.Group+"/"+r.Kind] }

// wait returns when all objects are ready, or says of each that is not why.
func (c *Cluster) wait(ctx context.Context, component string, objects []*unstructured.Unstructured, o *Options) error {
	var open []ref
	for _, u := range objects {
		if r := refOf(u, component); waitedFor(r) {
			open = append(open, r)
		}
	}
	reasons := map[ref]string{}
	bounded, cancel := context.WithTimeout(ctx, o.timeout())
	defer cancel()
	err := wait.PollUntilContextCancel(bounded, c.poll, true, func(ctx context.Context) (bool, error) {
		var still []ref
		for _, r := range open {
			ready, why, err := c.readiness(ctx, r)
			if err != nil && !passing(err) {
				return false, err
			}
			if ready {
				continue
			}
			still = append(still, r)
			if why != "" && why != reasons[r] {
				reasons[r] = why
				o.say(component, "waiting for %s: %s", r, why)
			}
		}
		open = still
		return len(open) == 0, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for %s: %w", component, ctx.Err())
	case bounded.Err() == nil:
		return c.explain(err)
	}
	var why []string
	for _, r := range open {
		reason := reasons[r]
		if reason == "" {
			reason = "the API server did not say"
		}
		why = append(why, r.String()+": "+reason)
	}
	return fmt.Errorf("%w: %s was not ready within %s:\n%s", ErrNotReady, component, o.timeout(), lines(why))
}

// readiness says whether an object is ready, and if not, why.
func (c *Cluster) readiness(ctx context.Context, r ref) (ready bool, why string, err error) {
	live := r.empty()
	err = c.client.Get(ctx, client.ObjectKeyFromObject(live), live)
	switch {
	case apierrors.IsNotFound(err):
		return false, "it is not there", nil
	case err != nil:
		return false, "", fmt.Errorf("reading %s: %w", r, err)
	case !waitedFor(r):
		return true, "", nil
	}
	result, err := status.Compute(live)
	switch {
	case err != nil:
		return false, "its status can't be read: " + err.Error(), nil
	case result.Status == status.CurrentStatus:
		return true, "", nil
	}
	why = result.Message
	if deeper := c.reason(ctx, live); deeper != "" {
		why += "; " + deeper
	}
	return false, why, nil
}

// reason looks for what keeps a workload from being ready: a quota, the
// scheduler, an image or a crash. What can't be read is left out.
func (c *Cluster) reason(ctx context.Context, u *unstructured.Unstructured) string {
	if r := refOf(u, ""); r.isCRD() || r.Kind == "PersistentVolumeClaim" {
		return ""
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, item := range conditions {
		m, _ := item.(map[string]any)
		if m["type"] == "ReplicaFailure" && m["status"] == "True" {
			return fmt.Sprint(m["message"])
		}
	}
	labels, _, _ := unstructured.NestedStringMap(u.Object, "spec", "selector", "matchLabels")
	if len(labels) == 0 {
		return ""
	}
	pods := &corev1.PodList{}
	if c.client.List(ctx, pods, client.InNamespace(u.GetNamespace()), client.MatchingLabels(labels)) != nil {
		return ""
	}
	var all []string
	for i := range pods.Items {
		if why := podReason(&pods.Items[i]); why != "" && !slices.Contains(all, why) {
			all = append(all, why)
		}
	}
	if len(pods.Items) == 0 {
		return c.lastWarning(ctx, u)
	}
	return strings.Join(all, "; ")
}

// podReason says why one Pod is not ready.
func podReason(p *corev1.Pod) string {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return fmt.Sprintf("Pod %s can't be scheduled: %s", p.Name, condition.Message)
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		where := fmt.Sprintf("container %s of Pod %s", s.Name, p.Name)
		switch {
		case s.State.Waiting != nil && s.LastTerminationState.Terminated != nil:
			t := s.LastTerminationState.Terminated
			return fmt.Sprintf("%s: %s, it ended %d times, last with status %d (%s) %s", where, s.State.Waiting.Reason, s.RestartCount, t.ExitCode, t.Reason, firstLine(t.Message))
		case s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating" && s.State.Waiting.Reason != "PodInitializing":
			return fmt.Sprintf("%s: %s %s", where, s.State.Waiting.Reason, firstLine(s.State.Waiting.Message))
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			return fmt.Sprintf("%s ended with status %d %s", where, s.State.Terminated.ExitCode, firstLine(s.State.Terminated.Message))
		}
	}
	return ""
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// lastWarning is the last event that says why an object has no Pods.
func (c *Cluster) lastWarning(ctx context.Context, u *unstructured.Unstructured) string {
	events := &corev1.EventList{}
	fields := client.MatchingFields{"involvedObject.name": u.GetName(), "involvedObject.kind": u.GetKind(), "type": corev1.EventTypeWarning}
	if c.client.List(ctx, events, client.InNamespace(u.GetNamespace()), fields) != nil || len(events.Items) == 0 {
		return ""
	}
	last := slices.MaxFunc(events.Items, func(a, b corev1.Event) int {
		return newest(&a).Compare(newest(&b).Time)
	})
	return firstLine(last.Message)
}

func newest(e *corev1.Event) metav1.Time {
	if e.LastTimestamp.IsZero() {
		return metav1.Time{Time: e.EventTime.Time}
	}
	return e.LastTimestamp
}
