package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

func authzCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "authz",
		Short: "Test, explain and replay authorization rules",
	}
	c.AddCommand(authzTestCommand(), authzExplainCommand(), authzReplayCommand())
	return c
}

// asked is a request as people write it: in a policy test, in flags, in a log.
type asked struct {
	Time      time.Time         `yaml:"time"`
	Tenant    string            `yaml:"tenant"`
	Plan      string            `yaml:"plan"` // default: the tenant's in the catalogue
	Principal string            `yaml:"principal"`
	Scheme    string            `yaml:"scheme"` // default: spiffe for spiffe://…, else api_key
	Roles     []string          `yaml:"roles"`
	Method    string            `yaml:"-"`
	Host      string            `yaml:"-"`
	Path      string            `yaml:"-"`
	Service   string            `yaml:"-"`
	GRPC      bool              `yaml:"-"`
	Headers   map[string]values `yaml:"-"`
	Body      string            `yaml:"-"`
}

// values is one value of a header, or a list of them.
type values []string

// schemes by the names that [authz.Scheme.String] gives.
func parseScheme(name, principal string) (authz.Scheme, error) {
	if name == "" {
		name = authz.APIKey.String()
		if strings.HasPrefix(principal, "spiffe://") {
			name = authz.SPIFFE.String()
		}
	}
	for _, s := range []authz.Scheme{authz.SPIFFE, authz.APIKey, authz.JWT} {
		if s.String() == name {
			return s, nil
		}
	}
	return authz.Nobody, fmt.Errorf("there is no scheme %q: spiffe, api_key or jwt", name)
}

// input is what rules are asked about. An error means that no request could be
// asked about; malformed means that the gate would answer 400.
func (a *asked) input(c *catalogue) (in *authz.Input, malformed, err error) {
	id, err := tenant.ParseID(a.Tenant)
	if err != nil {
		return nil, nil, fmt.Errorf("tenant %q: %w", a.Tenant, err)
	}
	plan := a.Plan
	if plan == "" {
		plan = c.plans[a.Tenant]
	}
	if a.Principal == "" {
		return nil, nil, errors.New("principal is missing: the SPIFFE id, the API key's id, or issuer/subject")
	}
	scheme, err := parseScheme(a.Scheme, a.Principal)
	if err != nil {
		return nil, nil, err
	}
	action := &authz.Action{Service: a.Service, Method: a.Method, GRPC: a.GRPC}
	if action.Method == "" {
		action.Method = "GET"
		if a.GRPC {
			action.Method = "POST"
		}
	}
	if action.Path, malformed = authz.CanonicalPath(a.Path); malformed != nil {
		return nil, malformed, nil
	}
	if a.Host != "" {
		if action.Host, malformed = authz.CanonicalHost(a.Host); malformed != nil {
			return nil, malformed, nil
		}
	}
	typed := false
	for name, list := range a.Headers {
		name = strings.ToLower(textproto.TrimString(name))
		typed = typed || name == "content-type"
		for _, value := range list {
			action.Headers = append(action.Headers, authz.Header{Name: []byte(name), Value: []byte(value)})
		}
	}
	if a.Body != "" {
		action.Body = authz.Body{Bytes: []byte(a.Body), Whole: true}
		if !typed {
			action.Headers = append(action.Headers, authz.Header{Name: []byte("content-type"), Value: []byte("application/json")})
		}
	}
	now := a.Time
	if now.IsZero() {
		now = time.Now()
	}
	return &authz.Input{
		Now: now.UnixMicro(), Tenant: id, Plan: plan, Action: action,
		Principal: &authz.Principal{Scheme: scheme, Name: a.Principal, Roles: a.Roles},
	}, nil, nil
}

// outcome is a verdict in words.
type outcome struct {
	Outcome string `json:"outcome"` // allow, deny, or error: a condition could not be evaluated, or the request is malformed
	Rule    string `json:"rule,omitempty"`
	Shadow  string `json:"shadow,omitempty"` // what it would be with shadow rules enforced, if that differs
	Detail  string `json:"detail,omitempty"`
}

const (
	outcomeAllow = "allow"
	outcomeDeny  = "deny"
	outcomeError = "error"
)

// decide asks the catalogue's rules.
func (a *asked) decide(c *catalogue) (outcome, *authz.Input, error) {
	in, malformed, err := a.input(c)
	switch {
	case err != nil:
		return outcome{}, nil, err
	case malformed != nil:
		return outcome{Outcome: outcomeError, Detail: malformed.Error()}, nil, nil
	}
	v := c.rules.Decide(in)
	o := outcome{Outcome: outcomeDeny, Rule: v.Rule}
	switch {
	case v.Failed:
		o.Outcome, o.Detail = outcomeError, conditionError(c.rules.Explain(in), v.Rule)
	case v.Allowed():
		o.Outcome = outcomeAllow
	case v.Rule == "":
		o.Detail = "no rule allows it"
	}
	if v.ShadowRule != "" {
		o.Shadow = outcomeDeny
		if v.Shadow {
			o.Shadow = outcomeAllow
		}
		o.Shadow += " by " + v.ShadowRule
	}
	return o, in, nil
}

func conditionError(reasons []authz.Reason, rule string) string {
	for _, r := range reasons {
		if r.Rule == rule {
			return r.Error
		}
	}
	return ""
}

// format is the -o flag.
type format struct{ name string }

func (f *format) flag(c *cobra.Command) {
	c.Flags().StringVarP(&f.name, "output", "o", "table", "table or json")
}

func (f *format) check() error {
	if f.name != "table" && f.name != "json" {
		return fmt.Errorf("there is no output %q: table or json", f.name)
	}
	return nil
}

// write writes value as JSON, or rows as a table.
func (f *format) write(w io.Writer, value any, header table.Row, rows []table.Row) error {
	if f.name == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(header)
	t.AppendRows(rows)
	_, err := fmt.Fprintln(w, t.Render())
	return err
}
