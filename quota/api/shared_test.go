package api

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/redistest"
)

// Two replicas on one Redis are one API: whoever asks the other one next sees what was made, a stale etag is
// refused, a request id counts once, and a Redis that is away is an error that can be tried again.
func TestTwoReplicasAreOneAPI(t *testing.T) {
	server := redistest.Start(t)
	var all []*world
	for range 2 {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
		t.Cleanup(func() { _ = client.Close() })
		must(t, catalog.Migrate(t.Context(), client, "sluice:"))
		all = append(all, newWorldOn(t, catalog.Options{Redis: client, RedisPrefix: "sluice:"}))
	}
	a, b := all[0], all[1]
	ctx := signed(t)
	_, err := a.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "gold", Plan: &quotav1.Plan{}})
	must(t, err)
	made, err := b.CreateTenant(ctx, &quotav1.CreateTenantRequest{TenantId: "acme", Tenant: &quotav1.Tenant{Plan: "plans/gold"}})
	must(t, err)
	_, err = a.UpdateTenant(ctx, &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: made.GetName(), Plan: "plans/gold", Etag: made.GetEtag(), Suspended: true}})
	must(t, err)
	_, err = b.UpdateTenant(ctx, &quotav1.UpdateTenantRequest{Tenant: &quotav1.Tenant{Name: made.GetName(), Plan: "plans/gold", Etag: made.GetEtag(), DisplayName: "late"}})
	refused(t, err, codes.Aborted, "ETAG_MISMATCH")
	if now := b.catalog.View().Tenants[0]; !now.Value.Suspended || now.Value.DisplayName != "" {
		t.Errorf("after the refusal: %+v", now)
	}
	for i, w := range []*world{a, b, a} {
		_, err := w.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "once", Plan: &quotav1.Plan{}, RequestId: "one"})
		must(t, err)
		_, err = w.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "once", Plan: &quotav1.Plan{}, RequestId: fmt.Sprintf("other-%d", i)})
		refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
	}
	admin := redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { _ = admin.Close() })
	must(t, admin.Del(t.Context(), "sluice:{catalog}:feed").Err())
	must(t, admin.Set(t.Context(), "sluice:{catalog}:feed", "not a stream", 0).Err())
	_, err = b.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "half", Plan: &quotav1.Plan{}})
	refused(t, err, codes.Aborted, "CATALOG_OUTCOME_UNKNOWN")
	_, err = b.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "next", Plan: &quotav1.Plan{}})
	refused(t, err, codes.Unavailable, "CATALOG_UNAVAILABLE")
	must(t, admin.Del(t.Context(), "sluice:{catalog}:feed").Err())
	_, err = b.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "half", Plan: &quotav1.Plan{}})
	refused(t, err, codes.AlreadyExists, "ALREADY_EXISTS")
	server.Kill()
	for _, id := range []string{"", "two"} {
		_, err = b.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "silver", Plan: &quotav1.Plan{}, RequestId: id})
		refused(t, err, codes.Unavailable, "CATALOG_UNAVAILABLE")
	}
	if _, err := b.GetPlan(ctx, &quotav1.GetPlanRequest{Name: "plans/gold"}); err != nil {
		t.Errorf("a read while Redis is away: %v", err)
	}
}
