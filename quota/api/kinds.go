package api

import (
	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
	"github.com/voicecore-ai/sluice/tenant"
)

// The kinds of resources.
var (
	plans = &kind[quota.Plan, *quotav1.Plan]{
		naming: planNames,
		list:   func(c *catalog.Edit) *catalog.Entries[quota.Plan] { return &c.Plans },
		view:   func(v catalog.View) []*catalog.Entry[quota.Plan] { return v.Plans },
		id:     func(p quota.Plan) string { return p.Name },
		limits: func(p quota.Plan) []quota.Limit { return p.Limits },
		in:     planIn, out: planOut,
	}
	tenants = &kind[quota.Tenant, *quotav1.Tenant]{
		naming: tenantNames,
		list:   func(c *catalog.Edit) *catalog.Entries[quota.Tenant] { return &c.Tenants },
		view:   func(v catalog.View) []*catalog.Entry[quota.Tenant] { return v.Tenants },
		id:     func(t quota.Tenant) string { return string(t.ID) },
		limits: func(t quota.Tenant) []quota.Limit { return t.Limits },
		in:     tenantIn, out: tenantOut,
	}
	rules = &kind[authz.Rule, *quotav1.Rule]{
		naming: ruleNames,
		list:   func(c *catalog.Edit) *catalog.Entries[authz.Rule] { return &c.Rules },
		view:   func(v catalog.View) []*catalog.Entry[authz.Rule] { return v.Rules },
		id:     func(r authz.Rule) string { return r.Name },
		in:     ruleIn, out: ruleOut,
	}
	issuers = &kind[trust.Issuer, *quotav1.Issuer]{
		naming: issuerNames,
		list:   func(c *catalog.Edit) *catalog.Entries[trust.Issuer] { return &c.Issuers },
		view:   func(v catalog.View) []*catalog.Entry[trust.Issuer] { return v.Issuers },
		id:     func(i trust.Issuer) string { return i.Name },
		in:     issuerIn, out: issuerOut,
	}
)

func planIn(id string, p *quotav1.Plan, v *violations) quota.Plan {
	return quota.Plan{Name: id, DisplayName: p.GetDisplayName(), Limits: limitsIn("plan.limits", p.GetLimits(), v)}
}

func planOut(p quota.Plan, origin quotav1.Origin) *quotav1.Plan {
	return &quotav1.Plan{
		Name:        planNames.name(p.Name),
		DisplayName: p.DisplayName,
		Limits:      limitsOut(p.Limits),
		Origin:      origin,
		Etag:        catalog.ETag(p),
	}
}

func tenantIn(id string, t *quotav1.Tenant, v *violations) quota.Tenant {
	return quota.Tenant{
		ID:            tenant.ID(id),
		DisplayName:   t.GetDisplayName(),
		Plan:          planNames.read("tenant.plan", t.GetPlan(), v),
		Suspended:     t.GetSuspended(),
		Principals:    t.GetPrincipals(),
		Limits:        limitsIn("tenant.limits", t.GetLimits(), v),
		Authorization: t.GetAuthorization(),
	}
}

func tenantOut(t quota.Tenant, origin quotav1.Origin) *quotav1.Tenant {
	return &quotav1.Tenant{
		Name:          tenantNames.name(string(t.ID)),
		DisplayName:   t.DisplayName,
		Plan:          planNames.name(t.Plan),
		Suspended:     t.Suspended,
		Principals:    t.Principals,
		Limits:        limitsOut(t.Limits),
		Authorization: t.Authorization,
		Origin:        origin,
		Etag:          catalog.ETag(t),
	}
}

func ruleIn(id string, r *quotav1.Rule, v *violations) authz.Rule {
	who, what := r.GetWho(), r.GetWhat()
	return authz.Rule{
		Name:        id,
		Effect:      r.GetEffect(),
		Enforcement: r.GetEnforcement(),
		Who: authz.Who{
			Tenants:    tenantNames.readAll("rule.who.tenants", who.GetTenants(), v),
			Plans:      planNames.readAll("rule.who.plans", who.GetPlans(), v),
			Roles:      who.GetRoles(),
			Principals: who.GetPrincipals(),
		},
		What: authz.What{
			Services: what.GetServices(),
			Hosts:    what.GetHosts(),
			Methods:  what.GetMethods(),
			Paths:    what.GetPaths(),
			GRPC:     what.GetGrpc(),
		},
		When:  r.GetWhen(),
		Audit: r.GetAudit(),
	}
}

func ruleOut(r authz.Rule, origin quotav1.Origin) *quotav1.Rule {
	return &quotav1.Rule{
		Name:        ruleNames.name(r.Name),
		Effect:      r.Effect,
		Enforcement: r.Enforcement,
		Who: &quotav1.Rule_Who{
			Tenants:    tenantNames.names(r.Who.Tenants),
			Plans:      planNames.names(r.Who.Plans),
			Roles:      r.Who.Roles,
			Principals: r.Who.Principals,
		},
		What: &quotav1.Rule_What{
			Services: r.What.Services,
			Hosts:    r.What.Hosts,
			Methods:  r.What.Methods,
			Paths:    r.What.Paths,
			Grpc:     r.What.GRPC,
		},
		When:   r.When,
		Audit:  r.Audit,
		Origin: origin,
		Etag:   catalog.ETag(r),
	}
}

func issuerIn(id string, i *quotav1.Issuer, v *violations) trust.Issuer {
	if i.GetAllowPrivate() {
		v.add("issuer.allow_private", "not settable here, because the server would call what only it can reach; declare the issuer in a file of the catalog folder")
	}
	in := trust.Issuer{
		Name:        id,
		Issuer:      i.GetIssuer(),
		Audiences:   i.GetAudiences(),
		JWKSURI:     i.GetJwksUri(),
		Algorithms:  i.GetAlgorithms(),
		TenantClaim: i.GetTenantClaim(),
		RolesClaim:  i.GetRolesClaim(),
		Types:       i.GetTypes(),
	}
	if i.GetTenant() != "" {
		in.Tenant = tenantNames.read("issuer.tenant", i.GetTenant(), v)
	}
	return in
}

func issuerOut(i trust.Issuer, origin quotav1.Origin) *quotav1.Issuer {
	out := &quotav1.Issuer{
		Name:         issuerNames.name(i.Name),
		Issuer:       i.Issuer,
		Audiences:    i.Audiences,
		JwksUri:      i.JWKSURI,
		Algorithms:   i.Algorithms,
		TenantClaim:  i.TenantClaim,
		RolesClaim:   i.RolesClaim,
		Types:        i.Types,
		AllowPrivate: i.AllowPrivate,
		Origin:       origin,
		Etag:         catalog.ETag(i),
	}
	if i.Tenant != "" {
		out.Tenant = tenantNames.name(i.Tenant)
	}
	return out
}
