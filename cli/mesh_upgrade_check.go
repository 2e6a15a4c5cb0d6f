package cli

import (
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/upgrade"
)

func upgradeCheckCommand() *cobra.Command {
	var f upgradeFlags
	c := &cobra.Command{
		Use:   "check --to VERSION",
		Short: "Say what stands in the way of an upgrade, and what will be different",
		Long: `Compares the installed mesh and the cluster with what another version of Istio wants: how far apart the versions
are, which Kubernetes it supports, what changed between them and where that shows on this cluster, whether the mesh as it would be
has a problem, and whether restarts lose requests. It changes nothing.

docs/guide/mesh-upgrade.md explains each code. The exit status is 3 if a check fails.`,
		Example: `  sluice mesh upgrade check --to 1.31.5
  sluice mesh upgrade check --to 1.32.0 --charts ./istio-1.32.0/manifests -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			from, to, err := f.next(c, k)
			if err != nil {
				return err
			}
			r, err := upgrade.Check(c.Context(), upgrade.Options{Cluster: k, From: from, To: to})
			if err != nil {
				return err
			}
			if err := f.printReport(c.OutOrStdout(), "upgrade check", r); err != nil {
				return err
			}
			return failing(r)
		},
	}
	f.outputs(c, "table", checkFormats...)
	f.cluster(c)
	f.where(c)
	f.target(c)
	return c
}
