package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/tenant"
)

func TestAFeedThatIsLostHeals(t *testing.T) {
	s := redistest.Start(t)
	all := replicas(t, s, 2)
	client := dial(t, s, redis.Options{})
	for name, lose := range map[string]func(){
		"when subscriptions are killed": func() {
			must(t, client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err())
		},
		"when every connection is killed": func() {
			must(t, client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal").Err())
		},
		"when the server was frozen": func() { s.Freeze(); <-time.After(700 * time.Millisecond); s.Thaw() },
		"when the feed was cut": func() {
			must(t, all[0].Update(put(quota.Tenant{ID: "cut"}), false))
			must(t, client.XTrimMaxLen(t.Context(), base+"feed", 0).Err())
		},
		"when a change was too large for the feed": func() {
			must(t, all[0].Update(func(e *Edit) error {
				for i := range 2000 {
					e.Tenants.Put(quota.Tenant{ID: tenant.ID(fmt.Sprintf("many%d", i)), Plan: "gold"})
				}
				return nil
			}, false))
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := tenant.ID("t-" + strings.ReplaceAll(name, " ", "-"))
			must(t, all[1].Update(put(), false))
			lose()
			await.That(t, "an update", func() bool { return all[0].Update(put(quota.Tenant{ID: id}), false) == nil })
			took := await.Within(t, patient, "the tenant on the other replica", all[1].has(id))
			t.Logf("after %v", took.Round(time.Millisecond))
		})
	}
	same(t, all)
}

func TestWhileRedisIsAwayTheLastCatalogueDecides(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	all := replicas(t, s, 2)
	must(t, all[0].Update(put(quota.Tenant{ID: "acme"}), false))
	await.That(t, "the tenant", all[1].has("acme"))
	before := all[0].Snapshot()
	for name, away := range map[string]struct{ leave, back func() }{
		"killed": {s.Kill, s.Restart},
		"frozen": {s.Freeze, s.Thaw},
	} {
		t.Run(name, func(t *testing.T) {
			all[0].patience(t, time.Second)
			away.leave()
			for _, validateOnly := range []bool{true, false} {
				err := all[0].Update(put(quota.Tenant{ID: "late"}), validateOnly)
				if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "nothing was changed") {
					t.Errorf("validate only %v: %v", validateOnly, err)
				}
			}
			if _, _, err := all[0].Once(Operation{Now: start}, func(*Edit) ([]byte, error) { return nil, nil }); !errors.Is(err, ErrUnavailable) {
				t.Errorf("once: %v", err)
			}
			if all[0].Snapshot() != before || !all[1].has("acme")() {
				t.Error("the snapshot changed")
			}
			confirmed, ok, refused := all[0].Shared()
			if !ok || refused != nil || time.Since(confirmed) <= 0 {
				t.Errorf("shared: %v, %v, %v", confirmed, refused, ok)
			}
			away.back()
			all[0].patience(t, redisTime)
			await.That(t, "a confirmation", func() bool { now, _, _ := all[0].Shared(); return now.After(confirmed) })
			must(t, all[0].Update(func(e *Edit) error { e.Tenants.Delete("late"); return nil }, false))
			must(t, all[0].Update(put(quota.Tenant{ID: "late"}), false))
			await.That(t, "the change on the other replica", all[1].has("late"))
			must(t, all[0].Update(func(e *Edit) error { e.Tenants.Delete("late"); return nil }, false))
			before = all[0].Snapshot()
		})
	}
}

// Redis that is started again without what it held gets the catalogue back from who knows it.
func TestARedisThatLostEverythingGetsItBack(t *testing.T) {
	s := redistest.Start(t)
	all := replicas(t, s, 3)
	must(t, all[0].Update(addAcme, false))
	must(t, all[1].Update(put(quota.Tenant{ID: "beta"}), false))
	same(t, all)
	before := all[0].View()
	for name, lose := range map[string]func(){
		"started again empty": s.Restart,
		"started again and migrated": func() {
			s.Kill()
			s.Restart()
			_ = Migrate(t.Context(), dial(t, s, redis.Options{}), prefix) // before, after or while a replica writes it back
		},
	} {
		t.Run(name, func(t *testing.T) {
			lose()
			await.That(t, "the catalogue in Redis", func() bool {
				c, err := Open(inRedisAsItIs(t, s))
				return err == nil && len(c.View().Tenants) == 2
			})
			await.That(t, "it has a new number everywhere", func() bool { // who wrote it back may not have taken it over yet
				return !slices.ContainsFunc(all, func(r replica) bool { return r.Snapshot().Revision <= before.Revision })
			})
			same(t, all)
			again := all[2].View()
			if again.Revision <= before.Revision || describe(View{Tenants: again.Tenants, Plans: again.Plans}) != describe(View{Tenants: before.Tenants, Plans: before.Plans}) {
				t.Errorf("revision %d: %+v", again.Revision, again)
			}
			must(t, all[1].Update(put(quota.Tenant{ID: "beta", Suspended: true}), false))
			must(t, all[1].Update(put(quota.Tenant{ID: "beta"}), false))
			same(t, all) // or the next to write it back may be behind
			said := 0
			for _, r := range all {
				said += strings.Count(r.log.String(), "this replica wrote back what it knew")
			}
			if said == 0 {
				t.Error("nobody's log says so")
			}
		})
	}
}

// A failover can lose the newest changes: what Redis has is what holds, under a number that was never given before.
func TestWhatAFailoverLostIsLostEverywhereAndSaid(t *testing.T) {
	s := redistest.Start(t)
	all := replicas(t, s, 2)
	client := dial(t, s, redis.Options{})
	must(t, all[0].Update(put(quota.Tenant{ID: "kept"}), false))
	dumps := map[string]string{}
	names, err := client.Keys(t.Context(), base+"*").Result()
	must(t, err)
	for _, name := range names {
		dumps[name], err = client.Dump(t.Context(), name).Result()
		must(t, err)
	}
	lost := []quota.Tenant{{ID: "lost"}, {ID: "gone"}}
	for _, tenant := range lost {
		must(t, all[0].Update(put(tenant), false))
	}
	await.That(t, "the change", all[1].has("gone"))
	newest := all[1].Snapshot().Revision
	_, err = client.TxPipelined(t.Context(), func(p redis.Pipeliner) error { // as a replica of Redis that was behind has it
		for name, dump := range dumps {
			p.RestoreReplace(t.Context(), name, 0, dump)
		}
		return nil
	})
	must(t, err)
	for _, r := range all {
		await.That(t, "the loss", func() bool { return !r.has("lost")() && r.has("kept")() })
	}
	same(t, all)
	if revision := all[0].Snapshot().Revision; revision <= newest {
		t.Errorf("revision %d again, after %d", revision, newest)
	}
	for i, r := range all {
		if !strings.Contains(r.log.String(), "Redis has lost changes of the catalogue") {
			t.Errorf("the log of replica %d does not say so: %s", i, r.log)
		}
	}
	must(t, all[0].Update(put(quota.Tenant{ID: "lost"}), false))
	await.That(t, "the next change", all[1].has("lost"))
}
