package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/authz"
)

func authzExplainCommand() *cobra.Command {
	var (
		out             format
		q               asked
		dir, at         string
		headers, always []string
	)
	c := &cobra.Command{
		Use:   "explain --catalog DIR --tenant ID --principal NAME --path PATH",
		Short: "Say for each rule why it applies to a request, or does not",
		Example: `  sluice authz explain --catalog deploy/catalog --tenant acme --principal spiffe://cluster.local/ns/acme/sa/app \
    --method GET --path /v1/calls/42 --header 'x-region: eu'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := out.check(); err != nil {
				return err
			}
			if at != "" {
				if q.Time, err = time.Parse(time.RFC3339, at); err != nil {
					return fmt.Errorf("--time %q is no time such as 2026-09-21T14:00:00Z", at)
				}
			}
			if q.Headers, err = parseHeaders(headers); err != nil {
				return err
			}
			return explain(c, &out, dir, &q)
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "catalog", "", "folder of the catalogue")
	f.StringVar(&q.Tenant, "tenant", "", "id of the tenant")
	f.StringVar(&q.Plan, "plan", "", "name of the plan (default the tenant's)")
	f.StringVar(&q.Principal, "principal", "", "SPIFFE id, API key's id, or issuer/subject")
	f.StringVar(&q.Scheme, "scheme", "", "spiffe, api_key or jwt (default by the principal)")
	f.StringSliceVar(&q.Roles, "role", nil, "a role of the principal; may be repeated")
	f.StringVar(&q.Method, "method", "", "HTTP method (default GET, or POST for gRPC)")
	f.StringVar(&q.Path, "path", "", "path, as the request has it")
	f.StringVar(&q.Host, "host", "", "host")
	f.StringVar(&q.Service, "service", "", "service of the route")
	f.BoolVar(&q.GRPC, "grpc", false, "the request is gRPC")
	f.StringArrayVar(&headers, "header", nil, "a header 'name: value'; may be repeated")
	f.StringVar(&q.Body, "body", "", "the JSON body")
	f.StringVar(&at, "time", "", "when, such as 2026-09-21T14:00:00Z (default now)")
	out.flag(c)
	always = []string{"catalog", "tenant", "principal", "path"}
	for _, name := range always {
		_ = c.MarkFlagRequired(name) // fails only for a flag that is not there
	}
	return c
}

func parseHeaders(lines []string) (map[string]values, error) {
	headers := map[string]values{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("--header %q is not 'name: value'", line)
		}
		name = strings.ToLower(name)
		headers[name] = append(headers[name], strings.TrimSpace(value))
	}
	return headers, nil
}

// explanation is the JSON of the command.
type explanation struct {
	outcome
	Path  string        `json:"path,omitempty"` // as rules see it
	Rules []ruleVerdict `json:"rules"`
}

type ruleVerdict struct {
	Rule    string `json:"rule"`
	Effect  string `json:"effect"`
	Shadow  bool   `json:"shadow,omitempty"`
	Applies bool   `json:"applies"`
	Why     string `json:"why"`
	Units   uint64 `json:"units,omitempty"`
}

func explain(c *cobra.Command, out *format, dir string, q *asked) error {
	catalogue, err := loadCatalogue(dir)
	if err != nil {
		return err
	}
	got, in, err := q.decide(catalogue)
	if err != nil {
		return err
	}
	e := explanation{outcome: got, Rules: []ruleVerdict{}}
	var rows []table.Row
	if in != nil {
		e.Path = in.Action.Path
		for _, r := range catalogue.rules.Explain(in) {
			v := ruleVerdict{Rule: r.Rule, Effect: r.Effect, Shadow: r.Shadow, Applies: r.Applies, Why: why(r), Units: r.Units}
			e.Rules = append(e.Rules, v)
			effect := v.Effect
			if v.Shadow {
				effect += " (shadow)"
			}
			rows = append(rows, table.Row{v.Rule, effect, v.Applies, v.Why, v.Units})
		}
	}
	if err := out.write(c.OutOrStdout(), e, table.Row{"rule", "effect", "applies", "because", "units"}, rows); err != nil || out.name == "json" {
		return err
	}
	line := got.Outcome
	for _, more := range []struct{ before, text string }{{" by ", got.Rule}, {": ", got.Detail}, {"; with shadow rules enforced: ", got.Shadow}} {
		if more.text != "" {
			line += more.before + more.text
		}
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), line)
	return err
}

func why(r authz.Reason) string {
	switch {
	case r.Differs != "":
		return r.Differs + " does not match"
	case r.When == "error":
		return "the condition can't be evaluated: " + r.Error
	case r.When != "":
		return "who and what match, the condition is " + r.When
	}
	return "who and what match"
}
