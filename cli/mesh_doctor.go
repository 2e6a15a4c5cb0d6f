package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/check"
)

func meshDoctorCommand() *cobra.Command {
	var f meshFlags
	var pod string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with a mesh, and what mends it",
		Long: `Asks everything that 'sluice mesh verify' asks without sending requests, and more: whether the stage was left soft, a
policy allows everybody, a webhook leads nowhere, a budget blocks, versions go together, the cluster is what was
laid down, and whether anything in it undoes a decision (the linter). It only reads.

--pod explains one pod: what it runs, which objects want it so, and what is wrong with it.

The mesh is the one in the inventory, unless --profile, -f or --set name another. docs/reference/checks.md
explains each code. The exit status is 3 if a check fails.`,
		Example: `  sluice mesh doctor
  sluice mesh doctor --pod voicecore-ai/billing-service-7d4b9c-x2x1z
  sluice mesh doctor -o json | jq '.results[].findings[]? | select(.severity == "fail")'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if pod != "" && strings.Count(pod, "/") != 1 {
				return exit.With(exitUsage, fmt.Errorf("--pod %q; a namespace and a name, such as voicecore-ai/billing-service-7d4b9c-x2x1z", pod))
			}
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := f.installed(c.Context(), k)
			if err != nil {
				return err
			}
			opened, err := check.Open(k, check.Options{Mesh: m, Pod: pod})
			if err != nil {
				return err
			}
			if pod != "" {
				return f.explainPod(c, opened)
			}
			r := check.Doctor(c.Context(), opened)
			if err := f.printReport(c.OutOrStdout(), "doctor", r); err != nil {
				return err
			}
			return failing(r)
		},
	}
	f.outputs(c, "table", checkFormats...)
	f.cluster(c)
	f.values(c)
	f.where(c)
	c.Flags().StringVar(&pod, "pod", "", "explain this one, `namespace/name`")
	return c
}

func (f *meshFlags) explainPod(c *cobra.Command, m *check.Mesh) error {
	e, err := check.Explain(c.Context(), m)
	if err != nil {
		return err
	}
	w := c.OutOrStdout()
	switch f.output {
	case "table":
		err = printPod(w, e)
	case "junit":
		err = printJUnit(w, "doctor --pod "+e.Pod, e.Report)
	default:
		err = encode(w, e, f.output)
	}
	if err != nil {
		return err
	}
	return failing(e.Report)
}

func printPod(w io.Writer, e *check.Explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Pod %s\nproxy: %s\nof it: %s\n", e.Pod, e.Proxy, orNone(e.Wanted))
	for _, at := range e.Inbound {
		fmt.Fprintf(&b, "requests come in at %s and meet\n", at.Where)
		for _, name := range at.Filters {
			fmt.Fprintf(&b, "    %s\n", name)
		}
	}
	for i := range e.Certs {
		fmt.Fprintf(&b, "%s certificate %s: %s left\n", e.Certs[i].Kind, e.Certs[i].ID, e.Certs[i].Left)
	}
	if len(e.Results) == 0 {
		b.WriteString("nothing is wrong with it\n")
	}
	if _, err := io.WriteString(w, printable(b.String())); err != nil || len(e.Results) == 0 {
		return err
	}
	return printChecks(w, e.Report)
}
