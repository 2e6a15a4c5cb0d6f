package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli"
	"github.com/voicecore-ai/sluice/exit"
)

const catalogYAML = `plans:
- name: gold
  limits: [{name: rps, limit: 5, window: 1s}]
tenants:
- {id: acme, plan: gold, principals: [spiffe://cluster.local/ns/acme/sa/app]}
rules:
- name: agents-read
  effect: allow
  who: {tenants: [acme], plans: [gold], roles: [agent]}
  what: {methods: [GET], paths: ['/v1/calls/{id}']}
- name: no-admin
  effect: deny
  what: {paths: [/admin/**]}
- name: region
  effect: allow
  what: {paths: [/v1/regions/**]}
  when: request.headers["x-region"] == "eu"
- name: soon
  effect: deny
  enforcement: shadow
  what: {paths: [/v1/calls/13]}
`

const principal = "spiffe://cluster.local/ns/acme/sa/app"

// folder writes files and returns where.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sluice runs a command line.
func sluice(stdin string, args ...string) (code int, out, problem string) {
	c := cli.Command()
	var b bytes.Buffer
	c.SetOut(&b)
	c.SetErr(&b)
	c.SetIn(strings.NewReader(stdin))
	c.SetArgs(args)
	err := c.Execute()
	if err != nil {
		problem = err.Error()
	}
	return exit.Code(err), b.String(), problem
}

func TestPolicyTests(t *testing.T) {
	caseOf := func(lines string) string {
		return "catalog: catalog\ncases:\n- name: a case\n  principal: " + principal + "\n  tenant: acme\n" + lines
	}
	const read = "  roles: [agent]\n  request: {path: /v1/calls/42}\n"
	for _, c := range []struct {
		name, file string
		code       int
		want       string
	}{
		{"an expected answer passes", caseOf(read + "  expect: allow\n  rule: agents-read\n"), 0, "✓"},
		{"an answer without its rule passes", caseOf(read + "  expect: allow\n"), 0, "✓"},
		{"a plan of the case's own is used", caseOf("  plan: free\n" + read + "  expect: deny\n  rule: ''\n"), 0, "no rule allows it"},
		{"another answer fails", caseOf(read + "  expect: deny\n"), 1, "1 of 1 cases are not as expected"},
		{"another rule fails", caseOf(read + "  expect: allow\n  rule: no-admin\n"), 1, "allow by no-admin"},
		{"a rule where none is expected fails", caseOf(read + "  expect: allow\n  rule: ''\n"), 1, "allow by no rule"},
		{"P-02 a malformed path is an error", caseOf("  request: {path: /v1/../admin}\n  expect: error\n"), 0, "segment '.' or '..'"},
		{"X-02 a condition that fails is an error", caseOf("  request: {path: /v1/regions/1}\n  expect: error\n  rule: region\n"), 0, "no such key"},
		{"H-01 a header may come twice", caseOf("  request: {path: /v1/regions/1, headers: {X-Region: [eu, eu]}}\n  expect: error\n"), 0, "came twice"},
		{"a header is read", caseOf("  request: {path: /v1/regions/1, headers: {X-Region: eu}}\n  expect: allow\n"), 0, "✓"},
		{"an unknown field is refused with its line", caseOf("  rules: x\n"), 1, `tests.yaml:6: unknown field "rules"`},
		{"an unknown field of a request is refused with its line", caseOf("  expect: deny\n  request: {pth: /}\n"), 1, `tests.yaml:7: unknown field "pth"`},
		{"an unknown expectation is refused", caseOf(read + "  expect: allowed\n"), 1, `expect is "allowed"`},
		{"a bad tenant is refused", strings.Replace(caseOf(read+"  expect: deny\n"), "acme\n", "Acme\n", 1), 1, `tenant "Acme"`},
		{"no cases are refused", "catalog: catalog\n", 1, "there are no cases"},
		{"no catalogue is refused", "cases: [{name: a}]\n", 1, "catalog is missing"},
		{"a catalogue that is not there is refused", "catalog: nowhere\ncases: [{name: a, expect: deny}]\n", 1, "nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, "catalog/a.yaml", catalogYAML, "catalog/.hidden.yaml", "x: [", "tests.yaml", c.file)
			code, out, problem := sluice("", "authz", "test", filepath.Join(dir, "tests.yaml"))
			if code != c.code || !strings.Contains(out+problem, c.want) {
				t.Errorf("exit %d, %s\n%s", code, problem, out)
			}
		})
	}
	t.Run("JSON has every case", func(t *testing.T) {
		dir := folder(t, "catalog/a.yaml", catalogYAML, "tests.yaml", caseOf(read+"  expect: deny\n"))
		code, out, _ := sluice("", "authz", "test", "-o", "json", filepath.Join(dir, "tests.yaml"))
		var results []struct {
			Case, Expect, Outcome, Rule string
			Passed                      bool
		}
		if err := json.Unmarshal([]byte(out), &results); err != nil || code != 1 || len(results) != 1 {
			t.Fatalf("exit %d, %v: %s", code, err, out)
		}
		if r := results[0]; r.Case != "a case" || r.Expect != "deny" || r.Outcome != "allow" || r.Rule != "agents-read" || r.Passed {
			t.Errorf("%+v", r)
		}
	})
	t.Run("every problem of the rules is named with its line", func(t *testing.T) {
		dir := folder(t, "catalog/a.yaml", catalogYAML+"- {name: no-admin, effect: deny, what: {paths: [x]}}\n", "tests.yaml", caseOf(read+"  expect: deny\n"))
		code, _, problem := sluice("", "authz", "test", filepath.Join(dir, "tests.yaml"))
		if code != 1 || !strings.Contains(problem, `a.yaml:22: rules[4].name: "no-admin" is already`) || !strings.Contains(problem, `a.yaml:22: rules[4].what.paths[0]: "x" does not begin with '/'`) {
			t.Errorf("exit %d: %s", code, problem)
		}
	})
	t.Run("an unknown field of a rule is refused with its line", func(t *testing.T) {
		dir := folder(t, "catalog/a.yaml", "rules:\n- name: a\n  effect: allow\n  when_: x\n", "tests.yaml", caseOf(read+"  expect: deny\n"))
		if _, _, problem := sluice("", "authz", "test", filepath.Join(dir, "tests.yaml")); !strings.Contains(problem, `a.yaml:4: rules[0]: unknown field "when_"`) {
			t.Error(problem)
		}
	})
}

func TestExplain(t *testing.T) {
	dir := folder(t, "a.yaml", catalogYAML)
	run := func(more ...string) (int, string, string) {
		return sluice("", append([]string{"authz", "explain", "--catalog", dir, "--tenant", "acme", "--principal", principal}, more...)...)
	}
	t.Run("a table says why", func(t *testing.T) {
		code, out, problem := run("--role", "agent", "--path", "/v1/calls/13?x=1")
		for _, want := range []string{"allow by agents-read; with shadow rules enforced: deny by soon", "what.paths does not match", "deny (shadow)"} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("exit %d, %s: no %q in\n%s", code, problem, want, out)
			}
		}
	})
	t.Run("JSON says why", func(t *testing.T) {
		_, out, problem := run("--path", "/v1/regions/1", "--header", "x-region: eu", "-o", "json", "--time", "2026-09-21T14:00:00Z")
		var e struct {
			Outcome, Rule, Path string
			Rules               []struct {
				Rule, Why string
				Applies   bool
				Units     int
			}
		}
		if err := json.Unmarshal([]byte(out), &e); err != nil || e.Outcome != "allow" || e.Rule != "region" || len(e.Rules) != 4 || e.Rules[2].Units == 0 {
			t.Errorf("%v, %s, %+v", err, problem, e)
		}
	})
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a malformed path is said", []string{"--path", "//admin"}, "error: the path has an empty segment"},
		{"a malformed host is said", []string{"--path", "/", "--host", "user@host"}, "error: the :authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, out, problem := run(c.args...); code != 0 || !strings.Contains(out, c.want) {
				t.Errorf("exit %d, %s\n%s", code, problem, out)
			}
		})
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a flag that is missing is refused", nil, `"path" not set`},
		{"a bad time is refused", []string{"--path", "/", "--time", "noon"}, "is no time"},
		{"a bad header is refused", []string{"--path", "/", "--header", "x"}, "is not 'name: value'"},
		{"a bad scheme is refused", []string{"--path", "/", "--scheme", "basic"}, `there is no scheme "basic"`},
		{"a bad output is refused", []string{"--path", "/", "-o", "yaml"}, `there is no output "yaml"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, _, problem := run(c.args...); code != 1 || !strings.Contains(problem, c.want) {
				t.Errorf("exit %d, %s", code, problem)
			}
		})
	}
}
