package wiring

import (
	"google.golang.org/protobuf/types/known/durationpb"
	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// The names of istiod's extension providers. There is none for Sluice's access
// log: istiod's has no field for the buffer, a MERGE only appends to the list of
// access logs, and a Telemetry would log each proxy's outbound side as well, Sluice's
// own included. The EnvoyFilter of the place carries the whole of it.
const (
	AuthzProvider   = "sluice-ext-authz"
	TracingProvider = "otel-tracing"
)

// ExtensionProviders is what istiod's meshConfig needs to know of Sluice and of the
// collector of traces. A provider whose Service is missing makes istiod deny
// everything, so Sluice comes before the policies that name it.
func ExtensionProviders(v *profile.Values) []*meshconfig.MeshConfig_ExtensionProvider {
	var out []*meshconfig.MeshConfig_ExtensionProvider
	if d := v.Sluice.Doors.ExtAuthz; d.Enabled {
		authz := &meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider{
			Service: host(v),
			Port:    Port,
			// Unset, it would be ten minutes.
			Timeout: durationpb.New(d.Timeout.Duration),
			// No answer is no admission, and the caller learns that it is not their fault.
			FailOpen:      false,
			StatusOnError: "503",
		}
		if d.BodyBytes > 0 {
			authz.IncludeRequestBodyInCheck = &meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody{
				MaxRequestBytes: d.BodyBytes,
				// A part of a body is not what a rule was asked about: 413 instead.
				AllowPartialMessage: false,
				PackAsBytes:         true,
			}
		}
		out = append(out, &meshconfig.MeshConfig_ExtensionProvider{
			Name:     AuthzProvider,
			Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc{EnvoyExtAuthzGrpc: authz},
		})
	}
	if t := v.Mesh.Tracing; t.Enabled {
		out = append(out, &meshconfig.MeshConfig_ExtensionProvider{
			Name: TracingProvider,
			Provider: &meshconfig.MeshConfig_ExtensionProvider_Opentelemetry{
				Opentelemetry: &meshconfig.MeshConfig_ExtensionProvider_OpenTelemetryTracingProvider{
					Service:                    t.Service,
					Port:                       uint32(t.Port), //nolint:gosec // a port
					ServiceAttributeEnrichment: meshconfig.MeshConfig_ExtensionProvider_OTEL_SEMANTIC_CONVENTIONS,
				},
			},
		})
	}
	return out
}
