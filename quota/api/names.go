package api

import (
	"strconv"
	"strings"

	"github.com/voicecore-ai/sluice/tenant"
)

// naming is how the resources of one kind are called.
type naming struct {
	collection string // begins their names: "plans/"
	list       string // the catalogue's: "plans"
	field      string // where requests have one: "plan"
	noun       string // "a plan"
}

var (
	planNames   = naming{collection: "plans/", list: "plans", field: "plan", noun: "a plan"}
	tenantNames = naming{collection: "tenants/", list: "tenants", field: "tenant", noun: "a tenant"}
	ruleNames   = naming{collection: "rules/", list: "rules", field: "rule", noun: "a rule"}
	issuerNames = naming{collection: "issuers/", list: "issuers", field: "issuer", noun: "an issuer"}
)

func (n naming) name(id string) string { return n.collection + id }

// idIn is the id in a name, such as "plans/{plan}".
func (n naming) idIn(name string) (string, bool) {
	id, ok := strings.CutPrefix(name, n.collection)
	_, err := tenant.ParseID(id)
	return id, ok && err == nil
}

func (n naming) wrong() string {
	return "no name of " + n.noun + "; write '" + n.collection + "{" + n.field + "}'"
}

// parse returns the id in a name. field is where the name was.
func (n naming) parse(field, name string) (string, error) {
	id, ok := n.idIn(name)
	if !ok {
		return "", invalid(field, n.wrong())
	}
	return id, nil
}

// read is parse for one of several fields. Whether the resource exists is
// checked where the catalogue is compiled.
func (n naming) read(field, name string, v *violations) string {
	id, ok := n.idIn(name)
	if !ok {
		v.add(field, n.wrong())
		return ""
	}
	return id
}

func (n naming) readAll(field string, names []string, v *violations) (ids []string) {
	for i, name := range names {
		ids = append(ids, n.read(field+"["+strconv.Itoa(i)+"]", name, v))
	}
	return ids
}

func (n naming) names(ids []string) (names []string) {
	for _, id := range ids {
		names = append(names, n.name(id))
	}
	return names
}

func (n naming) subject(id string) *subject {
	return &subject{path: n.list + "[" + id + "]", field: n.field}
}

// What follows the name of a tenant.
const (
	apiKeys = "/apiKeys/"
	usage   = "/usage"
)

func tenantName(id tenant.ID) string            { return tenantNames.name(string(id)) }
func apiKeyName(of tenant.ID, id string) string { return tenantName(of) + apiKeys + id }

// parseTenant returns the id in "tenants/{tenant}".
func parseTenant(field, name string) (tenant.ID, error) {
	id, err := tenantNames.parse(field, name)
	return tenant.ID(id), err
}

// parseAPIKey returns the ids in "tenants/{tenant}/apiKeys/{key}".
func parseAPIKey(field, name string) (tenant.ID, string, error) {
	parent, key, ok := strings.Cut(name, apiKeys)
	of, err := parseTenant(field, parent)
	if !ok || err != nil || key == "" || len(key) > 63 || strings.Contains(key, "/") {
		return "", "", invalid(field, "no name of an API key; write 'tenants/{tenant}/apiKeys/{key}'")
	}
	return of, key, nil
}

// parseUsage returns the tenant in "tenants/{tenant}/usage".
func parseUsage(field, name string) (tenant.ID, error) {
	parent, ok := strings.CutSuffix(name, usage)
	of, err := parseTenant(field, parent)
	if !ok || err != nil {
		return "", invalid(field, "no name of a usage; write 'tenants/{tenant}/usage'")
	}
	return of, nil
}
