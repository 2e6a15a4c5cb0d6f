package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/tenant"
)

const (
	prefix  = "sluice-test:"
	base    = prefix + "{catalog}:"
	patient = 20 * time.Second
)

func dial(t testing.TB, s *redistest.Server, o redis.Options) *redis.Client {
	t.Helper()
	o.Addr, o.MaxRetries, o.Protocol = s.Addr, -1, 3
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = patient, patient, patient // the machine may be busy; who wants less says so with a context
	o.ContextTimeoutEnabled = true
	client := redis.NewClient(&o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// inRedis is a catalogue in a server, made if there is none.
func inRedis(t testing.TB, s *redistest.Server) Options {
	t.Helper()
	client := dial(t, s, redis.Options{})
	must(t, Migrate(t.Context(), client, prefix))
	return Options{Redis: client, RedisPrefix: prefix}
}

// replica is a running catalogue, with what it logs.
type replica struct {
	*Catalog
	log *syncBuffer
}

// startReplica opens a catalogue that follows the others until the test ends.
func startReplica(t *testing.T, o Options) replica {
	t.Helper()
	r := replica{log: &syncBuffer{}}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.Catalog = open(t, o)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Watch(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return r
}

func replicas(t *testing.T, s *redistest.Server, n int) []replica {
	t.Helper()
	all := make([]replica, n)
	for i := range all {
		all[i] = startReplica(t, inRedis(t, s)) // a client each, as processes have
	}
	return all
}

func put(tenants ...quota.Tenant) func(*Edit) error {
	return func(e *Edit) error {
		e.Plans.Put(quota.Plan{Name: "gold", Limits: []quota.Limit{{Name: "rps", Limit: 5, Window: time.Second}}})
		for _, t := range tenants {
			t.Plan = "gold"
			e.Tenants.Put(t)
		}
		return nil
	}
}

func (r replica) has(id tenant.ID) func() bool {
	return func() bool { return r.Snapshot().Account(id) != nil }
}

// same waits until all replicas have the same entries under the same number.
func same(t *testing.T, all []replica) {
	t.Helper()
	await.That(t, "the same catalogue under the same revision everywhere", func() bool {
		for _, r := range all[1:] {
			if r.Snapshot().Revision != all[0].Snapshot().Revision || describe(r.View()) != describe(all[0].View()) {
				return false
			}
		}
		return true
	})
}

func describe(v View) string {
	text := fmt.Sprint(v.Revision)
	for _, t := range v.Tenants {
		text += fmt.Sprintf(" %s=%s", t.Value.ID, ETag(t.Value))
	}
	for _, p := range v.Plans {
		text += fmt.Sprintf(" %s=%s", p.Value.Name, ETag(p.Value))
	}
	return text
}

func TestAChangeByOneReplicaHoldsOnAll(t *testing.T) {
	for name, start := range map[string]func() []replica{
		"of one server": func() []replica { return replicas(t, redistest.Start(t), 3) },
		"of a cluster": func() []replica {
			var addrs []string
			for _, s := range redistest.Cluster(t) {
				addrs = append(addrs, s.Addr)
			}
			var all []replica
			for range 3 {
				client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, MaxRetries: -1})
				t.Cleanup(func() { _ = client.Close() })
				must(t, Migrate(t.Context(), client, prefix))
				all = append(all, startReplica(t, Options{Redis: client, RedisPrefix: prefix}))
			}
			return all
		},
	} {
		t.Run(name, func(t *testing.T) {
			all := start()
			slowest := time.Duration(0)
			for i := range 20 {
				id := tenant.ID(fmt.Sprintf("t%d", i))
				must(t, all[i%3].Update(put(quota.Tenant{ID: id}), false))
				for _, r := range all {
					slowest = max(slowest, await.Within(t, patient, "the tenant", r.has(id)))
				}
				must(t, all[(i+1)%3].Update(func(e *Edit) error {
					e.Tenants.Delete(string(id))
					return nil
				}, false))
				for _, r := range all {
					slowest = max(slowest, await.Within(t, patient, "its end", func() bool { return !r.has(id)() }))
				}
			}
			t.Logf("the slowest of 40 changes held everywhere after %v", slowest.Round(time.Millisecond))
			same(t, all)
			if revision := all[0].Snapshot().Revision; revision != 41 {
				t.Errorf("revision %d after 40 changes of the first one", revision)
			}
		})
	}
}

// What one replica made is there for the next one at once, whoever it is: a client goes from one to the other.
func TestAnUpdateSeesWhatOthersChangedBefore(t *testing.T) {
	s := redistest.Start(t)
	a, b := open(t, inRedis(t, s)), open(t, inRedis(t, s)) // they follow nothing
	for i := range 10 {
		must(t, a.Update(put(quota.Tenant{ID: tenant.ID(fmt.Sprintf("t%d", i))}), false))
		a, b = b, a
	}
	if n := len(b.View().Tenants); n != 10 {
		t.Errorf("%d tenants", n)
	}
	op := Operation{Key: [32]byte{1}, BodyHash: [32]byte{2}, Now: start}
	calls := 0
	fn := func(e *Edit) ([]byte, error) {
		calls++
		e.Plans.Put(quota.Plan{Name: "once"})
		return []byte("made"), nil
	}
	for i, c := range []*Catalog{a, b, a} {
		response, replayed, err := c.Once(op, fn)
		if err != nil || string(response) != "made" || replayed != (i > 0) {
			t.Errorf("call %d: %q, %v, %v", i, response, replayed, err)
		}
	}
	if calls != 1 {
		t.Errorf("made %d times", calls)
	}
	client := dial(t, s, redis.Options{})
	ttl, err := client.TTL(t.Context(), a.shared.answer(op.Key)).Result()
	if must(t, err); ttl < 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("the answer is kept for %v", ttl)
	}
}

// Three replicas edit one tenant, each with the etag that it read: no edit is lost, and whoever was late is told.
func TestConcurrentEditsLoseNothing(t *testing.T) {
	all := replicas(t, redistest.Start(t), 3)
	must(t, all[0].Update(put(quota.Tenant{ID: "acme", DisplayName: "0"}), false))
	for _, r := range all {
		await.That(t, "the tenant", r.has("acme"))
	}
	errStale := errors.New("etag mismatch")
	var made, refused atomic.Int64
	var group sync.WaitGroup
	for _, r := range all {
		group.Go(func() {
			for done := 0; done < 100; {
				i := slices.IndexFunc(r.View().Tenants, func(e *Entry[quota.Tenant]) bool { return e.Value.ID == "acme" })
				etag := ETag(r.View().Tenants[i].Value)
				err := r.Update(func(e *Edit) error {
					now, ok := e.Tenants.Find("acme")
					if !ok || ETag(now.Value) != etag {
						return errStale
					}
					n, err := strconv.Atoi(now.Value.DisplayName)
					if err != nil {
						return err
					}
					now.Value.DisplayName = strconv.Itoa(n + 1)
					e.Tenants.Put(now.Value)
					return nil
				}, false)
				switch {
				case err == nil:
					done++
					made.Add(1)
				case errors.Is(err, errStale):
					refused.Add(1)
				default:
					t.Errorf("update: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	same(t, all)
	if got := all[0].View().Tenants[0].Value.DisplayName; got != "300" || made.Load() != 300 {
		t.Errorf("%d edits made, the tenant counts %s", made.Load(), got)
	}
	if refused.Load() == 0 {
		t.Error("nobody was ever late: the test sees too little")
	}
	t.Logf("300 edits made, %d refused for their etag", refused.Load())
}

// The same without etags: edits of different tenants all hold.
func TestConcurrentEditsOfDifferentTenantsAllHold(t *testing.T) {
	all := replicas(t, redistest.Start(t), 3)
	var group sync.WaitGroup
	for n, r := range all {
		group.Go(func() {
			for i := range 50 {
				if err := r.Update(put(quota.Tenant{ID: tenant.ID(fmt.Sprintf("t%d-%d", n, i))}), false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	same(t, all)
	if n := len(all[0].View().Tenants); n != 150 {
		t.Errorf("%d tenants", n)
	}
}

func inRedisAsItIs(t testing.TB, s *redistest.Server) Options {
	return Options{Redis: dial(t, s, redis.Options{}), RedisPrefix: prefix}
}

// Files are each replica's own, and the number is still that of all.
func TestReplicasWithFoldersShareOneNumber(t *testing.T) {
	s := redistest.Start(t)
	dirs := []string{t.TempDir(), t.TempDir()}
	var all []replica
	for _, dir := range dirs {
		write(t, dir, "f.yaml", "plans: [{name: filed}]\ntenants: [{id: paper, plan: filed}]")
		all = append(all, startReplica(t, inRedis(t, s).in(dir)))
	}
	must(t, all[0].Update(func(e *Edit) error { e.Tenants.Put(quota.Tenant{ID: "acme", Plan: "filed"}); return nil }, false))
	await.That(t, "the tenant", all[1].has("acme"))
	same(t, all)
	for _, dir := range dirs {
		write(t, dir, "g.yaml", "plans: [{name: more}]")
	}
	for _, r := range all {
		await.That(t, "the file", func() bool { return len(r.View().Plans) == 2 })
	}
	same(t, all)

	t.Run("an entry of another replica does not take the place of a file's", func(t *testing.T) {
		write(t, dirs[1], "i.yaml", "tenants: [{id: barred, plan: filed, suspended: true}]")
		await.That(t, "the file", all[1].has("barred"))
		must(t, all[0].Update(func(e *Edit) error { e.Tenants.Put(quota.Tenant{ID: "barred", Plan: "filed"}); return nil }, false))
		await.That(t, "the refusal", func() bool {
			a := all[1].Snapshot().Account("barred")
			_, _, refused := all[1].Shared()
			return refused != nil || !a.Suspended
		})
		if a := all[1].Snapshot().Account("barred"); !a.Suspended {
			t.Error("what a file suspends is not suspended")
		}
		must(t, all[0].Update(func(e *Edit) error { e.Tenants.Delete("barred"); return nil }, false))
		must(t, os.Remove(filepath.Join(dirs[1], "i.yaml")))
		await.That(t, "the file is gone", func() bool { return !all[1].has("barred")() })
		same(t, all)
	})

	t.Run("what is not valid beside a replica's files does not decide there", func(t *testing.T) {
		write(t, dirs[0], "h.yaml", "plans: [{name: here}]")
		await.That(t, "the file", func() bool { return len(all[0].View().Plans) == 3 })
		must(t, all[0].Update(func(e *Edit) error {
			e.Tenants.Put(quota.Tenant{ID: "acme", Plan: "here", Suspended: true})
			return nil
		}, false))
		await.That(t, "the refusal", func() bool { _, _, refused := all[1].Shared(); return refused != nil })
		_, _, refused := all[1].Shared()
		want := `tenants[acme].plan: there is no plan "here"; one of the plans "filed", "more"`
		if refused == nil || refused.Error() != want || all[1].Snapshot().Account("acme").Suspended {
			t.Errorf("got %v\nwant %s", refused, want)
		}
		if err := all[1].Update(func(e *Edit) error { e.Tenants.Put(quota.Tenant{ID: "beta", Plan: "filed"}); return nil }, false); err == nil || err.Error() != want {
			t.Errorf("an update there: %v", err)
		}
		write(t, dirs[1], "h.yaml", "plans: [{name: here}]")
		await.That(t, "the file heals it, and nothing is refused any more", func() bool {
			_, _, refused := all[1].Shared()
			return all[1].Snapshot().Account("acme").Suspended && refused == nil
		})
		same(t, all)
	})
}

// A replica asks Redis for its number once in a while, and nothing more while nothing changes.
func TestReplicasAreQuietWhileNothingChanges(t *testing.T) {
	s := redistest.Start(t)
	asked := make(chan struct{})
	o := inRedis(t, s)
	client := dial(t, s, redis.Options{})
	c := open(t, o)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c.debug = func() { // it asks no further while nobody looks
		select {
		case asked <- struct{}{}:
		case <-ctx.Done():
		}
	}
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx) }()
	<-asked
	must(t, client.ConfigResetStat(t.Context()).Err())
	for range 4 {
		<-asked
	}
	stats, err := client.Info(t.Context(), "commandstats").Result()
	must(t, err)
	calls := map[string]int{}
	for line := range strings.SplitSeq(stats, "\r\n") {
		if name, rest, ok := strings.Cut(line, ":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			calls[strings.TrimPrefix(name, "cmdstat_")], _ = strconv.Atoi(n)
		}
	}
	for _, quiet := range []string{"config|resetstat", "info", "subscribe", "hello", "client|setinfo", "ping"} {
		delete(calls, quiet)
	}
	if calls["hmget"] > 5 || len(calls) > 1 {
		t.Errorf("asked four times: %v", maps.Collect(maps.All(calls)))
	}
	stop()
	must(t, <-done)
}
