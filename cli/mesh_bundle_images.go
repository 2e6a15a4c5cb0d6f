package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/bundle"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
)

func bundleImagesCommand() *cobra.Command {
	var f meshFlags
	var sources bool
	c := &cobra.Command{
		Use:   "images",
		Short: "List every image that a mesh runs",
		Long: `Prints the images of Istio, the proxy that it injects, the consoles and Sluice, one a line, as the cluster would
pull them with these values. It asks nobody.

With --sources, each line has before it where the image comes from without images.hub and images.registry: what is to be copied, and
where to.`,
		Example: `  sluice mesh bundle images --profile voicecore
  sluice mesh bundle images --profile voicecore --set images.hub=registry.internal/istio --set images.registry=registry.internal --sources |
    while read -r from to; do crane copy "$from" "$to"; done`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.mesh()
			if err != nil {
				return err
			}
			if sources {
				return f.printSources(c.OutOrStdout(), m)
			}
			for _, image := range bundle.Images(m) {
				if _, err := fmt.Fprintln(c.OutOrStdout(), image); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.values(c)
	c.Flags().BoolVar(&sources, "sources", false, "before each, where it comes from without images.hub and images.registry")
	return c
}

// printSources prints each image with the place that it is copied from.
func (f *meshFlags) printSources(w io.Writer, m *cluster.Mesh) error {
	usual, err := profile.Load(profile.Options{})
	if err != nil {
		return err
	}
	public := *f
	public.profile.Sets = append(append([]string{}, f.profile.Sets...), "images.registry=", "images.hub="+usual.Images.Hub)
	from, err := public.mesh()
	if err != nil {
		return err
	}
	for _, pair := range bundle.Pairs(from, m) {
		if _, err := fmt.Fprintln(w, pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}
