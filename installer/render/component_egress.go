package render

import (
	api "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	selector "istio.io/api/type/v1beta1"
	networking "istio.io/client-go/pkg/apis/networking/v1"
	security "istio.io/client-go/pkg/apis/security/v1"
	netpol "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// Protocols of hosts outside the mesh.
const (
	passTLS      = "TLS"   // the application's own TLS, told apart by SNI
	plainHTTP    = "HTTP"  // plain all the way
	originateTLS = "HTTPS" // the application speaks HTTP, the gateway TLS
)

// egress lets services reach the hosts that are listed, through the egress
// gateway, and nothing else: the registry refuses other hosts in the proxy, the
// NetworkPolicy refuses what goes around the proxy. From sidecar to gateway the
// traffic is in mutual TLS, so that the gateway knows who asks.
func egress(v *profile.Values) (Objects, error) {
	if !v.Istio.Egress.Enabled {
		return nil, nil
	}
	list := []typed{{"networking.k8s.io/v1", "NetworkPolicy", insideOnly(v)}}
	if len(v.Mesh.External) == 0 {
		return objects(list...)
	}
	list = append(list, gateway(egressGateway(v)), destinationRule(toEgress(v)), authorizationPolicy(egressCallers(v)))
	for i := range v.Mesh.External {
		e := &v.Mesh.External[i]
		list = append(list, serviceEntry(external(v, e)), virtualService(throughEgress(v, e)))
		if e.Protocol == originateTLS {
			list = append(list, destinationRule(originate(v, e)))
		}
	}
	return objects(list...)
}

// insideOnly keeps the pods of the namespace from reaching addresses outside
// the cluster by themselves: peers are pods, whatever their namespace.
func insideOnly(v *profile.Values) *netpol.NetworkPolicy {
	out := &netpol.NetworkPolicy{ObjectMeta: meta(v.Mesh.Namespace, "egress-through-gateway")}
	out.Spec.PolicyTypes = []netpol.PolicyType{netpol.PolicyTypeEgress}
	out.Spec.Egress = []netpol.NetworkPolicyEgressRule{{To: []netpol.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}}}
	return out
}

// external registers a host. What the application dials is the port; HTTPS is dialled as plain HTTP on 80.
func external(v *profile.Values, e *profile.External) *networking.ServiceEntry {
	out := &networking.ServiceEntry{ObjectMeta: meta(v.Mesh.Namespace, e.Name)}
	out.Spec.Hosts = []string{e.Host}
	out.Spec.Location = api.ServiceEntry_MESH_EXTERNAL
	out.Spec.Resolution = api.ServiceEntry_DNS
	for _, a := range e.Addresses {
		out.Spec.Resolution = api.ServiceEntry_STATIC
		out.Spec.Endpoints = append(out.Spec.Endpoints, &api.WorkloadEntry{Address: a})
	}
	switch e.Protocol {
	case passTLS:
		out.Spec.Ports = []*api.ServicePort{{Number: uint32(e.Port), Name: "tls", Protocol: "TLS"}}
	case plainHTTP:
		out.Spec.Ports = []*api.ServicePort{{Number: uint32(e.Port), Name: "http", Protocol: "HTTP"}}
	case originateTLS:
		out.Spec.Ports = []*api.ServicePort{
			{Number: 80, Name: "http", Protocol: "HTTP", TargetPort: uint32(e.Port)},
			{Number: uint32(e.Port), Name: "https", Protocol: "HTTPS"},
		}
	}
	return out
}

// egressPort is the gateway's port for a protocol: 443 carries TLS, 80 HTTP, both inside mutual TLS.
func egressPort(e *profile.External) uint32 {
	if e.Protocol == passTLS {
		return 443
	}
	return 80
}

func egressGateway(v *profile.Values) *networking.Gateway {
	out := &networking.Gateway{ObjectMeta: meta(v.Mesh.Namespace, "egress")}
	out.Spec.Selector = map[string]string{"istio": "egressgateway"}
	for i := range v.Mesh.External {
		e := &v.Mesh.External[i]
		protocol := "HTTPS"
		if e.Protocol == passTLS {
			protocol = "TLS"
		}
		out.Spec.Servers = append(out.Spec.Servers, &api.Server{
			Port:  &api.Port{Number: egressPort(e), Name: e.Name, Protocol: protocol},
			Hosts: []string{e.Host},
			Tls:   &api.ServerTLSSettings{Mode: api.ServerTLSSettings_ISTIO_MUTUAL},
		})
	}
	return out
}

// egressCallers lets each service reach the hosts that list it: the SNI is the host, whatever the protocol.
func egressCallers(v *profile.Values) *security.AuthorizationPolicy {
	out := &security.AuthorizationPolicy{ObjectMeta: meta(v.Istio.Namespace, "allow-egress")}
	out.Spec.Action = securityapi.AuthorizationPolicy_ALLOW
	out.Spec.Selector = &selector.WorkloadSelector{MatchLabels: map[string]string{"istio": "egressgateway"}}
	for i := range v.Mesh.External {
		e := &v.Mesh.External[i]
		if len(e.Callers) == 0 {
			continue
		}
		principals := make([]string, len(e.Callers))
		for i, c := range e.Callers {
			principals[i] = wiring.Principal(v, c)
		}
		out.Spec.Rules = append(out.Spec.Rules, &securityapi.Rule{
			From: []*securityapi.Rule_From{{Source: &securityapi.Source{Principals: principals}}},
			When: []*securityapi.Condition{{Key: "connection.sni", Values: []string{e.Host}}},
		})
	}
	return out
}

// toEgress wraps what goes to the gateway in mutual TLS under the SNI of the host it is for.
func toEgress(v *profile.Values) *networking.DestinationRule {
	out := &networking.DestinationRule{ObjectMeta: meta(v.Mesh.Namespace, egressName)}
	out.Spec.Host = wiring.Host(v, v.Istio.Namespace, egressName)
	for i := range v.Mesh.External {
		e := &v.Mesh.External[i]
		out.Spec.Subsets = append(out.Spec.Subsets, &api.Subset{Name: e.Name, TrafficPolicy: &api.TrafficPolicy{
			PortLevelSettings: []*api.TrafficPolicy_PortTrafficPolicy{{
				Port: &api.PortSelector{Number: egressPort(e)},
				Tls:  &api.ClientTLSSettings{Mode: api.ClientTLSSettings_ISTIO_MUTUAL, Sni: e.Host},
			}},
		}})
	}
	return out
}

// throughEgress routes a host from the sidecars to the gateway, and from the gateway to the host.
func throughEgress(v *profile.Values, e *profile.External) *networking.VirtualService {
	out := &networking.VirtualService{ObjectMeta: meta(v.Mesh.Namespace, "egress-"+e.Name)}
	out.Spec.Hosts = []string{e.Host}
	out.Spec.Gateways = []string{"mesh", "egress"}
	toGateway := &api.Destination{
		Host: wiring.Host(v, v.Istio.Namespace, egressName), Subset: e.Name, Port: &api.PortSelector{Number: egressPort(e)},
	}
	toHost := &api.Destination{Host: e.Host, Port: &api.PortSelector{Number: uint32(e.Port)}}
	if e.Protocol == passTLS {
		out.Spec.Tls = []*api.TLSRoute{{
			Match: []*api.TLSMatchAttributes{{Gateways: []string{"mesh"}, Port: uint32(e.Port), SniHosts: []string{e.Host}}},
			Route: []*api.RouteDestination{{Destination: toGateway}},
		}}
		out.Spec.Tcp = []*api.TCPRoute{{
			Match: []*api.L4MatchAttributes{{Gateways: []string{"egress"}, Port: egressPort(e)}},
			Route: []*api.RouteDestination{{Destination: toHost}},
		}}
		return out
	}
	out.Spec.Http = []*api.HTTPRoute{
		{
			Name:  "to-gateway",
			Match: []*api.HTTPMatchRequest{{Gateways: []string{"mesh"}}},
			Route: []*api.HTTPRouteDestination{{Destination: toGateway}},
		},
		{
			Name:  "to-host",
			Match: []*api.HTTPMatchRequest{{Gateways: []string{"egress"}}},
			Route: []*api.HTTPRouteDestination{{Destination: toHost}},
		},
	}
	return out
}

// originate makes the gateway speak TLS to a host and check its name.
func originate(v *profile.Values, e *profile.External) *networking.DestinationRule {
	out := &networking.DestinationRule{ObjectMeta: meta(v.Mesh.Namespace, "tls-to-"+e.Name)}
	out.Spec.Host = e.Host
	out.Spec.TrafficPolicy = &api.TrafficPolicy{PortLevelSettings: []*api.TrafficPolicy_PortTrafficPolicy{{
		Port: &api.PortSelector{Number: uint32(e.Port)},
		Tls:  &api.ClientTLSSettings{Mode: api.ClientTLSSettings_SIMPLE, Sni: e.Host, SubjectAltNames: []string{e.Host}},
	}}}
	return out
}
