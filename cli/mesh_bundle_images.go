package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/bundle"
)

func bundleImagesCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "images",
		Short: "List every image that a mesh runs",
		Long: `Prints the images of Istio, the proxy that it injects, the consoles and Sluice, one a line, as the cluster would
pull them with these values. It asks nobody.`,
		Example: `  sluice mesh bundle images --profile voicecore
  sluice mesh bundle images --profile voicecore --set images.registry=registry.internal`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.mesh()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), strings.Join(bundle.Images(m), "\n"))
			return err
		},
	}
	f.values(c)
	return c
}
