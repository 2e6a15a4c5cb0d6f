package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// Version is stamped by the build.
var Version = "dev"

// Command returns the command line of sluiced. environ is the environment, as os.Environ gives it.
func Command(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "sluiced",
		Short: "Decide, for every request that Envoy carries: who, may they, how much is left",
		Long: `sluiced answers Envoy over gRPC (ext_authz, ext_proc, RLS, access log) and keeps
plans, tenants, API keys and counters behind a quota API (gRPC and REST).

Settings come, weakest first, from defaults, the YAML file of --config, SLUICE_*
variables (--grpc-listen is SLUICE_GRPC_LISTEN) and flags.`,
		Version:       Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(environ), initCommand(environ))
	return root
}

func serveCommand(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve until SIGTERM",
		Example: `  sluiced init --data ./data && sluiced serve --data ./data --catalog ./catalog
  sluiced serve --data ./data --rls-config ./descriptors --uds /run/sluice/doors.sock
  sluiced serve --data ./data --grpc-listen :9090 --tls-cert tls.crt --tls-key tls.key \
      --tls-client-ca ca.crt --peers spiffe://cluster.local/ns/istio-system/sa/ingress`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := LoadConfig(c.Flags(), environ)
			if err != nil {
				return err
			}
			return serve(c.Context(), config, newLog(config))
		},
	}
	Flags(c.Flags())
	return c
}

func initCommand(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the data folder: the secret and the admin token, which is shown once",
		Example: `  sluiced init --data ./data
  curl -H "authorization: Bearer $(cat ./data/admin.token)" http://127.0.0.1:9091/v1/tenants`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := LoadConfig(c.Flags(), environ)
			if err != nil {
				return err
			}
			token, err := Init(config.Data)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), `%s is ready.

admin token: %s

It is also in %s, readable by you alone; move it to a safe place.
Next: sluiced serve --data %s
`, config.Data, token, filepath.Join(config.Data, adminTokenFile), config.Data)
			return err
		},
	}
	Flags(c.Flags())
	return c
}

// serve runs the server until ctx ends, then drains it.
func serve(ctx context.Context, config Config, log *slog.Logger) error {
	a, err := New(config, log)
	if err != nil {
		return err
	}
	if err := a.Start(); err != nil {
		return errors.Join(err, a.Stop(context.Background()))
	}
	select {
	case <-ctx.Done():
	case err = <-a.failed:
	}
	return errors.Join(err, a.Stop(context.Background()))
}

func newLog(c Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked by LoadConfig
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
