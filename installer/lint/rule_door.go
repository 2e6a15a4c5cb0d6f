package lint

import (
	"fmt"
	"strings"

	api "istio.io/api/networking/v1alpha3"
)

// doorRules are about how proxies call the services that they ask.
var doorRules = []rule{
	{"SL141", Error, handMade},
	{"SL142", Error, noAuthority},
	{"SL143", Error, retried},
	{"SL144", Error, bodies},
	{"SL145", Error, notGRPC},
	{"SL146", Error, missingService},
	{"SL147", Error, hijacked},
}

// handMade: a cluster of one's own has no mutual TLS, no endpoints from the mesh and no identity to pin.
func handMade(w *world, report reporter) {
	w.eachPatch(func(o *object, p *patch) {
		if p.to != api.EnvoyFilter_CLUSTER || p.operation != api.EnvoyFilter_Patch_ADD {
			return
		}
		addresses(p.value, func(host string) {
			if w.isDoor(host, o.GetNamespace()) {
				report(o, p.field+".patch.value", "a hand-made cluster to "+host+" speaks plain text, which STRICT refuses, and pins no identity",
					"name istiod's own cluster: outbound|PORT||"+host)
			}
		})
	})
	w.eachCall(func(o *object, field string, call map[string]any) {
		name := text1(call, "cluster_name") + text1(call, "clusterName")
		if strings.HasPrefix(name, "outbound|") || strings.HasPrefix(name, "outbound_.") || !w.isDoor(name, o.GetNamespace()) && name != doorName {
			return
		}
		report(o, field+".cluster_name", fmt.Sprintf("%q is not a cluster that istiod makes", name), "outbound|PORT||HOST, which brings the mesh's mutual TLS")
	})
}

// addresses visits the hosts of a cluster.
func addresses(v any, visit func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range sortedKeys(v) {
			if socket := asMap(v[key]); key == "socket_address" || key == "socketAddress" {
				visit(text1(socket, "address"))
			}
			addresses(v[key], visit)
		}
	case []any:
		for _, item := range v {
			addresses(item, visit)
		}
	}
}

// eachCall visits every envoy_grpc of an EnvoyFilter.
func (w *world) eachCall(visit func(o *object, field string, call map[string]any)) {
	w.eachPatch(func(o *object, p *patch) {
		var walk func(v any, field string)
		walk = func(v any, field string) {
			switch v := v.(type) {
			case map[string]any:
				for _, key := range sortedKeys(v) {
					if key == "envoy_grpc" || key == "envoyGrpc" {
						visit(o, field+"."+key, asMap(v[key]))
					}
					walk(v[key], field+"."+key)
				}
			case []any:
				for i, item := range v {
					walk(item, fmt.Sprintf("%s[%d]", field, i))
				}
			}
		}
		walk(p.value, p.field+".patch.value")
	})
}

func noAuthority(w *world, report reporter) {
	w.eachCall(func(o *object, field string, call map[string]any) {
		name := text1(call, "cluster_name") + text1(call, "clusterName")
		if strings.Contains(name, "|") && text1(call, "authority") == "" {
			report(o, field+".authority", "without it the :authority is the cluster's name, and strict servers refuse its '|'",
				"authority: "+name[strings.LastIndexByte(name, '|')+1:])
		}
	})
}

// retried: of what is asked by these protocols a second try is a second charge.
func retried(w *world, report reporter) {
	for _, kind := range []string{"ExtAuthz", "RateLimit", "ExternalProcessor"} {
		w.eachConfig(kind, func(o *object, _ *patch, c config) {
			for _, path := range [][]string{{"grpc_service", "retry_policy"}, {"rate_limit_service", "grpc_service", "retry_policy"}} {
				if dig(c.fields, path...) != nil {
					report(o, c.field+"."+strings.Join(path, "."), "a second try is charged a second time", "leave it out")
				}
			}
		})
	}
}

// bodies: ext_proc with bodies hangs upgrades and streams, and Sluice reads none. ext_authz waits for a body before it asks.
func bodies(w *world, report reporter) {
	for _, kind := range []string{"ExternalProcessor", "ExtProcOverrides"} {
		w.eachConfig(kind, func(o *object, _ *patch, c config) {
			for _, field := range []string{"request_body_mode", "response_body_mode"} {
				mode, _ := dig(c.fields, "processing_mode", field).(string)
				if mode != "" && mode != "NONE" {
					report(o, c.field+".processing_mode."+field, mode+" hangs WebSocket upgrades and holds streams back; Sluice reads no body and refuses some of the modes",
						"NONE, or leave it out")
				}
			}
			if dig(c.fields, "allow_mode_override") == true {
				report(o, c.field+".allow_mode_override", "an answer may switch a body mode on, and the first chunk passes unseen", "leave it out")
			}
			attributes, _ := dig(c.fields, "request_attributes").([]any)
			for _, a := range attributes {
				if a == "xds.node" {
					report(o, c.field+".request_attributes", "xds.node adds 80 KB to every request", "leave it out")
				}
			}
		})
	}
}

// notGRPC: istiod learns a port's protocol from its name or appProtocol.
func notGRPC(w *world, report reporter) {
	for _, d := range w.doors {
		if d.service == nil {
			continue
		}
		ports, _ := spec(d.service)["ports"].([]any)
		for i, item := range ports {
			port := asMap(item)
			if !w.asked(d, number(port["port"])) || grpcPort(port) {
				continue
			}
			report(d.service, fmt.Sprintf("spec.ports[%d].name", i), fmt.Sprintf("istiod takes port %d, named %q, for HTTP/1.1 or plain TCP, and no gRPC call gets through", number(port["port"]), text1(port, "name")),
				"name it grpc, or grpc-…, or set appProtocol: grpc")
		}
	}
}

func grpcPort(port map[string]any) bool {
	for _, word := range []string{text1(port, "appProtocol"), text1(port, "name")} {
		if word == "grpc" || word == "http2" || strings.HasPrefix(word, "grpc-") || strings.HasPrefix(word, "http2-") || word == "kubernetes.io/h2c" {
			return true
		}
	}
	return false
}

// asked reports whether proxies call that port of a door: a gRPC provider or an EnvoyFilter says so.
func (w *world) asked(d door, port int64) bool {
	for _, p := range w.providers {
		if p.fields["pathPrefix"] == nil && (p.service == d.host || strings.HasPrefix(p.service, d.host+".")) && p.port == port {
			return true
		}
	}
	found := false
	w.eachCall(func(_ *object, _ string, call map[string]any) {
		name := text1(call, "cluster_name") + text1(call, "clusterName")
		found = found || strings.HasPrefix(name, fmt.Sprintf("outbound|%d||%s.", port, d.host))
	})
	return found
}

// missingService: istiod makes a missing provider Service a denial of everything, and a
// missing cluster a refusal of each request.
func missingService(w *world, report reporter) {
	if !w.complete {
		return
	}
	for _, name := range sortedKeys(w.providers) {
		p := w.providers[name]
		service, rest, _ := strings.Cut(p.service, ".")
		namespace, _, _ := strings.Cut(rest, ".")
		if !w.offers(service, namespace, p.port) {
			report(w.mesh, providerField(name, "service"), fmt.Sprintf("there is no Service %s/%s with port %d: istiod denies every request that a policy sends there", namespace, service, p.port),
				"lay Sluice down first, or correct the host and port")
		}
	}
	w.eachCall(func(o *object, field string, call map[string]any) {
		parts := strings.Split(text1(call, "cluster_name")+text1(call, "clusterName"), "|")
		if len(parts) != 4 || parts[0] != "outbound" {
			return
		}
		service, rest, _ := strings.Cut(parts[3], ".")
		namespace, _, _ := strings.Cut(rest, ".")
		var port int64
		if _, err := fmt.Sscan(parts[1], &port); err != nil || !w.offers(service, namespace, port) {
			report(o, field+".cluster_name", fmt.Sprintf("there is no Service %s/%s with port %s, so no such cluster", namespace, service, parts[1]), "correct the host and port")
		}
	})
}

// offers reports whether a host of the mesh has that port.
func (w *world) offers(service, namespace string, port int64) bool {
	has := func(o *object, key string) bool {
		ports, _ := spec(o)["ports"].([]any)
		for _, p := range ports {
			if number(asMap(p)[key]) == port {
				return true
			}
		}
		return false
	}
	for _, s := range w.of("", "Service") {
		if s.GetName() == service && s.GetNamespace() == namespace && has(s, "port") {
			return true
		}
	}
	for _, s := range w.of(networkingGroup, "ServiceEntry") {
		hosts, _ := spec(s)["hosts"].([]any)
		for _, h := range hosts {
			if name, _ := h.(string); (name == service || strings.HasPrefix(name, service+"."+namespace+".")) && has(s, "number") {
				return true
			}
		}
	}
	return false
}

// hijacked: somebody else's object that says where the door is or how it is reached.
func hijacked(w *world, report reporter) {
	for _, kind := range []string{"VirtualService", "ServiceEntry", "DestinationRule"} {
		for _, o := range w.of(networkingGroup, kind) {
			hosts, _ := spec(o)["hosts"].([]any)
			if host, ok := spec(o)["host"]; ok {
				hosts = []any{host}
			}
			for _, h := range hosts {
				host, _ := h.(string)
				if !w.isDoor(host, o.GetNamespace()) || kind == "DestinationRule" && w.own(o) && !plainText(o) {
					continue
				}
				says := "it decides where or how " + host + " is reached, which proxies ask for permission"
				if kind == "DestinationRule" && plainText(o) {
					says = "it switches mutual TLS to " + host + " off, and whoever answers there decides"
				}
				report(o, "spec", says, "remove it; only "+host+"'s own namespace may have a DestinationRule for it, without tls")
			}
		}
	}
}

// own reports whether an object is in the namespace of a door.
func (w *world) own(o *object) bool {
	for _, d := range w.doors {
		if d.namespace == o.GetNamespace() {
			return true
		}
	}
	return len(w.doors) == 0
}

// plainText reports whether a DestinationRule takes the mesh's mutual TLS away.
func plainText(o *object) bool {
	mode, _ := dig(spec(o), "trafficPolicy", "tls", "mode").(string)
	return mode != "" && mode != "ISTIO_MUTUAL"
}
