package app

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/replicas"
)

// newRedis is a Redis with the functions, as 'sluiced migrate' leaves it.
func newRedis(t *testing.T) *redistest.Server {
	t.Helper()
	s := redistest.Start(t)
	command(t, 0, "migrate", "--redis-url", "redis://"+s.Addr)
	return s
}

// command runs sluiced and wants this exit status.
func command(t *testing.T, status int, args ...string) (out string) {
	t.Helper()
	var b strings.Builder
	c := Command(nil)
	c.SetArgs(slices.Concat(args[:1], unhurried(args), args[1:]))
	c.SetOut(&b)
	err := c.ExecuteContext(t.Context())
	if exit.Code(err) != status {
		t.Fatalf("%q: exit status %d, want %d: %v\n%s", args, exit.Code(err), status, err, &b)
	}
	if err != nil {
		b.WriteString(err.Error())
	}
	return b.String()
}

// unhurried is what goes before the URL of a Redis: the machine may be busy, and nothing is to be decided by that.
func unhurried(args []string) []string {
	if slices.Contains(args, "--redis-url") {
		return []string{"--redis-timeout", "10s"}
	}
	return nil
}

// onRedis is a replica with a data folder of its own, and so with a secret of its own unless args say otherwise.
func onRedis(t *testing.T, r *redistest.Server, args ...string) *server {
	t.Helper()
	return run(t, append([]string{"--redis-url", "redis://" + r.Addr, "--status-listen", "127.0.0.1:0"}, args...)...)
}

func secretsFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "secrets")
	if _, err := Init(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReplicasShareARedis(t *testing.T) {
	r, secrets := newRedis(t), secretsFolder(t)
	first := onRedis(t, r, "--secrets", secrets)
	second := onRedis(t, r, "--secrets", secrets)
	await.That(t, "each sees the other", func() bool {
		return value(first.page(t), "sluice_replicas") == "2" && value(second.page(t), "sluice_replicas") == "2"
	})
	t.Run("no journal is kept beside it", func(t *testing.T) {
		if _, err := os.Stat(filepath.Join(first.config.Data, journalFile)); err == nil {
			t.Error("there is one")
		}
	})
	t.Run("one that stops is gone at once", func(t *testing.T) {
		second.stop(t)
		if names, err := replicas.Names(t.Context(), first.shared.client, first.config.Redis.Prefix); err != nil || len(names) != 1 {
			t.Errorf("%q, %v", names, err)
		}
	})
	t.Run("one with another secret does not start", func(t *testing.T) {
		err := refused(t, "--redis-url", "redis://"+r.Addr)
		for _, want := range []string{"this replica's secret is not the one that others serve with", "give every replica the same folder to --secrets", "--redis-prefix"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("no word of %q in: %v", want, err)
			}
		}
	})
	t.Run("and starts under a prefix of its own", func(t *testing.T) {
		command(t, 0, "migrate", "--redis-url", "redis://"+r.Addr, "--redis-prefix", "other:")
		onRedis(t, r, "--redis-prefix", "other:")
	})
}

// The catalogue is one for all replicas, and outlives a Redis that lost everything: it comes back from those who know it,
// the functions by the next 'sluiced migrate', whatever came first.
func TestReplicasShareACatalogue(t *testing.T) {
	r, secrets := newRedis(t), secretsFolder(t)
	all := []*server{onRedis(t, r, "--secrets", secrets), onRedis(t, r, "--secrets", secrets)}
	put := func(name string) error {
		return all[0].catalog.Update(func(e *catalog.Edit) error { e.Plans.Put(quota.Plan{Name: name}); return nil }, false)
	}
	has := func(n int) func() bool {
		return func() bool {
			return len(all[1].catalog.View().Plans) == n && value(all[0].page(t), "sluice_catalog_revision") == value(all[1].page(t), "sluice_catalog_revision")
		}
	}
	if err := put("gold"); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the other has the plan", has(1))
	if confirmed := value(all[1].page(t), "sluice_catalog_confirmed_timestamp_seconds"); confirmed == "" || value(all[1].page(t), "sluice_catalog_refused") != "0" {
		t.Errorf("confirmed at %q", confirmed)
	}
	r.Restart()
	await.That(t, "the catalogue is back", func() bool {
		return catalog.Check(t.Context(), all[0].shared.client, all[0].config.Redis.Prefix) == nil
	})
	command(t, 0, "migrate", "--redis-url", "redis://"+r.Addr)
	if err := put("silver"); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the other has both plans", has(2))
	third := onRedis(t, r, "--secrets", secrets)
	if n := len(third.catalog.View().Plans); n != 2 {
		t.Errorf("a replica that starts now has %d plans", n)
	}
	if _, err := os.Stat(filepath.Join(third.config.Data, catalogFile)); err == nil {
		t.Error("it keeps a file of them")
	}
}

// refused is why a server does not start. It leaves nothing running.
func refused(t *testing.T, args ...string) error {
	t.Helper()
	config, err := configOf(t, args...)
	if err != nil {
		return err
	}
	before := len(running())
	a, err := New(config, slog.New(slog.DiscardHandler))
	if err == nil {
		_ = a.Stop(t.Context())
		t.Fatalf("%q: it starts", args)
	}
	await.That(t, "nothing of it runs", func() bool { return len(running()) <= before })
	return err
}

func TestAServerNeverStartsHalfWorkingOnRedis(t *testing.T) {
	gone, cluster := redistest.Start(t), redistest.Cluster(t)
	gone.Kill()
	locked := redistest.Start(t, "--requirepass", "hunter2")
	wrong := filepath.Join(folder(t, "password", "hunter3\n"), "password")
	without := newRedis(t)
	admin := redis.NewClient(&redis.Options{Addr: without.Addr, Protocol: 2})
	if err := errors.Join(admin.Do(t.Context(), "ACL", "SETUSER", "default", "-sadd").Err(), admin.Close()); err != nil {
		t.Fatal(err)
	}
	slow := redistest.Proxy(t, without.Addr, sluggish)
	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"an address where nobody listens":                       {[]string{"--redis-url", "redis://" + gone.Addr}, "nobody listens there"},
		"a wrong password":                                      {[]string{"--redis-url", "redis://" + locked.Addr, "--redis-password-file", wrong}, "refuses the password of user default"},
		"a cluster given as one that stands alone":              {[]string{"--redis-url", "redis://" + cluster[0].Addr}, "write redis+cluster://"},
		"a Redis without the functions":                         {[]string{"--redis-url", "redis://" + redistest.Start(t).Addr}, "run 'sluiced migrate'"},
		"a Redis that throws counters away":                     {[]string{"--redis-url", "redis://" + redistest.Start(t, "--maxmemory-policy", "allkeys-lru").Addr}, "set it to noeviction"},
		"a user who lacks a right of the functions":             {[]string{"--redis-url", "redis://" + without.Addr}, rightsFix},
		"the same, where Redis takes longer than a request may": {[]string{"--redis-url", "redis://" + slow, "--redis-timeout", "20ms"}, rightsFix},
		"plain text to another machine":                         {[]string{"--redis-url", "redis://192.0.2.1"}, "plain text to 192.0.2.1:6379"},
	} {
		t.Run(what, func(t *testing.T) {
			if err := refused(t, c.args...); !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want a word of %q", err, c.want)
			}
		})
	}
}

// sluggish passes what Redis says to a call of a function on after a while.
func sluggish() redistest.Piece {
	var called atomic.Bool
	return func(b []byte, answers bool) (int, bool) {
		switch {
		case !answers && bytes.Contains(bytes.ToLower(b), []byte("\r\nfcall\r\n")):
			called.Store(true)
		case answers && called.CompareAndSwap(true, false):
			<-time.After(100 * time.Millisecond)
		}
		return len(b), false
	}
}

// A server that takes over was never looked at, and one that was can be told to evict.
func TestARedisThatMayThrowCountersAwayIsComplainedOf(t *testing.T) {
	r := newRedis(t)
	s := onRedis(t, r)
	s.shared.look(t.Context(), s.App.log)
	if said := s.log.String(); strings.Contains(said, "limits may not hold") {
		t.Errorf("without a reason: %s", said)
	}
	s.counts(t, map[string]string{"sluice_store_unfit": "0"})
	if err := s.shared.client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	s.shared.look(t.Context(), s.App.log)
	if said := s.log.String(); !strings.Contains(said, "limits may not hold") || !strings.Contains(said, "set it to noeviction") {
		t.Errorf("the log says\n%s", said)
	}
	s.counts(t, map[string]string{"sluice_store_unfit": "1"})

	// Who gets no answer has learnt nothing.
	r.Kill()
	s.shared.look(t.Context(), s.App.log)
	s.counts(t, map[string]string{"sluice_store_unfit": "1"})
}
