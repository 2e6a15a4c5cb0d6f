// Package cli is the operator's command line. Every subcommand is one file.
package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/app"
)

// Command returns the root command.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Operate Sluice: try it, see what it decides",
		Long: `sluice is the operator's command line. The server is sluiced; its quota API
(gRPC and REST) is where plans, tenants and API keys are made.`,
		Example: `  sluice demo --envoy .tools/bin/envoy             # two tenants through a real Envoy
  sluice mesh install --profile voicecore          # Istio and Sluice, on a cluster
  source <(sluice completion bash)                 # also zsh, fish, powershell`,
		Version:       app.VersionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; '%s --help' lists the flags", err, c.CommandPath())
	})
	root.AddCommand(demoCommand(), authzCommand(), auditCommand(), meshCommand(), app.VersionCommand())
	app.StrictGroups(root)
	return root
}
