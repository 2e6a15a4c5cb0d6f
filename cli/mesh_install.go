package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

func meshInstallCommand() *cobra.Command {
	var f meshFlags
	var skip bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Make the cluster what the values say, and wait until it is ready",
		Long: `Lays the mesh down, component by component, each when what it needs is ready. Running it again with the
same values changes nothing; with others, it changes what differs and deletes what is no longer
rendered, except namespaces and custom resource definitions.

It begins with what 'sluice mesh preflight' asks and ends with what 'sluice mesh verify' asks; the exit status is 3 if
a check fails.

What others set is not overwritten. Before anything is changed, each field that another field manager owns is
listed with that manager; --take-ownership MANAGER takes over what this one set.

Ctrl-C stops between two objects. 'sluice mesh status' then says at which component, and running it again goes on.`,
		Example: `  sluice mesh install --profile voicecore
  sluice mesh install --profile voicecore -f my-values.yaml --set mesh.stage=soft --yes
  sluice mesh install --profile voicecore --dry-run -o json
  sluice mesh install --profile voicecore --take-ownership kubectl-edit
  sluice mesh install --bundle mesh.tgz@sha256:4be1f0…   # see 'sluice mesh bundle'`,
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
			if f.dryRun {
				changes, err := k.Compare(c.Context(), m, f.take)
				if err != nil {
					return err
				}
				return f.result(c, changes)
			}
			if !skip {
				if err := f.before(c, k, m); err != nil {
					return err
				}
			}
			if err := f.lay(c, func(o cluster.Options) ([]cluster.Change, error) { return k.Install(c.Context(), m, o) }); err != nil || skip {
				return err
			}
			return f.after(c, k, m)
		},
	}
	c.Flags().BoolVar(&skip, "skip-checks", false, "neither ask first whether the cluster can take the mesh, nor last whether it acts")
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.values(c)
	f.fromBundle(c)
	f.changing(c)
	f.taking(c)
	return c
}

// before refuses an installation that the cluster can't take. That nothing conflicts is asked by the installation itself.
func (f *meshFlags) before(c *cobra.Command, k *cluster.Cluster, m *cluster.Mesh) error {
	opened, err := check.Open(k, check.Options{Mesh: m, Compared: true})
	if err != nil {
		return err
	}
	r := check.Preflight(c.Context(), opened)
	if !r.Failed() {
		return c.Context().Err()
	}
	if err := printResults(c.ErrOrStderr(), r.Problems()); err != nil {
		return err
	}
	return exit.With(exitRefused, fmt.Errorf("nothing was changed: %s; --skip-checks goes on all the same", r))
}

// proving is how long proxies may take to run what was laid down.
const proving = time.Minute

// after asks whether what was laid down acts.
func (f *meshFlags) after(c *cobra.Command, k *cluster.Cluster, m *cluster.Mesh) error {
	r, err := f.verify(c, k, check.Options{Mesh: m}, min(f.timeout, proving))
	if err != nil {
		return err
	}
	if err := printResults(c.ErrOrStderr(), r.Problems()); err != nil {
		return err
	}
	if !r.Failed() {
		_, err := fmt.Fprintln(c.ErrOrStderr(), r)
		return err
	}
	return exit.With(exitRefused, fmt.Errorf("the mesh was laid down, and does not act: %s; 'sluice mesh verify' asks again", r))
}

// lay installs or rolls back, with progress, and prints what was changed.
func (f *meshFlags) lay(c *cobra.Command, do func(cluster.Options) ([]cluster.Change, error)) error {
	p := newMeshProgress(c)
	asked := false
	changes, err := do(cluster.Options{
		Timeout: f.timeout, TakeOwnership: f.take, Progress: p.event,
		Confirm: func(changes []cluster.Change) error {
			if f.yes {
				return nil
			}
			asked = true
			if err := printChanges(c.ErrOrStderr(), changes); err != nil {
				return err
			}
			return f.confirm(c, "Change the cluster?")
		},
	})
	p.end()
	if err != nil {
		return err
	}
	if asked && f.output == "table" {
		_, err := fmt.Fprintln(c.OutOrStdout(), "ready")
		return err
	}
	return f.result(c, changes)
}

func (f *meshFlags) result(c *cobra.Command, changes []cluster.Change) error {
	if f.output != "table" {
		return encode(c.OutOrStdout(), map[string]any{"changes": changes}, f.output)
	}
	return printChanges(c.OutOrStdout(), changes)
}

// printChanges lists what is not as it was, then counts.
func printChanges(w io.Writer, changes []cluster.Change) error {
	t := meshTable("component", "action", "object", "")
	for i := range changes {
		change := &changes[i]
		for _, conflict := range change.Conflicts {
			t.AppendRow(table.Row{change.Component, "conflict", change.Object, conflict.String()})
		}
		if change.Action != cluster.Keep {
			t.AppendRow(table.Row{change.Component, change.Action, change.Object, change.Note})
		}
	}
	text := cluster.Count(changes)
	if t.Length() > 0 {
		text = t.Render() + "\n" + text
	}
	_, err := fmt.Fprintln(w, printable(text))
	return err
}

// meshTable is a table without lines, as kubectl prints them.
func meshTable(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleDefault)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Box.PaddingLeft = ""
	t.Style().Box.PaddingRight = "  "
	t.SuppressTrailingSpaces()
	t.AppendHeader(header)
	return t
}
