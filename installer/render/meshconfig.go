package render

import (
	"encoding/json"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// meshConfig is the configuration of the whole mesh, for istiod's chart to add to.
//
// There is no access-log file: the Telemetry decides what is logged, and where.
func meshConfig(v *profile.Values) (map[string]any, error) {
	config := &mesh.MeshConfig{
		TrustDomain:   v.Istio.TrustDomain,
		RootNamespace: v.Istio.Namespace,
		// A path has one spelling before a policy compares it, here as at Sluice.
		PathNormalization: &mesh.MeshConfig_ProxyPathNormalization{Normalization: mesh.MeshConfig_ProxyPathNormalization_MERGE_SLASHES},
		DefaultConfig: &mesh.ProxyConfig{
			// Read when a pod is injected: a change needs the pods restarted.
			ProxyMetadata: map[string]string{
				"SECRET_TTL":                life(v),
				"SECRET_GRACE_PERIOD_RATIO": strconv.FormatFloat(v.Mesh.Certificates.RenewAt, 'f', -1, 64),
			},
			ProxyStatsMatcher: &mesh.ProxyConfig_ProxyStatsMatcher{InclusionRegexps: keptStats},
		},
		ExtensionProviders: wiring.ExtensionProviders(v),
	}
	text, err := protojson.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("mesh configuration: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("mesh configuration: %w", err)
	}
	// REGISTRY_ONLY is the enum's zero, which protobuf leaves out, and istiod's own default is ALLOW_ANY: write it out.
	tree["outboundTrafficPolicy"] = map[string]any{"mode": mesh.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY.String()}
	return tree, nil
}

// keptStats are the counters that a proxy keeps beyond Istio's own few: without
// them, a filter that acts and a circuit breaker that opens look dead.
var keptStats = []string{
	`.*\.(ext_authz|ext_proc|ratelimit|http_local_rate_limiter)\..*`,
	`cluster\..*\.(upstream_rq_pending_overflow|upstream_cx_overflow|upstream_rq_retry.*|upstream_rq_timeout)`,
	`cluster\..*\.(outlier_detection\..*|circuit_breakers\..*)`,
}

// life is how long a workload's certificate is asked for.
func life(v *profile.Values) string { return v.Mesh.Certificates.Lifetime.Duration.String() }
