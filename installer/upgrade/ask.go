package upgrade

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/lint"
)

// supported are the minor versions of Kubernetes 1 that a minor version of Istio 1 supports
// (https://github.com/istio/istio.io/blob/master/data/compatibility/supportStatus.yml).
var supported = map[int][2]int{
	26: {29, 33}, 27: {29, 33}, 28: {30, 34}, 29: {31, 35}, 30: {32, 36}, 31: {32, 36}, 32: {32, 36},
}

// builtIn is the minor version of Istio 1 whose charts are built in.
const builtIn = 31

// minor is 31 for "1.31.4" and "1.31".
func minor(version string) (int, error) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(version, "v"), "1.")
	digits, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(strings.TrimRight(digits, "+"))
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not a version of the form 1.31.4", version)
	}
	return n, nil
}

func worstFirst(found []check.Finding) []check.Finding {
	rank := map[check.Severity]int{check.Fail: 0, check.Warn: 1, check.Info: 2}
	slices.SortStableFunc(found, func(a, b check.Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), strings.Compare(a.Object, b.Object))
	})
	return found
}

// idle wants that no upgrade and no installation is under way.
func idle(_ context.Context, a *asked) ([]check.Finding, error) {
	s := a.status
	switch {
	case s.To != nil && (s.To.Revision != a.To.Values.Istio.Revision || s.To.Version != a.To.Values.Istio.Version):
		return []check.Finding{{
			Object: "the mesh", Says: fmt.Sprintf("an upgrade to %s is under way", s.To), Fix: "sluice mesh upgrade finish, or sluice mesh upgrade rollback --remove",
		}}, nil
	case s.To == nil && s.Unfinished != "":
		return []check.Finding{{Object: "the mesh", Says: s.Unfinished, Fix: "sluice mesh install, with the values of the mesh"}}, nil
	}
	return nil, nil
}

// skew: Istio tests upgrades by revision across two minor versions, and no proxy that is newer than its istiod.
func skew(_ context.Context, a *asked) ([]check.Finding, error) {
	was, will := a.From.Values.Istio.Version, a.To.Values.Istio.Version
	from, err := minor(was)
	if err != nil {
		return nil, err
	}
	to, err := minor(will)
	if err != nil {
		return nil, err
	}
	f := check.Finding{Object: "Istio " + was}
	switch {
	case to < from:
		f.Says, f.Fix = will+" is older: what is stored with newer fields would be read by an istiod that does not know them", "choose "+was+" or a newer one"
	case to > from+2:
		f.Says, f.Fix = fmt.Sprintf("%s is %d minor versions ahead, and Istio tests two at most", will, to-from), fmt.Sprintf("upgrade to 1.%d first", from+2)
	case will == was:
		f.Severity, f.Says = check.Info, "it is the same version; the upgrade moves to another revision of it"
	default:
		return nil, nil
	}
	return []check.Finding{f}, nil
}

func patched(_ context.Context, a *asked) ([]check.Finding, error) {
	found := check.IstioMends(a.To.Values.Istio.Version)
	for i := range found {
		found[i].Fix = strings.Replace(found[i].Fix, "--set istio.version=", "--to ", 1)
	}
	return found, nil
}

func kubernetes(_ context.Context, a *asked) ([]check.Finding, error) {
	return kubernetesFor(a.To.Values.Istio.Version, a.Cluster.Server)
}

func kubernetesFor(istio, server string) ([]check.Finding, error) {
	to, err := minor(istio)
	if err != nil {
		return nil, err
	}
	here, err := minor(server)
	if err != nil {
		return nil, err
	}
	f := check.Finding{Object: "the API server", Evidence: server}
	span, known := supported[to]
	switch {
	case !known:
		f.Severity, f.Says, f.Fix = check.Warn, fmt.Sprintf("which Kubernetes Istio 1.%d supports is not known here", to), "see https://istio.io/latest/docs/releases/supported-releases/"
	case here < span[0]:
		f.Says, f.Fix = fmt.Sprintf("Istio 1.%d needs Kubernetes 1.%d at least", to, span[0]), "upgrade the cluster first"
	case here > span[1]:
		f.Severity, f.Says = check.Warn, fmt.Sprintf("it is newer than 1.%d, the newest that Istio 1.%d was tested with", span[1], to)
		f.Fix = "choose a newer Istio, or try it elsewhere first"
	default:
		return nil, nil
	}
	return []check.Finding{f}, nil
}

// charts wants those of the version whose images they run: a flag that the other does not know ends a control plane.
func charts(_ context.Context, a *asked) ([]check.Finding, error) {
	v := a.To.Values.Istio
	to, err := minor(v.Version)
	if err != nil {
		return nil, err
	}
	of, where := builtIn, "the charts that are built in"
	if v.Charts != "" {
		where = v.Charts
		text, err := os.ReadFile(filepath.Join(v.Charts, "charts", "istio-control", "istio-discovery", "Chart.yaml"))
		if err != nil {
			return nil, err
		}
		var c struct {
			AppVersion string `json:"appVersion"`
		}
		if err := yaml.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("reading istio-discovery/Chart.yaml in %s: %w", v.Charts, err)
		}
		if of, err = minor(c.AppVersion); err != nil || of < 10 { // Istio's source has a placeholder
			return []check.Finding{{Severity: check.Warn, Object: where, Says: "of which version they are can't be read", Evidence: "appVersion " + strconv.Quote(c.AppVersion)}}, nil
		}
	}
	if of == to {
		return nil, nil
	}
	return []check.Finding{{
		Object: where, Says: fmt.Sprintf("they are of Istio 1.%d, and images of %s may not know what they ask for", of, v.Version),
		Fix: fmt.Sprintf("--charts with the folder manifests of Istio %s, or a sluice that has them", v.Version),
	}}, nil
}

// linted asks installer/lint about the mesh as it would be.
func linted(_ context.Context, a *asked) ([]check.Finding, error) {
	var out []check.Finding
	severities := map[lint.Severity]check.Severity{lint.Error: check.Fail, lint.Warning: check.Warn, lint.Waived: check.Info}
	for _, p := range lint.Objects(a.objects(), lint.Options{RootNamespace: a.To.Values.Istio.Namespace, Complete: true}) {
		if p.Severity == lint.Waived {
			continue
		}
		out = append(out, check.Finding{Code: p.Code, Severity: severities[p.Severity], Object: p.Object, Says: p.Says, Evidence: p.Field, Fix: p.Fix, Doc: p.Doc})
	}
	return out, nil
}

func oneLabel(ctx context.Context, a *asked) ([]check.Finding, error) {
	all, err := list(ctx, a, &a.spaces, &corev1.NamespaceList{}, a.spaces != nil)
	if err != nil {
		return nil, err
	}
	var out []check.Finding
	for i := range all.Items {
		n := &all.Items[i]
		injection, rev := n.Labels["istio-injection"], n.Labels["istio.io/rev"]
		if injection != "" && rev != "" {
			out = append(out, check.Finding{
				Object: "Namespace " + n.Name, Says: "it has the labels of two control planes, and the first wins", Evidence: fmt.Sprintf("istio-injection=%s, istio.io/rev=%s", injection, rev),
				Fix: fmt.Sprintf("kubectl label namespace %s istio.io/rev-", n.Name),
			})
		}
	}
	return out, nil
}

// drains looks for workloads that stop serving before the other proxies have heard of it, or that nobody replaces meanwhile.
func drains(ctx context.Context, a *asked) ([]check.Finding, error) {
	deployments, err := list(ctx, a, &a.deployments, &appsv1.DeploymentList{}, a.deployments != nil)
	if err != nil {
		return nil, err
	}
	sets, err := list(ctx, a, &a.sets, &appsv1.StatefulSetList{}, a.sets != nil)
	if err != nil {
		return nil, err
	}
	var out []check.Finding
	for i := range deployments.Items {
		d := &deployments.Items[i]
		if !a.injected[d.Namespace] || d.Labels["app"] == "istiod" {
			continue
		}
		name := "Deployment " + d.Namespace + "/" + d.Name
		if d.Spec.Paused {
			out = append(out, check.Finding{Severity: check.Fail, Object: name, Says: "it is paused, so a restart would not happen", Fix: "kubectl rollout resume -n " + d.Namespace + " deployment/" + d.Name})
		}
		if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			out = append(out, check.Finding{Object: name, Says: "its strategy is Recreate: nobody serves while it restarts", Fix: "use RollingUpdate, if two of it may run at once"})
		}
		out = append(out, stops(name, &d.Spec.Template)...)
	}
	for i := range sets.Items {
		s := &sets.Items[i]
		if !a.injected[s.Namespace] {
			continue
		}
		name := "StatefulSet " + s.Namespace + "/" + s.Name
		switch {
		case s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType:
			out = append(out, check.Finding{Severity: check.Fail, Object: name, Says: "its update strategy is OnDelete, so a restart replaces no Pod", Fix: "use RollingUpdate, or delete its Pods yourself during promote"})
		case s.Spec.Replicas == nil || *s.Spec.Replicas == 1:
			out = append(out, check.Finding{Object: name, Says: "it has one Pod, and nobody serves while that restarts", Fix: "more replicas, or a time at which that may be"})
		}
		out = append(out, stops(name, &s.Spec.Template)...)
	}
	return out, nil
}

// stops says that a container of a pod is asked before it answers, or stops answering before nobody asks.
func stops(name string, t *corev1.PodTemplateSpec) (out []check.Finding) {
	if strings.Contains(t.Annotations["inject.istio.io/templates"], "gateway") {
		return nil // Istio's agent does both by itself
	}
	for i := range t.Spec.Containers {
		c := &t.Spec.Containers[i]
		if c.Name == "istio-proxy" || len(c.Ports) == 0 {
			continue
		}
		if c.ReadinessProbe == nil {
			out = append(out, check.Finding{
				Object: name, Says: fmt.Sprintf("container %s has no readinessProbe, so it is sent requests before it listens", c.Name),
				Fix: "a readinessProbe that answers when the container does",
			})
		}
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
			out = append(out, check.Finding{
				Object: name, Says: fmt.Sprintf("container %s has no preStop hook, so it may stop before the other proxies have heard that it goes", c.Name),
				Fix: "lifecycle: {preStop: {sleep: {seconds: 5}}}, unless it goes on serving for some seconds after SIGTERM",
			})
		}
	}
	return out
}

// restartable looks for proxies that promote can't move.
func restartable(ctx context.Context, a *asked) ([]check.Finding, error) {
	pods, err := list(ctx, a, &a.pods, &corev1.PodList{}, a.pods != nil)
	if err != nil {
		return nil, err
	}
	var out []check.Finding
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Annotations["sidecar.istio.io/status"] == "" || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		owner := metav1.GetControllerOf(p)
		if owner != nil && slices.Contains([]string{"ReplicaSet", "StatefulSet", "DaemonSet"}, owner.Kind) {
			continue
		}
		f := check.Finding{Object: "Pod " + p.Namespace + "/" + p.Name, Says: "no workload restarts it, so it stays on the old control plane and keeps it from going", Fix: "delete it and make it again after promote"}
		if owner != nil {
			f.Says = fmt.Sprintf("it is of %s %s, which promote doesn't restart; it keeps the old control plane from going until it ends", owner.Kind, owner.Name)
			f.Fix = "wait for it, or restart it after promote"
		}
		out = append(out, f)
	}
	return out, nil
}

// objects are all that the mesh would have.
func (a *asked) objects() []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, r := range a.To.Components {
		out = append(out, r.Objects...)
	}
	return out
}
