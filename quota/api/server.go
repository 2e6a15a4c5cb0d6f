package api

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/ratelimit"
)

// server is the API as gRPC and REST see it. Each exported method only takes
// its call through the guard; the method of the same name in lower case does it.
type server struct {
	quotav1.UnimplementedQuotaServiceServer

	guard   *guard
	catalog *catalog.Catalog
	store   ratelimit.Store
	pepper  [32]byte
	pages   pager
	used    func(keyID string) int64 // nil: unknown
	now     func() time.Time
	log     *slog.Logger
}

func (s *server) CreatePlan(ctx context.Context, r *quotav1.CreatePlanRequest) (*quotav1.Plan, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_CreatePlan_FullMethodName, r, s.createPlan)
}

func (s *server) GetPlan(ctx context.Context, r *quotav1.GetPlanRequest) (*quotav1.Plan, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_GetPlan_FullMethodName, r, s.getPlan)
}

func (s *server) ListPlans(ctx context.Context, r *quotav1.ListPlansRequest) (*quotav1.ListPlansResponse, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_ListPlans_FullMethodName, r, s.listPlans)
}

func (s *server) UpdatePlan(ctx context.Context, r *quotav1.UpdatePlanRequest) (*quotav1.Plan, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_UpdatePlan_FullMethodName, r, s.updatePlan)
}

func (s *server) DeletePlan(ctx context.Context, r *quotav1.DeletePlanRequest) (*emptypb.Empty, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_DeletePlan_FullMethodName, r, s.deletePlan)
}

func (s *server) CreateTenant(ctx context.Context, r *quotav1.CreateTenantRequest) (*quotav1.Tenant, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_CreateTenant_FullMethodName, r, s.createTenant)
}

func (s *server) GetTenant(ctx context.Context, r *quotav1.GetTenantRequest) (*quotav1.Tenant, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_GetTenant_FullMethodName, r, s.getTenant)
}

func (s *server) ListTenants(ctx context.Context, r *quotav1.ListTenantsRequest) (*quotav1.ListTenantsResponse, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_ListTenants_FullMethodName, r, s.listTenants)
}

func (s *server) UpdateTenant(ctx context.Context, r *quotav1.UpdateTenantRequest) (*quotav1.Tenant, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_UpdateTenant_FullMethodName, r, s.updateTenant)
}

func (s *server) DeleteTenant(ctx context.Context, r *quotav1.DeleteTenantRequest) (*emptypb.Empty, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_DeleteTenant_FullMethodName, r, s.deleteTenant)
}

func (s *server) CreateApiKey(ctx context.Context, r *quotav1.CreateApiKeyRequest) (*quotav1.CreateApiKeyResponse, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_CreateApiKey_FullMethodName, r, s.createAPIKey)
}

func (s *server) ListApiKeys(ctx context.Context, r *quotav1.ListApiKeysRequest) (*quotav1.ListApiKeysResponse, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_ListApiKeys_FullMethodName, r, s.listAPIKeys)
}

func (s *server) DeleteApiKey(ctx context.Context, r *quotav1.DeleteApiKeyRequest) (*emptypb.Empty, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_DeleteApiKey_FullMethodName, r, s.deleteAPIKey)
}

func (s *server) CreateRule(ctx context.Context, r *quotav1.CreateRuleRequest) (*quotav1.Rule, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_CreateRule_FullMethodName, r, s.createRule)
}

func (s *server) GetRule(ctx context.Context, r *quotav1.GetRuleRequest) (*quotav1.Rule, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_GetRule_FullMethodName, r, s.getRule)
}

func (s *server) ListRules(ctx context.Context, r *quotav1.ListRulesRequest) (*quotav1.ListRulesResponse, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_ListRules_FullMethodName, r, s.listRules)
}

func (s *server) UpdateRule(ctx context.Context, r *quotav1.UpdateRuleRequest) (*quotav1.Rule, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_UpdateRule_FullMethodName, r, s.updateRule)
}

func (s *server) DeleteRule(ctx context.Context, r *quotav1.DeleteRuleRequest) (*emptypb.Empty, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_DeleteRule_FullMethodName, r, s.deleteRule)
}

func (s *server) CreateIssuer(ctx context.Context, r *quotav1.CreateIssuerRequest) (*quotav1.Issuer, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_CreateIssuer_FullMethodName, r, s.createIssuer)
}

func (s *server) GetIssuer(ctx context.Context, r *quotav1.GetIssuerRequest) (*quotav1.Issuer, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_GetIssuer_FullMethodName, r, s.getIssuer)
}

func (s *server) ListIssuers(ctx context.Context, r *quotav1.ListIssuersRequest) (*quotav1.ListIssuersResponse, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_ListIssuers_FullMethodName, r, s.listIssuers)
}

func (s *server) UpdateIssuer(ctx context.Context, r *quotav1.UpdateIssuerRequest) (*quotav1.Issuer, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_UpdateIssuer_FullMethodName, r, s.updateIssuer)
}

func (s *server) DeleteIssuer(ctx context.Context, r *quotav1.DeleteIssuerRequest) (*emptypb.Empty, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_DeleteIssuer_FullMethodName, r, s.deleteIssuer)
}

func (s *server) GetUsage(ctx context.Context, r *quotav1.GetUsageRequest) (*quotav1.Usage, error) {
	return guarded(ctx, s.guard, quotav1.QuotaService_GetUsage_FullMethodName, r, s.getUsage)
}
