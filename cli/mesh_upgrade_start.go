package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/render"
)

// upgradeFlags say which control plane is wanted.
type upgradeFlags struct {
	meshFlags
	to, revision string
}

func (f *upgradeFlags) target(c *cobra.Command) {
	c.Flags().StringVar(&f.to, "to", "", "`version` of Istio to move to, such as 1.31.5")
	c.Flags().StringVar(&f.revision, "revision", "", "`name` of the new control plane; its version with '-' for '.' unless told")
	c.Flags().StringVar(&f.charts, "charts", "", "`folder` with the charts of that version, in place of those built in")
}

// next is the mesh that is installed, with the control plane that is wanted.
func (f *upgradeFlags) next(c *cobra.Command, k *cluster.Cluster) (from, to *cluster.Mesh, err error) {
	if f.to == "" {
		return nil, nil, exit.With(exitUsage, errors.New("say which version with --to, such as --to 1.31.5"))
	}
	if from, err = k.Installed(c.Context(), f.namespace); err != nil {
		return nil, nil, err
	}
	v := *from.Values
	v.Istio.Version, v.Istio.Revision = f.to, f.revision
	if f.revision == "" {
		v.Istio.Revision = strings.ToLower(strings.ReplaceAll(f.to, ".", "-"))
	}
	v.Istio.Charts = f.charts // those of the installed version are not those of this one
	if problems := v.Validate(); len(problems) > 0 {
		return nil, nil, exit.With(exitInput, problems)
	}
	components, err := render.All(&v)
	if err != nil {
		return nil, nil, exit.With(exitInput, err)
	}
	return from, &cluster.Mesh{Values: &v, Components: components}, nil
}

func upgradeStartCommand() *cobra.Command {
	var f upgradeFlags
	c := &cobra.Command{
		Use:   "start --to VERSION",
		Short: "Lay the new control plane down beside the old one",
		Long: `Renders the installed mesh with another version and revision of Istio, and lays down its definitions,
control plane and webhooks. No proxy moves, and no two injectors answer for one pod: the new one's webhooks choose by its revision.`,
		Example: `  sluice mesh upgrade start --to 1.31.5
  sluice mesh upgrade start --to 1.32.0 --charts ./istio-1.32.0/manifests --yes
  sluice mesh upgrade start --to 1.31.5 --revision canary --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			_, to, err := f.next(c, k)
			if err != nil {
				return err
			}
			if f.dryRun {
				changes, err := k.StartUpgrade(c.Context(), to, cluster.Options{TakeOwnership: f.take, Confirm: func([]cluster.Change) error { return errDry }})
				if !errors.Is(err, errDry) {
					return err
				}
				return f.result(c, changes)
			}
			err = f.lay(c, func(o cluster.Options) ([]cluster.Change, error) { return k.StartUpgrade(c.Context(), to, o) })
			if err == nil && f.output == "table" {
				_, err = fmt.Fprintln(c.ErrOrStderr(), "next: sluice mesh upgrade promote --namespace NAME")
			}
			return err
		},
	}
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.where(c)
	f.target(c)
	f.changing(c)
	f.taking(c)
	return c
}
