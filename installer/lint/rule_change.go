package lint

import (
	"regexp"
	"strings"

	api "istio.io/api/networking/v1alpha3"

	"github.com/voicecore-ai/sluice/tenant"
)

// changeRules are about filters that change a request after it was judged: what is
// routed, or who it is said to be, is then not what was allowed.
var changeRules = []rule{
	{"SL131", Error, clearsRoute},
	{"SL132", Error, rewrites},
	{"SL133", Warning, scripts},
}

// clearsRoute: the route is chosen again, by headers that changed since.
func clearsRoute(w *world, report reporter) {
	const says = "the route is chosen again after the request was judged, so another may be taken than the one that was allowed"
	for _, kind := range []string{"ExternalProcessor", "ExtAuthz", "HeaderMutation", "Config", "Lua", "JwtAuthentication", "CheckSettings"} {
		w.eachConfig(kind, func(o *object, p *patch, c config) {
			if dig(c.fields, "clear_route_cache") == true {
				report(o, c.field+".clear_route_cache", says, "leave it out")
			}
			if dig(c.fields, "route_cache_action") == "CLEAR" {
				report(o, c.field+".route_cache_action", says, "RETAIN")
			}
		})
	}
	for _, name := range sortedKeys(w.providers) {
		if w.providers[name].fields["clearRouteCache"] == true {
			report(w.mesh, providerField(name, "clearRouteCache"), says, "leave it out")
		}
	}
	w.eachConfig("ExternalProcessor", func(o *object, _ *patch, c config) {
		for _, field := range []string{"allow_all_routing", "allow_envoy"} {
			if v := dig(c.fields, "mutation_rules", field); v == true || dig(v, "value") == true {
				report(o, c.field+".mutation_rules."+field, "an answer may change the host, the path or Envoy's own headers of a request that was judged already", "leave it out")
			}
		}
	})
}

// judged is what a decision was about.
func judged(name string) bool {
	name = strings.ToLower(name)
	switch name {
	case ":path", ":authority", ":method", ":scheme", "host", "authorization", "x-api-key":
		return true
	}
	return tenant.IsReservedHeader(name)
}

// rewrites: a filter behind ext_authz that writes or removes what was judged, or what
// Sluice wrote. Early mutation happens before all filters and is no such thing.
func rewrites(w *world, report reporter) {
	w.eachConfig("HeaderMutation", func(o *object, p *patch, c config) {
		if strings.Contains(c.field, "early_header_mutation") {
			return
		}
		list, _ := dig(c.fields, "mutations", "request_mutations").([]any)
		for _, item := range list {
			name := text1(asMap(item), "remove")
			if header := dig(item, "append", "header", "key"); header != nil {
				name, _ = header.(string)
			}
			if judged(name) {
				report(o, c.field+".mutations", "it changes "+name+" after Sluice judged the request or wrote it",
					"change it before Sluice is asked: early_header_mutation_extensions of the connection manager")
			}
		}
	})
	w.eachPatch(func(o *object, p *patch) {
		switch p.to {
		case api.EnvoyFilter_HTTP_ROUTE, api.EnvoyFilter_VIRTUAL_HOST, api.EnvoyFilter_ROUTE_CONFIGURATION:
		default:
			return
		}
		routeHeaders(p.value, p.field+".patch.value", func(field, name string) {
			report(o, field, "it changes "+name+" after Sluice judged the request or wrote it", "leave that header to Sluice")
		})
	})
	for _, o := range w.of(networkingGroup, "VirtualService") {
		virtualHeaders(spec(o), "spec", func(field, name string) {
			report(o, field, "it changes "+name+" after Sluice judged the request or wrote it", "leave that header to Sluice")
		})
	}
}

// routeHeaders finds request headers that a route of Envoy's writes or removes.
func routeHeaders(v any, field string, found func(field, name string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range sortedKeys(v) {
			items, _ := v[key].([]any)
			switch key {
			case "request_headers_to_remove", "requestHeadersToRemove":
				for _, item := range items {
					if name, _ := item.(string); judged(name) {
						found(field+"."+key, name)
					}
				}
			case "request_headers_to_add", "requestHeadersToAdd":
				for _, item := range items {
					if name, _ := dig(item, "header", "key").(string); judged(name) {
						found(field+"."+key, name)
					}
				}
			default:
				routeHeaders(v[key], field+"."+key, found)
			}
		}
	case []any:
		for _, item := range v {
			routeHeaders(item, field, found)
		}
	}
}

// virtualHeaders finds them in a VirtualService: headers.request.{set,add,remove}.
// A rewrite of the path or host there is how routes are made, and happens for the route that was allowed.
func virtualHeaders(v any, field string, found func(field, name string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, verb := range []string{"set", "add"} {
			for _, name := range sortedKeys(asMap(dig(v, "headers", "request", verb))) {
				if tenant.IsReservedHeader(name) {
					found(field+".headers.request."+verb, name)
				}
			}
		}
		remove, _ := dig(v, "headers", "request", "remove").([]any)
		for _, item := range remove {
			if name, _ := item.(string); tenant.IsReservedHeader(name) {
				found(field+".headers.request.remove", name)
			}
		}
		for _, key := range sortedKeys(v) {
			if key != "headers" {
				virtualHeaders(v[key], field+"."+key, found)
			}
		}
	case []any:
		for _, item := range v {
			virtualHeaders(item, field, found)
		}
	}
}

// script is what in Lua changes a request.
var script = regexp.MustCompile(`clearRouteCache|headers\(\)\s*:\s*(replace|add|remove)|setUpstreamOverrideHost`)

// scripts: what a script does to headers can't be read here.
func scripts(w *world, report reporter) {
	w.eachConfig("Lua", func(o *object, p *patch, c config) {
		if p.operation == api.EnvoyFilter_Patch_INSERT_FIRST {
			return // before Sluice is asked
		}
		for _, field := range []string{"inline_code", "default_source_code"} {
			code, _ := dig(c.fields, field).(string)
			if inner, ok := dig(c.fields, field, "inline_string").(string); ok {
				code = inner
			}
			if found := script.FindString(code); found != "" {
				report(o, c.field+"."+field, "a script behind ext_authz calls "+found+": whatever it changes was not judged",
					"do it before Sluice is asked, or waive this with the reason why the change has no bearing")
			}
		}
	})
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}
