package cli

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

// checkFormats are what reports are printed as.
var checkFormats = []string{"json", "yaml", "junit"}

// installed is the mesh that the flags name, or else the one that the inventory has.
func (f *meshFlags) installed(ctx context.Context, k *cluster.Cluster) (*cluster.Mesh, error) {
	if f.profile.Profile != "" || len(f.profile.Files) > 0 || len(f.profile.Sets) > 0 {
		return f.mesh()
	}
	return k.Installed(ctx, f.namespace)
}

// failing makes a report that failed the exit status 3.
func failing(r *check.Report) error {
	if r.Failed() {
		return exit.With(exitRefused, fmt.Errorf("%s", r))
	}
	return nil
}

// printReport prints what checks found in the format that was asked for.
func (f *meshFlags) printReport(w io.Writer, name string, r *check.Report) error {
	switch f.output {
	case "json", "yaml":
		return encode(w, r, f.output)
	case "junit":
		return printJUnit(w, name, r)
	}
	return printChecks(w, r)
}

// marks are what begins the line of a check.
var marks = map[check.Severity]string{"": "ok  ", check.Fail: "FAIL", check.Warn: "warn", check.Info: "info"}

var colors = map[check.Severity]text.Color{"": text.FgGreen, check.Fail: text.FgRed, check.Warn: text.FgYellow, check.Info: text.FgCyan}

func mark(w io.Writer, s check.Severity) string {
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" {
		return colors[s].Sprint(marks[s])
	}
	return marks[s]
}

// printChecks prints the results, and counts them.
func printChecks(w io.Writer, r *check.Report) error {
	err := printResults(w, r)
	if err == nil {
		_, err = fmt.Fprintln(w, r)
	}
	return err
}

// printResults prints a line a check, and beneath it what was found.
func printResults(w io.Writer, r *check.Report) error {
	var b strings.Builder
	for i := range r.Results {
		result := &r.Results[i]
		fmt.Fprintf(&b, "%s  %s  %s\n", mark(w, result.Worst()), result.Code, result.Title)
		for _, found := range result.Findings {
			code := ""
			if found.Code != result.Code {
				code = found.Code + " "
			}
			fmt.Fprintf(&b, "      %s  %s%s: %s\n", mark(w, found.Severity), code, printable(found.Object), indented(found.Says))
			if found.Evidence != "" {
				fmt.Fprintf(&b, "            seen: %s\n", indented(found.Evidence))
			}
			if found.Fix != "" {
				fmt.Fprintf(&b, "            mend: %s\n", indented(found.Fix))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func indented(s string) string { return strings.ReplaceAll(printable(s), "\n", "\n            ") }

// printable is text from a cluster as a terminal may show it: what somebody wrote into an object must not steer the terminal of who looks.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// The elements of a JUnit report, as far as anybody reads it.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
		Out     string        `xml:"system-out,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// printJUnit makes a test case of each check. Warnings are its output, failures its failure.
func printJUnit(w io.Writer, name string, r *check.Report) error {
	s := junitSuite{Name: "sluice mesh " + name, Tests: len(r.Results)}
	for i := range r.Results {
		result := &r.Results[i]
		c := junitCase{Class: result.Code, Name: result.Title}
		for _, f := range result.Findings {
			line := fmt.Sprintf("%s %s %s: %s\nseen: %s\nmend: %s\nsee: %s\n", f.Severity, f.Code, f.Object, f.Says, f.Evidence, f.Fix, f.Doc)
			switch {
			case f.Severity != check.Fail:
				c.Out += line
			case c.Failure == nil:
				s.Failures++
				c.Failure = &junitFailure{Message: f.Object + ": " + f.Says, Text: line}
			default:
				c.Failure.Text += line
			}
		}
		s.Cases = append(s.Cases, c)
	}
	out, err := xml.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, out)
	return err
}

// settle asks again until nothing fails or patience ends: what was just laid down takes some seconds to reach the proxies.
func settle(c *cobra.Command, patience time.Duration, ask func() (*check.Report, error)) (*check.Report, error) {
	end := time.Now().Add(patience)
	for {
		r, err := ask()
		if err != nil || !r.Failed() || time.Now().After(end) {
			return r, err
		}
		select {
		case <-c.Context().Done():
			return r, c.Context().Err()
		case <-time.After(2 * time.Second):
		}
	}
}
