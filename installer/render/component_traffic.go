package render

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"
	api "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

// faultHeader limits an injected fault to the requests that ask for it.
const faultHeader = "x-sluice-fault"

// publicGateway is the Gateway resource that the public routes are bound to.
const publicGateway = "public"

// repeatable are the methods whose requests may be sent twice (RFC 9110, 9.2.2).
const repeatable = "GET|HEAD|OPTIONS|PUT|DELETE|TRACE"

// traffic is how services are called: circuit breakers, load balancing,
// retries, timeouts, canaries and faults, for callers in the mesh and from outside.
func traffic(v *profile.Values) (Objects, error) {
	var list []typed
	for i := range v.Mesh.Services {
		s := &v.Mesh.Services[i]
		list = append(list, destinationRule(breaker(v, s)), virtualService(inner(v, s)))
	}
	if v.Istio.Ingress.Enabled {
		list = append(list, gateway(edge(v)))
		if public := public(v); len(public.Spec.Http) > 0 {
			list = append(list, virtualService(public))
		}
	}
	return objects(list...)
}

// breaker bounds what one client's proxy opens towards a service, and takes failing endpoints out.
func breaker(v *profile.Values, s *profile.Service) *networking.DestinationRule {
	upgrade := api.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE
	if s.Pool.HTTP2 {
		upgrade = api.ConnectionPoolSettings_HTTPSettings_UPGRADE
	}
	out := &networking.DestinationRule{ObjectMeta: meta(v.Mesh.Namespace, s.Name)}
	out.Spec.Host = wiring.Host(v, v.Mesh.Namespace, s.Name)
	out.Spec.TrafficPolicy = &api.TrafficPolicy{
		LoadBalancer: &api.LoadBalancerSettings{LbPolicy: &api.LoadBalancerSettings_Simple{
			Simple: api.LoadBalancerSettings_SimpleLB(api.LoadBalancerSettings_SimpleLB_value[s.LoadBalancer]),
		}},
		ConnectionPool: &api.ConnectionPoolSettings{
			Tcp: &api.ConnectionPoolSettings_TCPSettings{
				MaxConnections: s.Pool.MaxConnections, ConnectTimeout: duration(s.Pool.ConnectTimeout),
			},
			Http: &api.ConnectionPoolSettings_HTTPSettings{
				Http1MaxPendingRequests: s.Pool.MaxPending, Http2MaxRequests: s.Pool.MaxRequests, MaxRetries: s.Pool.MaxRetries,
				IdleTimeout: duration(s.Pool.IdleTimeout), H2UpgradePolicy: upgrade,
			},
		},
		OutlierDetection: &api.OutlierDetection{
			Consecutive_5XxErrors:    wrapperspb.UInt32(uint32(s.Outlier.Consecutive5xx)),
			ConsecutiveGatewayErrors: wrapperspb.UInt32(uint32(s.Outlier.Consecutive5xx)),
			Interval:                 duration(s.Outlier.Interval),
			BaseEjectionTime:         duration(s.Outlier.BaseEjection),
			MaxEjectionPercent:       s.Outlier.MaxEjection,
		},
	}
	if c := s.Canary; c != nil {
		for _, version := range []string{c.Stable, c.Canary} {
			out.Spec.Subsets = append(out.Spec.Subsets, &api.Subset{Name: version, Labels: map[string]string{"version": version}})
		}
	}
	return out
}

// inner routes calls between services.
func inner(v *profile.Values, s *profile.Service) *networking.VirtualService {
	out := &networking.VirtualService{ObjectMeta: meta(v.Mesh.Namespace, s.Name)}
	out.Spec.Hosts = []string{wiring.Host(v, v.Mesh.Namespace, s.Name)}
	out.Spec.Gateways = []string{"mesh"}
	out.Spec.Http = routes(v, s, "")
	return out
}

// edge is what the ingress gateway listens for.
func edge(v *profile.Values) *networking.Gateway {
	out := &networking.Gateway{ObjectMeta: meta(v.Mesh.Namespace, publicGateway)}
	out.Spec.Selector = map[string]string{"istio": strings.TrimPrefix(wiring.IngressName, "istio-")}
	plain := &api.Server{Port: &api.Port{Number: 80, Name: "http", Protocol: "HTTP"}, Hosts: v.Istio.Ingress.Hosts}
	out.Spec.Servers = []*api.Server{plain}
	if secret := v.Istio.Ingress.TLSSecret; secret != "" {
		plain.Tls = &api.ServerTLSSettings{HttpsRedirect: true}
		out.Spec.Servers = append(out.Spec.Servers, &api.Server{
			Port: &api.Port{Number: 443, Name: "https", Protocol: "HTTPS"}, Hosts: v.Istio.Ingress.Hosts,
			Tls: &api.ServerTLSSettings{
				Mode: api.ServerTLSSettings_SIMPLE, CredentialName: secret, MinProtocolVersion: api.ServerTLSSettings_TLSV1_2,
			},
		})
	}
	return out
}

// public routes calls from outside, by path, with the same timeouts and retries
// as inside. Longer prefixes come first, because the first match wins.
func public(v *profile.Values) *networking.VirtualService {
	out := &networking.VirtualService{ObjectMeta: meta(v.Mesh.Namespace, publicGateway)}
	out.Spec.Hosts = v.Istio.Ingress.Hosts
	out.Spec.Gateways = []string{publicGateway}
	type entry struct {
		path    string
		service *profile.Service
	}
	var entries []entry
	for i := range v.Mesh.Services {
		for _, path := range v.Mesh.Services[i].Paths {
			entries = append(entries, entry{path, &v.Mesh.Services[i]})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(len(b.path), len(a.path)) })
	for _, e := range entries {
		out.Spec.Http = append(out.Spec.Http, routes(v, e.service, e.path)...)
	}
	return out
}

// routes are the routes to one service under a path: streams, requests that may
// be sent twice, and the rest, each with its injected fault before it. The
// first match wins.
func routes(v *profile.Values, s *profile.Service, prefix string) []*api.HTTPRoute {
	var out []*api.HTTPRoute
	for _, stream := range s.Streams {
		if strings.HasPrefix(stream, prefix) {
			r := route(v, s, "stream")
			r.Match = under(stream)
			// No timeout is none: Istio's definition refuses 0s, and istiod's default is no bound.
			r.Retries = &api.HTTPRetry{Attempts: 0}
			out = append(out, r)
		}
	}
	safe := route(v, s, "repeatable")
	safe.Timeout, safe.Retries, safe.Match = duration(s.Timeout), retries(s.Retries, s.Retries.On), under(prefix)
	if prefix == "" {
		safe.Match = []*api.HTTPMatchRequest{{}}
	}
	for _, m := range safe.Match {
		m.Method = &api.StringMatch{MatchType: &api.StringMatch_Regex{Regex: repeatable}}
	}
	rest := route(v, s, "once")
	rest.Timeout, rest.Retries, rest.Match = duration(s.Timeout), retries(s.Retries, s.Retries.OnUnsafe), under(prefix)
	return withFault(append(out, safe, rest), s.Fault)
}

// under matches a path and what lies below it, never a longer name that begins alike. The empty path matches all.
func under(path string) []*api.HTTPMatchRequest {
	if path == "" {
		return nil
	}
	below := &api.HTTPMatchRequest{Uri: &api.StringMatch{MatchType: &api.StringMatch_Prefix{Prefix: strings.TrimSuffix(path, "/") + "/"}}}
	if strings.HasSuffix(path, "/") {
		return []*api.HTTPMatchRequest{below}
	}
	return []*api.HTTPMatchRequest{{Uri: &api.StringMatch{MatchType: &api.StringMatch_Exact{Exact: path}}}, below}
}

// withFault injects the fault into all routes, or into copies that only requests with the header reach.
func withFault(routes []*api.HTTPRoute, f *profile.Fault) []*api.HTTPRoute {
	if f == nil {
		return routes
	}
	if f.Header == "" {
		for _, r := range routes {
			r.Fault = fault(f)
		}
		return routes
	}
	asked := map[string]*api.StringMatch{faultHeader: {MatchType: &api.StringMatch_Exact{Exact: f.Header}}}
	out := make([]*api.HTTPRoute, 0, 2*len(routes))
	for _, r := range routes {
		faulty := r.DeepCopy()
		faulty.Name += "-fault"
		faulty.Fault = fault(f)
		if len(faulty.Match) == 0 {
			faulty.Match = []*api.HTTPMatchRequest{{}}
		}
		for _, m := range faulty.Match {
			m.Headers = asked
		}
		out = append(out, faulty)
	}
	return append(out, routes...)
}

// route is a route to a service, split between versions.
func route(v *profile.Values, s *profile.Service, kind string) *api.HTTPRoute {
	destination := func(version string, weight int32) *api.HTTPRouteDestination {
		return &api.HTTPRouteDestination{Weight: weight, Destination: &api.Destination{
			Host: wiring.Host(v, v.Mesh.Namespace, s.Name), Subset: version, Port: &api.PortSelector{Number: uint32(s.Port)},
		}}
	}
	out := &api.HTTPRoute{Name: s.Name + "-" + kind}
	if c := s.Canary; c != nil {
		out.Route = []*api.HTTPRouteDestination{destination(c.Stable, 100-c.Weight), destination(c.Canary, c.Weight)}
	} else {
		out.Route = []*api.HTTPRouteDestination{destination("", 0)}
	}
	return out
}

func retries(r profile.Retries, on []string) *api.HTTPRetry {
	if r.Attempts == 0 || len(on) == 0 {
		return &api.HTTPRetry{Attempts: 0} // said, or Istio's default of 2 applies
	}
	return &api.HTTPRetry{Attempts: r.Attempts, PerTryTimeout: duration(r.PerTry), RetryOn: strings.Join(on, ",")}
}

// fault is what Envoy delays and aborts.
func fault(f *profile.Fault) *api.HTTPFaultInjection {
	out := &api.HTTPFaultInjection{}
	if f.DelayPercent > 0 {
		out.Delay = &api.HTTPFaultInjection_Delay{
			Percentage:    &api.Percent{Value: f.DelayPercent},
			HttpDelayType: &api.HTTPFaultInjection_Delay_FixedDelay{FixedDelay: duration(f.Delay)},
		}
	}
	if f.AbortPercent > 0 {
		out.Abort = &api.HTTPFaultInjection_Abort{
			Percentage: &api.Percent{Value: f.AbortPercent},
			ErrorType:  &api.HTTPFaultInjection_Abort_HttpStatus{HttpStatus: f.AbortStatus},
		}
	}
	return out
}
