package lint

import (
	"cmp"
	"fmt"
	"slices"

	api "istio.io/api/networking/v1alpha3"
)

// orderRules are about filters that act before the ones whose work they need.
var orderRules = []rule{
	{"SL111", Error, beforeAuthorization},
	{"SL112", Error, outOfOrder},
}

// stages are the kinds of filters that call somebody, in the order in which a request
// should meet them: what only the authorized may cost comes after authorization.
var stages = map[string]int{"ExtAuthz": 1, "LocalRateLimit": 2, "RateLimit": 3, "RateLimitQuotaFilterConfig": 3, "ExternalProcessor": 4}

// called is a stage as the messages name it.
var called = map[int]string{1: "ext_authz", 2: "the local rate limit", 3: "the rate limit", 4: "ext_proc"}

// stage is what the patch inserts, or 0.
func (p *patch) stage() int {
	for _, c := range p.configs {
		if n := stages[c.kind]; n > 0 {
			return n
		}
	}
	return 0
}

const router = "envoy.filters.http.router"

// early are the filters that istiod puts up to and including its authorization; "" is none,
// which is the head of the list.
var early = []string{"", "istio.metadata_exchange", "envoy.filters.http.rbac", "envoy.filters.http.ext_authz", "envoy.filters.http.jwt_authn", "istio_authn"}

// beforeAuthorization: istiod puts ext_authz and its own authorization in front of
// what is inserted before the router, and behind what is inserted first.
func beforeAuthorization(w *world, report reporter) {
	w.eachPatch(func(o *object, p *patch) {
		first := p.operation == api.EnvoyFilter_Patch_INSERT_FIRST || p.operation == api.EnvoyFilter_Patch_INSERT_BEFORE && slices.Contains(early, p.at)
		if !p.inserts() || !first {
			return
		}
		if n := p.stage(); n == 3 || n == 4 {
			report(o, p.field+".patch.operation", called[n]+" is asked about callers that nobody has authorized, and about headers that they made up",
				"INSERT_BEFORE with subFilter.name "+router)
		}
	})
}

// outOfOrder compares what several EnvoyFilters insert before the router of one proxy:
// each lands behind the one before it, by priority and then by name.
func outOfOrder(w *world, report reporter) {
	type inserted struct {
		o *object
		p *patch
	}
	var all []inserted
	w.eachPatch(func(o *object, p *patch) {
		if p.operation == api.EnvoyFilter_Patch_INSERT_BEFORE && p.inserts() && p.at == router && p.stage() > 0 {
			all = append(all, inserted{o, p})
		}
	})
	slices.SortStableFunc(all, func(a, b inserted) int {
		return cmp.Or(cmp.Compare(a.o.filter.spec.GetPriority(), b.o.filter.spec.GetPriority()), cmp.Compare(a.o.GetName(), b.o.GetName()))
	})
	for i, late := range all {
		for _, early := range all[:i] {
			if early.p.stage() <= late.p.stage() || !w.overlap(early.o, late.o, early.o.filter.selector(), late.o.filter.selector()) || !sameContext(early.p, late.p) {
				continue
			}
			report(late.o, late.p.field, fmt.Sprintf("%s comes after %s of %s", called[late.p.stage()], called[early.p.stage()], early.o.GetName()),
				fmt.Sprintf("give it a priority below %d; the order is ext_authz, local limit, rate limit, ext_proc", early.o.filter.spec.GetPriority()))
		}
	}
}

func sameContext(a, b *patch) bool {
	return a.context == b.context || a.context == api.EnvoyFilter_ANY || b.context == api.EnvoyFilter_ANY
}
