package render

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestAnalyzeRunsOnAScheduleAndOnlyReads(t *testing.T) {
	v := values(t, "voicecore", "addons.analyze.enabled=true", "addons.analyze.image=registry.example/sluice:1.2.3", "images.registry=mirror.example", "images.pullSecret=pull")
	objects, err := analyze(v)
	if err != nil || len(objects) != 6 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	roles := 0
	for _, o := range objects {
		rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
		for _, r := range rules {
			roles++
			if why := tooMuch(o.GetKind() == "ClusterRole", r.(map[string]any)); why != "" {
				t.Errorf("%s: %s: %v", o.GetKind(), why, r)
			}
		}
		if o.GetKind() != "CronJob" {
			continue
		}
		schedule, _, _ := unstructured.NestedString(o.Object, "spec", "schedule")
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "jobTemplate", "spec", "template", "spec", "containers")
		secrets, _, _ := unstructured.NestedSlice(o.Object, "spec", "jobTemplate", "spec", "template", "spec", "imagePullSecrets")
		if schedule != "17 4 * * *" || len(containers) != 1 || containers[0].(map[string]any)["image"] != "mirror.example/sluice:1.2.3" || len(secrets) != 1 {
			t.Errorf("%v", o.Object)
		}
	}
	if roles != 5 {
		t.Errorf("%d rules", roles)
	}
	for _, c := range all(t, values(t, "voicecore")) {
		if strings.Contains(c.Name, "analyze") {
			t.Error("it is there without being asked for")
		}
	}
}
