package catalog

import (
	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

// The fields of rules and issuers, as YAML spells them.
var (
	ruleFields   = []string{"name", "effect", "enforcement", "who", "what", "when", "audit"}
	whoFields    = []string{"tenants", "plans", "roles", "principals"}
	whatFields   = []string{"services", "hosts", "methods", "paths", "grpc"}
	issuerFields = []string{
		"name", "issuer", "audiences", "jwks_uri", "algorithms", "tenant", "tenant_claim", "roles_claim", "types", "allow_private",
	}
)

// fields are the places of a mapping's values, by key.
type fields map[string]any

// fill reads a mapping whose values are texts, lists of texts and booleans.
func (d *decoder) fill(n *yaml.Node, at quota.Place, known []string, into fields) {
	within := ""
	if at.Field != "" {
		within = at.Field + "."
	}
	d.mapping(n, at, known, func(key string, n *yaml.Node) {
		at := at
		at.Field = within + key
		switch into := into[key].(type) {
		case *string:
			*into = d.text(n, at)
		case *[]string:
			*into = items(d, n, at, (*decoder).text)
			if f := follow(n); f.Kind == yaml.SequenceNode && len(f.Content) == 0 { // a template that rendered nothing must not widen a rule
				d.wrong(n, at, "is an empty list", "at least one; leave the field out if it shall not matter")
			}
		case *bool:
			if b := d.boolean(n, at); b != nil {
				*into = *b
			}
		case func(*yaml.Node, quota.Place):
			into(n, at)
		default:
			panic("no place for the field " + at.Field) // a field in the list of names and not here
		}
	})
}

func (d *decoder) rule(n *yaml.Node, at quota.Place) (r authz.Rule) {
	d.fill(n, at, ruleFields, fields{
		"name": &r.Name, "effect": &r.Effect, "enforcement": &r.Enforcement, "when": &r.When, "audit": &r.Audit,
		"who": func(n *yaml.Node, at quota.Place) {
			d.fill(n, at, whoFields, fields{
				"tenants": &r.Who.Tenants, "plans": &r.Who.Plans, "roles": &r.Who.Roles, "principals": &r.Who.Principals,
			})
		},
		"what": func(n *yaml.Node, at quota.Place) {
			d.fill(n, at, whatFields, fields{
				"services": &r.What.Services, "hosts": &r.What.Hosts, "methods": &r.What.Methods, "paths": &r.What.Paths, "grpc": &r.What.GRPC,
			})
		},
	})
	return r
}

func (d *decoder) issuer(n *yaml.Node, at quota.Place) (i trust.Issuer) {
	d.fill(n, at, issuerFields, fields{
		"name": &i.Name, "issuer": &i.Issuer, "audiences": &i.Audiences, "jwks_uri": &i.JWKSURI, "algorithms": &i.Algorithms,
		"tenant": &i.Tenant, "tenant_claim": &i.TenantClaim, "roles_claim": &i.RolesClaim, "types": &i.Types, "allow_private": &i.AllowPrivate,
	})
	return i
}
