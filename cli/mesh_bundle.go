package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/bundle"
	"github.com/voicecore-ai/sluice/installer/cluster"
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
  sluice mesh bundle images --profile voicecore --set images.hub=registry.internal/istio --set images.registry=registry.internal --sources
  sluice mesh bundle verify mesh.tgz --sha256 4be1f0…
  sluice mesh install --bundle mesh.tgz@sha256:4be1f0…`,
	}
	addMesh(c, bundleCommands)
	return c
}

// fromBundle adds the flag that takes values and charts from a bundle.
func (f *meshFlags) fromBundle(c *cobra.Command) {
	c.Flags().StringVar(&f.bundle, "bundle", "", "`file` that 'bundle create' made, for its values and charts; with @sha256:DIGEST behind it, only if it is that one")
	_ = c.MarkFlagFilename("bundle", "tgz")
}

// bundled is the mesh of the bundle that the flags name, with the values of the flags over its own.
func (f *meshFlags) bundled() (*cluster.Mesh, error) {
	name, sum, exact := strings.Cut(f.bundle, "@sha256:")
	switch {
	case exact && sum == "":
		return nil, exit.With(exitUsage, errors.New("--bundle ends with @sha256: and no digest"))
	case f.profile.Profile != "" || f.charts != "":
		return nil, exit.With(exitUsage, errors.New("--bundle has a profile and charts of its own; leave out --profile and --charts"))
	}
	b, err := openBundle(name, sum)
	if err != nil {
		return nil, err
	}
	m, err := b.Mesh(f.profile)
	if err != nil && !errors.Is(err, cluster.ErrRefused) {
		err = exit.With(exitInput, err)
	}
	return m, err
}

// openBundle reads a bundle that is whole; one that is not is refused.
func openBundle(name, sum string) (*bundle.Bundle, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("the bundle: %w", err)
	}
	defer func() { _ = file.Close() }()
	b, err := bundle.Open(file, sum)
	if err != nil {
		return nil, exit.With(exitRefused, fmt.Errorf("%s: %w", name, err))
	}
	return b, nil
}
