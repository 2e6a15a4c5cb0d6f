package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/bundle"
)

func bundleVerifyCommand() *cobra.Command {
	var want string
	c := &cobra.Command{
		Use:   "verify FILE.tgz",
		Short: "Say whether a bundle is whole",
		Long: `Reads a bundle and compares every file with its SHA-256, the lists with each other, and nothing on disk is
written. That finds damage. To know that it is the file that was made, say --sha256 with what 'create' printed.

The exit status is 3 if it is not whole or another file.`,
		Example: `  sluice mesh bundle verify mesh.tgz
  sluice mesh bundle verify mesh.tgz --sha256 4be1f0…`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("the bundle: %w", err)
			}
			defer func() { _ = file.Close() }()
			m, sum, err := bundle.Verify(file)
			if err != nil {
				return &exitError{exitRefused, fmt.Errorf("%s: %w", args[0], err)}
			}
			if want != "" && !strings.EqualFold(want, sum) {
				return &exitError{exitRefused, fmt.Errorf("%s is another file: its SHA-256 is %s, not %s", args[0], sum, want)}
			}
			return printBundle(c, m, sum, args[0])
		},
	}
	c.Flags().StringVar(&want, "sha256", "", "the `digest` that the file must have")
	return c
}
