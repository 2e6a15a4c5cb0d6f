package cli

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

func upgradeRollbackCommand() *cobra.Command {
	f := meshFlags{timeout: 5 * time.Minute}
	var only string
	var remove bool
	c := &cobra.Command{
		Use:   "rollback",
		Short: "Move everything back to the old control plane",
		Long: `Points the default validator at the old control plane, gives each namespace its label back and restarts what is
attached to the new one, in the order of 'promote'. The new control plane stays for another try; --remove takes it away and ends
the upgrade. The custom resource definitions stay as they are: older ones could orphan what is stored.`,
		Example: `  sluice mesh upgrade rollback
  sluice mesh upgrade rollback --namespace canary --yes
  sluice mesh upgrade rollback --remove            # give the upgrade up`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if remove && only != "" {
				return exit.With(exitUsage, errors.New("--remove and --namespace: the new control plane can go only when all namespaces have moved back"))
			}
			return f.move(c, "Move "+orAll(only)+" back to the old control plane?", func(k *cluster.Cluster, o cluster.Options) error {
				return k.RollbackUpgrade(c.Context(), f.namespace, cluster.MoveOptions{Options: o, Namespace: only, Remove: remove})
			})
		},
	}
	f.moving(c)
	c.Flags().StringVarP(&only, "namespace", "n", "", "only this `namespace`; istiod's moves the gateways")
	c.Flags().BoolVar(&remove, "remove", false, "then remove the new control plane and end the upgrade")
	return c
}
