package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
	"github.com/voicecore-ai/sluice/replicas"
)

// patienceWithRedis bounds what is asked of Redis outside of requests.
const patienceWithRedis = 30 * time.Second

// redisCommand makes a command that talks to Redis with serve's settings, and shows those that matter to it.
func redisCommand(environ []string, c *cobra.Command, run func(ctx context.Context, config Config, w io.Writer) error) *cobra.Command {
	c.Args = noArguments
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := LoadConfig(c.Flags(), environ)
		if err == nil && config.Redis.URL == "" {
			err = errNoRedis
		}
		if err != nil {
			return err
		}
		redis.SetLogger(quietRedis{newLog(config)})
		ctx, cancel := context.WithTimeout(c.Context(), patienceWithRedis)
		defer cancel()
		return run(ctx, config, c.OutOrStdout())
	}
	// All of them, so that one file of settings serves every command.
	Flags(c.Flags())
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	redisFlags(shown)
	c.Flags().VisitAll(func(f *pflag.Flag) {
		f.Hidden = shown.Lookup(f.Name) == nil && f.Name != "config" && f.Name != "data" && f.Name != "secrets"
	})
	complete(c)
	return c
}

func migrateCommand(environ []string) *cobra.Command {
	return redisCommand(environ, &cobra.Command{
		Use:   "migrate",
		Short: "Put this version's functions onto the Redis that replicas share",
		Long: `Loads the functions that charge limits, and makes an empty catalogue where there is none, with the credentials of a user who may (FUNCTION LOAD, on
every primary). Those who serve need only call them. It may be repeated, and run while replicas of this and of
the version before serve: each version's functions have names of their own, and no counter is touched.`,
		Example: `  sluiced migrate --redis-url redis://127.0.0.1:6379
  sluiced migrate --redis-url rediss+cluster://redis.example:6379 --redis-ca ca.crt \
      --redis-user sluice-migrate --redis-password-file /run/secrets/redis-migrate`,
	}, migrate)
}

func migrate(ctx context.Context, config Config, w io.Writer) error {
	o, err := config.Redis.options()
	if err != nil {
		return err
	}
	client, err := redisconn.New(o)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // nothing is left to lose
	if err := redisconn.Refusal(redisconn.Check(ctx, o)); err != nil {
		return err
	}
	store := config.Redis.store(client)
	store.Beside = append(slices.Clone(replicas.Keys), catalog.Keys)
	if err := redisstore.Migrate(ctx, store); err != nil {
		return errors.Join(err, errors.New("functions: not loaded everywhere; see 'sluiced migrate --help' and docs/stores.md for the rights that it takes, and run it again"))
	}
	if err := catalog.Migrate(ctx, client, config.Redis.Prefix); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s has the functions of version %d, and a catalogue.\nNext: sluiced serve --redis-url %s\n", o.Target, redisstore.Version, o.Target)
	return err
}
