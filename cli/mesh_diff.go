package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

func meshDiffCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "diff",
		Short: "Print how the cluster differs from what would be installed",
		Long: `Asks the API server what installing would give (a server-side dry run) and prints the differences as
unified diffs of YAML. Fields that others set and the mesh doesn't are no difference: what istiod fills into its
webhooks, or the replicas that an autoscaler chose. Secrets are shown as digests.

The exit status is 0 if nothing differs, 2 if something does.`,
		Example: `  sluice mesh diff --profile voicecore
  sluice mesh diff --profile voicecore -o json | jq '.changes[] | select(.conflicts)'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.mesh()
			if err != nil {
				return err
			}
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			changes, err := k.Compare(c.Context(), m, f.take)
			if err != nil {
				return err
			}
			if err := printDiff(c.OutOrStdout(), changes, f.output); err != nil {
				return err
			}
			for i := range changes {
				if changes[i].Action != cluster.Keep {
					return exit.With(exitDiff, fmt.Errorf("the cluster differs: %s", cluster.Count(changes)))
				}
			}
			return nil
		},
	}
	f.outputs(c, "diff", "table", "json", "yaml")
	f.cluster(c)
	f.values(c)
	f.fromBundle(c)
	f.taking(c)
	return c
}

func printDiff(w io.Writer, changes []cluster.Change, output string) error {
	switch output {
	case "table":
		return printChanges(w, changes)
	case "json", "yaml":
		return encode(w, map[string]any{"changes": changes}, output)
	}
	var b strings.Builder
	for i := range changes {
		change := &changes[i]
		for _, conflict := range change.Conflicts {
			fmt.Fprintf(&b, "# conflict: %s\n", conflict)
		}
		if change.Note != "" {
			fmt.Fprintf(&b, "# %s %s: %s\n", change.Action, change.Object, change.Note)
		}
		b.WriteString(change.Diff)
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}
