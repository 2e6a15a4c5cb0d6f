// Package lint reads Kubernetes objects and refuses wiring in which something
// undoes what Sluice decides: a filter that fails open, a route on which nobody is
// asked, a change of the request after it was judged, a door that others can take.
//
// It takes what the installer renders, what a user wrote and what a cluster holds
// alike, and contacts nobody. It is not a validator of Kubernetes or Istio: a field that has no
// bearing on a decision is none of its business. A thousand objects take some milliseconds.
//
// Every rule has a stable code, told in docs/reference/lint.md. A problem that is meant to be
// is waived on its object, with a reason, one a line:
//
//	metadata:
//	  annotations:
//	    sluice.io/waive: "SL121: the batch gateway is reached by nobody else"
package lint

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Waive is the annotation by which an object keeps what a rule refuses.
const Waive = "sluice.io/waive"

// Severity is how bad a problem is.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // a decision is undone, or the configuration does nothing
	Warning Severity = "warning" // it may be, by something that can't be read here
	Waived  Severity = "waived"  // it is meant to be
)

// Problem is one thing that is wrong with one object.
type Problem struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`          // Kind namespace/name
	Field    string   `json:"field,omitempty"` // a path in it, such as spec.configPatches[0].patch
	Says     string   `json:"says"`
	Fix      string   `json:"fix"`
	Doc      string   `json:"doc"`              // page and anchor
	Reason   string   `json:"reason,omitempty"` // why it is waived
}

// Options say what the objects are.
type Options struct {
	// RootNamespace is istiod's. Empty: istio-system, or what the mesh's own configuration says.
	RootNamespace string
	// Complete says that the objects are all there are, as from a cluster or a
	// whole rendering, so that what is missing among them is missing.
	Complete bool
}

// rule is one sentence that must hold.
type rule struct {
	code     string
	severity Severity
	check    func(w *world, report reporter)
}

// reporter takes a problem of the rule that is running.
type reporter func(o *object, field, says, fix string)

// rules is all of them, by code. A rule's file says why it is there.
var rules = slices.Concat(filterRules, orderRules, failureRules, changeRules, doorRules, providerRules, trafficRules)

// Objects checks all rules and returns every problem, waived ones too, by object and code.
func Objects(objects []*unstructured.Unstructured, o Options) []Problem {
	w := newWorld(objects, o)
	out := w.misused()
	for _, r := range rules {
		r.check(w, func(on *object, field, says, fix string) {
			p := Problem{Code: r.code, Severity: r.severity, Object: on.String(), Field: field, Says: says, Fix: fix, Doc: anchor(r.code)}
			if reason, ok := on.waivers[r.code]; ok {
				p.Severity, p.Reason = Waived, reason
			}
			out = append(out, p)
		})
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Code, b.Code), strings.Compare(a.Field, b.Field))
	})
	return slices.Compact(out)
}

// Failed reports whether any problem is an error.
func Failed(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Error })
}

func anchor(code string) string { return "docs/reference/lint.md#" + strings.ToLower(code) }

// misused is SL100: waivers that waive nothing.
func (w *world) misused() (out []Problem) {
	for _, o := range w.objects {
		for _, text := range o.badWaivers {
			out = append(out, Problem{
				Code: "SL100", Severity: Error, Object: o.String(), Field: "metadata.annotations[" + Waive + "]", Doc: anchor("SL100"),
				Says: "a waiver that can't be read: " + text, Fix: "write 'CODE: reason' with a code of this page, one a line",
			})
		}
	}
	return out
}

// Codes are those of all problems that there can be, in order.
func Codes() []string {
	out := []string{"SL100"}
	for _, r := range rules {
		out = append(out, r.code)
	}
	return out
}

func known(code string) bool { return slices.Contains(Codes(), code) }
