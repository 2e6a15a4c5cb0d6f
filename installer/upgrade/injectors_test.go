package upgrade

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/render"
)

// TestNoTwoInjectorsAnswerForOnePod holds the webhooks of two control planes against every
// combination of labels by which namespaces and pods choose.
func TestNoTwoInjectorsAnswerForOnePod(t *testing.T) {
	for from, to := range map[string]string{"": "1-31-5", "1-31-4": "1-31-5"} {
		a := between(t, "1.31.4", "1.31.5")
		a.From.Values.Istio.Revision, a.To.Values.Istio.Revision = from, to
		var hooks []admissionv1.MutatingWebhook
		names := map[string]bool{}
		for _, m := range []*cluster.Mesh{a.From, a.To} {
			components, err := render.All(m.Values)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range components {
				for _, u := range r.Objects {
					if u.GetKind() != "MutatingWebhookConfiguration" {
						continue
					}
					if names[u.GetName()] {
						t.Errorf("both control planes have %s", u.GetName())
					}
					names[u.GetName()] = true
					var c admissionv1.MutatingWebhookConfiguration
					if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &c); err != nil {
						t.Fatal(err)
					}
					hooks = append(hooks, c.Webhooks...)
				}
			}
		}
		answered := 0
		for _, space := range choices("istio-injection", []string{"", "enabled"}, []string{"", from, to}) {
			for _, pod := range choices("sidecar.istio.io/inject", []string{"", "true", "false"}, []string{"", from, to}) {
				n := 0
				for i := range hooks {
					if matches(t, hooks[i].NamespaceSelector, space) && matches(t, hooks[i].ObjectSelector, pod) {
						n++
					}
				}
				if n > 1 {
					t.Errorf("from %q to %q: a pod %v in a namespace %v is injected %d times", from, to, pod, space, n)
				}
				answered += n
			}
		}
		if answered < 8 {
			t.Errorf("from %q to %q: %d combinations are injected, want more", from, to, answered)
		}
	}
}

// choices are all combinations of a label and a revision; empty is without.
func choices(label string, values, revisions []string) (out []labels.Set) {
	for _, v := range values {
		for _, r := range revisions {
			set := labels.Set{}
			if v != "" {
				set[label] = v
			}
			if r != "" {
				set["istio.io/rev"] = r
			}
			out = append(out, set)
		}
	}
	return out
}

func matches(t *testing.T, s *metav1.LabelSelector, set labels.Set) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(set)
}
