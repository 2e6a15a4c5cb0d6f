package voicecore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab"
)

// kinds are all kinds that can be listed, but those that change by themselves.
func (m *mesh) kinds(t *testing.T) string {
	t.Helper()
	all := strings.Fields(m.Kubectl(t, "", "api-resources", "--verbs=list", "-o", "name"))
	return strings.Join(slices.DeleteFunc(all, func(kind string) bool {
		return slices.Contains([]string{"events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpoints", "componentstatuses",
			"endpointslices.discovery.k8s.io", "pods", "nodes", "replicasets.apps", "horizontalpodautoscalers.autoscaling", "csinodes.storage.k8s.io"}, kind)
	}), ",")
}

// versions lists every object with its resource version, but for the records by which istiods elect a leader.
func (m *mesh) versions(t *testing.T) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(m.Kubectl(t, "", "get", m.kinds(t), "-A", "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion} {.metadata.annotations.control-plane\.alpha\.kubernetes\.io/leader}{"\n"}{end}`)) {
		if !strings.Contains(line, "holderIdentity") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

// atRest is versions when no controller has anything to write any more about what was applied.
func (m *mesh) atRest(t *testing.T) (now string) {
	t.Helper()
	lab.Until(t, patience, func() error {
		before := now
		if now = m.versions(t); now != before {
			return fmt.Errorf("objects are still written:\n%s", differing(before, now))
		}
		return nil
	})
	return now
}

// names lists every object.
func (m *mesh) names(t *testing.T) []string {
	t.Helper()
	out := strings.Split(strings.TrimSpace(m.Kubectl(t, "", "get", m.kinds(t), "-A", "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{"\n"}{end}`)), "\n")
	slices.Sort(out)
	return out
}

// differing are the lines of two lists that are not in both.
func differing(a, b string) string {
	var out []string
	one, other := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, line := range one {
		if !slices.Contains(other, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range other {
		if !slices.Contains(one, line) {
			out = append(out, "+ "+line)
		}
	}
	return strings.Join(out, "\n")
}

// uninstall is refused while pods hang on the mesh, and then leaves what it says.
func (m *mesh) uninstall(t *testing.T) {
	if out, status := m.try(t, "uninstall", "--yes"); status != 3 {
		t.Errorf("with injected pods, uninstall: exit status %d, want 3\n%s", status, out)
	}
	m.Kubectl(t, "", "-n", apps, "delete", "deployment,service,serviceaccount", "--all", "--timeout=5m")
	m.Kubectl(t, "", "-n", apps, "wait", "pod", "--all", "--for=delete", "--timeout=5m")
	out := m.command(t, "uninstall", "--yes", "--crds", "--namespaces")
	t.Log(out)
	lab.Until(t, patience, func() error { // what Kubernetes made for an object goes some time after it
		var left []string
		for _, o := range m.names(t) {
			name := o[strings.LastIndex(o, "/")+1:]
			own := slices.Contains([]string{"sluice-secrets", "sluice-redis", "sluice-redis-tls", apps}, name) // made by the test, or named like it by Kubernetes
			if !own && !strings.Contains(out, name) && slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(name, mark) }) {
				left = append(left, o)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left, and uninstall did not say so: %q", left)
		}
		return nil
	})
}

// marks are in the names of all that the profile lays down.
var marks = []string{"istio", "sluice", "voicecore", "kiali", "jaeger", "prometheus", "grafana"}
