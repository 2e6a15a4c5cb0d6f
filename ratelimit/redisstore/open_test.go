package redisstore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/redistest"
)

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	client := func(addr string) *redis.Client {
		return connect(t, addr).(*redis.Client)
	}
	migrated := func(t *testing.T, args ...string) *redis.Client {
		c := client(redistest.Start(t, args...).Addr)
		if err := Migrate(ctx, Options{Client: c}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		name string
		open func(t *testing.T) error
		want []string // parts of the message: what is wrong, and what to do
	}{
		{"a server that may evict", func(t *testing.T) error {
			c := migrated(t)
			c.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru")
			return tryOpen(Options{Client: c})
		}, []string{`"allkeys-lru"`, "set it to noeviction"}},
		{"to migrate a server that may evict", func(t *testing.T) error {
			return Migrate(ctx, Options{Client: client(redistest.Start(t, "--maxmemory-policy", "volatile-ttl").Addr)})
		}, []string{`"volatile-ttl"`, "set it to noeviction"}},
		{"a server without functions", func(t *testing.T) error {
			return tryOpen(Options{Client: client(redistest.Start(t).Addr)})
		}, []string{"functions are missing", "run 'sluiced migrate'"}},
		{"a server whose functions were flushed", func(t *testing.T) error {
			c := migrated(t)
			c.FunctionFlush(ctx)
			return tryOpen(Options{Client: c})
		}, []string{"functions are missing", "run 'sluiced migrate'"}},
		{"functions of a newer version", func(t *testing.T) error {
			c := migrated(t)
			c.Set(ctx, "sluice:store", "sluice 4", 0)
			return tryOpen(Options{Client: c})
		}, []string{"version 4", "use a newer sluiced"}},
		{"functions of an older version", func(t *testing.T) error {
			c := migrated(t)
			c.FunctionFlush(ctx)
			c.Set(ctx, "sluice:store", "sluice 1", 0)
			return tryOpen(Options{Client: c})
		}, []string{"version 1, and this sluiced needs 2", "run 'sluiced migrate'"}},
		{"functions without a mark", func(t *testing.T) error {
			c := migrated(t)
			c.Del(ctx, "sluice:store")
			return tryOpen(Options{Client: c})
		}, []string{`"sluice:store" is missing`, "run 'sluiced migrate'"}},
		{"a mark that another program wrote", func(t *testing.T) error {
			c := migrated(t)
			c.Set(ctx, "sluice:store", "hello", 0)
			return tryOpen(Options{Client: c})
		}, []string{"another program's", "of its own"}},
		{"a mark of another type", func(t *testing.T) error {
			c := migrated(t)
			c.Del(ctx, "sluice:store")
			c.LPush(ctx, "sluice:store", "x")
			return tryOpen(Options{Client: c})
		}, []string{"another program's", "of its own"}},
		{"to migrate where another program has such keys", func(t *testing.T) error {
			c := client(redistest.Start(t).Addr)
			c.HSet(ctx, "q:jobs", "a", "b")
			return Migrate(ctx, Options{Client: c})
		}, []string{`"q:jobs"`, "another program's", "remove the key"}},
		{"a wrong password", func(t *testing.T) error {
			s := redistest.Start(t, "--requirepass", "right")
			return tryOpen(Options{Client: redis.NewClient(&redis.Options{Addr: s.Addr, Password: "wrong", MaxRetries: -1, ContextTimeoutEnabled: true})})
		}, []string{"password", "ACL"}},
		{"no password where one is wanted", func(t *testing.T) error {
			return tryOpen(Options{Client: client(redistest.Start(t, "--requirepass", "right").Addr)})
		}, []string{"password", "ACL"}},
		{"an address where nobody is", func(t *testing.T) error {
			s := redistest.Start(t)
			s.Kill()
			return tryOpen(Options{Client: client(s.Addr)})
		}, []string{"no answer from Redis at 127.0.0.1:", "is it running"}},
		{"a node of a cluster given as one server", func(t *testing.T) error {
			return tryOpen(Options{Client: client(redistest.Cluster(t)[0].Addr)})
		}, []string{"is a node of a cluster", "say that it is a cluster"}},
		{"one server given as a cluster", func(t *testing.T) error {
			return tryOpen(Options{Client: redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{redistest.Start(t).Addr}, MaxRetries: -1, ContextTimeoutEnabled: true})})
		}, []string{"is no node of a cluster", "name it alone"}},
		{"a replica", func(t *testing.T) error {
			primary, replica := redistest.Start(t), client(redistest.Start(t).Addr)
			replica.ReplicaOf(ctx, "127.0.0.1", primary.Addr[strings.LastIndex(primary.Addr, ":")+1:])
			return tryOpen(Options{Client: replica})
		}, []string{"is a replica", "name the primary, or Sentinel"}},
		{"a client that sends again by itself", func(t *testing.T) error {
			return tryOpen(Options{Client: redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr, ContextTimeoutEnabled: true})})
		}, []string{"send again by itself", "MaxRetries to -1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.open(t)
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the message %q lacks %q", err, part)
				}
			}
		})
	}
}

func tryOpen(o Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	s, err := Open(ctx, o)
	if err == nil {
		_ = s.Close()
	}
	return err
}

func TestMigrateAgainChangesNothing(t *testing.T) {
	c := connect(t, redistest.Start(t).Addr)
	o := Options{Client: c}
	s := openTest(t, o)
	if _, err := chargeOne(s, cellOf(1), limitOf(ratelimit.Fixed, 10, 366*24*time.Hour), 3); err != nil {
		t.Fatal(err)
	}
	c.Set(context.Background(), "sluice:store", "sluice 3", 0)
	if err := Migrate(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if got := c.Get(context.Background(), "sluice:store").Val(); got != "sluice 3" {
		t.Errorf("the mark of a newer version became %q", got)
	}
	if o, err := chargeOne(s, cellOf(1), limitOf(ratelimit.Fixed, 10, 366*24*time.Hour), 0); err != nil || o.Remaining != 7 {
		t.Errorf("after migrating again: %+v, %v", o, err)
	}
}

// A user with these rights can do all that a running sluiced does with counters, and no more.
func TestLeastRights(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	admin := connect(t, server.Addr)
	if err := Migrate(ctx, Options{Client: admin}); err != nil {
		t.Fatal(err)
	}
	rights := "on >secret resetkeys resetchannels -@all ~sluice:* ~q:* &sluice:* +fcall +get +mget +set +time +sadd +smismember +pexpire +publish +subscribe +unsubscribe +ping +info"
	if err := admin.Do(ctx, append([]any{"ACL", "SETUSER", "sluice"}, anys(strings.Fields(rights))...)...).Err(); err != nil {
		t.Fatal(err)
	}
	user := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "sluice", Password: "secret", MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true})
	defer func() { _ = user.Close() }()
	s, err := Open(ctx, Options{Client: user, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, a := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.Hard, ratelimit.Fixed} {
		for _, hits := range []int64{0, 1, 1, -1, 5} {
			if _, err := chargeOne(s, cellOf(1), limitOf(a, 3, time.Hour), hits); err != nil {
				t.Errorf("algorithm %d, %d hits: %v", a, hits, err)
			}
		}
	}
	await.That(t, "the channel is heard", func() bool { return s.Stats().Listening })
	admin.FunctionFlush(ctx)
	if _, err := chargeOne(s, cellOf(2), limitOf(ratelimit.Fixed, 3, 366*24*time.Hour), 1); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "sluiced migrate") {
		t.Errorf("without functions, and the right to load them: %v", err)
	}
}

func anys(words []string) (out []any) {
	for _, w := range words {
		out = append(out, w)
	}
	return out
}

// Replicas that run write their own keys to a Redis that lost everything, before anybody migrates it again.
func TestMigrateKnowsTheKeysBesideIts(t *testing.T) {
	ctx := t.Context()
	c := connect(t, redistest.Start(t).Addr)
	c.Set(ctx, "sluice:secret", "x", 0)
	o := Options{Client: c, Beside: []string{"secret"}}
	if err := Migrate(ctx, o); err != nil {
		t.Error(err)
	}
	c.Del(ctx, "sluice:store")
	c.Set(ctx, "sluice:jobs", "x", 0)
	if err := Migrate(ctx, o); err == nil || !strings.Contains(err.Error(), `"sluice:jobs"`) {
		t.Errorf("another program's key: %v", err)
	}
}
