package wiring

import (
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// extAuthz adds to the filter that istiod makes of a CUSTOM policy what its provider has no field for.
func extAuthz(_ *profile.Values, p place) ([]patch, error) {
	if !p.authz {
		return nil, nil
	}
	return one(mergeFilter(authzFilter, &authzv3.ExtAuthz{
		StatPrefix: "sluice",
		// Each header as it came, bytes that are not UTF-8 and repeated ones too.
		EncodeRawHeaders:  true,
		ValidateMutations: true,
	}))
}
