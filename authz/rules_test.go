package authz_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// compile compiles rules that are right.
func compile(t testing.TB, rules ...authz.Rule) *authz.Rules {
	t.Helper()
	compiled, problems := authz.Compile(rules)
	if len(problems) > 0 {
		t.Fatalf("problems: %+v", problems)
	}
	return compiled
}

// get is a request of acme's app.
func get(path string) *authz.Input {
	return &authz.Input{
		Now:       1_790_000_000_000_000,
		Principal: &authz.Principal{Scheme: authz.SPIFFE, Name: "spiffe://cluster.local/ns/acme/sa/app", Roles: []string{"agent", "reader"}},
		Tenant:    "acme",
		Plan:      "gold",
		Action:    &authz.Action{Service: "calls", Host: "api.example.com", Method: "GET", Path: path},
	}
}

// call is a request of acme's app over gRPC.
func call(path string) *authz.Input {
	in := get(path)
	in.Action.Method, in.Action.GRPC = "POST", true
	return in
}

func allow(name string, what authz.What) authz.Rule {
	return authz.Rule{Name: name, Effect: "allow", What: what}
}

func deny(name string, what authz.What) authz.Rule {
	return authz.Rule{Name: name, Effect: "deny", What: what}
}

func paths(p ...string) authz.What { return authz.What{Paths: p} }

func TestWhatNoRuleAllowsIsDenied(t *testing.T) {
	t.Run("no rules deny everything", func(t *testing.T) {
		for _, r := range []*authz.Rules{nil, {}, compile(t)} {
			if v := r.Decide(get("/")); v.Allowed() || v != (authz.Verdict{}) {
				t.Errorf("%+v", v)
			}
		}
	})
	t.Run("rules that do not apply deny", func(t *testing.T) {
		if v := compile(t, allow("a", paths("/b"))).Decide(get("/c")); v.Allowed() || v.Rule != "" {
			t.Errorf("%+v", v)
		}
	})
	all := compile(t, authz.Rule{Name: "all", Effect: "allow"})
	t.Run("I-01 who is not proven is denied whatever the rules say", func(t *testing.T) {
		broken := []func(*authz.Input){
			func(in *authz.Input) { in.Principal = nil },
			func(in *authz.Input) { in.Principal = &authz.Principal{Name: "spiffe://cluster.local/ns/acme/sa/app"} },
			func(in *authz.Input) { in.Principal = &authz.Principal{Scheme: 200} },
			func(in *authz.Input) { in.Tenant = "" },
			func(in *authz.Input) { in.Action = nil },
		}
		for i, breakIt := range broken {
			in := get("/")
			breakIt(in)
			if v := all.Decide(in); v.Allowed() {
				t.Errorf("%d is allowed", i)
			}
			if all.Explain(in) != nil {
				t.Errorf("%d is explained", i)
			}
		}
		if all.Decide(nil).Allowed() {
			t.Error("nothing is allowed")
		}
	})
	t.Run("a rule for everything allows who is proven", func(t *testing.T) {
		if v := all.Decide(get("/")); !v.Allowed() || v.Rule != "all" {
			t.Errorf("%+v", v)
		}
	})
}

// TestMatching has a rule, requests that it is about, and requests that it is not about.
func TestMatching(t *testing.T) {
	with := func(in *authz.Input, change func(*authz.Input)) *authz.Input { change(in); return in }
	named := func(name string) *authz.Input {
		return with(get("/"), func(in *authz.Input) { in.Principal.Name = name })
	}
	method := func(m string) *authz.Input { return with(get("/"), func(in *authz.Input) { in.Action.Method = m }) }
	host := func(h string) *authz.Input { return with(get("/"), func(in *authz.Input) { in.Action.Host = h }) }
	who := func(w authz.Who) authz.Rule { return authz.Rule{Name: "r", Effect: "allow", Who: w} }
	for _, c := range []struct {
		name     string
		rule     authz.Rule
		yes, no  []*authz.Input
		noReason string
	}{
		{
			"tenants are ids",
			who(authz.Who{Tenants: []string{"other", "acme"}}),
			[]*authz.Input{get("/")},
			[]*authz.Input{with(get("/"), func(in *authz.Input) { in.Tenant = "acme2" })}, "who.tenants",
		},
		{
			"plans are names",
			who(authz.Who{Plans: []string{"gold"}}),
			[]*authz.Input{get("/")},
			[]*authz.Input{with(get("/"), func(in *authz.Input) { in.Plan = "" })}, "who.plans",
		},
		{
			"one role of several is enough",
			who(authz.Who{Roles: []string{"admin", "reader"}}),
			[]*authz.Input{get("/")},
			[]*authz.Input{with(get("/"), func(in *authz.Input) { in.Principal.Roles = []string{"Admin", "reader "} })}, "who.roles",
		},
		{
			"I-03 a dot in a principal is a dot",
			who(authz.Who{Principals: []string{"spiffe://td/ns/a/sa/cert-manager.io"}}),
			[]*authz.Input{named("spiffe://td/ns/a/sa/cert-manager.io")},
			[]*authz.Input{named("spiffe://td/ns/a/sa/cert-manager-io"), named("spiffe://td/ns/a/sa/cert-manager.io/x"), named("")}, "who.principals",
		},
		{
			"I-02 a star stands for what is below, and for nothing beside it",
			who(authz.Who{Principals: []string{"spiffe://td/ns/a/*"}}),
			[]*authz.Input{named("spiffe://td/ns/a/sa/b"), named("spiffe://td/ns/a/x")},
			[]*authz.Input{named("spiffe://td/ns/a"), named("spiffe://td/ns/a/"), named("spiffe://td/ns/ab/sa/b"), named("SPIFFE://td/ns/a/sa/b"), named("spiffe://evil/ns/a/sa/b")}, "who.principals",
		},
		{
			"P-10 methods are case-sensitive",
			allow("r", authz.What{Methods: []string{"GET", "PURGE"}}),
			[]*authz.Input{method("GET"), method("PURGE")},
			[]*authz.Input{method("get"), method("Get"), method("HEAD"), method("")}, "what.methods",
		},
		{
			"P-10 a header that overrides the method is ignored",
			allow("r", authz.What{Methods: []string{"DELETE"}}),
			nil,
			[]*authz.Input{with(get("/"), func(in *authz.Input) {
				in.Action.Headers = []authz.Header{{Name: []byte("x-http-method-override"), Value: []byte("DELETE")}}
			})}, "what.methods",
		},
		{
			"a host is exact",
			allow("r", authz.What{Hosts: []string{"api.example.com", "[::1]"}}),
			[]*authz.Input{host("api.example.com"), host("[::1]")},
			[]*authz.Input{host("example.com"), host("x.api.example.com"), host("apiXexample.com"), host("")}, "what.hosts",
		},
		{
			"a star in a host is any depth below",
			allow("r", authz.What{Hosts: []string{"*.example.com"}}),
			[]*authz.Input{host("a.example.com"), host("a.b.example.com")},
			[]*authz.Input{host("example.com"), host(".example.com"), host("evilexample.com"), host("example.com.evil")}, "what.hosts",
		},
		{
			"a service is exact",
			allow("r", authz.What{Services: []string{"calls"}}),
			[]*authz.Input{get("/")},
			[]*authz.Input{with(get("/"), func(in *authz.Input) { in.Action.Service = "" })}, "what.services",
		},
		{
			"a path without variables is exact",
			allow("r", paths("/v1/calls")),
			[]*authz.Input{get("/v1/calls")},
			[]*authz.Input{get("/v1/calls/"), get("/v1"), get("/v1/calls/x"), get("/V1/calls"), get("/"), call("/v1/calls")}, "what.paths",
		},
		{
			"a slash at the end is part of a path",
			allow("r", paths("/v1/")),
			[]*authz.Input{get("/v1/")},
			[]*authz.Input{get("/v1"), get("/v1/x")}, "what.paths",
		},
		{
			"the root is one path",
			allow("r", paths("/")),
			[]*authz.Input{get("/")},
			[]*authz.Input{get("/x")}, "what.paths",
		},
		{
			"a variable is one whole segment that is not empty",
			allow("r", paths("/v1/{kind}/x/{id}", "/{kind}")),
			[]*authz.Input{get("/v1/calls/x/1"), get("/a")},
			[]*authz.Input{get("/v1/calls/x/"), get("/v1//x/1"), get("/v1/calls/x/1/2"), get("/v1/calls/y/1"), get("/")}, "what.paths",
		},
		{
			"two stars are what is below, and the path itself",
			allow("r", paths("/v1/calls/**")),
			[]*authz.Input{get("/v1/calls"), get("/v1/calls/"), get("/v1/calls/1"), get("/v1/calls/1/2/3")},
			[]*authz.Input{get("/v1/callsx"), get("/v1"), get("/v2/calls/1")}, "what.paths",
		},
		{
			"two stars alone are every path",
			allow("r", paths("/**")),
			[]*authz.Input{get("/"), get("/a"), get("/a/b")},
			[]*authz.Input{call("/a.B/C")}, "what.paths",
		},
		{
			"P-13 a gRPC method is exact, and gRPC",
			allow("r", authz.What{GRPC: []string{"pkg.Svc/Method"}}),
			[]*authz.Input{call("/pkg.Svc/Method")},
			[]*authz.Input{call("/pkg.Svc/method"), call("/pkg.svc/Method"), call("/pkg.Svc/Method/"), call("/pkg.Svc/Method2"), call("/pkg.Svc"), get("/pkg.Svc/Method")}, "what.grpc",
		},
		{
			"P-13 a star is every method of a gRPC service",
			allow("r", authz.What{GRPC: []string{"pkg.Svc/*"}}),
			[]*authz.Input{call("/pkg.Svc/Method"), call("/pkg.Svc/x")},
			[]*authz.Input{call("/pkg.Svc/"), call("/pkg.Svc"), call("/pkg.Svc/a/b"), call("/pkg.Svc2/x"), get("/pkg.Svc/Method")}, "what.grpc",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := compile(t, c.rule)
			for _, in := range c.yes {
				if !rules.Decide(in).Allowed() || !rules.Explain(in)[0].Applies {
					t.Errorf("%+v as %q is denied: %+v", in.Action, in.Principal.Name, rules.Explain(in))
				}
			}
			for _, in := range c.no {
				if rules.Decide(in).Allowed() {
					t.Errorf("%+v as %q is allowed", in.Action, in.Principal.Name)
				}
				if got := rules.Explain(in)[0]; got.Applies || got.Differs != c.noReason {
					t.Errorf("%+v as %q is explained by %+v, want %s", in.Action, in.Principal.Name, got, c.noReason)
				}
			}
		})
	}
}

func TestDenyingRulesCoverWhatUpstreamsTakeForTheSame(t *testing.T) {
	for _, c := range []struct {
		name string
		what authz.What
		in   []*authz.Input
	}{
		{"P-04 another case and a slash at the end", paths("/admin/**", "/v1/secrets"), []*authz.Input{
			get("/admin"), get("/admin/"), get("/admin/x"), get("/ADMIN/x"), get("/Admin"), get("/v1/secrets"), get("/v1/secrets/"), get("/V1/Secrets/"),
		}},
		{"P-04 letters that fold to ASCII", paths("/keys/**", "/v1/secrets/{id}"), []*authz.Input{
			get("/%E2%84%AAeys"), get("/%E2%84%AAEY%C5%BF/1"), get("/v1/%C5%BFecret%C5%BF/1"), get("/V1/secret%C5%BF/%20"),
		}},
		{"P-04 letters that fold to ASCII in Java", paths("/admin/**"), []*authz.Input{get("/adm%C4%B1n/x"), get("/adm%C4%B0n")}},
		{"P-04 letters beyond ASCII", paths("/caf%C3%A9/**", "/v1/%C3%80"), []*authz.Input{
			get("/caf%C3%A9/x"), get("/CAF%C3%89/x"), get("/caf%C3%89"), get("/v1/%C3%A0"), get("/v1/%C3%80/"),
		}},
		{"P-04 a letter in the rule that folds to ASCII", paths("/%E2%84%AAeys"), []*authz.Input{get("/keys"), get("/%E2%84%AAeys"), get("/KEYS/")}},
		{"P-13 letters that fold to ASCII in a gRPC method", authz.What{GRPC: []string{"pkg.Keys/Ask"}}, []*authz.Input{call("/pkg.%E2%84%AAey%C5%BF/A%C5%BF%E2%84%AA")}},
		{"P-04 a slash at the end of the rule", paths("/v1/secrets/"), []*authz.Input{get("/v1/secrets"), get("/v1/secrets/")}},
		{"P-13 gRPC on a path of HTTP", paths("/admin/**"), []*authz.Input{call("/admin/x"), call("/admin")}},
		{"P-13 HTTP on a gRPC method", authz.What{GRPC: []string{"pkg.Svc/Delete"}}, []*authz.Input{
			call("/pkg.Svc/Delete"), get("/pkg.Svc/Delete"), call("/pkg.svc/delete"), call("/pkg.Svc/Delete/"),
		}},
		{"P-13 HTTP on a gRPC service", authz.What{GRPC: []string{"pkg.Svc/*"}}, []*authz.Input{call("/pkg.Svc/Delete"), get("/PKG.Svc/Delete/")}},
		{"P-10 another case of a method", authz.What{Methods: []string{"GET"}}, []*authz.Input{get("/"), func() *authz.Input { in := get("/"); in.Action.Method = "get"; return in }()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := compile(t, authz.Rule{Name: "all", Effect: "allow"}, deny("no", c.what))
			for _, in := range c.in {
				if v := rules.Decide(in); v.Allowed() || v.Rule != "no" {
					t.Errorf("%s %s: %+v", in.Action.Method, in.Action.Path, v)
				}
			}
			if v := rules.Decide(get("/other")); v.Allowed() != (c.what.Methods == nil) {
				t.Errorf("/other: %+v", v)
			}
		})
	}
}

func TestAllowingRulesAreExactBeyondASCII(t *testing.T) {
	rules := compile(t, allow("a", paths("/%E2%84%AAeys", "/caf%C3%A9/{id}", "/v1/%C3%80")))
	for path, want := range map[string]bool{
		"/%E2%84%AAeys": true, "/keys": false, "/caf%C3%A9/x": true, "/CAF%C3%A9/x": false, "/caf%C3%89/x": false, "/v1/%C3%80": true, "/v1/%C3%A0": false,
	} {
		if v := rules.Decide(get(path)); v.Allowed() != want {
			t.Errorf("%s: %+v", path, v)
		}
	}
}

func TestADenyingRuleWins(t *testing.T) {
	t.Run("X-03 allow and deny is deny", func(t *testing.T) {
		v := compile(t, allow("a", authz.What{}), deny("z", authz.What{})).Decide(get("/"))
		if v.Allowed() || v.Rule != "z" || v.Failed {
			t.Errorf("%+v", v)
		}
	})
	t.Run("X-03 another tenant's rules say nothing", func(t *testing.T) {
		rules := compile(t,
			authz.Rule{Name: "a", Effect: "allow", Who: authz.Who{Tenants: []string{"acme"}}, What: authz.What{Hosts: []string{"api.example.com"}}},
			authz.Rule{Name: "b", Effect: "deny", Who: authz.Who{Tenants: []string{"umbrella"}}, What: authz.What{Hosts: []string{"api.example.com"}}},
		)
		in := get("/")
		if v := rules.Decide(in); !v.Allowed() || v.Rule != "a" {
			t.Errorf("acme: %+v", v)
		}
		in.Tenant = "umbrella"
		if v := rules.Decide(in); v.Allowed() || v.Rule != "b" {
			t.Errorf("umbrella: %+v", v)
		}
		in.Tenant = "initech"
		if v := rules.Decide(in); v.Allowed() || v.Rule != "" {
			t.Errorf("initech: %+v", v)
		}
	})
}

func TestTheClassOfAVerdict(t *testing.T) {
	rules := compile(t,
		authz.Rule{Name: "a", Effect: "allow"},
		authz.Rule{Name: "b", Effect: "allow", Audit: "best_effort", What: paths("/b/**")},
		authz.Rule{Name: "c", Effect: "allow", Audit: "required", What: paths("/b/c")},
		authz.Rule{Name: "d", Effect: "allow", Audit: "required", What: paths("/b/d"), When: "false"},
		authz.Rule{Name: "e", Effect: "allow", Audit: "required", What: paths("/b/e"), Enforcement: "shadow"},
	)
	for path, want := range map[string]authz.Class{"/": authz.Unrecorded, "/b": authz.BestEffort, "/b/c": authz.Required, "/b/d": authz.BestEffort, "/b/e": authz.BestEffort} {
		if v := rules.Decide(get(path)); v.Audit != want || v.Rule != "a" {
			t.Errorf("%s: %+v, want class %d", path, v, want)
		}
	}
}

func TestX07ShadowRulesChangeNoVerdict(t *testing.T) {
	shadow := func(r authz.Rule, when string) authz.Rule { r.Enforcement, r.When = "shadow", when; return r }
	for _, c := range []struct {
		name    string
		rules   []authz.Rule
		allowed bool
		would   bool // if there is a rule
		rule    string
	}{
		{"one that denies is only said", []authz.Rule{allow("a", authz.What{}), shadow(deny("s", authz.What{}), "")}, true, false, "s"},
		{"one that fails is only said", []authz.Rule{allow("a", authz.What{}), shadow(allow("s", authz.What{}), "int(request.method) == 1")}, true, false, "s"},
		{"one that allows is only said", []authz.Rule{shadow(allow("s", authz.What{}), "")}, false, true, "s"},
		{"one that allows what is allowed says nothing", []authz.Rule{allow("a", authz.What{}), shadow(allow("s", authz.What{}), "")}, true, false, ""},
		{"one that denies what is denied says nothing", []authz.Rule{deny("a", authz.What{}), shadow(deny("s", authz.What{}), "")}, false, false, ""},
		{"one that allows does not beat one that denies", []authz.Rule{deny("a", authz.What{}), shadow(allow("s", authz.What{}), "")}, false, false, ""},
		{"one whose condition is false says nothing", []authz.Rule{allow("a", authz.What{}), shadow(deny("s", authz.What{}), "false")}, true, false, ""},
		{"one that spends its budget spends no other", []authz.Rule{
			{Name: "z", Effect: "allow", When: `principal.roles.exists(r, r == "agent")`},
			shadow(deny("a", authz.What{}), heavy), shadow(deny("b", authz.What{}), heavy), shadow(deny("c", authz.What{}), heavy),
		}, true, false, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := get("/")
			in.Principal.Roles = append(manyRoles(1000), "agent")
			v := compile(t, c.rules...).Decide(in)
			if v.Allowed() != c.allowed || v.Shadow != c.would || v.ShadowRule != c.rule {
				t.Errorf("%+v", v)
			}
		})
	}
}

// heavy costs little by CEL's estimate, and much with a thousand roles.
const heavy = `principal.roles.all(r, r.startsWith("role") && r.endsWith("x") || r.size() > 1 && r.size() < 100 && r != "a" && r != "b")`

func manyRoles(n int) (roles []string) {
	for i := range n {
		roles = append(roles, fmt.Sprintf("role-%d", i))
	}
	return roles
}

// Whatever the order of rules, the verdict is the same, its rule included.
func TestX03TheOrderOfRulesChangesNothing(t *testing.T) {
	effects, enforcement := []string{"allow", "allow", "deny"}, []string{"", "", "shadow"}
	whens := []string{"", "", "true", "false", `request.headers["x-none"] == "1"`, `principal.roles.exists(r, r == "agent")`}
	audits := []string{"", "best_effort", "required"}
	whats := []authz.What{{}, paths("/v1/**"), paths("/v1/calls", "/v2/{x}"), paths("/{a}/{b}"), {Methods: []string{"GET"}}, {GRPC: []string{"a.B/*"}}}
	whos := []authz.Who{{}, {Tenants: []string{"acme"}}, {Tenants: []string{"other", "acme"}, Roles: []string{"agent"}}, {Tenants: []string{"other"}}, {Plans: []string{"gold"}}}
	rapid.Check(t, func(t *rapid.T) {
		rules := make([]authz.Rule, rapid.IntRange(0, 12).Draw(t, "rules"))
		for i := range rules {
			rules[i] = authz.Rule{
				Name:   fmt.Sprintf("r%d", i),
				Effect: rapid.SampledFrom(effects).Draw(t, "effect"), Enforcement: rapid.SampledFrom(enforcement).Draw(t, "enforcement"),
				When: rapid.SampledFrom(whens).Draw(t, "when"), Audit: rapid.SampledFrom(audits).Draw(t, "audit"),
				What: rapid.SampledFrom(whats).Draw(t, "what"), Who: rapid.SampledFrom(whos).Draw(t, "who"),
			}
		}
		first, problems := authz.Compile(rules)
		if problems != nil {
			t.Fatal(problems)
		}
		second, _ := authz.Compile(rapid.Permutation(rules).Draw(t, "shuffled"))
		for _, in := range []*authz.Input{get("/v1/calls"), get("/x"), call("/a.B/C"), get("/v2/x")} {
			want, got := first.Decide(in), second.Decide(in)
			if got != want {
				t.Fatalf("%s: %+v, shuffled %+v", in.Action.Path, want, got)
			}
			if model := model(first.Explain(in)); model != want.Allowed() {
				t.Fatalf("%s: the verdict is %v, explained %v by %+v", in.Action.Path, want.Allowed(), model, first.Explain(in))
			}
		}
	})
}

// model decides from what Explain says, which uses no index.
func model(reasons []authz.Reason) bool {
	allowed := false
	for _, r := range reasons {
		switch {
		case r.Shadow:
		case r.When == "error", r.Applies && r.Effect == "deny":
			return false
		case r.Applies:
			allowed = true
		}
	}
	return allowed
}

func TestProblems(t *testing.T) {
	long := strings.Repeat("a", 70)
	for _, c := range []struct {
		name  string
		rule  authz.Rule
		field string
		item  int
		wrong string
	}{
		{"no name", authz.Rule{Effect: "allow"}, "name", -1, "is missing"},
		{"a bad name", authz.Rule{Name: "A b", Effect: "allow"}, "name", -1, "is no name"},
		{"no effect", authz.Rule{Name: "r"}, "effect", -1, "is missing"},
		{"an unknown effect", authz.Rule{Name: "r", Effect: "Allow"}, "effect", -1, "there is no effect"},
		{"an unknown enforcement", authz.Rule{Name: "r", Effect: "allow", Enforcement: "dry-run"}, "enforcement", -1, "there is no enforcement"},
		{"an unknown audit", authz.Rule{Name: "r", Effect: "allow", Audit: "always"}, "audit", -1, "there is no audit"},
		{"a bad tenant", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Tenants: []string{"a", "*"}}}, "who.tenants", 1, "is no id of a tenant"},
		{"H-04 a Cyrillic tenant", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Tenants: []string{"tenаnt"}}}, "who.tenants", 0, "is no id of a tenant"},
		{"a bad plan", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Plans: []string{long}}}, "who.plans", 0, "is no name of a plan"},
		{"an empty role", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Roles: []string{""}}}, "who.roles", 0, "is no role"},
		{"an empty list", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Tenants: []string{}}}, "who.tenants", -1, "is an empty list"},
		{"a long list", authz.Rule{Name: "r", Effect: "allow", What: authz.What{Methods: slices.Repeat([]string{"GET"}, 257)}}, "what.methods", -1, "has 257 items"},
		{"an empty principal", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Principals: []string{""}}}, "who.principals", 0, "is empty"},
		{"a star for every principal", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Principals: []string{"*"}}}, "who.principals", 0, "has a '*'"},
		{"a star for every trust domain", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Principals: []string{"spiffe://*"}}}, "who.principals", 0, "has nothing before"},
		{"a star in a segment", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Principals: []string{"spiffe://td/ns/a*"}}}, "who.principals", 0, "has a '*'"},
		{"a star in the middle", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Principals: []string{"spiffe://td/*/a/*"}}}, "who.principals", 0, "has a '*'"},
		{"a control character in a principal", authz.Rule{Name: "r", Effect: "allow", Who: authz.Who{Principals: []string{"a\nb"}}}, "who.principals", 0, "has a control character"},
		{"a star in a service", allow("r", authz.What{Services: []string{"*"}}), "what.services", 0, "is no name of a service"},
		{"a host in upper case", allow("r", authz.What{Hosts: []string{"API.example.com"}}), "what.hosts", 0, "is no host"},
		{"a host with a port", allow("r", authz.What{Hosts: []string{"api.example.com:80"}}), "what.hosts", 0, "is no host"},
		{"a star for every host", allow("r", authz.What{Hosts: []string{"*"}}), "what.hosts", 0, "is no host"},
		{"a star in a host", allow("r", authz.What{Hosts: []string{"*api.example.com"}}), "what.hosts", 0, "is no host"},
		{"a host with a dot first", allow("r", authz.What{Hosts: []string{".example.com"}}), "what.hosts", 0, "is no host"},
		{"a method in lower case", allow("r", authz.What{Methods: []string{"get"}}), "what.methods", 0, "is not the method GET"},
		{"a star for every method", allow("r", authz.What{Methods: []string{"*"}}), "what.methods", 0, "is no method"},
		{"a relative path", allow("r", paths("v1")), "what.paths", 0, "does not begin with '/'"},
		{"a path that goes up", allow("r", paths("/v1/../x")), "what.paths", 0, "can match no request"},
		{"a path with an empty segment", allow("r", paths("/v1//x")), "what.paths", 0, "has an empty segment"},
		{"a path with a query", allow("r", paths("/v1?x")), "what.paths", 0, "can match no request"},
		{"a path with an encoded letter", allow("r", paths("/%61")), "what.paths", 0, "can match no request"},
		{"a path in another spelling", allow("r", paths("/x%3astop")), "what.paths", 0, "is not in canonical form"},
		{"one star", allow("r", paths("/v1/*")), "what.paths", 0, "has a '*'"},
		{"two stars in the middle", allow("r", paths("/**/x")), "what.paths", 0, "has a '*'"},
		{"two stars after an empty segment", allow("r", paths("/v1//**")), "what.paths", 0, "has an empty segment"},
		{"a variable in a segment", allow("r", paths("/v1/{id}.json")), "what.paths", 0, "has a variable"},
		{"a variable that CEL can't name", allow("r", paths("/v1/{in}")), "what.paths", 0, "has a variable"},
		{"a variable twice", allow("r", paths("/{a}/{a}")), "what.paths", 0, "has {a} twice"},
		{"too many segments", allow("r", paths(strings.Repeat("/a", 33))), "what.paths", 0, "has more than 32 segments"},
		{"a gRPC path", allow("r", authz.What{GRPC: []string{"/pkg.Svc/Method"}}), "what.grpc", 0, "names no gRPC method"},
		{"a gRPC service", allow("r", authz.What{GRPC: []string{"pkg.Svc"}}), "what.grpc", 0, "names no gRPC method"},
		{"a star for every gRPC service", allow("r", authz.What{GRPC: []string{"*/*"}}), "what.grpc", 0, "names no gRPC method"},
		{"a star in a gRPC method", allow("r", authz.What{GRPC: []string{"pkg.Svc/Get*"}}), "what.grpc", 0, "names no gRPC method"},
		{"HTTP and gRPC at once", allow("r", authz.What{Paths: []string{"/x"}, GRPC: []string{"a.B/C"}}), "what", -1, "no request is both"},
	} {
		t.Run(c.name+" is a problem", func(t *testing.T) {
			rules, problems := authz.Compile([]authz.Rule{allow("other", authz.What{}), c.rule})
			if rules != nil || len(problems) != 1 {
				t.Fatalf("%v, %+v", rules, problems)
			}
			p := problems[0]
			if p.Index != 1 || p.Field != c.field || p.Item != c.item || !strings.Contains(p.Wrong, c.wrong) || p.Right == "" {
				t.Errorf("%+v", p)
			}
		})
	}
	t.Run("X-04 one bad rule refuses all, and every problem is named", func(t *testing.T) {
		rules, problems := authz.Compile([]authz.Rule{
			allow("a", authz.What{}), {Name: "a", Effect: "x", When: "1"}, {Name: "b", Effect: "deny", What: paths("x", "y")},
		})
		if rules != nil || len(problems) != 5 {
			t.Errorf("%v, %+v", rules, problems)
		}
	})
	t.Run("there are at most 10,000 rules", func(t *testing.T) {
		if rules, problems := authz.Compile(make([]authz.Rule, 10_001)); rules != nil || len(problems) != 1 || problems[0].Index != -1 {
			t.Errorf("%v, %d problems", rules, len(problems))
		}
	})
}

// thousand returns n rules for n tenants, of which each may use its own resources.
func thousand(n int) (rules []authz.Rule) {
	for i := range n {
		rules = append(rules, authz.Rule{
			Name: fmt.Sprintf("r%d", i), Effect: "allow", Who: authz.Who{Tenants: []string{fmt.Sprintf("t%d", i)}, Roles: []string{"agent"}},
			What: authz.What{Methods: []string{"GET"}, Paths: []string{"/v1/calls/**", "/v1/agents/{id}"}},
		})
	}
	return rules
}

func TestADecisionWithoutConditionsAllocatesNothing(t *testing.T) {
	rules := compile(t, append(thousand(10), deny("no", paths("/admin/**")), authz.Rule{Name: "s", Effect: "deny", Enforcement: "shadow"})...)
	in, other := get("/v1/calls/42"), get("/Admin/x")
	in.Tenant, other.Tenant = "t1", "t1"
	if v := rules.Decide(in); !v.Allowed() || v.ShadowRule != "s" {
		t.Fatalf("%+v", v)
	}
	if n := testing.AllocsPerRun(100, func() { rules.Decide(in); rules.Decide(other) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("%d rules for %d tenants", n, n), func(b *testing.B) {
			rules := compile(b, thousand(n)...)
			ins := make([]*authz.Input, n)
			for i := range ins {
				ins[i] = get("/v1/calls/42")
				ins[i].Tenant = tenant.ID(fmt.Sprintf("t%d", i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if !rules.Decide(ins[i%n]).Allowed() {
					b.Fatal("denied")
				}
			}
		})
	}
	b.Run("1000 rules for any tenant on 500 resources", func(b *testing.B) {
		var all []authz.Rule
		for i := range 500 {
			all = append(all, allow(fmt.Sprintf("h%d", i), paths(fmt.Sprintf("/v1/r%d/{id}", i))), allow(fmt.Sprintf("g%d", i), authz.What{GRPC: []string{fmt.Sprintf("pkg.Svc%d/*", i)}}))
		}
		rules, in := compile(b, all...), get("/v1/r7/42")
		b.ReportAllocs()
		for b.Loop() {
			if !rules.Decide(in).Allowed() {
				b.Fatal("denied")
			}
		}
	})
}
