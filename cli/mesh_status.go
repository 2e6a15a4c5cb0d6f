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

func meshStatusCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what is installed, whether it is ready, and what was left unfinished",
		Long: `Reads the inventory and looks at each object in it. It says which versions and which stage are
installed, whether an installation was interrupted or is running, and what is not ready and why.

The exit status is 0 if all is ready, 4 if something is not or was left unfinished, 1 if nothing is installed.`,
		Example: `  sluice mesh status
  sluice mesh status -o json | jq -r .stage`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			s, err := k.Status(c.Context(), f.namespace)
			if err != nil {
				return err
			}
			if err := show(c, f.output, s, printStatus); err != nil || s.Ready() {
				return err
			}
			return exit.With(exitNotReady, errors.New("the mesh is not ready"))
		},
	}
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.where(c)
	return c
}

func printStatus(w io.Writer, s *cluster.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Kubernetes %s, Istio %s, profile %s, stage %s\n", s.Server, orNone(s.Istio), orNone(s.Profile), orNone(s.Stage))
	if s.Revision > 0 {
		fmt.Fprintf(&b, "revision %d: %s at %s by sluice %s\n", s.Revision, s.Action, s.At.UTC().Format(time.RFC3339), s.By)
	}
	if s.Unfinished != "" {
		fmt.Fprintf(&b, "UNFINISHED: %s\n", s.Unfinished)
	}
	t := meshTable("component", "ready", "")
	for i := range s.Components {
		component := &s.Components[i]
		t.AppendRow(table.Row{component.Name, fmt.Sprintf("%d/%d", component.Ready, component.Objects), strings.Join(component.Problems, "\n")})
	}
	fmt.Fprintf(&b, "\n%s\n", t.Render())
	if len(s.Revisions) > 0 {
		t := meshTable("revision", "what", "at", "istio", "stage")
		for _, r := range s.Revisions {
			t.AppendRow(table.Row{r.Number, r.Action, r.At.UTC().Format(time.RFC3339), r.Istio, r.Stage})
		}
		fmt.Fprintf(&b, "\n%s\n", t.Render())
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
