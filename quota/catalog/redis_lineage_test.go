package catalog

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/redistest"
)

// A replica that was cut off and returns first to an emptied Redis must not bring back who was suspended meanwhile.
func TestAStaleReplicaDoesNotBringBackWhatWasSuspended(t *testing.T) {
	s := redistest.Start(t)
	client := dial(t, s, redis.Options{})
	stale, fresh := open(t, inRedis(t, s)), open(t, inRedis(t, s)) // neither follows but when told to
	suspended := func(c *Catalog) bool { return c.View().Tenants[0].Value.Suspended }
	must(t, stale.Update(put(quota.Tenant{ID: "acme"}), false))
	must(t, fresh.Update(put(quota.Tenant{ID: "acme", Suspended: true}), false))
	for range 5 {
		must(t, fresh.Update(put(quota.Tenant{ID: "acme", Suspended: true}, quota.Tenant{ID: "beta"}), false))
	}
	must(t, client.FlushAll(t.Context()).Err())
	must(t, stale.sync(t.Context()))
	for range 10 { // so that its number is higher than that of who knows more
		must(t, stale.Update(put(quota.Tenant{ID: "gamma"}), false))
	}
	if suspended(stale) {
		t.Fatal("the stale replica knows of the suspension: nothing is tested")
	}
	for range 2 {
		for _, c := range []*Catalog{fresh, stale} {
			must(t, c.sync(t.Context()))
			if !suspended(c) {
				t.Fatal("the suspended tenant is back")
			}
		}
	}
	if a, b := stale.View(), fresh.View(); a.Revision != b.Revision {
		t.Errorf("revisions %d and %d", a.Revision, b.Revision)
	}
	if c := open(t, inRedisAsItIs(t, s)); !suspended(c) {
		t.Error("Redis has the stale state")
	}
}
