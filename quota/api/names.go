package api

import (
	"strings"

	"github.com/voicecore-ai/sluice/tenant"
)

// Collections of resources.
const (
	plans   = "plans/"
	tenants = "tenants/"
	apiKeys = "/apiKeys/"
	usage   = "/usage"
)

func planName(id string) string                 { return plans + id }
func tenantName(id tenant.ID) string            { return tenants + string(id) }
func apiKeyName(of tenant.ID, id string) string { return tenantName(of) + apiKeys + id }

// parsePlan returns the id in "plans/{plan}". field is where name was.
func parsePlan(field, name string) (string, error) {
	id, ok := strings.CutPrefix(name, plans)
	if _, err := tenant.ParseID(id); !ok || err != nil {
		return "", invalid(field, "no name of a plan; write 'plans/{plan}'")
	}
	return id, nil
}

// parseTenant returns the id in "tenants/{tenant}".
func parseTenant(field, name string) (tenant.ID, error) {
	text, ok := strings.CutPrefix(name, tenants)
	id, err := tenant.ParseID(text)
	if !ok || err != nil {
		return "", invalid(field, "no name of a tenant; write 'tenants/{tenant}'")
	}
	return id, nil
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
