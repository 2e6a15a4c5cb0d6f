package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/exit"
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
catalogue about each request, and prints the decisions that would change.

Both sides are compared as if nothing were in shadow: a request that was let pass only because its
tenant or a rule is in shadow counts as refused. How many there were is said.

The log has the requests that were refused, and of the others those that a rule asks a record of. Of these
are skipped, and counted:
  - what is no decision: checkpoints, administrators' acts, ends of streams, gaps, and the
    summaries that stand for a flood of refusals
  - decisions before rules were asked: unauthenticated, malformed, suspended
  - a last line that is unfinished: the server is writing it

Unknown, and neither the same nor changed, is what can't be asked again:
  - masked: a field has what looks like a credential, and the log has its digest
  - cut: a field was longer than 1 KiB, or a role than 256 bytes
  - not UTF-8: a field had bytes for which the log has U+FFFD
  - roles: there are 16, and the log keeps no more
  - headers or body: the answer hangs on a condition that reads them, and the log has none
  - shadow: the tenant was in shadow, so the record doesn't say what rules in shadow said, and here they matter
  - path or host: they are none that rules could be asked about

The exit status is 0 if nothing would change as far as is known, 2 if something would.`,
		Example: `  sluice authz replay data/audit/audit-00000001.jsonl --against deploy/catalog
  sluice audit search data/audit --tenant acme --since 24h -o json | sluice authz replay - --against deploy/catalog`,
		Args: cobra.ExactArgs(1),
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

// said is what rules say of a request, with none in shadow.
type said struct {
	allowed bool
	rule    string
	shadow  bool // a rule in shadow says so
}

func (s said) String() string {
	if s.allowed {
		return outcomeAllow
	}
	return outcomeDeny
}

// was is what the rules said to a decision, and not what became of it: what a limit refused was
// allowed. ok is false if no rule was asked. tenantInShadow says that for the tenant nothing was enforced; the
// record has then the verdict of the enforced rules, and none of the rules in shadow.
func was(r *audit.Record) (s said, tenantInShadow, ok bool) {
	forbidden := r.Reason == "forbidden"
	switch {
	case r.Rule == "" && r.ShadowRule == "" && !forbidden: // an admission names the rule that allows it
		return said{}, false, false
	case r.ShadowRule == "":
		return said{allowed: !forbidden, rule: r.Rule}, false, true
	case !forbidden && (r.Rule == "" || r.Rule == r.ShadowRule):
		return said{rule: r.Rule, shadow: true}, true, true
	}
	return said{allowed: r.Shadow != nil && *r.Shadow, rule: r.ShadowRule, shadow: true}, false, true
}

// enforced is what the rules would say with none in shadow; known is false if that hangs on
// headers or a body, of which in has none.
func (c *catalogue) enforced(in *authz.Input) (s said, known bool) {
	v := c.rules.Decide(in)
	s = said{allowed: v.Allowed(), rule: v.Rule}
	if v.ShadowRule != "" {
		s = said{allowed: v.Shadow, rule: v.ShadowRule, shadow: true}
	}
	if !c.rules.ReadsHeaders() {
		return s, true
	}
	guessed, allows := false, false
	for _, r := range c.rules.Explain(in) {
		switch {
		case r.Differs != "":
		case c.reads[r.Rule]:
			guessed, allows = true, allows || r.Effect == outcomeAllow
		case r.When == "error", r.Applies && r.Effect == outcomeDeny: // whatever the others say
			return said{rule: r.Rule, shadow: r.Shadow}, true
		case r.Applies:
			allows = true
		}
	}
	switch {
	case !guessed:
		return s, true
	case !allows:
		return said{}, true // no rule that could allow it
	}
	return said{}, false
}

// change is one kind of decision that would change.
type change struct {
	Tenant    string `json:"tenant"`
	Method    string `json:"method"`
	Was       string `json:"was"`
	WasRule   string `json:"was_rule,omitempty"`
	WasShadow bool   `json:"was_shadow,omitempty"` // shadow kept it from being enforced
	Now       string `json:"now"`
	NowRule   string `json:"now_rule,omitempty"`
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
	Asked   int        `json:"asked"` // same, changed and unknown
	Same    int        `json:"same"`
	Changed int        `json:"changed"`
	Unknown tally      `json:"unknown"`
	Skipped tally      `json:"skipped"`
	Shadow  int        `json:"shadow"` // of those asked: shadow kept the verdict from being enforced
	Changes []*changes `json:"changes"`

	index map[change]*changes
}

// tally counts by reason.
type tally map[string]int

func (t tally) String() string {
	sum, why := 0, []string{}
	for _, reason := range slices.Sorted(maps.Keys(t)) {
		sum += t[reason]
		why = append(why, fmt.Sprintf("%s %d", reason, t[reason]))
	}
	if sum == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", sum, strings.Join(why, ", "))
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
	r := replayed{Unknown: tally{}, Skipped: tally{}, Changes: []*changes{}, index: map[change]*changes{}}
	if err := r.read(in, log, catalogue); err != nil {
		return err
	}
	rows := make([]table.Row, len(r.Changes))
	for i, d := range r.Changes {
		before := by(d.Was, d.WasRule)
		if d.WasShadow {
			before += " in shadow"
		}
		rows[i] = table.Row{d.Count, graphic(d.Tenant), graphic(before), by(d.Now, d.NowRule), graphic(d.Method + " " + d.Example), graphic(d.Who), d.Line}
	}
	if err := out.write(c.OutOrStdout(), r, table.Row{"count", "tenant", "was", "would be", "for example", "as", "line"}, rows); err != nil {
		return err
	}
	if out.name != "json" {
		_, _ = fmt.Fprintf(c.OutOrStdout(), "%d asked: %d the same, %d would change, unknown %v; skipped %v\n", r.Asked, r.Same, r.Changed, r.Unknown, r.Skipped)
		if r.Shadow > 0 {
			_, _ = fmt.Fprintf(c.OutOrStdout(), "%d of those asked were decided otherwise only because of shadow: they are compared as if it had been enforced\n", r.Shadow)
		}
	}
	if r.Changed > 0 {
		return exit.With(2, fmt.Errorf("%d of %d decisions would change", r.Changed, r.Asked))
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
	n, unfinished := 0, false
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		unfinished = atEOF && !bytes.ContainsRune(data, '\n')
		return bufio.ScanLines(data, atEOF)
	})
	for lines.Scan() {
		n++
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		record, err := audit.ParseRecord(lines.Bytes())
		if err != nil && unfinished && n > 1 { // it is being written
			r.Skipped["unfinished"]++
			break
		}
		if err == nil && record.Kind == "" {
			err = errors.New("not an audit record: it has no kind")
		}
		if err == nil {
			err = r.ask(&record, n, c)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%s:%d: is longer than 1 MiB", name, n+1)
	}
	return lines.Err()
}

// skipped is why no rule is asked about a record. Words that Sluice does not write are one.
func skipped(r *audit.Record) string {
	word := r.Kind
	switch {
	case word == "decision" && r.ShadowReason != "": // admitted in the soft stage
		word = r.ShadowReason
	case word == "decision":
		word = r.Reason
	}
	switch word {
	case "segment", "checkpoint", "resume", "key", "removed", "clock", "admin", "stream_end", "summary", "gap",
		"unauthenticated", "malformed", "suspended", "internal", "unavailable":
		return word
	}
	return "other"
}

func (r *replayed) ask(record *audit.Record, n int, c *catalogue) error {
	before, tenantInShadow, ok := was(record)
	if record.Kind != "decision" || !ok {
		r.Skipped[skipped(record)]++
		return nil
	}
	r.Asked++
	if before.shadow {
		r.Shadow++
	}
	if why := record.Altered(); why != "" {
		r.Unknown[why]++
		return nil
	}
	q := asked{
		Time: time.UnixMicro(record.Time), Tenant: record.Tenant, Plan: record.Plan, Principal: record.Principal, Scheme: record.Scheme, Roles: record.Roles,
		Method: record.Method, Host: record.Host, Path: record.Path, Service: record.Service, GRPC: record.GRPC,
	}
	in, malformed, err := q.input(c)
	if err != nil {
		return err
	}
	if malformed != nil {
		r.Unknown["path or host"]++
		return nil
	}
	now, known := c.enforced(in)
	switch {
	case !known:
		r.Unknown["headers or body"]++
		return nil
	case tenantInShadow && now.shadow:
		r.Unknown["shadow"]++
		return nil
	case now.allowed == before.allowed:
		r.Same++
		return nil
	}
	r.Changed++
	return r.note(record, n, change{
		Tenant: record.Tenant, Method: record.Method,
		Was: before.String(), WasRule: before.rule, WasShadow: before.shadow, Now: now.String(), NowRule: now.rule,
	})
}

func (r *replayed) note(record *audit.Record, n int, key change) error {
	known := r.index[key]
	if known == nil {
		if len(r.Changes) == maxChanges {
			return errors.New("more than 10,000 kinds of changes: these rules are about something else")
		}
		known = &changes{change: key, Example: record.Path, Who: record.Principal, Line: n}
		r.index[key], r.Changes = known, append(r.Changes, known)
	}
	known.Count++
	return nil
}
