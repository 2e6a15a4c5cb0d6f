package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

func upgradeStatusCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Say which proxies are attached to which control plane",
		Long: `Counts the proxies of each namespace by the control plane that injected them, from what the injector wrote on
each pod, and says which control plane a new pod would get.

The exit status is 0 if no upgrade is under way or all proxies have moved, 4 if some have not or a step was interrupted.`,
		Example: `  sluice mesh upgrade status
  sluice mesh upgrade status -o json | jq '.namespaces[] | select(.proxies.default > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			s, err := k.UpgradeStatus(c.Context(), f.namespace)
			if err != nil {
				return err
			}
			if err := show(c, f.output, s, printUpgrade); err != nil || s.Done() {
				return err
			}
			return exit.With(exitNotReady, errors.New("the upgrade is not done"))
		},
	}
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.where(c)
	return c
}

func printUpgrade(w io.Writer, s *cluster.UpgradeStatus) error {
	var b strings.Builder
	if s.To == nil {
		b.WriteString("no upgrade is under way\n")
	} else {
		fmt.Fprintf(&b, "from %s to %s, since %s\n", s.From, s.To, s.Since.UTC().Format(time.RFC3339))
	}
	if s.Unfinished != "" {
		fmt.Fprintf(&b, "UNFINISHED: %s\n", s.Unfinished)
	}
	fmt.Fprintf(&b, "what names no revision is validated by %s\n\n", orNone(s.Validator))
	t := meshTable("namespace", "new pods", "proxies")
	for i := range s.Namespaces {
		n := &s.Namespaces[i]
		t.AppendRow(table.Row{n.Namespace, orNone(n.Label), n})
	}
	fmt.Fprintln(&b, t.Render())
	_, err := io.WriteString(w, printable(b.String()))
	return err
}
