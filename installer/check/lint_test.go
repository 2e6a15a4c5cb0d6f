package check

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// TestTheScheduledAnalysisMayReadWhatIsLinted: else it would fail in the cluster, or be allowed more than it needs.
func TestTheScheduledAnalysisMayReadWhatIsLinted(t *testing.T) {
	v, err := profile.Load(profile.Options{Profile: "minimal", Sets: []string{"addons.analyze.enabled=true", "addons.analyze.image=x:1"}})
	if err != nil {
		t.Fatal(err)
	}
	components, err := render.All(v)
	if err != nil {
		t.Fatal(err)
	}
	var allowed, wanted []string
	for _, c := range components {
		if c.Name != "analyze" {
			continue
		}
		for _, o := range c.Objects {
			rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
			for _, r := range rules {
				rule := r.(map[string]any)
				for _, resource := range rule["resources"].([]any) {
					allowed = append(allowed, rule["apiGroups"].([]any)[0].(string)+"/"+resource.(string))
				}
			}
		}
	}
	for _, k := range linted {
		guess, _ := meta.UnsafeGuessKindToResource(k)
		wanted = append(wanted, k.Group+"/"+guess.Resource)
	}
	slices.Sort(allowed)
	slices.Sort(wanted)
	if len(wanted) < 10 || !slices.Equal(allowed, wanted) {
		t.Errorf("it may read\n%v\nand is to read\n%v", allowed, wanted)
	}
}
