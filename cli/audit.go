package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/exit"
)

func auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Prove that an audit log is whole, and look things up in it",
		Long: `Works on the folder that sluiced writes its audit log into, or on a copy of it.
Nothing but the folder and the public key is needed: no server, no network.`,
	}
	c.AddCommand(auditVerifyCommand(), auditSearchCommand(), auditCheckpointCommand())
	return c
}

// errTampered is exit status 1 of 'sluice audit verify'. Everything else that goes wrong is 2: it could not tell.
var errTampered = errors.New("audit verify: the log is not what sluiced wrote")

func auditVerifyCommand() *cobra.Command {
	var key, checkpoint, output string
	var closed bool
	c := &cobra.Command{
		Use:   "verify DIR --public-key FILE",
		Short: "Name the first record that is not what sluiced wrote",
		Long: `Checks every byte of the log: the chain of hashes through all files, every signature, and
that nothing is missing in front, between or, as far as was signed, at the end. It stops at the first problem.

Keep the public key (audit.pub) somewhere else than the log: who can change the log can change
a key beside it. A log that was rolled back together with its newest checkpoint is only seen with --checkpoint, a
copy that 'sluice audit checkpoint' printed earlier.

The exit status is 0 if the log is whole, 1 if it is not, 2 if that could not be found out.`,
		Example: `  sluice audit verify /var/lib/sluice/audit --public-key /etc/sluice/audit.pub
  sluice audit verify ./copy --public-key audit.pub --checkpoint checkpoint-of-yesterday --closed
  sluice audit verify ./copy --public-key audit.pub -o json | jq .problem`,
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(c, args); err != nil {
				return exit.With(2, err)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o := audit.VerifyOptions{Closed: closed}
			report, err := auditVerify(args[0], key, checkpoint, o)
			if err == nil {
				err = printReport(c.OutOrStdout(), &report, output)
			}
			switch {
			case err != nil:
				return exit.With(2, fmt.Errorf("audit verify: %w", err))
			case report.Problem != nil:
				return errTampered
			}
			return nil
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit.With(2, err) })
	c.Flags().StringVar(&key, "public-key", "", "file with the public key, as audit.pub; several keys in it if it was changed")
	c.Flags().StringVar(&checkpoint, "checkpoint", "", "file with a checkpoint that was kept elsewhere")
	c.Flags().BoolVar(&closed, "closed", false, "nobody writes the log now: a record that is not signed is a problem")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func auditVerify(dir, key, checkpoint string, o audit.VerifyOptions) (r audit.Report, err error) {
	if key == "" {
		return r, errors.New("--public-key is missing: without the key anybody could have written the log; sluiced leaves it in audit.pub")
	}
	text, err := os.ReadFile(key)
	if err != nil {
		return r, err
	}
	if o.Keys, err = audit.ParsePublicKeys(text); err != nil {
		return r, fmt.Errorf("%s: %w", key, err)
	}
	if checkpoint != "" {
		if o.Expect, err = os.ReadFile(checkpoint); err != nil {
			return r, err
		}
	}
	return audit.Verify(os.DirFS(dir), o)
}

func printReport(w io.Writer, r *audit.Report, output string) error {
	switch output {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "text":
	default:
		return fmt.Errorf("-o %q: text or json", output)
	}
	var b strings.Builder
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	if r.Gaps > 0 {
		fmt.Fprintf(&b, "note: the log says that %d entries are missing, for which there was no room or no disk\n", r.Gaps)
	}
	if r.Problem != nil {
		fmt.Fprintf(&b, "NOT WHOLE: %s\nRecords up to %d are as they were signed.\n", r.Problem, r.Signed)
	} else {
		fmt.Fprintf(&b, "whole: records %d to %d of %s, in %d files, %d signatures\n", r.First, r.Last, r.Origin, r.Segments, r.Checkpoints)
		fmt.Fprintf(&b, "signed up to record %d, at %s\n", r.Signed, timeText(r.SignedAt))
		if n := r.Last - r.Signed - 1; n > 0 || r.Torn > 0 {
			fmt.Fprintf(&b, "not yet signed: %d records after that and %d bytes of an unfinished one; they prove nothing\n", n, r.Torn)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func timeText(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000000Z")
}

func auditSearchCommand() *cobra.Command {
	var f audit.Filter
	var since, until, output string
	c := &cobra.Command{
		Use:   "search DIR",
		Short: "Print the records that match, oldest first",
		Long: `Reads the log from its oldest file and prints what matches all flags that are given. It checks
no signature: 'sluice audit verify' does. -o json prints the lines as they are in the log.`,
		Example: `  sluice audit search /var/lib/sluice/audit --tenant acme --denied --since 1h
  sluice audit search ./copy --decision 7f0c2d6e4b1a9380c5d2e1f0a9b8c7d6 -o json
  sluice audit search ./copy --rule no-admin --since 2026-11-01 --until 2026-11-02T12:00:00Z`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			now := time.Now()
			var err1, err2 error
			f.Since, err1 = parseTime("--since", since, now)
			f.Until, err2 = parseTime("--until", until, now)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			w := bufio.NewWriter(c.OutOrStdout())
			show, err := shower(w, output)
			if err != nil {
				return err
			}
			if err := audit.Search(os.DirFS(args[0]), f, show); err != nil {
				return fmt.Errorf("audit search: %w", err)
			}
			return w.Flush()
		},
	}
	c.Flags().StringVar(&f.Tenant, "tenant", "", "the tenant's id")
	c.Flags().StringVar(&f.Principal, "principal", "", "the principal's name")
	c.Flags().StringVar(&f.Decision, "decision", "", "the decision's id, as a refused caller saw it")
	c.Flags().StringVar(&f.Reason, "reason", "", "such as forbidden or over_limit; of a gap, such as queue_full")
	c.Flags().StringVar(&f.Rule, "rule", "", "the rule that decided, or that would have in shadow")
	c.Flags().StringVar(&since, "since", "", "from then on: 2026-11-25, 2026-11-25T08:00:00Z, or 90m before now")
	c.Flags().StringVar(&until, "until", "", "before then, written like --since")
	c.Flags().BoolVar(&f.Denied, "denied", false, "only what was refused")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// parseTime reads a date, a time, or a duration before now. 0 stands for no time.
func parseTime(flag, s string, now time.Time) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d).UnixMicro(), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UnixMicro(), nil
		}
	}
	return 0, fmt.Errorf("%s %q: a date such as 2026-11-25, a time such as 2026-11-25T08:00:00Z, or a duration before now such as 90m", flag, s)
}

// shower prints records one by one: the log may be larger than memory.
func shower(w io.Writer, output string) (func(*audit.Record, []byte) error, error) {
	switch output {
	case "json":
		return func(_ *audit.Record, text []byte) error {
			_, err := w.Write(append(text, '\n'))
			return err
		}, nil
	case "table":
		return func(r *audit.Record, text []byte) error {
			_, err := io.WriteString(w, recordLine(r, text))
			return err
		}, nil
	}
	return nil, fmt.Errorf("-o %q: table or json", output)
}

const columns = "%-27s  %-10s  %-5s  %-15s  %-16s  %-24s  %-7s  %s\n"

// recordLine is a record on one line. The log escapes what a terminal would obey, so its spelling is
// printed, not what it stands for; and a log that somebody else wrote is not believed in that.
func recordLine(r *audit.Record, text []byte) string {
	verdict := "-"
	if r.Allowed != nil {
		verdict = map[bool]string{true: "allow", false: "deny"}[*r.Allowed]
	}
	kind := r.Kind
	if r.Count > 0 {
		kind += "×" + strconv.FormatUint(r.Count, 10)
	}
	what := raw(text, "host") + raw(text, "path")
	if r.Act != "" {
		what = raw(text, "actor") + " " + raw(text, "act") + " " + raw(text, "resource")
	}
	if r.Decision != "" {
		what += "  " + raw(text, "decision_id")
	}
	if r.Rule != "" {
		what += "  rule " + raw(text, "rule")
	}
	line := fmt.Sprintf(columns, timeText(r.Time), kind, verdict, raw(text, "reason"), raw(text, "tenant"), raw(text, "principal"), raw(text, "method"), what)
	return graphic(line)
}

// graphic has '?' for what a terminal would obey.
func graphic(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) || r == '\n' {
			return r
		}
		return '?'
	}, s)
}

// raw is a string of a record as the log spells it, without its quotes.
func raw(text []byte, name string) string {
	_, rest, ok := bytes.Cut(text, []byte(`,"`+name+`":"`))
	if !ok {
		return ""
	}
	for i := 0; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case '"':
			return string(rest[:i])
		}
	}
	return ""
}

func auditCheckpointCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint DIR",
		Short: "Print the newest signed checkpoint, to keep it elsewhere",
		Long: `Prints what the log has signed last: its name, how many records it had, their hash, the time and the signature.
Keep it where who can write the log can't write, and give it to 'sluice audit verify --checkpoint' later: a log that
was rolled back to before it is then found out.`,
		Example: `  sluice audit checkpoint /var/lib/sluice/audit > checkpoint-$(date +%F)`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, _, err := audit.Newest(os.DirFS(args[0]))
			if err != nil {
				return fmt.Errorf("audit checkpoint: %w", err)
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
}
