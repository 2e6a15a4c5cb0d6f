package lint

import (
	"fmt"
	"slices"
	"strings"
)

// providerRules are about policies of action CUSTOM and whom they ask.
var providerRules = []rule{
	{"SL151", Error, unknownProvider},
	{"SL152", Warning, twoProviders},
	{"SL153", Error, dryRuns},
}

// custom are the policies that ask a provider.
func (w *world) custom() (out []*object) {
	for _, o := range w.of(securityGroup, "AuthorizationPolicy") {
		if text1(spec(o), "action") == "CUSTOM" {
			out = append(out, o)
		}
	}
	return out
}

func asks(o *object) string {
	name, _ := dig(spec(o), "provider", "name").(string)
	return name
}

func unknownProvider(w *world, report reporter) {
	if w.mesh == nil {
		return
	}
	for _, o := range w.custom() {
		if _, ok := w.providers[asks(o)]; !ok {
			report(o, "spec.provider.name", fmt.Sprintf("istiod has no provider %q, and denies what the policy selects", asks(o)),
				"name one of meshConfig.extensionProviders: "+strings.Join(sortedKeys(w.providers), ", "))
		}
	}
}

// twoProviders: before Istio 1.30 the second provider of a workload made istiod deny everything.
func twoProviders(w *world, report reporter) {
	all := w.custom()
	for i, b := range all {
		for _, a := range all[:i] {
			if asks(a) == asks(b) || targeted(a) != targeted(b) || !w.overlap(a, b, matchLabels(a), matchLabels(b)) {
				continue
			}
			pair := []string{asks(a), asks(b)}
			slices.Sort(pair)
			report(b, "spec.provider.name", fmt.Sprintf("%s asks another provider about the same workloads (%s): before Istio 1.30 everything there is denied, and since then both must allow", a, strings.Join(pair, ", ")),
				"let one of them decide, or keep their selectors apart")
		}
	}
}

// dryRuns: istiod takes the annotation on a CUSTOM policy and asks, and enforces, all the same.
func dryRuns(w *world, report reporter) {
	for _, o := range w.custom() {
		if o.GetAnnotations()["istio.io/dry-run"] == "true" {
			report(o, "metadata.annotations[istio.io/dry-run]", "a CUSTOM policy knows no dry run: what the provider refuses is refused", "remove it; roll out softly by shadow rules and limits in Sluice's catalogue")
		}
	}
}
