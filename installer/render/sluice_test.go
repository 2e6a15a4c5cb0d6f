package render

import (
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

func settings(t *testing.T, v *profile.Values) string {
	t.Helper()
	return field(t, find(t, component(t, v, "sluice"), "ConfigMap", wiring.Service), "data", "sluiced.yaml").(string)
}

func TestSluiceAnswersThoseWhoAskAndNobodyElse(t *testing.T) {
	v := values(t, "voicecore", "istio.trustDomain=td.example", "sluice.doors.extAuthz.inner=false", "sluice.doors.accessLog=false")
	got := settings(t, v)
	const gateway = "- spiffe://td.example/ns/istio-system/sa/istio-ingressgateway\n"
	if strings.Count(got, "spiffe://") != 2 || !strings.Contains(got, "edge-peers:\n"+gateway) || !strings.Contains(got, "\npeers:\n"+gateway) {
		t.Errorf("only the gateway asks:\n%s", got)
	}
	if all := settings(t, values(t, "voicecore")); strings.Count(all, "/ns/voicecore-ai/sa/") != 8 || strings.Count(all, "/sa/istio-ingressgateway") != 2 {
		t.Errorf("all sidecars ask, and requests begin at the gateway alone:\n%s", all)
	}
}

func TestTheStageOfTheMeshIsThatOfSluice(t *testing.T) {
	for _, stage := range []string{"soft", "enforced"} {
		if got := settings(t, values(t, "voicecore", "mesh.stage="+stage)); !strings.Contains(got, "\nstage: "+stage+"\n") {
			t.Errorf("mesh.stage %s:\n%s", stage, got)
		}
	}
}

func TestThereIsNoSluiceWhereNobodyAsks(t *testing.T) {
	if objects := component(t, values(t, "minimal"), "sluice"); len(objects) > 0 {
		t.Errorf("%d objects", len(objects))
	}
}

func TestSluiceIsReadyBeforeProxiesAskIt(t *testing.T) {
	at := func(name string) int {
		return slices.IndexFunc(components, func(c Component) bool { return c.Name == name })
	}
	if s := at("sluice"); s < at("istiod") || s < at("webhooks") || s > at("filters") || at("filters") != len(components)-1 || !components[s].Ready {
		t.Errorf("components %d to %d of %d", at("sluice"), at("filters"), len(components))
	}
}

func TestValuesOfTheChartLieOverWhatTheMeshKnows(t *testing.T) {
	v := values(t, "voicecore", "sluice.values.image.tag=1.2.3", "images.registry=mirror.example.com/x", "images.pullSecret=pull", "istio.revision=1-31-4", "sluice.values.settings.log-level=debug")
	pod := field(t, find(t, component(t, v, "sluice"), "StatefulSet", wiring.Service), "spec", "template")
	text := string(text(t, component(t, v, "sluice")))
	for _, want := range []string{
		"image: mirror.example.com/x/voicecore-ai/sluiced:1.2.3\n", "- name: pull\n", "istio.io/rev: 1-31-4\n", "log-level: debug\n",
		"otlp-endpoint: jaeger.istio-system.svc.cluster.local:4317\n    otlp-plaintext: true\n", "prometheus.io/port: \"9092\"\n", "app: sluice\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %v", want, pod)
		}
	}
	if again := string(textOf(t, v)); again != text {
		t.Error("rendering has changed the values")
	}
	own := string(textOf(t, values(t, "voicecore", "sluice.values.settings.otlp-endpoint=https://collector.example:4317")))
	if !strings.Contains(own, "otlp-endpoint: https://collector.example:4317\n") || strings.Contains(own, "otlp-plaintext") {
		t.Errorf("a collector of one's own by TLS:\n%s", own)
	}
	alone := values(t, "voicecore")
	alone.Sluice.Values["replicas"] = 2 // which Load refuses before
	if _, err := All(alone); err == nil || !strings.Contains(err.Error(), "replicas") {
		t.Errorf("two sluiced, each with counters of its own: %v", err)
	}
	if _, err := All(values(t, "voicecore", "sluice.values.replcas=1")); err == nil || !strings.Contains(err.Error(), "replcas") {
		t.Errorf("a value that the chart does not know: %v", err)
	}
}

func textOf(t *testing.T, v *profile.Values) []byte { return text(t, component(t, v, "sluice")) }
