package cli

import (
	"github.com/spf13/cobra"
)

// bundleCommands are each in a file of its own.
var bundleCommands = []func() *cobra.Command{bundleCreateCommand, bundleVerifyCommand, bundleImagesCommand}

func meshBundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Carry a mesh to where there is no network",
		Long: `A bundle is one file with Istio's charts and Sluice's, all values, what is rendered from them, and the list of
images; each file with its SHA-256. The images themselves are copied with a tool of yours, from that list to a registry that the
cluster reaches.`,
		Example: `  sluice mesh bundle create mesh.tgz --profile voicecore --set images.hub=registry.internal/istio --set images.registry=registry.internal
  sluice mesh bundle images --profile voicecore | xargs -n1 crane pull ...
  sluice mesh bundle verify mesh.tgz --sha256 4be1…
  tar -xzf mesh.tgz && sluice mesh install -f values.yaml --charts istio`,
		Args: cobra.ArbitraryArgs,
		RunE: meshGroup,
	}
	addMesh(c, bundleCommands)
	return c
}
