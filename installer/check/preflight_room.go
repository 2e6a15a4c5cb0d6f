package check

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

var roomChecks = []Check{
	{Code: "SP111", Title: "4 CPUs and 8 GB of memory are free", Severity: Fail, run: room},
}

// What the mesh's own pods ask for is counted as free: it is theirs already.
var (
	neededCPU    = resource.MustParse("4")
	neededMemory = resource.MustParse("8G")
)

func room(ctx context.Context, m *Mesh) ([]Finding, error) {
	nodes, err := into[corev1.Node](ctx, m, "", "v1", "Node")
	if err != nil {
		return nil, err
	}
	pods, err := m.pods(ctx)
	if err != nil {
		return nil, err
	}
	var cpu, memory resource.Quantity
	usable := map[string]bool{}
	for _, n := range nodes {
		if !schedulable(n) {
			continue
		}
		usable[n.Name] = true
		cpu.Add(*n.Status.Allocatable.Cpu())
		memory.Add(*n.Status.Allocatable.Memory())
	}
	for _, p := range pods {
		own := slices.Contains(m.namespaces(), p.Namespace)
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || own || !usable[p.Spec.NodeName] {
			continue
		}
		for _, c := range slices.Concat(p.Spec.Containers, running(p.Spec.InitContainers)) {
			cpu.Sub(*c.Resources.Requests.Cpu())
			memory.Sub(*c.Resources.Requests.Memory())
		}
	}
	if cpu.Cmp(neededCPU) >= 0 && memory.Cmp(neededMemory) >= 0 {
		return nil, nil
	}
	return []Finding{{
		Object: "the nodes", Evidence: fmt.Sprintf("%d of %d nodes take pods; allocatable minus requested: CPU %s, memory %.1f GB", len(usable), len(nodes), cpu.String(), float64(memory.Value())/1e9),
		Says: fmt.Sprintf("less is free than %s CPUs and %sB of memory, and pods would stay pending", neededCPU.String(), neededMemory.String()),
		Fix:  "add nodes, or lower istio.pilot.resources and istio.sidecar and pass --skip-checks",
	}}, nil
}

// running are the init containers that go on beside the others.
func running(init []corev1.Container) (out []corev1.Container) {
	for _, c := range init {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

// schedulable reports whether a node takes pods that tolerate nothing. That it is ready its condition says; the taint lags behind.
func schedulable(n *corev1.Node) bool {
	keepsAway := func(t corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule && t.Key != corev1.TaintNodeNotReady
	}
	if n.Spec.Unschedulable || slices.ContainsFunc(n.Spec.Taints, keepsAway) {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
