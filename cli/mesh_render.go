package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/render"
)

func meshRenderCommand() *cobra.Command {
	var f meshFlags
	var only []string
	c := &cobra.Command{
		Use:   "render",
		Short: "Print what would be installed, as YAML",
		Long: `Prints the objects of a mesh in the order in which they are laid down. It asks no cluster: the same
values give the same bytes. The namespaces and definitions have to be there before the rest, so that
kubectl needs one call for those and one for everything.`,
		Example: `  sluice mesh render --profile voicecore > mesh.yaml
  sluice mesh render --profile voicecore --component namespaces --component crds | kubectl apply --server-side -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.mesh()
			if err != nil {
				return err
			}
			components, err := choose(m.Components, only)
			if err != nil {
				return err
			}
			text, err := render.YAML(components)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	f.values(c)
	f.fromBundle(c)
	c.Flags().StringArrayVar(&only, "component", nil, "only this `component`; repeatable")
	return c
}

// choose keeps the components that are named; all if none is.
func choose(all []render.Rendered, names []string) ([]render.Rendered, error) {
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	var out []render.Rendered
	for _, r := range all {
		known = append(known, r.Name)
		if slices.Contains(names, r.Name) {
			out = append(out, r)
		}
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, exit.With(exitUsage, fmt.Errorf("these values render no component %q; one of %s", n, strings.Join(known, ", ")))
		}
	}
	return out, nil
}
