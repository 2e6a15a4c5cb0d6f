package replicas

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/redistest"
)

func clientOf(t *testing.T, s *redistest.Server) redis.UniversalClient {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, Protocol: 2})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func join(t *testing.T, c redis.UniversalClient) *Presence {
	t.Helper()
	p, err := Join(t.Context(), c, "sluice:", [32]byte{1}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *Presence) mustBeat(t *testing.T, now time.Time) {
	t.Helper()
	if err := p.beat(t.Context(), now); err != nil {
		t.Fatal(err)
	}
}

func TestReplicasCountEachOther(t *testing.T) {
	s := redistest.Start(t)
	c := clientOf(t, s)
	now := time.Now()
	first, second, third := join(t, c), join(t, c), join(t, c)
	first.mustBeat(t, now)
	second.mustBeat(t, now)
	if first.Count() != 3 || second.Count() != 3 || third.Count() != 3 {
		t.Fatalf("%d, %d, %d, want 3 each", first.Count(), second.Count(), third.Count())
	}
	t.Run("one that ends says so", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() { third.Run(ctx) })
		cancel()
		ended.Wait()
		if names, err := Names(t.Context(), c, "sluice:"); err != nil || len(names) != 2 {
			t.Errorf("%q, %v", names, err)
		}
	})
	t.Run("fewer are believed after a while, for a Redis may have forgotten some", func(t *testing.T) {
		first.mustBeat(t, now)
		first.mustBeat(t, now.Add(lifetime-1))
		if first.Count() != 3 {
			t.Errorf("%d at once", first.Count())
		}
		first.mustBeat(t, now.Add(lifetime))
		if first.Count() != 2 {
			t.Errorf("%d in the end", first.Count())
		}
	})
	t.Run("one that does not say anything is forgotten", func(t *testing.T) {
		// As if it had said so six seconds ago.
		at, err := c.Time(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ZAdd(t.Context(), "sluice:replicas", redis.Z{Score: float64(at.Add(-lifetime - time.Second).UnixMilli()), Member: second.name}).Err(); err != nil {
			t.Fatal(err)
		}
		first.mustBeat(t, now)
		if names, err := Names(t.Context(), c, "sluice:"); err != nil || len(names) != 1 || names[0] != first.name {
			t.Errorf("%q, %v, want %s alone", names, err, first.name)
		}
	})
	t.Run("while Redis does not answer the count stays", func(t *testing.T) {
		second.mustBeat(t, now)
		before := first.Count()
		s.Kill()
		if err := first.beat(t.Context(), now); err == nil || first.Count() != before {
			t.Errorf("%d, %v, want %d", first.Count(), err, before)
		}
		s.Restart()
		first.mustBeat(t, now)
		if first.Count() != before {
			t.Errorf("%d of an empty Redis, want %d", first.Count(), before)
		}
	})
}

func TestReplicasHaveOneSecret(t *testing.T) {
	servers := redistest.Cluster(t)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{servers[0].Addr}, Protocol: 2})
	t.Cleanup(func() { _ = c.Close() })
	ours, theirs := [32]byte{1}, [32]byte{2}
	if served, err := Agrees(t.Context(), c, "sluice:", ours); served || err != nil {
		t.Fatalf("before anybody: %t, %v", served, err)
	}
	for range 2 {
		if err := agree(t.Context(), c, "sluice:", ours); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Join(t.Context(), c, "sluice:", theirs, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrSecret) {
		t.Errorf("another secret: %v", err)
	}
	if names, err := Names(t.Context(), c, "sluice:"); err != nil || len(names) > 0 {
		t.Errorf("who may not join is counted: %q, %v", names, err)
	}
	if err := agree(t.Context(), c, "other:", theirs); err != nil {
		t.Errorf("another prefix: %v", err)
	}
	if p := join(t, c); p.Count() != 1 || !strings.Contains(p.name, "/") {
		t.Errorf("%d replicas, this one %q", p.Count(), p.name)
	}
}

// Otherwise a replica with another secret could start on a Redis that lost its data, beside those that serve.
func TestARedisThatCameBackEmptyIsToldTheSecretAgain(t *testing.T) {
	s := redistest.Start(t)
	c := clientOf(t, s)
	p := join(t, c)
	s.Restart()
	p.mustBeat(t, time.Now())
	if served, err := Agrees(t.Context(), c, "sluice:", [32]byte{1}); !served || err != nil {
		t.Errorf("after a beat: %t, %v", served, err)
	}
	t.Run("and one that somebody else was faster with is complained of until it is mended", func(t *testing.T) {
		s.Restart()
		if err := agree(t.Context(), c, "sluice:", [32]byte{2}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := p.beat(t.Context(), time.Now()); !errors.Is(err, ErrSecret) || p.Count() != 1 {
				t.Errorf("%d replicas, %v", p.Count(), err)
			}
		}
		if err := c.Del(t.Context(), "sluice:secret").Err(); err != nil {
			t.Fatal(err)
		}
		p.mustBeat(t, time.Now())
		if served, err := Agrees(t.Context(), c, "sluice:", [32]byte{1}); !served || err != nil {
			t.Errorf("in the end: %t, %v", served, err)
		}
	})
}
