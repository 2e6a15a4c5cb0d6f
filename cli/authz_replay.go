package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
)

func authzReplayCommand() *cobra.Command {
	var (
		out     format
		against string
	)
	c := &cobra.Command{
		Use:   "replay LOG --against DIR",
		Short: "Ask other rules about the requests of an audit log",
		Long: `Reads the JSON lines of an audit log ('-' for standard input), asks the rules of another
catalogue about each request, and prints the decisions that would change. The log has no headers
and no bodies: a condition that reads them can't be replayed, and is counted apart.

The exit status is 0 if nothing would change, 2 if something would.`,
		Example: `  sluice authz replay audit.jsonl --against deploy/catalog`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return replay(c, &out, args[0], against)
		},
	}
	c.Flags().StringVar(&against, "against", "", "folder of the catalogue to ask")
	_ = c.MarkFlagRequired("against") // fails only for a flag that is not there
	out.flag(c)
	return c
}

// record is what replay reads of a line of the audit log. Other keys are not
// its business.
type record struct {
	Time      recordTime `json:"time"`
	Tenant    string     `json:"tenant"`
	Plan      string     `json:"plan"`
	Principal string     `json:"principal"`
	Scheme    string     `json:"scheme"`
	Roles     []string   `json:"roles"`
	Method    string     `json:"method"`
	Host      string     `json:"host"`
	Path      string     `json:"path"`
	Service   string     `json:"service"`
	GRPC      bool       `json:"grpc"`
	Allowed   bool       `json:"allowed"`
	Reason    string     `json:"reason"`
	Rule      string     `json:"rule"`
}

// recordTime is RFC 3339, or Unix microseconds.
type recordTime struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (t *recordTime) UnmarshalJSON(b []byte) error {
	if micro, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		t.Time = time.UnixMicro(micro)
		return nil
	}
	return t.Time.UnmarshalJSON(b)
}

// was is what the rules said, not what became of the request: one that a limit
// refused was allowed. false where no rule was asked.
func (r *record) was() (string, bool) {
	switch {
	case r.Principal == "" || r.Tenant == "" || r.Path == "":
		return "", false
	case r.Allowed, r.Reason == "over_limit", r.Reason == "unavailable":
		return outcomeAllow, true
	case r.Reason == "forbidden":
		return outcomeDeny, true
	}
	return "", false
}

// change is one kind of decision that would change.
type change struct {
	Tenant  string `json:"tenant"`
	Method  string `json:"method"`
	Was     string `json:"was"`
	WasRule string `json:"was_rule,omitempty"`
	Now     string `json:"now"`
	NowRule string `json:"now_rule,omitempty"`
}

type changes struct {
	change
	Count   int    `json:"count"`
	Example string `json:"example"`   // the first one's path
	Who     string `json:"principal"` // the first one's
	Line    int    `json:"line"`
}

// replayed is the JSON of the command.
type replayed struct {
	Asked   int        `json:"asked"`
	Skipped int        `json:"skipped"` // lines about which no rule was asked
	Unknown int        `json:"unknown"` // conditions that read what the log does not have
	Changed int        `json:"changed"`
	Changes []*changes `json:"changes"`

	index map[change]*changes
}

// Bounds of a log: a line, and kinds of changes that are told apart.
const (
	maxLogLine = 1 << 20
	maxChanges = 10_000
)

func replay(c *cobra.Command, out *format, log, against string) error {
	catalogue, err := loadCatalogue(against)
	if err != nil {
		return err
	}
	in := c.InOrStdin()
	if log != "-" {
		f, err := os.Open(log)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	r := replayed{Changes: []*changes{}, index: map[change]*changes{}}
	if err := r.read(in, log, catalogue); err != nil {
		return err
	}
	rows := make([]table.Row, len(r.Changes))
	for i, d := range r.Changes {
		rows[i] = table.Row{d.Count, d.Tenant, by(d.Was, d.WasRule), by(d.Now, d.NowRule), d.Method + " " + d.Example, d.Who, d.Line}
	}
	if err := out.write(c.OutOrStdout(), r, table.Row{"count", "tenant", "was", "would be", "for example", "as", "line"}, rows); err != nil {
		return err
	}
	if out.name != "json" {
		_, _ = fmt.Fprintf(c.OutOrStdout(), "%d asked, %d would change, %d can't be known, %d skipped\n", r.Asked, r.Changed, r.Unknown, r.Skipped)
	}
	if r.Changed > 0 {
		return &exitError{2, fmt.Errorf("%d of %d decisions would change", r.Changed, r.Asked)}
	}
	return nil
}

func by(outcome, rule string) string {
	if rule == "" {
		return outcome
	}
	return outcome + " by " + rule
}

func (r *replayed) read(in io.Reader, name string, c *catalogue) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLogLine)
	n := 0
	for lines.Scan() {
		n++
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var line record
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("%s:%d: is no line of an audit log: %w", name, n, err)
		}
		if err := r.ask(&line, n, c); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%s:%d: is longer than 1 MiB", name, n+1)
	}
	return lines.Err()
}

func (r *replayed) ask(line *record, n int, c *catalogue) error {
	was, ok := line.was()
	if !ok {
		r.Skipped++
		return nil
	}
	q := asked{
		Time: line.Time.Time, Tenant: line.Tenant, Plan: line.Plan, Principal: line.Principal, Scheme: line.Scheme, Roles: line.Roles,
		Method: line.Method, Host: line.Host, Path: line.Path, Service: line.Service, GRPC: line.GRPC,
	}
	got, _, err := q.decide(c)
	if err != nil {
		return err
	}
	r.Asked++
	if got.Outcome == outcomeError {
		if c.rules.ReadsHeaders() {
			r.Unknown++
			return nil
		}
		got.Outcome = outcomeDeny
	}
	if got.Outcome == was {
		return nil
	}
	r.Changed++
	key := change{Tenant: line.Tenant, Method: line.Method, Was: was, WasRule: line.Rule, Now: got.Outcome, NowRule: got.Rule}
	known := r.index[key]
	if known == nil {
		if len(r.Changes) == maxChanges {
			return errors.New("more than 10,000 kinds of changes: these rules are about something else")
		}
		known = &changes{change: key, Example: line.Path, Who: line.Principal, Line: n}
		r.index[key], r.Changes = known, append(r.Changes, known)
	}
	known.Count++
	return nil
}
