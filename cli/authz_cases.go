package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

func authzTestCommand() *cobra.Command {
	var out format
	c := &cobra.Command{
		Use:   "test FILE...",
		Short: "Ask a catalogue's rules about written cases, and compare",
		Long: `Reads policy tests: a catalogue's folder, and cases that say who asks for what and what
the rules must answer. The exit status is 0 only if every answer is as expected.

  catalog: ../catalog            # relative to this file
  cases:
  - name: agents read calls
    principal: spiffe://cluster.local/ns/acme/sa/app
    tenant: acme                 # its plan comes from the catalogue, or from 'plan:'
    roles: [agent]
    request: {method: GET, host: api.example.com, path: /v1/calls/42}
    expect: allow                # or deny, or error: a condition fails, or the request is malformed
    rule: agents-read            # optional: the rule that decides

A case may also have scheme and time, a request also service, grpc, headers and body.`,
		Example: `  sluice authz test deploy/policy/*.yaml
  sluice authz test -o json policy.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return runPolicyTests(c, &out, files)
		},
	}
	out.flag(c)
	return c
}

// policyTests is one file of cases.
type policyTests struct {
	Catalog string       `yaml:"catalog"`
	Cases   []policyCase `yaml:"cases"`
}

type policyCase struct {
	Name    string `yaml:"name"`
	asked   `yaml:",inline"`
	Request policyRequest `yaml:"request"`
	Expect  string        `yaml:"expect"`
	Rule    *string       `yaml:"rule"` // nil: any; "" for none
}

type policyRequest struct {
	Method  string            `yaml:"method"`
	Host    string            `yaml:"host"`
	Path    string            `yaml:"path"`
	Service string            `yaml:"service"`
	GRPC    bool              `yaml:"grpc"`
	Headers map[string]values `yaml:"headers"`
	Body    string            `yaml:"body"`
}

// UnmarshalYAML reads one text or a list of them.
func (v *values) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*v = values{n.Value}
		return nil
	}
	var list []string
	err := n.Decode(&list)
	*v = list
	return err
}

// caseResult is what one case gave.
type caseResult struct {
	File   string `json:"file"`
	Case   string `json:"case"`
	Expect string `json:"expect"`
	outcome
	Passed bool `json:"passed"`
}

func runPolicyTests(c *cobra.Command, out *format, files []string) error {
	var results []caseResult
	failed := 0
	for _, file := range files {
		some, err := runPolicyFile(file)
		if err != nil {
			return err
		}
		for _, r := range some {
			if !r.Passed {
				failed++
			}
		}
		results = append(results, some...)
	}
	rows := make([]table.Row, len(results))
	for i, r := range results {
		mark := "✓"
		if !r.Passed {
			mark = "✗"
		}
		rows[i] = table.Row{mark, r.File, r.Case, r.Expect, r.Outcome, r.Rule, r.Detail}
	}
	if err := out.write(c.OutOrStdout(), results, table.Row{"", "file", "case", "expected", "got", "rule", ""}, rows); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases are not as expected", failed, len(results))
	}
	return nil
}

func runPolicyFile(file string) ([]caseResult, error) {
	data, err := readBounded(file)
	if err != nil {
		return nil, err
	}
	var tests policyTests
	if err := decodeYAML(file, data, &tests); err != nil {
		return nil, err
	}
	switch {
	case tests.Catalog == "":
		return nil, fmt.Errorf("%s: catalog is missing: the folder of the rules, relative to this file", file)
	case len(tests.Cases) == 0:
		return nil, fmt.Errorf("%s: there are no cases: a test of nothing passes for nothing", file)
	}
	dir := tests.Catalog
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(filepath.Dir(file), dir)
	}
	catalogue, err := loadCatalogue(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	results := make([]caseResult, len(tests.Cases))
	for i := range tests.Cases {
		if results[i], err = tests.Cases[i].run(catalogue); err != nil {
			return nil, fmt.Errorf("%s: cases[%d] %q: %w", file, i, tests.Cases[i].Name, err)
		}
		results[i].File = file
	}
	return results, nil
}

func (p *policyCase) run(c *catalogue) (caseResult, error) {
	if p.Name == "" {
		return caseResult{}, errors.New("name is missing: say in a few words what must hold")
	}
	switch p.Expect {
	case outcomeAllow, outcomeDeny, outcomeError:
	default:
		return caseResult{}, fmt.Errorf("expect is %q: allow, deny or error", p.Expect)
	}
	q := p.asked
	q.Method, q.Host, q.Path, q.Service = p.Request.Method, p.Request.Host, p.Request.Path, p.Request.Service
	q.GRPC, q.Headers, q.Body = p.Request.GRPC, p.Request.Headers, p.Request.Body
	got, _, err := q.decide(c)
	r := caseResult{Case: p.Name, Expect: p.Expect, outcome: got}
	r.Passed = got.Outcome == p.Expect
	if p.Rule != nil && *p.Rule != got.Rule {
		r.Passed = false
		r.Expect += " by " + *p.Rule
		if *p.Rule == "" {
			r.Expect = p.Expect + " by no rule"
		}
	}
	return r, err
}
