package cli

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

func meshUninstallCommand() *cobra.Command {
	var f meshFlags
	var o cluster.UninstallOptions
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Delete what was installed, and list what stays and why",
		Long: `Deletes what the inventory lists and carries its label: first the filters and CUSTOM policies that send
requests to Sluice, then the components, last laid down first. Namespaces and custom resource definitions
stay unless asked for; those that were there before the first installation always do.

It refuses while Pods outside the mesh's own still have a sidecar.`,
		Example: `  sluice mesh uninstall --dry-run
  sluice mesh uninstall --yes
  sluice mesh uninstall --crds --namespaces`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			p := newMeshProgress(c)
			o.Timeout, o.DryRun, o.Progress = f.timeout, f.dryRun, p.event
			o.Confirm = func(r *cluster.Removal) error {
				if !f.yes {
					if err := printRemoval(c.ErrOrStderr(), r, "to delete"); err != nil {
						return err
					}
				}
				return f.confirm(c, "Delete it?")
			}
			r, err := k.Uninstall(c.Context(), f.namespace, o)
			p.end()
			if err != nil {
				return err
			}
			if f.output != "table" {
				return encode(c.OutOrStdout(), r, f.output)
			}
			done := "deleted"
			if f.dryRun {
				done = "to delete"
			}
			return printRemoval(c.OutOrStdout(), r, done)
		},
	}
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.where(c)
	f.changing(c)
	c.Flags().BoolVar(&o.Force, "force", false, "go on although Pods have sidecars, or others' objects would be lost with --crds")
	c.Flags().BoolVar(&o.CRDs, "crds", false, "delete the custom resource definitions too, and with them whatever was made of them")
	c.Flags().BoolVar(&o.Namespaces, "namespaces", false, "delete the namespaces too, and with them whatever is in them")
	return c
}

func printRemoval(w io.Writer, r *cluster.Removal, done string) error {
	t := meshTable("", "object", "why")
	for _, d := range r.Deleted {
		t.AppendRow(table.Row{done, d, ""})
	}
	for _, l := range r.Left {
		t.AppendRow(table.Row{"stays", l.Object, l.Why})
	}
	_, err := fmt.Fprintf(w, "%s\n%d %s, %d stay\n", t.Render(), len(r.Deleted), done, len(r.Left))
	return err
}
