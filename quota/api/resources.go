package api

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
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
	return remove(edit{s, a, r}, plans, r, s.planIsFree)
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
	return remove(edit{s, a, r}, tenants, r, func(own *quota.Catalogue, id string) error {
		return revokeKeys(own, tenant.ID(id), r)
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
func (s *server) planIsFree(_ *quota.Catalogue, id string) error {
	if slices.ContainsFunc(s.catalog.View().Tenants, func(t catalog.Entry[quota.Tenant]) bool { return t.Value.Plan == id }) {
		return about(codes.FailedPrecondition, "PLAN_IN_USE", planNames.name(id), "tenants are on it; move them to another plan first")
	}
	return nil
}

// revokeKeys removes a tenant's API keys, if the request says so.
func revokeKeys(own *quota.Catalogue, id tenant.ID, r *quotav1.DeleteTenantRequest) error {
	belongs := func(k quota.APIKey) bool { return k.Tenant == id }
	if !r.GetForce() && slices.ContainsFunc(own.APIKeys, belongs) {
		return about(codes.FailedPrecondition, "TENANT_HAS_KEYS", r.GetName(), "it has API keys; delete them first, or set force to revoke them with it")
	}
	own.APIKeys = slices.DeleteFunc(own.APIKeys, belongs)
	return nil
}
