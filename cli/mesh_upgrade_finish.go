package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

func upgradeFinishCommand() *cobra.Command {
	f := meshFlags{timeout: 5 * time.Minute}
	c := &cobra.Command{
		Use:   "finish",
		Short: "Remove the old control plane, when nobody is attached to it",
		Long: `Removes the webhooks and objects of the old control plane, and only those. It refuses (3) while a proxy is
attached to it or a namespace chooses it, and names them; for pods that are ending it waits.`,
		Example: `  sluice mesh upgrade finish
  sluice mesh upgrade finish --yes`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.move(c, "Remove the old control plane?", func(k *cluster.Cluster, o cluster.Options) error {
				if err := k.FinishUpgrade(c.Context(), f.namespace, o); err != nil {
					return err
				}
				m, err := k.Installed(c.Context(), f.namespace)
				if err == nil {
					_, err = fmt.Fprintln(c.ErrOrStderr(), upgradeHint(m.Values.Istio.Version, m.Values.Istio.Revision))
				}
				return err
			})
		},
	}
	f.moving(c)
	return c
}
