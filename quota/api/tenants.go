package api

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/tenant"
)

func tenantOut(t quota.Tenant, origin quotav1.Origin) *quotav1.Tenant {
	return &quotav1.Tenant{
		Name:        tenantName(t.ID),
		DisplayName: t.DisplayName,
		Plan:        planName(t.Plan),
		Suspended:   t.Suspended,
		Principals:  t.Principals,
		Limits:      limitsOut(t.Limits),
		Origin:      origin,
		Etag:        catalog.ETag(t),
	}
}

func (s *server) createTenant(_ context.Context, r *quotav1.CreateTenantRequest) (*quotav1.Tenant, error) {
	id, err := tenant.ParseID(r.GetTenantId())
	if err != nil {
		return nil, invalid("tenant_id", "no id of a tenant; write 1 to 63 of a-z, 0-9 and '-', a letter or digit first and last")
	}
	t, err := tenantIn(id, r.GetTenant())
	if err != nil {
		return nil, err
	}
	what := &subject{path: "tenants[" + string(id) + "]", field: "tenant", limits: t.Limits}
	return change(s, quotav1.QuotaService_CreateTenant_FullMethodName, r, what, func(own *quota.Catalogue) (*quotav1.Tenant, error) {
		if _, ok := byID(s.catalog.View().Tenants, string(id), idOfTenant); ok {
			return nil, exists(tenantName(id))
		}
		own.Tenants = append(own.Tenants, t)
		return tenantOut(t, quotav1.Origin_ORIGIN_API), nil
	})
}

func (s *server) getTenant(_ context.Context, r *quotav1.GetTenantRequest) (*quotav1.Tenant, error) {
	id, err := parseTenant("name", r.GetName())
	if err != nil {
		return nil, err
	}
	t, ok := byID(s.catalog.View().Tenants, string(id), idOfTenant)
	if !ok {
		return nil, notFound(r.GetName())
	}
	return tenantOut(t.Tenant, origin(t.Origin)), nil
}

func (s *server) listTenants(_ context.Context, r *quotav1.ListTenantsRequest) (*quotav1.ListTenantsResponse, error) {
	items, next, err := cut(s.pages, tenants, s.catalog.View().Tenants, idOfTenant, r)
	if err != nil {
		return nil, err
	}
	answer := &quotav1.ListTenantsResponse{NextPageToken: next}
	for _, t := range items {
		answer.Tenants = append(answer.Tenants, tenantOut(t.Tenant, origin(t.Origin)))
	}
	return answer, nil
}

func (s *server) updateTenant(_ context.Context, r *quotav1.UpdateTenantRequest) (*quotav1.Tenant, error) {
	id, err := parseTenant("tenant.name", r.GetTenant().GetName())
	if err != nil {
		return nil, err
	}
	what := &subject{path: "tenants[" + string(id) + "]", field: "tenant"}
	return change(s, quotav1.QuotaService_UpdateTenant_FullMethodName, r, what, func(own *quota.Catalogue) (*quotav1.Tenant, error) {
		i, err := s.tenant(own, id)
		if err != nil {
			return nil, err
		}
		now := tenantOut(own.Tenants[i], quotav1.Origin_ORIGIN_API)
		if err := fresh(now.GetName(), r.GetTenant().GetEtag(), now.GetEtag()); err != nil {
			return nil, err
		}
		if err := merge(now, r.GetTenant(), r.GetUpdateMask()); err != nil {
			return nil, err
		}
		t, err := tenantIn(id, now)
		if err != nil {
			return nil, err
		}
		own.Tenants[i], what.limits = t, t.Limits
		return tenantOut(t, quotav1.Origin_ORIGIN_API), nil
	})
}

func (s *server) deleteTenant(_ context.Context, r *quotav1.DeleteTenantRequest) (*emptypb.Empty, error) {
	id, err := parseTenant("name", r.GetName())
	if err != nil {
		return nil, err
	}
	return change(s, quotav1.QuotaService_DeleteTenant_FullMethodName, r, &subject{path: "tenants[" + string(id) + "]"}, func(own *quota.Catalogue) (*emptypb.Empty, error) {
		i, err := s.tenant(own, id)
		if err != nil {
			return nil, err
		}
		if err := fresh(r.GetName(), r.GetEtag(), catalog.ETag(own.Tenants[i])); err != nil {
			return nil, err
		}
		belongs := func(k quota.APIKey) bool { return k.Tenant == id }
		if !r.GetForce() && slices.ContainsFunc(own.APIKeys, belongs) {
			return nil, about(codes.FailedPrecondition, "TENANT_HAS_KEYS", r.GetName(), "it has API keys; delete them first, or set force to revoke them with it")
		}
		own.APIKeys = slices.DeleteFunc(own.APIKeys, belongs)
		own.Tenants = slices.Delete(own.Tenants, i, i+1)
		return &emptypb.Empty{}, nil
	})
}
