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

func planOut(p quota.Plan, origin quotav1.Origin) *quotav1.Plan {
	return &quotav1.Plan{
		Name:        planName(p.Name),
		DisplayName: p.DisplayName,
		Limits:      limitsOut(p.Limits),
		Origin:      origin,
		Etag:        catalog.ETag(p),
	}
}

func (s *server) createPlan(_ context.Context, r *quotav1.CreatePlanRequest) (*quotav1.Plan, error) {
	if _, err := tenant.ParseID(r.GetPlanId()); err != nil {
		return nil, invalid("plan_id", "no id of a plan; write 1 to 63 of a-z, 0-9 and '-', a letter or digit first and last")
	}
	plan, err := planIn(r.GetPlanId(), r.GetPlan())
	if err != nil {
		return nil, err
	}
	what := &subject{path: "plans[" + plan.Name + "]", field: "plan", limits: plan.Limits}
	return change(s, quotav1.QuotaService_CreatePlan_FullMethodName, r, what, func(own *quota.Catalogue) (*quotav1.Plan, error) {
		if _, ok := byID(s.catalog.View().Plans, plan.Name, idOfPlan); ok {
			return nil, exists(planName(plan.Name))
		}
		own.Plans = append(own.Plans, plan)
		return planOut(plan, quotav1.Origin_ORIGIN_API), nil
	})
}

func (s *server) getPlan(_ context.Context, r *quotav1.GetPlanRequest) (*quotav1.Plan, error) {
	id, err := parsePlan("name", r.GetName())
	if err != nil {
		return nil, err
	}
	p, ok := byID(s.catalog.View().Plans, id, idOfPlan)
	if !ok {
		return nil, notFound(r.GetName())
	}
	return planOut(p.Plan, origin(p.Origin)), nil
}

func (s *server) listPlans(_ context.Context, r *quotav1.ListPlansRequest) (*quotav1.ListPlansResponse, error) {
	items, next, err := cut(s.pages, plans, s.catalog.View().Plans, idOfPlan, r)
	if err != nil {
		return nil, err
	}
	answer := &quotav1.ListPlansResponse{NextPageToken: next}
	for _, p := range items {
		answer.Plans = append(answer.Plans, planOut(p.Plan, origin(p.Origin)))
	}
	return answer, nil
}

func (s *server) updatePlan(_ context.Context, r *quotav1.UpdatePlanRequest) (*quotav1.Plan, error) {
	id, err := parsePlan("plan.name", r.GetPlan().GetName())
	if err != nil {
		return nil, err
	}
	what := &subject{path: "plans[" + id + "]", field: "plan"}
	return change(s, quotav1.QuotaService_UpdatePlan_FullMethodName, r, what, func(own *quota.Catalogue) (*quotav1.Plan, error) {
		i, err := s.plan(own, id)
		if err != nil {
			return nil, err
		}
		now := planOut(own.Plans[i], quotav1.Origin_ORIGIN_API)
		if err := fresh(now.GetName(), r.GetPlan().GetEtag(), now.GetEtag()); err != nil {
			return nil, err
		}
		if err := merge(now, r.GetPlan(), r.GetUpdateMask()); err != nil {
			return nil, err
		}
		plan, err := planIn(id, now)
		if err != nil {
			return nil, err
		}
		own.Plans[i], what.limits = plan, plan.Limits
		return planOut(plan, quotav1.Origin_ORIGIN_API), nil
	})
}

func (s *server) deletePlan(_ context.Context, r *quotav1.DeletePlanRequest) (*emptypb.Empty, error) {
	id, err := parsePlan("name", r.GetName())
	if err != nil {
		return nil, err
	}
	return change(s, quotav1.QuotaService_DeletePlan_FullMethodName, r, &subject{path: "plans[" + id + "]"}, func(own *quota.Catalogue) (*emptypb.Empty, error) {
		i, err := s.plan(own, id)
		if err != nil {
			return nil, err
		}
		if err := fresh(r.GetName(), r.GetEtag(), catalog.ETag(own.Plans[i])); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(s.catalog.View().Tenants, func(t catalog.TenantEntry) bool { return t.Plan == id }) {
			return nil, about(codes.FailedPrecondition, "PLAN_IN_USE", r.GetName(), "tenants are on it; move them to another plan first")
		}
		own.Plans = slices.Delete(own.Plans, i, i+1)
		return &emptypb.Empty{}, nil
	})
}
