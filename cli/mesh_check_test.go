package cli

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/check"
)

func report() *check.Report {
	return &check.Report{Results: []check.Result{
		{Code: "SV201", Title: "what was laid down is there"},
		{Code: "SV212", Title: "every proxy has its filters", Findings: []check.Finding{
			{Code: "SV212", Severity: check.Fail, Object: "Pod a/b", Says: "ext_authz is missing", Evidence: "chain x: router", Fix: "sluice mesh diff", Doc: "docs/reference/checks.md#sv212"},
			{Code: "SV212", Severity: check.Warn, Object: "Pod a/c", Says: "<odd>", Fix: "look", Doc: "docs/reference/checks.md#sv212"},
		}},
		{Code: "SV231", Title: "a request gets its answer", Findings: []check.Finding{{Code: "SV231", Severity: check.Warn, Object: "the ingress gateway", Says: "not probed", Fix: "say --probe-url", Doc: "x"}}},
	}}
}

func TestReportsArePrintedInEachFormat(t *testing.T) {
	printed := func(format string) string {
		var b bytes.Buffer
		if err := (&meshFlags{output: format}).printReport(&b, "verify", report()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	t.Run("a table has a line a check and what was found beneath it", func(t *testing.T) {
		want := `ok    SV201  what was laid down is there
FAIL  SV212  every proxy has its filters
      FAIL  Pod a/b: ext_authz is missing
            seen: chain x: router
            mend: sluice mesh diff
      warn  Pod a/c: <odd>
            mend: look
warn  SV231  a request gets its answer
      warn  the ingress gateway: not probed
            mend: say --probe-url
3 checks: 1 failed, 1 with a warning
`
		if got := printed("table"); got != want {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("what somebody wrote into an object does not steer the terminal", func(t *testing.T) {
		var b bytes.Buffer
		r := &check.Report{Results: []check.Result{{Code: "SA101", Title: "x", Findings: []check.Finding{
			{Code: "IST0101", Severity: check.Fail, Object: "VirtualService a/b\x1b[2J", Says: "host \x1b]0;owned\a\u009b1m\r", Evidence: "one\ntwo\x07", Fix: "\x1b[31m"},
		}}}}
		if err := printChecks(&b, r); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); strings.ContainsAny(got, "\x1b\a\r\u009b") || !strings.Contains(got, "seen: one\n            two") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("JSON and YAML have the same names", func(t *testing.T) {
		var r check.Report
		if err := json.Unmarshal([]byte(printed("json")), &r); err != nil || len(r.Findings()) != 3 || r.Findings()[0] != report().Findings()[0] {
			t.Errorf("%v: %+v", err, r)
		}
		if got := printed("yaml"); !strings.Contains(got, "severity: fail") {
			t.Errorf("%s", got)
		}
	})
	t.Run("JUnit has a case a check, and a failure where one failed", func(t *testing.T) {
		var s junitSuite
		if err := xml.Unmarshal([]byte(printed("junit")), &s); err != nil {
			t.Fatal(err)
		}
		if s.Name != "sluice mesh verify" || s.Tests != 3 || s.Failures != 1 || len(s.Cases) != 3 || s.Cases[0].Failure != nil || s.Cases[1].Failure == nil || s.Cases[2].Failure != nil {
			t.Fatalf("%+v", s)
		}
		if s.Cases[1].Failure.Message != "Pod a/b: ext_authz is missing" || !strings.Contains(s.Cases[1].Out, "<odd>") || !strings.Contains(s.Cases[2].Out, "--probe-url") {
			t.Errorf("%+v", s.Cases[1])
		}
	})
	t.Run("a failure is the exit status 3, a warning none", func(t *testing.T) {
		if code := exit.Code(failing(report())); code != 3 {
			t.Errorf("%d", code)
		}
		if err := failing(&check.Report{Results: report().Results[2:]}); err != nil {
			t.Error(err)
		}
	})
}

func TestAnalyzeReadsFilesAndFolders(t *testing.T) {
	const open = `{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: own, namespace: a}, spec: {priority: 5, workloadSelector: {labels: {app: a}}, configPatches: [{applyTo: HTTP_FILTER,
match: {listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.ext_authz}}}}},
patch: {operation: MERGE, value: {name: envoy.filters.http.ext_authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, failure_mode_allow: true}}}}]}}`
	dir := t.TempDir()
	for name, text := range map[string]string{"open.yaml": open, "notes.txt": "no YAML: {", "fine.json": `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(in string, args ...string) int {
		c := Command()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetIn(strings.NewReader(in))
		c.SetArgs(append([]string{"mesh", "analyze"}, args...))
		return exit.Code(c.Execute())
	}
	for _, c := range []struct {
		name, in string
		args     []string
		code     int
	}{
		{"a folder", "", []string{"-f", dir}, 3},
		{"a file without problems", "", []string{"-f", filepath.Join(dir, "fine.json")}, 0},
		{"standard input", open, []string{"-f", "-"}, 3},
		{"a file that is no YAML", "", []string{"-f", filepath.Join(dir, "notes.txt")}, exitInput},
		{"a file that is not there", "", []string{"-f", filepath.Join(dir, "none.yaml")}, exitInput},
		{"a format that there is not", "", []string{"-f", dir, "-o", "csv"}, exitUsage},
	} {
		t.Run(c.name+" gives its exit status", func(t *testing.T) {
			if code := run(c.in, c.args...); code != c.code {
				t.Errorf("%d, want %d", code, c.code)
			}
		})
	}
}
