package lint

import (
	"fmt"
	"strings"

	api "istio.io/api/networking/v1alpha3"
)

// filterRules are about EnvoyFilters that do not do what they say. Istiod takes
// them with a warning at most, and Envoy keeps its old listener or drops the new filter.
var filterRules = []rule{
	{"SL101", Error, unknownFields},
	{"SL102", Error, appended},
	{"SL103", Error, unordered},
	{"SL104", Error, everywhere},
	{"SL105", Error, oldNames},
	{"SL106", Error, recursive},
	{"SL107", Warning, waypoints},
}

// eachPatch visits every patch of every EnvoyFilter.
func (w *world) eachPatch(visit func(o *object, p *patch)) {
	for _, o := range w.objects {
		if o.filter == nil {
			continue
		}
		for _, p := range o.filter.patches {
			visit(o, p)
		}
	}
}

func unknownFields(w *world, report reporter) {
	for _, o := range w.objects {
		if o.filter != nil && o.filter.err != nil {
			report(o, "spec", "istiod can't read it: "+plain(o.filter.err), "correct the spelling; kubectl explain envoyfilter.spec lists the fields")
		}
	}
	w.eachPatch(func(o *object, p *patch) {
		if p.err != nil {
			report(o, p.field+".patch.value", "Envoy refuses it and keeps its old listener: "+plain(p.err),
				"correct the field after Envoy's API reference; istiod only warns")
		}
	})
}

// plain is an error of protojson without what only its authors want to know.
func plain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimPrefix(strings.ReplaceAll(text, "\n", "; "), "proto: ")
}

func appended(w *world, report reporter) {
	w.eachPatch(func(o *object, p *patch) {
		if p.to != api.EnvoyFilter_HTTP_FILTER {
			return
		}
		if p.operation == api.EnvoyFilter_Patch_ADD {
			report(o, p.field+".patch.operation", "ADD puts an HTTP filter behind the router, and Envoy refuses the listener",
				"INSERT_BEFORE with subFilter.name envoy.filters.http.router")
		}
		if p.class != api.EnvoyFilter_Patch_UNSPECIFIED {
			report(o, p.field+".patch.filterClass", "istiod does not implement filterClass: the filter is not where it says",
				"INSERT_BEFORE with a subFilter, and a priority")
		}
	})
}

func unordered(w *world, report reporter) {
	for _, o := range w.objects {
		if o.filter == nil || o.filter.spec.GetPriority() != 0 {
			continue
		}
		for _, p := range o.filter.patches {
			if p.inserts() {
				report(o, "spec.priority", "without a priority the order of filters is that of their creation, which a new cluster changes",
					"set a priority other than 0")
				break
			}
		}
	}
}

func everywhere(w *world, report reporter) {
	for _, o := range w.objects {
		if o.filter == nil || o.GetNamespace() != w.root || len(o.filter.selector()) > 0 || len(o.filter.spec.GetTargetRefs()) > 0 {
			continue
		}
		report(o, "spec.workloadSelector", "in the root namespace and without labels it changes every proxy of the mesh, Sluice's own too",
			"select workloads by labels, or move it to their namespace")
	}
}

// old are names that Envoy no longer takes, and what they are called today.
var old = map[string]string{
	"envoy.http_connection_manager": "envoy.filters.network.http_connection_manager",
	"envoy.tcp_proxy":               "envoy.filters.network.tcp_proxy",
	"envoy.ext_authz":               "envoy.filters.http.ext_authz",
	"envoy.rate_limit":              "envoy.filters.http.ratelimit",
	"envoy.local_rate_limit":        "envoy.filters.http.local_ratelimit",
	"envoy.router":                  "envoy.filters.http.router",
	"envoy.lua":                     "envoy.filters.http.lua",
	"envoy.cors":                    "envoy.filters.http.cors",
	"envoy.fault":                   "envoy.filters.http.fault",
	"envoy.health_check":            "envoy.filters.http.health_check",
	"envoy.squash":                  "envoy.filters.http.squash",
	"envoy.csrf":                    "envoy.filters.http.csrf",
	"envoy.gzip":                    "envoy.filters.http.compressor",
	"envoy.buffer":                  "envoy.filters.http.buffer",
	"envoy.grpc_web":                "envoy.filters.http.grpc_web",
	"envoy.filters.http.jwt":        "envoy.filters.http.jwt_authn",
	"istio.alpn":                    "istio.alpn is no filter's name today; envoy.filters.http.router",
}

func oldNames(w *world, report reporter) {
	w.eachPatch(func(o *object, p *patch) {
		where := map[string]string{p.field + ".match…subFilter.name": p.at, p.field + ".patch.value.name": text1(p.value, "name")}
		for _, field := range []string{p.field + ".match…subFilter.name", p.field + ".patch.value.name"} {
			if today, ok := old[where[field]]; ok {
				report(o, field, fmt.Sprintf("nothing is called %s any more, so the patch matches nothing", where[field]), "write "+today)
			}
		}
		if _, ok := p.value["config"]; ok && p.err == nil {
			report(o, p.field+".patch.value.config", "Envoy reads no config without a type", "write typed_config with its @type")
		}
	})
}

func recursive(w *world, report reporter) {
	for _, d := range w.doors {
		for _, o := range w.objects {
			var labels map[string]string
			calls := false
			switch {
			case o.filter != nil:
				labels, calls = o.filter.selector(), true
			case o.is(securityGroup, "AuthorizationPolicy") && text1(spec(o), "action") == "CUSTOM":
				labels, calls = matchLabels(o), true
			}
			if !calls || o.GetNamespace() != d.namespace && o.GetNamespace() != w.root || targeted(o) {
				continue
			}
			// A selector that is within the pods' labels selects them; an empty one in the root namespace is SL104's.
			if len(labels) == 0 && o.GetNamespace() == w.root && d.namespace != w.root && o.filter != nil {
				continue
			}
			if within(labels, d.pods) {
				report(o, "spec", "it selects the pods of "+d.host+", which would ask themselves about every question they are asked",
					"select the workloads that ask; Sluice's pods need no filter")
			}
		}
	}
}

func waypoints(w *world, report reporter) {
	w.eachPatch(func(o *object, p *patch) {
		if p.context == api.EnvoyFilter_WAYPOINT {
			report(o, p.field+".match.context", "istiod applies no EnvoyFilter to a waypoint: it is accepted and does nothing",
				"use an AuthorizationPolicy of action CUSTOM, which works there, or put the filter at the gateway")
		}
	})
}
