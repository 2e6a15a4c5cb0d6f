package wiring

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// rateLimit asks about the profile's descriptors. They stand in the filter itself, not in
// routes, whose names differ from proxy to proxy.
func rateLimit(v *profile.Values, p place) ([]patch, error) {
	if !p.rateLimit {
		return nil, nil
	}
	d := v.Sluice.Doors.RateLimit
	f := &ratelimitv3.RateLimit{
		Domain:     d.Domain,
		StatPrefix: "sluice",
		Timeout:    durationpb.New(d.Timeout.Duration),
		// Envoy's default lets requests pass when nobody answers.
		FailureModeDeny: true,
		StatusOnError:   &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		// Envoy's default for gRPC callers is UNAVAILABLE, which Istio's retries repeat.
		RateLimitedAsResourceExhausted: true,
		EnableXRatelimitHeaders:        ratelimitv3.RateLimit_DRAFT_VERSION_03,
		RateLimitService: &ratelimitconfigv3.RateLimitServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService:         sluice(v),
		},
	}
	for _, descriptor := range d.Descriptors {
		limit := &routev3.RateLimit{}
		for _, entry := range descriptor {
			action, err := describe(entry)
			if err != nil {
				return nil, err
			}
			limit.Actions = append(limit.Actions, action)
		}
		f.RateLimits = append(f.RateLimits, limit)
	}
	return one(insertUnless(v.Sluice.ExcludedPaths, rateLimitFilter, f))
}

// describe is one entry of a descriptor.
func describe(e profile.Entry) (*routev3.RateLimit_Action, error) {
	header := func(name string) *routev3.RateLimit_Action {
		return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
			RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: name, DescriptorKey: e.Key},
		}}
	}
	switch {
	case e.Header != "":
		return header(e.Header), nil
	case e.Method:
		return header(":method"), nil
	case e.Path:
		// Without the query: with it, every request could be its own descriptor.
		config, err := anypb.New(&exprv3.Descriptor{DescriptorKey: e.Key, ExprSpecifier: &exprv3.Descriptor_Text{Text: "request.url_path"}})
		return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{
			Extension: &corev3.TypedExtensionConfig{Name: "envoy.rate_limit_descriptors.expr", TypedConfig: config},
		}}, err
	default:
		return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
			GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: e.Key, DescriptorValue: e.Value},
		}}, nil
	}
}

// localLimit bounds what each pod of a service takes, without a call: n pods take n times as much.
func localLimit(_ *profile.Values, p place) ([]patch, error) {
	if p.service == nil || p.service.LocalLimit == nil {
		return nil, nil
	}
	// Both default to 0 %, a filter that does nothing.
	all := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	interval := p.service.LocalLimit.Interval.Duration
	if interval == 0 {
		interval = time.Second
	}
	return one(insert(localFilter, &localv3.LocalRateLimit{
		StatPrefix: "http_local_rate_limiter",
		TokenBucket: &typev3.TokenBucket{
			MaxTokens: p.service.LocalLimit.Tokens, TokensPerFill: wrapperspb.UInt32(p.service.LocalLimit.Tokens),
			FillInterval: durationpb.New(interval),
		},
		FilterEnabled: all, FilterEnforced: all,
		RateLimitedAsResourceExhausted: true,
	}))
}
