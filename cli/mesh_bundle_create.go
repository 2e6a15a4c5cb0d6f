package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/installer/bundle"
)

func bundleCreateCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "create FILE.tgz",
		Short: "Write the bundle of a mesh",
		Long: `Renders the mesh and writes it with what it is rendered from. It asks no cluster and no network. The same values and
the same sluice give the same bytes; the last line of its output is the SHA-256 of the file.

All values are in it, also those that you gave; whatever is secret among them can be read by who has the file.`,
		Example: `  sluice mesh bundle create mesh.tgz --profile voicecore -f my-values.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := f.mesh()
			if err != nil {
				return err
			}
			file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("the bundle: %w", err)
			}
			manifest, sum, err := bundle.Create(file, m, app.Version)
			if err = errors.Join(err, file.Close()); err != nil {
				return errors.Join(err, os.Remove(args[0]))
			}
			return printBundle(c, manifest, sum, args[0])
		},
	}
	f.values(c)
	return c
}

func printBundle(c *cobra.Command, m *bundle.Manifest, sum, file string) error {
	_, err := fmt.Fprintf(c.OutOrStdout(), "Istio %s, made by sluice %s: %d files, %d images\n%s  %s\n", m.Istio, m.Sluice, len(m.Files), len(m.Images), sum, file)
	return err
}
