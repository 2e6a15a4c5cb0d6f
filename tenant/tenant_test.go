package tenant_test

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/tenant"
)

func TestParseID(t *testing.T) {
	for _, good := range []string{"a", "acme", "acme-2", "0", strings.Repeat("a", tenant.MaxIDLength)} {
		if id, err := tenant.ParseID(good); err != nil || string(id) != good {
			t.Errorf("ParseID(%q) = %q, %v", good, id, err)
		}
	}
	for _, bad := range []string{
		"", "-a", "a-", "A", "a_b", "a.b", "a/b", "a b", "ä", "a\x00", "{a}", "*",
		strings.Repeat("a", tenant.MaxIDLength+1),
	} {
		if id, err := tenant.ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %q", bad, id)
		}
	}
}

func TestIsReservedHeader(t *testing.T) {
	for _, name := range []string{
		"x-tenant-id", "X-Tenant-Id", "x_tenant_id", "x.tenant.id", "xTenantID", "X-TENANT_ID", "-x--tenant..id_",
		"x-tenant", "tenant", "Tenant-Id", "tenant_name", "x-tenant-name", "x~tenant!id", "x+tenant*id", "tenant|id", "x'sluice`plan",
		tenant.PrincipalHeader, tenant.PlanHeader, tenant.DecisionHeader, "X_Sluice_Anything-at-all", "xsluice", "x-sluice-" + strings.Repeat("a", 1000),
	} {
		if !tenant.IsReservedHeader(name) {
			t.Errorf("%q is let through", name)
		}
	}
	for _, name := range []string{"", "x", "x-request-id", "x-tenants", "my-tenant-id", "tenant-identity", "x-slui", "authorization", "x-tenant-name-too"} {
		if tenant.IsReservedHeader(name) {
			t.Errorf("%q is taken away", name)
		}
	}
	if n := testing.AllocsPerRun(100, func() { tenant.IsReservedHeader("X_Tenant_Id") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":                            `""`,
		"a\nb\x1b":                    `"a\nb\x1b"`,
		strings.Repeat("a", 80):       `"` + strings.Repeat("a", 80) + `"`,
		strings.Repeat("é", 41):       `"` + strings.Repeat("é", 40) + `"…`,
		"x" + strings.Repeat("é", 40): `"x` + strings.Repeat("é", 39) + `"…`,
	} {
		if got := tenant.Quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
