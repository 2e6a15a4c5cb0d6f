package redisstore

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/storetest"
	"github.com/voicecore-ai/sluice/redistest"
)

// patient is longer than any test's machine stalls.
const patient = 10 * time.Second

// quiet is for what tests break on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

func connect(t testing.TB, addrs ...string) redis.UniversalClient {
	c := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: addrs, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// openTest opens a store on servers, migrated.
func openTest(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = patient
	}
	if err := Migrate(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	t.Run("one server", func(t *testing.T) {
		client := connect(t, redistest.Start(t).Addr)
		storetest.Run(t, func(t *testing.T) ratelimit.Store { return openTest(t, Options{Client: client, CallerTime: true}) })
		t.Run("shared by two", func(t *testing.T) {
			storetest.RunShared(t, func(t *testing.T) (a, b ratelimit.Store) {
				return openTest(t, Options{Client: client, CallerTime: true}), openTest(t, Options{Client: client, CallerTime: true})
			})
		})
	})
	t.Run("a cluster of three", func(t *testing.T) {
		client := connectCluster(t)
		storetest.Run(t, func(t *testing.T) ratelimit.Store {
			return oneShard{openTest(t, Options{Client: client, CallerTime: true})}
		})
		t.Run("shared by two", func(t *testing.T) {
			storetest.RunShared(t, func(t *testing.T) (a, b ratelimit.Store) {
				return openTest(t, Options{Client: client, CallerTime: true}), openTest(t, Options{Client: client, CallerTime: true})
			})
		})
	})
}

func connectCluster(t testing.TB) redis.UniversalClient {
	t.Helper()
	var addrs []string
	for _, s := range redistest.Cluster(t) {
		addrs = append(addrs, s.Addr)
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// oneShard puts all cells onto one shard, as a cluster wants it of one request.
type oneShard struct{ *Store }

func (o oneShard) Charge(op ratelimit.Operation, charges []ratelimit.Charge, outcomes []ratelimit.Outcome) (bool, error) {
	mine := append([]ratelimit.Charge{}, charges...)
	for i := range mine {
		mine[i].Cell.Shard = 1
	}
	return o.Store.Charge(op, mine, outcomes)
}
