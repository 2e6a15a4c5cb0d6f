package wiring

import (
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	inputv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/tenant"
)

// extProc asks in the stead of ext_authz where streams are to be ended while they
// run (docs/guide/streams.md). It sees headers and the end, never a body.
func extProc(v *profile.Values, p place) ([]patch, error) {
	if !p.extProc {
		return nil, nil
	}
	return one(insertUnless(v.Sluice.ExcludedPaths, procFilter, &procv3.ExternalProcessor{
		StatPrefix:       "sluice",
		GrpcService:      sluice(v),
		MessageTimeout:   durationpb.New(v.Sluice.Doors.ExtProc.Timeout.Duration),
		FailureModeAllow: false,
		StatusOnError:    &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		ProcessingMode: &procv3.ProcessingMode{
			RequestHeaderMode:   procv3.ProcessingMode_SEND,
			ResponseHeaderMode:  procv3.ProcessingMode_SEND,
			RequestBodyMode:     procv3.ProcessingMode_NONE,
			ResponseBodyMode:    procv3.ProcessingMode_NONE,
			RequestTrailerMode:  procv3.ProcessingMode_SKIP,
			ResponseTrailerMode: procv3.ProcessingMode_SEND, // keeps the stream to Sluice until the end
		},
		// An answer that changes what it may not (the host, x-envoy-*) is an error, not half applied.
		MutationRules: &mutationv3.HeaderMutationRules{DisallowIsError: wrapperspb.Bool(true)},
		// The route was chosen before Sluice was asked, and stays.
		RouteCacheAction: procv3.ExternalProcessor_RETAIN,
		// Never ask for xds.node: 80 KB on each request.
		RequestAttributes: []string{"source.principal", "source.address", "connection.uri_san_local_certificate"},
		// Without this Envoy drops the metadata by which the access log finds the decision.
		MetadataOptions: &procv3.MetadataOptions{
			ReceivingNamespaces: &procv3.MetadataOptions_MetadataNamespaces{Untyped: []string{tenant.MetadataNamespace}},
		},
	}))
}

// insertUnless is insert, with the filter left out for requests to the excluded
// paths, as the CUSTOM policy leaves out ext_authz.
func insertUnless(excluded []string, name string, config proto.Message) (patch, error) {
	if len(excluded) == 0 {
		return insert(name, config)
	}
	inner, err := anypb.New(config)
	if err != nil {
		return patch{}, err
	}
	input, err := anypb.New(&inputv3.HttpRequestHeaderMatchInput{HeaderName: ":path"})
	if err != nil {
		return patch{}, err
	}
	skip, err := anypb.New(&skipv3.SkipFilter{})
	if err != nil {
		return patch{}, err
	}
	var predicates []*matcherv3.Matcher_MatcherList_Predicate
	for _, m := range pathMatchers(excluded) {
		predicates = append(predicates, &matcherv3.Matcher_MatcherList_Predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
				Input:   &xdscorev3.TypedExtensionConfig{Name: "path", TypedConfig: input},
				Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: m},
			},
		}})
	}
	predicate := predicates[0]
	if len(predicates) > 1 {
		predicate = &matcherv3.Matcher_MatcherList_Predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_OrMatcher{
			OrMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: predicates},
		}}
	}
	return insert(name, &matchingv3.ExtensionWithMatcher{
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: inner},
		XdsMatcher: &matcherv3.Matcher{MatcherType: &matcherv3.Matcher_MatcherList_{MatcherList: &matcherv3.Matcher_MatcherList{
			Matchers: []*matcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: predicate,
				OnMatch: &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{
					Action: &xdscorev3.TypedExtensionConfig{Name: "skip", TypedConfig: skip},
				}},
			}},
		}}},
	})
}

// pathMatchers match :path values, which end with the query, as the CUSTOM policy's
// notPaths match paths. Regular expressions would do too, but Envoy takes only short ones.
func pathMatchers(paths []string) (out []*matcherv3.StringMatcher) {
	prefix := func(s string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
	}
	for _, p := range paths {
		if p, open := strings.CutSuffix(p, "*"); open {
			out = append(out, prefix(p))
			continue
		}
		out = append(out, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: p}}, prefix(p+"?"))
	}
	return out
}
