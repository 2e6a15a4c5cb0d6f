package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// report tells the API server how the pod is, if that has changed, and says whether it has run to its end.
func (p *pod) report(ctx context.Context) (finished bool) {
	s := p.status()
	finished = s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed
	if p.reported != nil && equality.Semantic.DeepEqual(*p.reported, s) {
		return finished
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.uid}, "status": s})
	if err == nil {
		_, err = p.k.Client.CoreV1().Pods(p.namespace).Patch(ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			p.k.Logf("pod %s/%s: telling its status: %v", p.namespace, p.name, err)
		}
		return false
	}
	p.reported = &s
	return finished
}

func (p *pod) status() corev1.PodStatus {
	p.mu.Lock()
	waiting, initialized := p.waiting, p.ready
	generation := p.api.Generation
	policy := p.api.Spec.RestartPolicy
	p.mu.Unlock()
	s := corev1.PodStatus{
		Phase: corev1.PodPending, StartTime: &p.began, HostIP: box.Node.String(), HostIPs: []corev1.HostIP{{IP: box.Node.String()}},
		PodIP: p.addr.String(), PodIPs: []corev1.PodIP{{IP: p.addr.String()}}, Message: waiting, ObservedGeneration: generation,
	}
	ready := initialized
	for _, c := range p.inits {
		about := c.status()
		s.InitContainerStatuses = append(s.InitContainerStatuses, about)
		ready = ready && (!c.sidecar || about.Ready)
	}
	over, failed := 0, false
	for _, c := range p.mains {
		about := c.status()
		s.ContainerStatuses = append(s.ContainerStatuses, about)
		ready = ready && about.Ready
		if t := about.State.Terminated; t != nil && (policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && t.ExitCode == 0) {
			over++
			failed = failed || t.ExitCode != 0
		}
	}
	switch {
	case over == len(p.mains) && failed:
		s.Phase = corev1.PodFailed
	case over == len(p.mains):
		s.Phase = corev1.PodSucceeded
	case initialized:
		s.Phase = corev1.PodRunning
	}
	s.Conditions = p.conditions(map[corev1.PodConditionType]bool{
		corev1.PodScheduled: true, corev1.PodReadyToStartContainers: waiting == "", corev1.PodInitialized: initialized,
		corev1.ContainersReady: ready, corev1.PodReady: ready,
	})
	return s
}

// conditions are in a fixed order, and keep their time while they hold.
func (p *pod) conditions(holds map[corev1.PodConditionType]bool) (list []corev1.PodCondition) {
	for _, kind := range []corev1.PodConditionType{
		corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady,
	} {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
		if holds[kind] {
			c.Status = corev1.ConditionTrue
		}
		if p.reported != nil {
			for _, before := range p.reported.Conditions {
				if before.Type == kind && before.Status == c.Status {
					c.LastTransitionTime = before.LastTransitionTime
				}
			}
		}
		list = append(list, c)
	}
	return list
}

func (c *container) status() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := fmt.Sprintf("lab://%s/%s/%d", c.pod.uid, c.spec.Name, c.restarts)
	done := c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
	s := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, RestartCount: int32(c.restarts),
		State: c.state, LastTerminationState: c.last, Started: new(c.started), Ready: c.ready,
	}
	if c.state.Waiting == nil {
		s.ContainerID = id
	}
	// An init container that is no sidecar is ready when it is done.
	s.Ready = s.Ready || done && !c.sidecar && c.isInit()
	return s
}

func (c *container) isInit() bool { return slices.Contains(c.pod.inits, c) }
