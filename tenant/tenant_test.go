package tenant_test

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"

	"pgregory.net/rapid"

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

// TestPatterns shows the patterns names that IsReservedHeader knows, and any others.
func TestPatterns(t *testing.T) {
	whole := func(patterns []string) *regexp.Regexp {
		return regexp.MustCompile("^(?:" + strings.Join(patterns, "|") + ")$")
	}
	reserved, hop := whole(tenant.ReservedPatterns()), whole(tenant.HopPatterns())
	t.Run("ReservedPatterns match what IsReservedHeader says, and nothing else", func(t *testing.T) {
		matched := 0
		rapid.Check(t, func(t *rapid.T) {
			base := rapid.SampledFrom([]string{"x-tenant-id", "tenant", "tenantname", "x-sluice-plan", "xsluice", "x-request-id", "x-tenants", ""}).Draw(t, "base")
			var name strings.Builder
			for _, c := range base {
				name.WriteRune(c)
				name.WriteString(rapid.StringMatching(`[-_.!~]{0,2}`).Draw(t, "marks"))
			}
			name.WriteString(rapid.StringMatching(`[a-z0-9_]{0,2}`).Draw(t, "end"))
			if got, want := reserved.MatchString(name.String()), tenant.IsReservedHeader(name.String()); got != want {
				t.Fatalf("%q: pattern %v, IsReservedHeader %v", name.String(), got, want)
			}
			if reserved.MatchString(name.String()) {
				matched++
			}
		})
		if matched == 0 {
			t.Error("no name was reserved")
		}
	})
	t.Run("each is short enough for Envoy, which takes no program of more than 100 instructions", func(t *testing.T) {
		for _, pattern := range append(tenant.ReservedPatterns(), tenant.HopPatterns()...) {
			parsed, err := syntax.Parse(pattern, syntax.Perl)
			if err != nil {
				t.Fatal(err)
			}
			program, err := syntax.Compile(parsed.Simplify())
			if err != nil || len(program.Inst) > 90 {
				t.Errorf("%d instructions, %v: %s", len(program.Inst), err, pattern)
			}
		}
	})
	t.Run("HopPatterns leave the token and take what else Sluice writes", func(t *testing.T) {
		for _, name := range []string{tenant.Header, tenant.PrincipalHeader, tenant.PlanHeader, tenant.DecisionHeader, "x_tenant_id", "tenant"} {
			if !hop.MatchString(name) {
				t.Errorf("%s stays", name)
			}
		}
		for _, name := range []string{tenant.TokenHeader, "x-request-id", "authorization"} {
			if hop.MatchString(name) {
				t.Errorf("%s goes", name)
			}
		}
	})
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
