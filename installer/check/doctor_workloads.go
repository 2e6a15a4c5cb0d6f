package check

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
)

var workloadChecks = []Check{
	{Code: "SD331", Title: "no disruption budget keeps nodes from being drained", Severity: Fail, run: budgets},
	{Code: "SD332", Title: "every autoscaler can scale", Severity: Warn, run: autoscalers},
	{Code: "SD333", Title: "proxies and istiod are of versions that go together", Severity: Fail, run: skew},
	{Code: "SD334", Title: "proxies are of a version that is patched", Severity: Warn, run: patchedProxies},
}

// budgets finds those that allow no disruption although all their pods are well: they never will.
func budgets(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := into[policy.PodDisruptionBudget](ctx, m, "policy", "v1", "PodDisruptionBudget")
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, b := range all {
		s := b.Status
		if !m.own(b.Namespace) || s.ExpectedPods == 0 || s.ObservedGeneration < b.Generation || s.DisruptionsAllowed > 0 || s.CurrentHealthy < s.ExpectedPods {
			continue
		}
		out = append(out, Finding{
			Object: name2("PodDisruptionBudget", b.Namespace, b.Name), Says: "it never allows a pod to be moved: a node under it can't be drained, nor upgraded",
			Evidence: fmt.Sprintf("%d pods, all healthy, %d wanted, 0 disruptions allowed", s.ExpectedPods, s.DesiredHealthy),
			Fix:      "one replica more, or a budget of one less",
		})
	}
	return out, nil
}

func autoscalers(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := into[autoscaling.HorizontalPodAutoscaler](ctx, m, "autoscaling", "v2", "HorizontalPodAutoscaler")
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, h := range all {
		if !m.own(h.Namespace) {
			continue
		}
		for _, c := range h.Status.Conditions {
			says, fix := "", ""
			switch {
			case c.Type == autoscaling.ScalingActive && c.Status == corev1.ConditionFalse && c.Reason != "ScalingDisabled":
				says, fix = "it can't tell how many replicas are needed, and adds none", "see that metrics-server runs (kubectl top pods)"
			case c.Type == autoscaling.AbleToScale && c.Status == corev1.ConditionFalse:
				says, fix = "it can't change the number of replicas", "see that what it scales is there"
			case c.Type == autoscaling.ScalingLimited && c.Status == corev1.ConditionTrue && c.Reason == "TooManyReplicas":
				says, fix = "it is at its maximum and would add more", "raise max in the values"
			default:
				continue
			}
			out = append(out, Finding{Object: name2("HorizontalPodAutoscaler", h.Namespace, h.Name), Says: says, Evidence: fmt.Sprintf("%s is %s: %s, %s", c.Type, c.Status, c.Reason, c.Message), Fix: fix})
		}
	}
	return out, nil
}

// Istiods are the versions of the control planes in the mesh's root namespace by their revisions, of which the
// default one is empty. They are more than one while an upgrade is under way.
func Istiods(ctx context.Context, m *Mesh) (map[string]string, error) {
	out := map[string]string{}
	deployments, err := into[appsv1.Deployment](ctx, m, "apps", "v1", "Deployment")
	for _, d := range deployments {
		if d.Labels["app"] == "istiod" && d.Namespace == m.values.Istio.Namespace && len(d.Spec.Template.Spec.Containers) > 0 {
			out[revision(d.Labels["istio.io/rev"])] = tag(d.Spec.Template.Spec.Containers[0].Image)
		}
	}
	return out, err
}

// skew compares minor versions: istiod may be one ahead of a proxy, never behind it
// (https://istio.io/latest/docs/releases/supported-releases/#control-planedata-plane-skew).
func skew(ctx context.Context, m *Mesh) ([]Finding, error) {
	istiods, err := Istiods(ctx, m)
	if err != nil {
		return nil, err
	}
	proxies, err := m.readable(ctx)
	if err != nil {
		return nil, err
	}
	controls := map[string]semver{} // by revision
	for r, version := range istiods {
		if v, ok := parseVersion(version); ok {
			controls[r] = v
		}
	}
	var out []Finding
	for _, p := range proxies {
		v, ok := parseVersion(p.istio)
		c, also := controls[revision(p.pod.Labels["istio.io/rev"])]
		if !ok || !also || v.major == c.major && v.minor == c.minor {
			continue
		}
		f := Finding{
			Object: p.String(), Evidence: fmt.Sprintf("proxy %s, istiod %s", p.istio, c),
			Fix: fmt.Sprintf("kubectl delete pod -n %s %s makes one with istiod's version", p.pod.Namespace, p.pod.Name),
		}
		switch behind := (c.major-v.major)*1000 + c.minor - v.minor; {
		case behind == 1:
			f.Severity, f.Says = Warn, "its proxy is one version behind istiod: it works, and should be restarted"
		case behind > 1:
			f.Says = "its proxy is more than one version behind istiod, which nobody tests"
		default:
			f.Says, f.Fix = "its proxy is newer than istiod, which does not know what it can do", "upgrade istiod first: sluice mesh upgrade"
		}
		out = append(out, f)
	}
	return out, nil
}

// tag is the version in an image's name.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	_, version, _ := strings.Cut(image, ":")
	return version
}

func revision(label string) string {
	if label == "default" {
		return ""
	}
	return label
}

func patchedProxies(ctx context.Context, m *Mesh) ([]Finding, error) {
	proxies, err := m.readable(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	said := map[string]int{} // where in out
	pods := map[string]int{}
	for _, p := range proxies {
		for _, v := range []struct {
			of, version string
			table       []release
		}{{"Istio", p.istio, istioReleases}, {"Envoy", p.envoy, envoyReleases}} {
			// Istio builds Envoy from commits: its mends are Istio's, and the number is the next one, with -dev.
			if _, ok := parseVersion(v.version); !ok || v.of == "Envoy" && strings.HasSuffix(v.version, "-dev") {
				continue
			}
			f, bad := unpatched(v.version, v.table)
			if !bad {
				continue
			}
			key := v.of + " " + v.version
			if pods[key]++; pods[key] > 1 {
				out[said[key]].Object = fmt.Sprintf("%s and %d more", first(out[said[key]].Object), pods[key]-1)
				continue
			}
			f.Severity, f.Object, f.Says = Warn, p.String(), v.of+" "+f.Says
			f.Fix = "upgrade to " + f.Fix + ", and restart the pods"
			said[key] = len(out)
			out = append(out, f)
		}
	}
	return out, nil
}

// first is the first of "x and n more".
func first(s string) string {
	s, _, _ = strings.Cut(s, " and ")
	return s
}
