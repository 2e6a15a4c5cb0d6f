package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/voicecore-ai/sluice/exit"
)

// Version is stamped by the build.
var Version = "dev"

// Command returns the command line of sluiced. environ is the environment, as os.Environ gives it.
func Command(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "sluiced",
		Short: "Decide, for every request that Envoy carries: who, may they, how much is left",
		Long: `sluiced answers Envoy over gRPC (ext_authz, ext_proc, RLS, access log) and keeps
plans, tenants, API keys and counters behind a quota API (gRPC and REST).`,
		Example: `  sluiced init --data ./data                       # once: the secret and the admin token
  sluiced serve --data ./data                      # then, until SIGTERM
  sluiced serve --help                             # every setting
  sluiced migrate --redis-url redis://127.0.0.1:6379   # for replicas that share a Redis
  sluiced doctor --redis-url redis://127.0.0.1:6379    # what is wrong with it
  source <(sluiced completion bash)                # also zsh, fish, powershell`,
		Version:       VersionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(flagProblem)
	root.AddCommand(serveCommand(environ), initCommand(environ), migrateCommand(environ), doctorCommand(environ), VersionCommand())
	StrictGroups(root)
	return root
}

// VersionText says what was built and with what.
func VersionText() string {
	return fmt.Sprintf("%s (%s, %s/%s)", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// VersionCommand prints what --version prints.
func VersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and what it was built with",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s version %s\n", c.Root().Name(), c.Root().Version)
			return err
		},
	}
}

// StrictGroups makes an error, with status 64, of a word that is no command of the group before it. Cobra would print
// the group's help and end with 0, so a mistyped check in a script would pass.
func StrictGroups(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	strict(root.Commands())
}

func strict(commands []*cobra.Command) {
	for _, c := range commands {
		if c.HasSubCommands() {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
			strict(c.Commands())
		}
	}
}

func group(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return exit.With(exit.Usage, fmt.Errorf("unknown command %q; '%s --help' lists them", args[0], c.CommandPath()))
	}
	return c.Help()
}

// flagProblem says of a flag what LoadConfig would say of the same mistake elsewhere.
func flagProblem(c *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return errKind(invalid.GetFlag(), invalid.GetValue())
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedShortnames()) > 0 {
		return fmt.Errorf("%w; '%s --help' lists the flags", err, c.CommandPath())
	}
	name := unknown.GetSpecifiedName()
	settings := pflag.NewFlagSet("", pflag.ContinueOnError)
	Flags(settings)
	if !c.HasParent() && settings.Lookup(name) != nil {
		return fmt.Errorf("%w; it comes after the command: sluiced serve --%s", err, name)
	}
	return fmt.Errorf("%w; %s'%s --help' lists the flags", err, didYouMean("--", meant(settings, name)), c.CommandPath())
}

// noArguments says what whoever gave one may have meant.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes flags alone, and %q is none; the value of one that is true or false comes after '=', like --http-remote=true", c.Name(), args[0])
}

func serveCommand(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:        "serve",
		SuggestFor: []string{"start", "run"},
		Short:      "Serve until SIGTERM",
		Long: `Serves until SIGTERM, then drains and ends with status 0.

Every setting is a flag, a variable and a key of the file that --config names:
--grpc-listen is SLUICE_GRPC_LISTEN and grpc-listen. Flags win over variables,
variables over the file. What is wrong is reported before anything is opened,
all of it at once.`,
		Example: `  sluiced serve --data ./data --catalog ./catalog
  sluiced serve --data ./data --rls-config ./descriptors --uds /run/sluice/doors.sock
  sluiced serve --data ./data --grpc-listen :9090 --tls-cert tls.crt --tls-key tls.key \
      --tls-client-ca ca.crt --peers spiffe://cluster.local/ns/istio-system/sa/ingress
  SLUICE_LOG_FORMAT=json sluiced serve --config /etc/sluice.yaml`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := LoadConfig(c.Flags(), environ)
			if err != nil {
				return err
			}
			log := newLog(config)
			redis.SetLogger(quietRedis{log})
			for _, problem := range misspelt(c.Flags(), environ) {
				log.Warn(problem)
			}
			return serve(c.Context(), config, log)
		},
	}
	Flags(c.Flags())
	complete(c)
	return c
}

func initCommand(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the data folder: the secret and the admin token, which is shown once",
		Long: `Makes the data folder: the secret on which every API key hangs, and the admin
token of the quota API, which is shown once. It never replaces a secret.`,
		Example: `  sluiced init --data ./data
  curl -H "authorization: Bearer $(cat ./data/admin.token)" http://127.0.0.1:9091/v1/tenants`,
		Args: noArguments,
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
	// All of them, so that init and serve can share a file of settings; shown are those that matter here.
	Flags(c.Flags())
	c.Flags().VisitAll(func(f *pflag.Flag) { f.Hidden = f.Name != "config" && f.Name != "data" })
	complete(c)
	return c
}

// complete teaches the shell what the values of flags may be.
func complete(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		var words cobra.CompletionFunc
		switch name, _ := pflag.UnquoteUsage(f); name {
		case "file", "path":
			words = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
		case "folder":
			words = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
		default:
			words = cobra.FixedCompletions(choices[f.Name], cobra.ShellCompDirectiveNoFileComp)
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, words) // fails only for a flag that is not there
	})
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
