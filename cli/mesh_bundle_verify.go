package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/profile"
)

func bundleVerifyCommand() *cobra.Command {
	var want string
	c := &cobra.Command{
		Use:   "verify FILE.tgz",
		Short: "Say whether a bundle is whole",
		Long: `Reads a bundle, compares every file with its SHA-256 and the lists with each other, and renders the mesh from it, which
must give what is in it. That finds damage, and another version of sluice that would lay something else down. To know that it is the file
that was made, say --sha256 with what 'create' printed.

The exit status is 3 if it is not whole, another file, or another sluice's.`,
		Example: `  sluice mesh bundle verify mesh.tgz
  sluice mesh bundle verify mesh.tgz --sha256 4be1f0…`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := openBundle(args[0], want)
			if err != nil {
				return err
			}
			if _, err := b.Mesh(profile.Options{}); err != nil {
				return exit.With(exitRefused, fmt.Errorf("%s: %w", args[0], err))
			}
			return printBundle(c, &b.Manifest, b.Sum, args[0])
		},
	}
	c.Flags().StringVar(&want, "sha256", "", "the `digest` that the file must have")
	return c
}
