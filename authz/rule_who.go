package authz

import (
	"slices"
	"strings"

	"github.com/voicecore-ai/sluice/tenant"
)

// Bounds of names in rules.
const (
	maxPrincipal = 2048 // a SPIFFE id is no longer
	maxRole      = 256
)

// who is a compiled Who. Nil lists match everything.
type who struct {
	tenants    []string
	plans      []string
	roles      []string
	principals []principal
}

// principal matches names byte for byte: exactly, or whatever is below a
// prefix that ends with '/'. No other character stands for anything else (I-03).
type principal struct {
	name  string
	below bool
}

func (p principal) match(name string) bool {
	if p.below {
		return len(name) > len(p.name) && strings.HasPrefix(name, p.name)
	}
	return name == p.name
}

func (c *compiler) who(w *Who) (out who) {
	c.list("who.tenants", w.Tenants, func(item int, id string) {
		if _, err := tenant.ParseID(id); err != nil {
			c.problem("who.tenants", item, tenant.Quote(id)+" is no id of a tenant", labelForm)
		}
	})
	c.list("who.plans", w.Plans, func(item int, name string) {
		if _, err := tenant.ParseID(name); err != nil {
			c.problem("who.plans", item, tenant.Quote(name)+" is no name of a plan", labelForm)
		}
	})
	c.list("who.roles", w.Roles, func(item int, role string) {
		if !visibleText(role, maxRole) {
			c.problem("who.roles", item, tenant.Quote(role)+" is no role", "1 to 256 visible ASCII characters")
		}
	})
	c.list("who.principals", w.Principals, func(item int, name string) {
		if wrong := wrongPrincipal(name); wrong != "" {
			c.problem("who.principals", item, tenant.Quote(name)+" "+wrong, "a whole name such as spiffe://cluster.local/ns/acme/sa/app, or its beginning up to a '/' and then one '*'")
			return
		}
		prefix, below := strings.CutSuffix(name, "*")
		out.principals = append(out.principals, principal{prefix, below})
	})
	out.tenants, out.plans, out.roles = slices.Clone(w.Tenants), slices.Clone(w.Plans), slices.Clone(w.Roles)
	return out
}

// wrongPrincipal says why a pattern is none; "" if it is one.
func wrongPrincipal(name string) string {
	if name == "" || len(name) > maxPrincipal {
		return "is empty or longer than 2048 bytes"
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return "has a control character"
		}
	}
	prefix, below := strings.CutSuffix(name, "/*")
	switch {
	case strings.Contains(prefix, "*"):
		return "has a '*' that is not its whole last segment"
	case below && (prefix == "" || strings.HasSuffix(prefix, "/")):
		return "has nothing before its last segment"
	}
	return ""
}

// match says which field does not match in; "" if all do. tenants is false
// where the index has checked them.
func (w *who) match(in *Input, tenants bool) string {
	switch {
	case tenants && w.tenants != nil && !slices.Contains(w.tenants, string(in.Tenant)):
		return "who.tenants"
	case w.plans != nil && !slices.Contains(w.plans, in.Plan):
		return "who.plans"
	case w.roles != nil && !shareOne(w.roles, in.Principal.Roles):
		return "who.roles"
	}
	if w.principals == nil {
		return ""
	}
	for i := range w.principals {
		if w.principals[i].match(in.Principal.Name) {
			return ""
		}
	}
	return "who.principals"
}

func shareOne(a, b []string) bool {
	for _, s := range b {
		if slices.Contains(a, s) {
			return true
		}
	}
	return false
}

// visibleText reports whether s is 1 to most visible ASCII characters.
func visibleText(s string, most int) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= most
}
