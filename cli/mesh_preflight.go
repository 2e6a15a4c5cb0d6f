package cli

import (
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/check"
)

func meshPreflightCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "preflight",
		Short: "Say whether the cluster can take the mesh, before anything is changed",
		Long: `Checks the cluster's version, its free CPU and memory, this account's rights for exactly what would be laid
down, other meshes and injectors, known holes in this version of Istio, and has the API server apply everything
without keeping it. It changes nothing. 'sluice mesh install' asks the same first.

docs/reference/checks.md explains each code. The exit status is 3 if a check fails.`,
		Example: `  sluice mesh preflight --profile voicecore
  sluice mesh preflight --profile voicecore -o junit > preflight.xml`,
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
			opened, err := check.Open(k, check.Options{Mesh: m, TakeOwnership: f.take})
			if err != nil {
				return err
			}
			r := check.Preflight(c.Context(), opened)
			if err := f.printReport(c.OutOrStdout(), "preflight", r); err != nil {
				return err
			}
			return failing(r)
		},
	}
	f.outputs(c, "table", checkFormats...)
	f.cluster(c)
	f.values(c)
	f.fromBundle(c)
	f.taking(c)
	return c
}
