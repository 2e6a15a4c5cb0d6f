package lint

import (
	"fmt"
)

// failureRules are about ways past a question: no answer, or a route on which nobody asks.
var failureRules = []rule{
	{"SL121", Error, failsOpen},
	{"SL122", Error, providerFailsOpen},
	{"SL123", Error, notOnRoute},
	{"SL124", Error, notAlways},
	{"SL125", Error, noRefusal},
	{"SL126", Warning, noTimeout},
}

func failsOpen(w *world, report reporter) {
	for _, kind := range []string{"ExtAuthz", "ExternalProcessor", "ExtProcOverrides"} {
		w.eachConfig(kind, func(o *object, _ *patch, c config) {
			if open := dig(c.fields, "failure_mode_allow"); open == true || dig(open, "value") == true {
				report(o, c.field+".failure_mode_allow", "whoever makes the server fail is admitted",
					"leave it out; roll out softly by shadow rules and limits in Sluice's catalogue")
			}
		})
	}
	w.eachConfig("RateLimit", func(o *object, p *patch, c config) {
		if dig(c.fields, "rate_limit_service") != nil && dig(c.fields, "failure_mode_deny") != true && p.inserts() {
			report(o, c.field+".failure_mode_deny", "Envoy's default: nobody is limited while the server fails", "set it to true")
		}
	})
	w.eachConfig("PluginConfig", func(o *object, _ *patch, c config) {
		if dig(c.fields, "fail_open") == true || dig(c.fields, "failure_policy") == "FAIL_OPEN" {
			report(o, c.field, "a filter that panicked once lets everything pass", "failure_policy: FAIL_RELOAD")
		}
	})
}

func providerFailsOpen(w *world, report reporter) {
	for _, name := range sortedKeys(w.providers) {
		p := w.providers[name]
		if p.fields["failOpen"] == true {
			report(w.mesh, providerField(name, "failOpen"), "whoever makes the server fail is admitted",
				"set it to false; roll out softly by shadow rules and limits in Sluice's catalogue")
		}
	}
}

func providerField(name, field string) string {
	return fmt.Sprintf("data.mesh.extensionProviders[%s].%s", name, field)
}

// perRoute are the configurations of a filter on a route that switch it off.
var perRoute = []string{"ExtAuthzPerRoute", "ExtProcPerRoute", "FilterConfig"}

func notOnRoute(w *world, report reporter) {
	for _, kind := range perRoute {
		w.eachConfig(kind, func(o *object, _ *patch, c config) {
			if dig(c.fields, "disabled") == true {
				report(o, c.field+".disabled", "nobody is asked on this route, and what a client sends as Sluice's headers is not judged there",
					"name the path in sluice.excludedPaths, which keeps the gateway's cleaning")
			}
		})
	}
}

// notAlways: a filter for a share of the requests admits the others.
func notAlways(w *world, report reporter) {
	shares := map[string][]string{"ExtAuthz": {"filter_enabled"}, "RateLimit": {"filter_enabled", "filter_enforced"}, "LocalRateLimit": {"filter_enabled", "filter_enforced"}}
	for _, kind := range sortedKeys(shares) {
		w.eachConfig(kind, func(o *object, p *patch, c config) {
			if kind == "RateLimit" && dig(c.fields, "rate_limit_service") == nil {
				return // the route's RateLimit of the same name
			}
			for _, field := range shares[kind] {
				share := dig(c.fields, field)
				if share == nil {
					if kind == "LocalRateLimit" && p.inserts() && dig(c.fields, "token_bucket") != nil {
						report(o, c.field+"."+field, "unset, it is 0 %: the filter does nothing", "default_value: {numerator: 100}")
					}
					continue
				}
				if full(dig(share, "default_value")) && dig(share, "runtime_key") == nil {
					continue
				}
				report(o, c.field+"."+field, "some requests pass without being asked about, and a runtime key can make it all", "default_value: {numerator: 100}, and no runtime_key")
			}
			if dig(c.fields, "shadow_mode") == true {
				report(o, c.field+".shadow_mode", "what is refused passes", "leave it out; let Sluice shadow a tenant, a rule or a limit")
			}
		})
	}
}

// full reports whether a FractionalPercent is everything.
func full(v any) bool {
	most := int64(100)
	switch dig(v, "denominator") {
	case "TEN_THOUSAND":
		most = 10_000
	case "MILLION":
		most = 1_000_000
	}
	return number(dig(v, "numerator")) >= most
}

// noRefusal: ext_proc that can't refuse, or is not heard.
func noRefusal(w *world, report reporter) {
	w.eachConfig("ExternalProcessor", func(o *object, _ *patch, c config) {
		if dig(c.fields, "disable_immediate_response") == true {
			report(o, c.field+".disable_immediate_response", "a refusal becomes a bare 503, and an admission where the filter fails open", "leave it out")
		}
		if dig(c.fields, "observability_mode") == true {
			report(o, c.field+".observability_mode", "Envoy does not wait for the answer: nothing is ever refused", "leave it out")
		}
	})
}

func noTimeout(w *world, report reporter) {
	for _, name := range sortedKeys(w.providers) {
		if w.providers[name].fields["timeout"] == nil {
			report(w.mesh, providerField(name, "timeout"), "istiod's default is ten minutes: a server that hangs holds every request for so long", "set it to 1s")
		}
	}
}
