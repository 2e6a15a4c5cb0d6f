package redistest

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func client(t *testing.T, addr string) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: time.Minute, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestServer(t *testing.T) {
	ctx := context.Background()
	s := Start(t)
	c := client(t, s.Addr)
	if err := c.Set(ctx, "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Freeze()
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	var timeout net.Error
	if err := c.Get(short, "a").Err(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("frozen, it answered %v", err)
	}
	s.Thaw()
	if got, err := c.Get(ctx, "a").Result(); got != "1" {
		t.Errorf("thawed, it holds %q, %v", got, err)
	}
	s.Kill()
	if err := client(t, s.Addr).Ping(ctx).Err(); err == nil {
		t.Error("killed, it answers")
	}
	s.Restart()
	if err := client(t, s.Addr).Get(ctx, "a").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("started again, it is not empty: %v", err)
	}
	s.Freeze() // the clean-up ends it all the same
}

func TestServerTakesArguments(t *testing.T) {
	s := Start(t, "--requirepass", "secret", "--maxmemory-policy", "allkeys-lru")
	if err := client(t, s.Addr).Ping(context.Background()).Err(); err == nil {
		t.Error("it asks for no password")
	}
}

func TestNothingIsLeftWhenATestEnds(t *testing.T) {
	var s *Server
	t.Run("a server that the test forgot", func(t *testing.T) { s = Start(t) })
	if err := s.cmd.Process.Signal(os.Interrupt); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the process still runs: %v", err)
	}
}

func TestCluster(t *testing.T) {
	ctx := context.Background()
	var addrs []string
	for _, s := range Cluster(t) {
		addrs = append(addrs, s.Addr)
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs[:1]})
	defer func() { _ = c.Close() }()
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if err := c.Set(ctx, key, key, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	filled := 0
	for _, addr := range addrs {
		if n, err := client(t, addr).DBSize(ctx).Result(); err != nil {
			t.Fatal(err)
		} else if n > 0 {
			filled++
		}
	}
	if filled != len(addrs) {
		t.Errorf("keys lie on %d of %d primaries", filled, len(addrs))
	}
}
