package lint

import (
	"fmt"
	"time"
)

// trafficRules are about ways around the proxy, and about traffic that undoes limits.
var trafficRules = []rule{
	{"SL161", Error, notStrict},
	{"SL162", Warning, softly},
	{"SL163", Error, aroundTheProxy},
	{"SL164", Error, twoLabels},
	{"SL171", Error, retriesBeyondTimeout},
}

// weak are the modes that take callers without a certificate, who have no principal.
func weak(v any) string {
	mode, _ := dig(v, "mode").(string)
	if mode == "PERMISSIVE" || mode == "DISABLE" {
		return mode
	}
	return ""
}

func notStrict(w *world, report reporter) {
	const says, fix = "callers without a certificate have no principal, and reach the workload all the same", "STRICT, or leave it to the mesh's own PeerAuthentication"
	for _, o := range w.of(securityGroup, "PeerAuthentication") {
		ports := asMap(spec(o)["portLevelMtls"])
		for _, port := range sortedKeys(ports) {
			if mode := weak(ports[port]); mode != "" {
				report(o, "spec.portLevelMtls."+port, mode+": "+says, fix)
			}
		}
		if mode := weak(spec(o)["mtls"]); mode != "" && !w.meshWide(o) {
			report(o, "spec.mtls.mode", mode+": "+says, fix)
		}
	}
}

// meshWide reports whether a PeerAuthentication is the one of the whole mesh.
func (w *world) meshWide(o *object) bool {
	return o.GetNamespace() == w.root && len(matchLabels(o)) == 0
}

// softly is the soft stage of a roll-out, which is to end.
func softly(w *world, report reporter) {
	for _, o := range w.of(securityGroup, "PeerAuthentication") {
		if mode := weak(spec(o)["mtls"]); mode != "" && w.meshWide(o) {
			report(o, "spec.mtls.mode", mode+": the mesh takes callers without a certificate, who have no principal", "end the soft stage: mesh.stage enforced")
		}
	}
}

// around are the annotations that take traffic past the proxy, and when they do.
var around = []struct {
	name  string
	takes func(value string) bool
}{
	{"traffic.sidecar.istio.io/excludeInboundPorts", func(v string) bool { return v != "" }},
	{"traffic.sidecar.istio.io/includeInboundPorts", func(v string) bool { return v != "*" }},
	{"sidecar.istio.io/interceptionMode", func(v string) bool { return v == "NONE" }},
	{"sidecar.istio.io/inject", func(v string) bool { return v == "false" }},
}

func aroundTheProxy(w *world, report reporter) {
	for _, o := range w.objects {
		if w.atDoor(o) {
			continue // Sluice ends the mutual TLS of its doors itself, and holds callers against its list
		}
		annotations, at := podAnnotations(o)
		for _, a := range around {
			if v, ok := annotations[a.name]; ok && a.takes(v) && w.injected(o.GetNamespace()) {
				report(o, at+"["+a.name+"]", fmt.Sprintf("%q takes requests past the proxy, where nobody is asked", v), "remove it, or keep callers away with a NetworkPolicy and waive this with that reason")
			}
		}
		if podLabels(o)["sidecar.istio.io/inject"] == "false" && w.injected(o.GetNamespace()) {
			report(o, "the label sidecar.istio.io/inject", "the pod has no proxy, so nobody is asked about its requests", "remove it, or waive this with the reason")
		}
	}
}

// atDoor reports whether an object is or makes the pods of a door.
func (w *world) atDoor(o *object) bool {
	labels := podLabels(o)
	for _, d := range w.doors {
		if len(d.pods) > 0 && o.GetNamespace() == d.namespace && within(d.pods, labels) {
			return true
		}
	}
	return labels[nameLabel] == doorName
}

// injected reports whether a namespace has its pods injected. Of a namespace that is not among the objects, nobody knows: it may.
func (w *world) injected(name string) bool {
	for _, o := range w.of("", "Namespace") {
		if o.GetName() == name {
			labels := o.GetLabels()
			return labels["istio-injection"] == "enabled" || labels["istio.io/rev"] != ""
		}
	}
	return !w.complete
}

// twoLabels: istiod's webhooks read the one or the other, not both.
func twoLabels(w *world, report reporter) {
	for _, o := range w.of("", "Namespace") {
		labels := o.GetLabels()
		if labels["istio-injection"] != "" && labels["istio.io/rev"] != "" {
			report(o, "metadata.labels", "of the labels istio-injection and istio.io/rev the first wins, so the revision is not the one it says", "keep one of them")
		}
	}
}

// retriesBeyondTimeout: the last tries never run, and those that do are cut short.
func retriesBeyondTimeout(w *world, report reporter) {
	for _, o := range w.of(networkingGroup, "VirtualService") {
		routes, _ := spec(o)["http"].([]any)
		for i, item := range routes {
			timeout, ok := length(dig(item, "timeout"))
			each, also := length(dig(item, "retries", "perTryTimeout"))
			attempts := number(dig(item, "retries", "attempts"))
			if !ok || !also || timeout == 0 || each == 0 || attempts == 0 {
				continue
			}
			if all := time.Duration(attempts+1) * each; all > timeout {
				report(o, fmt.Sprintf("spec.http[%d].retries.perTryTimeout", i), fmt.Sprintf("%d tries of %s take %s, and the request has %s: each is charged and the last can't finish", attempts+1, each, all, timeout),
					fmt.Sprintf("at most %s", (timeout/time.Duration(attempts+1)).Truncate(time.Millisecond)))
			}
		}
	}
}

func length(v any) (time.Duration, bool) {
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	return d, err == nil
}
