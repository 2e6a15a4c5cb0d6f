package api

import (
	"bytes"
	"fmt"
	"sync/atomic"
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
	way := outage{}
	var all []*world
	for _, addr := range []string{server.Addr, redistest.Proxy(t, server.Addr, way.piece)} {
		client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1})
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
	way.armed.Store(true)
	_, err = b.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "half", Plan: &quotav1.Plan{}})
	refused(t, err, codes.Aborted, "CATALOG_OUTCOME_UNKNOWN")
	_, err = b.CreatePlan(ctx, &quotav1.CreatePlanRequest{PlanId: "next", Plan: &quotav1.Plan{}})
	refused(t, err, codes.Unavailable, "CATALOG_UNAVAILABLE")
	way.closed.Store(false)
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

// outage begins where a transaction was sent, once armed: Redis carries it out, and nobody is told.
type outage struct{ armed, closed atomic.Bool }

func (o *outage) piece() redistest.Piece {
	return func(b []byte, answers bool) (int, bool) {
		if !answers && bytes.Contains(bytes.ToLower(b), []byte("\r\nexec\r\n")) && o.armed.CompareAndSwap(true, false) {
			o.closed.Store(true)
			return len(b), false
		}
		if o.closed.Load() {
			return 0, true
		}
		return len(b), false
	}
}
