package render

import (
	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/telemetry/v1alpha1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// telemetryDefaults is the one Telemetry of the root namespace: Istio reads
// only the oldest that selects nothing, so tracing and access logs share it.
func telemetryDefaults(v *profile.Values) (Objects, error) {
	out := &telemetry.Telemetry{ObjectMeta: meta(v.Istio.Namespace, "mesh-default")}
	if t := v.Mesh.Tracing; t.Enabled {
		out.Spec.Tracing = []*api.Tracing{{
			Providers:                []*api.ProviderRef{{Name: wiring.TracingProvider}},
			RandomSamplingPercentage: wrapperspb.Double(t.SamplePercent),
		}}
	}
	if v.Mesh.AccessLog {
		// Built into Istio: text on the proxy's standard output. Sluice's door is wired beside it.
		out.Spec.AccessLogging = []*api.AccessLogging{{Providers: []*api.ProviderRef{{Name: "envoy"}}}}
	}
	if len(out.Spec.Tracing)+len(out.Spec.AccessLogging) == 0 {
		return nil, nil
	}
	return objects(telemetryResource(out))
}
