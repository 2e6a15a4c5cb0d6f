// Package check finds out whether a cluster can take a mesh, whether one that was
// laid down acts, and what is wrong with one that does not. Make a Mesh with Open,
// then call Preflight, Verify, Doctor or Certificates, and read the Report.
//
// A check asks for effects, not for intentions: a filter is there when it is in the
// configuration that Envoy runs, mutual TLS is strict when the proxy has no filter
// chain for plain text. Checks only read, and none of them needs the right to read
// Secrets of a whole cluster; what the caller may not read is said, and is never taken for good.
//
// A check is one entry in a table: a stable code, one sentence that must hold, and
// where the page docs/reference/checks.md explains it. What several checks read is
// fetched once. A mesh of a hundred proxies is four requests to each of
// them, eight at a time, through the API server.
package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	Fail Severity = "fail" // it does not do what it should, or will stop to
	Warn Severity = "warn" // it may not, or it could not be found out
	Info Severity = "info" // worth knowing
)

// Finding is one thing that a check has to say about one object.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`             // Kind namespace/name
	Says     string   `json:"says"`               // what is wrong
	Evidence string   `json:"evidence,omitempty"` // what was read, and where
	Fix      string   `json:"fix,omitempty"`      // a command or an edit
	Doc      string   `json:"doc"`                // page and anchor
}

// Check is one sentence that must hold.
type Check struct {
	Code     string
	Title    string   // the sentence
	Severity Severity // of a breach, unless the finding says another

	run func(context.Context, *Mesh) ([]Finding, error)
}

// The tables, by command; what Verify asks, Doctor asks as well.
var (
	preflightChecks = slices.Concat(versionChecks, roomChecks, rightsChecks, otherChecks, apiChecks, secretChecks)
	verifyChecks    = slices.Concat(installedChecks, proxyChecks, certificateChecks)
	probeChecks     = slices.Concat(injectionChecks, requestChecks, consoleChecks)
	doctorChecks    = slices.Concat(stageChecks, policyChecks, webhookChecks, workloadChecks, driftChecks, lintChecks)
)

// All is every check there is, by the numbers of the codes.
func All() []Check {
	all := slices.Concat(preflightChecks, verifyChecks, probeChecks, doctorChecks)
	slices.SortFunc(all, func(a, b Check) int { return strings.Compare(a.Code[2:], b.Code[2:]) })
	return all
}

// Preflight says whether the cluster can take the mesh. It comes before the first change.
func Preflight(ctx context.Context, m *Mesh) *Report { return run(ctx, m, preflightChecks) }

// Verify says whether the mesh that was laid down acts, and sends it requests if the Mesh has a Probe.
func Verify(ctx context.Context, m *Mesh) *Report {
	return run(ctx, m, slices.Concat(verifyChecks, probeChecks))
}

// Doctor says what is wrong with a mesh. It sends no request through it and creates nothing, not even for trial.
func Doctor(ctx context.Context, m *Mesh) *Report {
	return run(ctx, m, slices.Concat(verifyChecks, doctorChecks))
}

// run runs checks one after another; what they share is fetched by the first that asks.
func run(ctx context.Context, m *Mesh, checks []Check) *Report {
	r := &Report{}
	for _, c := range checks {
		found, err := c.run(ctx, m)
		if err != nil {
			found = append(found, Finding{
				Severity: Warn, Object: "the cluster", Says: "not checked: " + err.Error(), Fix: unread(err),
			})
		}
		for i := range found {
			f := &found[i]
			f.Code, f.Severity = cmp.Or(f.Code, c.Code), cmp.Or(f.Severity, c.Severity)
			f.Doc = cmp.Or(f.Doc, anchor(f.Code))
		}
		slices.SortStableFunc(found, func(a, b Finding) int {
			return cmp.Or(cmp.Compare(rank(a.Severity), rank(b.Severity)), strings.Compare(a.Object, b.Object))
		})
		r.Results = append(r.Results, Result{Code: c.Code, Title: c.Title, Findings: found})
	}
	return r
}

func anchor(code string) string { return "docs/reference/checks.md#" + strings.ToLower(code) }

func rank(s Severity) int { return slices.Index([]Severity{Fail, Warn, Info}, s) }

// Report is what checks found, in the order in which they ran.
type Report struct {
	Results []Result `json:"results"`
}

// Result is one check's. Without findings, its sentence holds.
type Result struct {
	Code     string    `json:"code"`
	Title    string    `json:"title"`
	Findings []Finding `json:"findings,omitempty"`
}

// Worst is the severity of the result's first finding; empty if it has none.
func (r *Result) Worst() Severity {
	if len(r.Findings) == 0 {
		return ""
	}
	return r.Findings[0].Severity
}

// Findings are those of all checks.
func (r *Report) Findings() (all []Finding) {
	for i := range r.Results {
		all = append(all, r.Results[i].Findings...)
	}
	return all
}

// Problems is the report without the checks that hold.
func (r *Report) Problems() *Report {
	return &Report{Results: slices.DeleteFunc(slices.Clone(r.Results), func(x Result) bool { return rank(x.Worst()) < 0 || x.Worst() == Info })}
}

// Failed reports whether any finding is a failure.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Findings(), func(f Finding) bool { return f.Severity == Fail })
}

// String counts, as a sentence: "31 checks: 2 failed, 1 with a warning".
func (r *Report) String() string {
	n := map[Severity]int{}
	for i := range r.Results {
		n[r.Results[i].Worst()]++
	}
	switch {
	case n[Fail] == 0 && n[Warn] == 0:
		return fmt.Sprintf("%d checks: all hold", len(r.Results))
	case n[Fail] == 0:
		return fmt.Sprintf("%d checks: none failed, %d with a warning", len(r.Results), n[Warn])
	}
	return fmt.Sprintf("%d checks: %d failed, %d with a warning", len(r.Results), n[Fail], n[Warn])
}
