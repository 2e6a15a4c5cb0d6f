// Package cli is the operator's command line. Every subcommand is one file.
package cli

import (
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/app"
)

// Command returns the root command.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:           "sluice",
		Short:         "Operate Sluice: try it, see what it decides",
		Version:       app.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(demoCommand())
	return root
}
