package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

func upgradePromoteCommand() *cobra.Command {
	f := meshFlags{timeout: 5 * time.Minute}
	var only string
	c := &cobra.Command{
		Use:   "promote",
		Short: "Move namespaces to the new control plane, gateways last",
		Long: `Gives each namespace the label of the new control plane, in the same request in which it takes the old one's,
and restarts its Deployments, StatefulSets and DaemonSets as 'kubectl rollout restart' does, one after another, each when the one
before is ready. The mesh's own gateways come last, then the default validator. It stops at the first workload that does not
become ready; running it again goes on there.

No request is lost if pods answer when they are ready, and until nobody asks them: give containers a readiness probe and a
preStop hook of a few seconds ('sleep'). 'sluice mesh upgrade check' names those that have none.`,
		Example: `  sluice mesh upgrade promote --namespace canary
  sluice mesh upgrade promote --yes --timeout 10m`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.move(c, "Move "+orAll(only)+" to the new control plane?", func(k *cluster.Cluster, o cluster.Options) error {
				return k.PromoteUpgrade(c.Context(), f.namespace, cluster.MoveOptions{Options: o, Namespace: only})
			})
		},
	}
	f.moving(c)
	c.Flags().StringVarP(&only, "namespace", "n", "", "only this `namespace`; istiod's moves the gateways")
	return c
}

func orAll(namespace string) string {
	if namespace == "" {
		return "everything"
	}
	return "namespace " + namespace
}
