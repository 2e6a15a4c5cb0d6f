package wiring

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networkingapi "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	security "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// customPolicies make the proxies ask by ext_authz, except about the excluded paths.
func customPolicies(v *profile.Values) []any {
	rule := &securityapi.Rule{}
	if len(v.Sluice.ExcludedPaths) > 0 {
		rule.To = []*securityapi.Rule_To{{Operation: &securityapi.Operation{NotPaths: v.Sluice.ExcludedPaths}}}
	}
	var out []any
	for _, p := range places(v) {
		if !p.authz {
			continue
		}
		o := &security.AuthorizationPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: "sluice-ask-" + p.name, Namespace: p.namespace},
			Spec: securityapi.AuthorizationPolicy{
				Action:       securityapi.AuthorizationPolicy_CUSTOM,
				ActionDetail: &securityapi.AuthorizationPolicy_Provider{Provider: &securityapi.AuthorizationPolicy_ExtensionProvider{Name: AuthzProvider}},
				Rules:        []*securityapi.Rule{rule},
			},
		}
		if v.Istio.DataPlane == profile.Ambient && !p.gateway {
			// The service's waypoint asks; it must have one.
			o.Spec.TargetRefs = []*typeapi.PolicyTargetReference{{Kind: "Service", Name: p.name}}
		} else {
			o.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: p.labels}
		}
		out = append(out, o)
	}
	return out
}

// doorsRule is how the proxies connect to Sluice.
func doorsRule(v *profile.Values) any {
	return &networking.DestinationRule{
		ObjectMeta: metav1.ObjectMeta{Name: "sluice-doors", Namespace: v.Sluice.Namespace},
		Spec: networkingapi.DestinationRule{
			Host: host(v),
			TrafficPolicy: &networkingapi.TrafficPolicy{
				ConnectionPool: &networkingapi.ConnectionPoolSettings{
					Tcp: &networkingapi.ConnectionPoolSettings_TCPSettings{
						MaxConnections: 10000,
						ConnectTimeout: durationpb.New(250 * time.Millisecond),
						// A Sluice that vanished without a word is noticed, and the streams that it watched end.
						TcpKeepalive: &networkingapi.ConnectionPoolSettings_TCPSettings_TcpKeepalive{
							Time: durationpb.New(30 * time.Second), Interval: durationpb.New(5 * time.Second), Probes: 3,
						},
					},
					Http: &networkingapi.ConnectionPoolSettings_HTTPSettings{
						// Each running stream is a request in flight; what is not asked about is refused.
						Http1MaxPendingRequests: 100000,
						Http2MaxRequests:        100000,
					},
				},
			},
		},
	}
}

// convert makes typed objects into what is applied; a wrong field was a compile error before.
func convert(objects ...any) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, 0, len(objects))
	for _, object := range objects {
		raw, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		o := &unstructured.Unstructured{Object: map[string]any{}}
		if err := json.Unmarshal(raw, &o.Object); err != nil {
			return nil, err
		}
		switch object.(type) {
		case *security.AuthorizationPolicy:
			o.SetAPIVersion("security.istio.io/v1")
			o.SetKind("AuthorizationPolicy")
		case *networking.DestinationRule:
			o.SetAPIVersion("networking.istio.io/v1")
			o.SetKind("DestinationRule")
		case *networkingv1alpha3.EnvoyFilter:
			o.SetAPIVersion("networking.istio.io/v1alpha3")
			o.SetKind("EnvoyFilter")
		default:
			return nil, fmt.Errorf("wiring renders no %T", object)
		}
		// What the API server owns is not ours to send.
		unstructured.RemoveNestedField(o.Object, "status")
		unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
		out = append(out, o)
	}
	return out, nil
}
