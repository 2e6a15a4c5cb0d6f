package api

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/tenant"
)

func (s *server) createPlan(r *quotav1.CreatePlanRequest, a *Act) (*quotav1.Plan, error) {
	return create(edit{s, a, r}, plans, r.GetPlanId(), r.GetPlan())
}

func (s *server) getPlan(r *quotav1.GetPlanRequest, _ *Act) (*quotav1.Plan, error) {
	return get(s, plans, r.GetName())
}

func (s *server) listPlans(r *quotav1.ListPlansRequest, _ *Act) (*quotav1.ListPlansResponse, error) {
	all, next, err := pageOf(s, plans, r)
	return &quotav1.ListPlansResponse{Plans: all, NextPageToken: next}, err
}

func (s *server) updatePlan(r *quotav1.UpdatePlanRequest, a *Act) (*quotav1.Plan, error) {
	return update(edit{s, a, r}, plans, r.GetPlan(), r.GetUpdateMask())
}

func (s *server) deletePlan(r *quotav1.DeletePlanRequest, a *Act) (*emptypb.Empty, error) {
	return remove(edit{s, a, r}, plans, r, planIsFree)
}

func (s *server) createTenant(r *quotav1.CreateTenantRequest, a *Act) (*quotav1.Tenant, error) {
	return create(edit{s, a, r}, tenants, r.GetTenantId(), r.GetTenant())
}

func (s *server) getTenant(r *quotav1.GetTenantRequest, _ *Act) (*quotav1.Tenant, error) {
	return get(s, tenants, r.GetName())
}

func (s *server) listTenants(r *quotav1.ListTenantsRequest, _ *Act) (*quotav1.ListTenantsResponse, error) {
	all, next, err := pageOf(s, tenants, r)
	return &quotav1.ListTenantsResponse{Tenants: all, NextPageToken: next}, err
}

func (s *server) updateTenant(r *quotav1.UpdateTenantRequest, a *Act) (*quotav1.Tenant, error) {
	return update(edit{s, a, r}, tenants, r.GetTenant(), r.GetUpdateMask())
}

func (s *server) deleteTenant(r *quotav1.DeleteTenantRequest, a *Act) (*emptypb.Empty, error) {
	return remove(edit{s, a, r}, tenants, r, func(c *catalog.Edit, id string) error {
		return revokeKeys(c, tenant.ID(id), r)
	})
}

func (s *server) createRule(r *quotav1.CreateRuleRequest, a *Act) (*quotav1.Rule, error) {
	return create(edit{s, a, r}, rules, r.GetRuleId(), r.GetRule())
}

func (s *server) getRule(r *quotav1.GetRuleRequest, _ *Act) (*quotav1.Rule, error) {
	return get(s, rules, r.GetName())
}

func (s *server) listRules(r *quotav1.ListRulesRequest, _ *Act) (*quotav1.ListRulesResponse, error) {
	all, next, err := pageOf(s, rules, r)
	return &quotav1.ListRulesResponse{Rules: all, NextPageToken: next}, err
}

func (s *server) updateRule(r *quotav1.UpdateRuleRequest, a *Act) (*quotav1.Rule, error) {
	return update(edit{s, a, r}, rules, r.GetRule(), r.GetUpdateMask())
}

func (s *server) deleteRule(r *quotav1.DeleteRuleRequest, a *Act) (*emptypb.Empty, error) {
	return remove(edit{s, a, r}, rules, r, nil)
}

func (s *server) createIssuer(r *quotav1.CreateIssuerRequest, a *Act) (*quotav1.Issuer, error) {
	return create(edit{s, a, r}, issuers, r.GetIssuerId(), r.GetIssuer())
}

func (s *server) getIssuer(r *quotav1.GetIssuerRequest, _ *Act) (*quotav1.Issuer, error) {
	return get(s, issuers, r.GetName())
}

func (s *server) listIssuers(r *quotav1.ListIssuersRequest, _ *Act) (*quotav1.ListIssuersResponse, error) {
	all, next, err := pageOf(s, issuers, r)
	return &quotav1.ListIssuersResponse{Issuers: all, NextPageToken: next}, err
}

func (s *server) updateIssuer(r *quotav1.UpdateIssuerRequest, a *Act) (*quotav1.Issuer, error) {
	return update(edit{s, a, r}, issuers, r.GetIssuer(), r.GetUpdateMask())
}

func (s *server) deleteIssuer(r *quotav1.DeleteIssuerRequest, a *Act) (*emptypb.Empty, error) {
	return remove(edit{s, a, r}, issuers, r, nil)
}

// planIsFree refuses to delete a plan that tenants are on.
func planIsFree(c *catalog.Edit, id string) error {
	for t := range c.Tenants.All() {
		if t.Value.Plan == id {
			return about(codes.FailedPrecondition, "PLAN_IN_USE", planNames.name(id), "tenants are on it; move them to another plan first")
		}
	}
	return nil
}

// revokeKeys removes a tenant's API keys, if the request says so.
func revokeKeys(c *catalog.Edit, id tenant.ID, r *quotav1.DeleteTenantRequest) error {
	var keys []string
	for k := range c.APIKeys.All() {
		if k.Value.Tenant == id && k.Origin == catalog.FromAPI {
			keys = append(keys, k.Value.ID)
		}
	}
	if !r.GetForce() && len(keys) > 0 {
		return about(codes.FailedPrecondition, "TENANT_HAS_KEYS", r.GetName(), "it has API keys; delete them first, or set force to revoke them with it")
	}
	for _, k := range keys {
		c.APIKeys.Delete(k)
	}
	return nil
}
