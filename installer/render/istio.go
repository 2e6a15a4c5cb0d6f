package render

import (
	"encoding/json"
	"fmt"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	telemetry "istio.io/client-go/pkg/apis/telemetry/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"google.golang.org/protobuf/types/known/durationpb"
)

// typed names the version and kind of an object that was built from a typed struct.
type typed struct {
	version, kind string
	object        any
}

// objects converts typed objects; a wrong field was a compile error before.
func objects(list ...typed) (Objects, error) {
	out := make(Objects, 0, len(list))
	for _, t := range list {
		raw, err := json.Marshal(t.object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.kind, err)
		}
		o := &unstructured.Unstructured{}
		if err := json.Unmarshal(raw, &o.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", t.kind, err)
		}
		o.SetAPIVersion(t.version)
		o.SetKind(t.kind)
		// What the API server owns is not ours to send.
		unstructured.RemoveNestedField(o.Object, "status")
		unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
		out = append(out, o)
	}
	return out, nil
}

func destinationRule(o *networking.DestinationRule) typed {
	return typed{"networking.istio.io/v1", "DestinationRule", o}
}

func virtualService(o *networking.VirtualService) typed {
	return typed{"networking.istio.io/v1", "VirtualService", o}
}

func gateway(o *networking.Gateway) typed { return typed{"networking.istio.io/v1", "Gateway", o} }

func serviceEntry(o *networking.ServiceEntry) typed {
	return typed{"networking.istio.io/v1", "ServiceEntry", o}
}

func peerAuthentication(o *security.PeerAuthentication) typed {
	return typed{"security.istio.io/v1", "PeerAuthentication", o}
}

func authorizationPolicy(o *security.AuthorizationPolicy) typed {
	return typed{"security.istio.io/v1", "AuthorizationPolicy", o}
}

func telemetryResource(o *telemetry.Telemetry) typed {
	return typed{"telemetry.istio.io/v1", "Telemetry", o}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// duration is nil for 0, which Istio reads as its default.
func duration(d metav1.Duration) *durationpb.Duration {
	if d.Duration == 0 {
		return nil
	}
	return durationpb.New(d.Duration)
}

// egressName is the egress gateway's Deployment, Service and ServiceAccount.
const egressName = "istio-egressgateway"
