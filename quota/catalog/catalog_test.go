package catalog

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/ratelimit"
)

var update = flag.Bool("update", false, "write the messages in testdata anew")

const good = `
plans:
  - name: gold
    limits:
      - &rps {name: rps, limit: 100, window: 1s}
      - {name: day, algorithm: fixed, limit: 1_000_000, window: 1d, durable: true, on_outage: local}
  - name: free
    limits: [*rps]
tenants:
  - id: acme
    display_name: Acme, Inc.
    plan: gold
    principals: [spiffe://cluster.local/ns/acme/sa/app]
    limits:
      - {name: month, algorithm: hard, limit: 5, window: 30d12h, enforcement: shadow, durable: false}
  - {id: 007, plan: free, suspended: true}
api_keys:
  - id: k1
    tenant: acme
    digest: "0000000000000000000000000000000000000000000000000000000000000001"
    expires: 2027-01-31T00:00:00+01:00
`

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o750))
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func open(t testing.TB, o Options) *Catalog {
	t.Helper()
	c, err := Open(o)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func TestAGoodFolderIsCompiled(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "all.yaml", good)
	write(t, dir, "more/plans/silver.yml", "plans: [{name: silver}]")
	for _, name := range []string{".hidden.yaml", "all.yaml~", ".all.yaml.swp", "#all.yaml#", "new.yaml.tmp", "README.md", ".git/x.yaml", "#new.yaml#"} {
		write(t, dir, name, "not: [yaml")
	}
	must(t, os.Symlink(dir, filepath.Join(dir, "circle")))
	c := open(t, Options{Dir: dir})
	acme := c.Snapshot().Account("acme")
	want := []ratelimit.Limit{
		{Name: "rps", Algorithm: ratelimit.GCRA, Hits: 100, Burst: 100, Window: time.Second, OnOutage: ratelimit.OutageLocal},
		{Name: "day", Algorithm: ratelimit.Fixed, Hits: 1_000_000, Window: 24 * time.Hour, Durable: true, OnOutage: ratelimit.OutageLocal, OutageSaid: true},
		{Name: "month", Algorithm: ratelimit.Hard, Hits: 5, Window: 30*24*time.Hour + 12*time.Hour, Shadow: true, OnOutage: ratelimit.OutageLocal},
	}
	if len(acme.Charges) != len(want) {
		t.Fatalf("charges %v", acme.Charges)
	}
	for i := range want {
		if *acme.Charges[i].Limit != want[i] {
			t.Errorf("limit %d is %+v", i, *acme.Charges[i].Limit)
		}
	}
	if s := c.Snapshot(); !s.Account("007").Suspended || s.SPIFFE("spiffe://cluster.local/ns/acme/sa/app") != acme {
		t.Error("a tenant is not as written")
	}
	if k, ok := c.Snapshot().Key([32]byte{31: 1}); !ok || !k.Expires.Equal(time.Date(2027, 1, 30, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("key %+v, %v", k, ok)
	}
	v := c.View()
	if len(v.Plans) != 3 || v.Plans[0].Value.Name != "free" || v.Plans[2].Path != "more/plans/silver.yml" || v.Plans[2].Origin != FromFile || v.Revision != 1 {
		t.Errorf("view %+v", v.Plans)
	}
	if err := c.Update(func(*Edit) error { return nil }, false); !errors.Is(err, ErrReadOnly) {
		t.Errorf("without a file to keep entries in: %v", err)
	}
}

// One bad file for each message; -update writes them.
func TestEachProblemHasItsMessage(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(strings.ReplaceAll(strings.TrimSuffix(name, ".yaml"), "_", " "), func(t *testing.T) {
			content, err := os.ReadFile(path)
			must(t, err)
			dir := t.TempDir()
			write(t, dir, name, string(content))
			c, err := Open(Options{Dir: dir})
			var problems quota.Problems
			if c != nil || !errors.As(err, &problems) {
				t.Fatalf("opened: %v", err)
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".err"
			if *update {
				must(t, os.WriteFile(golden, []byte(err.Error()+"\n"), 0o600))
			}
			want, err2 := os.ReadFile(golden)
			must(t, err2)
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestProblemsAcrossFilesNameBoth(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "plans: [{name: gold}]\ntenants:\n  - {id: acme, plan: gold}\n")
	write(t, dir, "b/c.yaml", "tenants:\n  - {id: beta, plan: gold}\n  - id: acme\n    plan: nope\n")
	write(t, dir, "b/d.yaml", "tenant: []")
	_, err := Open(Options{Dir: dir})
	want := `b/d.yaml:1: unknown field "tenant"; did you mean "tenants"?
b/c.yaml:3: tenants[1].id: "acme" is already at a.yaml:3: tenants[0].id; each tenant has its own id: rename or delete one of the two
b/c.yaml:4: tenants[1].plan: there is no plan "nope"; one of the plans "gold"`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// Rules of two files that are too many together are neither file's problem, nor that of the first rule.
func TestTooManyRulesAreAProblemOfTheList(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"a", "b"} {
		write(t, dir, file+".yaml", "rules:\n"+strings.Repeat("- {}\n", 5_001))
	}
	_, err := Open(Options{Dir: dir})
	if want := "rules: there are 10002 rules; at most 10000"; err == nil || err.Error() != want {
		t.Errorf("got\n%.300v\nwant\n%s", err, want)
	}
}

func TestWhatCantBeReadIsAnError(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(Options{Dir: filepath.Join(dir, "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that isn't there: %v", err)
	}
	must(t, os.Symlink("nowhere", filepath.Join(dir, "x.yaml")))
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link to nothing: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "x.yaml")))
	write(t, dir, "big.yaml", strings.Repeat("#", maxFile+1))
	want := "big.yaml: is larger than 4 MiB; split it into several files"
	if _, err := Open(Options{Dir: dir}); err == nil || err.Error() != want {
		t.Errorf("a big file: %v", err)
	}
	deep := t.TempDir()
	write(t, deep, strings.Repeat("d/", maxDepth+1)+"x.yaml", good)
	if _, err := Open(Options{Dir: deep}); err == nil || !strings.Contains(err.Error(), "folders deep") {
		t.Errorf("a deep folder: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(good)
	f.Add(goodRules)
	f.Add("rules: &a [{who: *a, what: {paths: [*a]}}]")
	f.Add("plans: &a [*a]")
	f.Add("plans: &a {limits: [*a]}")
	f.Add("&a [*a]")
	f.Add("? [a]\n: b")
	f.Add("plans: !!binary x")
	f.Add("plans: [{name: !!str , limits: [{limit: 99999999999999999999, window: 9223372036854775807d}]}]")
	f.Add("\xff\xfe")
	f.Add("%YAML 9.9\n---\n")
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(content))
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := &fileSet{files: []*file{{path: "x.yaml", data: []byte(text)}}}
		s.decode()
		c := &Catalog{log: slog.New(slog.DiscardHandler)}
		state, err := c.build(s, &View{}, 1)
		if (state == nil) != (err != nil) {
			t.Fatalf("%v, %v", state, err)
		}
		var problems quota.Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("%T: %v", err, err)
		}
		for _, p := range problems {
			if !strings.HasPrefix(p.Path, "x.yaml") || p.Wrong == "" || p.Right == "" || strings.Contains(p.String(), "\n") {
				t.Errorf("problem %+v", p)
			}
		}
		if state != nil {
			state.view()
		}
	})
}

const goodRules = `
plans: [{name: gold, limits: [{name: rps, limit: 5, window: 1s, at: service}]}]
tenants: [{id: acme, plan: gold, authorization: shadow}]
api_keys:
  - {id: k1, tenant: acme, digest: "0000000000000000000000000000000000000000000000000000000000000001", scopes: [calls:read, calls:write]}
rules:
  - name: callers
    effect: allow
    enforcement: shadow
    who:
      tenants: [acme]
      plans: [gold]
      roles: [caller]
      principals: [spiffe://cluster.local/ns/acme/*]
    what:
      services: [calls]
      hosts: ["*.example.com"]
      methods: [GET, POST]
      paths: ["/v1/calls/{id}"]
    when: request.method == "GET"
    audit: required
  - {name: streams, effect: deny, what: {grpc: [voice.Calls/*]}}
issuers:
  - name: login
    issuer: https://login.example.com
    audiences: [sluice]
    jwks_uri: https://login.example.com/keys
    algorithms: [ES256]
    tenant: acme
    roles_claim: roles
    types: [JWT]
    allow_private: true
  - {name: other, issuer: https://other.example.com, audiences: [sluice], jwks_uri: https://other.example.com/keys, tenant_claim: org.tenant}
`

func TestRulesAndIssuersAreReadWhole(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", goodRules)
	c := open(t, Options{Dir: dir})
	wantRule := authz.Rule{
		Name: "callers", Effect: "allow", Enforcement: "shadow",
		Who: authz.Who{
			Tenants: []string{"acme"}, Plans: []string{"gold"}, Roles: []string{"caller"},
			Principals: []string{"spiffe://cluster.local/ns/acme/*"},
		},
		What: authz.What{
			Services: []string{"calls"}, Hosts: []string{"*.example.com"}, Methods: []string{"GET", "POST"},
			Paths: []string{"/v1/calls/{id}"},
		},
		When: `request.method == "GET"`, Audit: "required",
	}
	wantIssuers := []trust.Issuer{{
		Name: "login", Issuer: "https://login.example.com", Audiences: []string{"sluice"}, JWKSURI: "https://login.example.com/keys",
		Algorithms: []string{"ES256"}, Tenant: "acme", RolesClaim: "roles", Types: []string{"JWT"}, AllowPrivate: true,
	}, {
		Name: "other", Issuer: "https://other.example.com", Audiences: []string{"sluice"}, JWKSURI: "https://other.example.com/keys", TenantClaim: "org.tenant",
	}}
	v := c.View()
	if len(v.Rules) != 2 || len(v.Rules[1].Value.What.GRPC) != 1 || !reflect.DeepEqual(v.Rules[0].Value, wantRule) || v.Rules[0].Path != "a.yaml" || v.Rules[0].Origin != FromFile {
		t.Errorf("rules %+v", v.Rules)
	}
	if len(v.Issuers) != 2 || !reflect.DeepEqual(v.Issuers[0].Value, wantIssuers[0]) || !reflect.DeepEqual(v.Issuers[1].Value, wantIssuers[1]) {
		t.Errorf("issuers %+v", v.Issuers)
	}
	s := c.Snapshot()
	if k, ok := s.Key([32]byte{31: 1}); !ok || !slices.Equal(k.Scopes, []string{"calls:read", "calls:write"}) {
		t.Errorf("key %+v, %v", k, ok)
	}
	if a := s.Account("acme"); !a.Shadow || len(a.Inner) != 1 || s.Rules == nil || s.Issuers == nil {
		t.Errorf("account %+v, rules %v, issuers %v", a, s.Rules, s.Issuers)
	}
}

// Each field of the structs has a place in its decoder, and no decoder has a name that has none.
func TestEveryFieldOfRulesAndIssuersIsDecoded(t *testing.T) {
	for name, known := range map[string][]string{"rule": ruleFields, "who": whoFields, "what": whatFields, "issuer": issuerFields} {
		kind := map[string]reflect.Type{
			"rule": reflect.TypeFor[authz.Rule](), "who": reflect.TypeFor[authz.Who](), "what": reflect.TypeFor[authz.What](), "issuer": reflect.TypeFor[trust.Issuer](),
		}[name]
		var fields []string
		for i := range kind.NumField() {
			field, _, _ := strings.Cut(kind.Field(i).Tag.Get("yaml"), ",")
			fields = append(fields, field)
		}
		if slices.Sort(fields); !slices.Equal(fields, slices.Sorted(slices.Values(known))) {
			t.Errorf("%s has the fields %q, its decoder %q", name, fields, known)
		}
	}
	for _, l := range lists {
		if listAt(l.name()) < 0 || lists[listAt(l.name())] != l {
			t.Errorf("two lists are called %s", l.name())
		}
	}
	f := &file{path: "x.yaml"}
	root, err := parse([]byte(goodRules))
	must(t, err)
	d := &decoder{file: f, left: maxValues}
	d.rule(item(child(root, "rules"), 0), quota.Place{List: "rules", Limit: -1, Item: -1})
	if len(d.problems) > 0 {
		t.Error(d.problems)
	}
}

// a folder with one bad rule is refused whole, and the rules before stay.
func TestX04ABadRuleLeavesTheOldOnes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", goodRules)
	c := open(t, Options{Dir: dir})
	before := c.Snapshot()
	write(t, dir, "b.yaml", "rules:\n  - {name: fine, effect: allow}\n  - {name: bad, effect: allow, who: {tenants: [acme, nobody]}}\n")
	_, err := c.reload()
	want := `b.yaml:3: rules[1].who.tenants[1]: there is no tenant "nobody"; the id of one of the tenants`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if c.Snapshot() != before || len(c.View().Rules) != 2 {
		t.Error("the rules changed")
	}
	write(t, dir, "b.yaml", "rules:\n  - {name: fine, effect: allow, who: {tenants: [acme]}}\n")
	_, err = c.reload()
	must(t, err)
	if v := c.View(); len(v.Rules) != 3 || v.Rules[1].Value.Name != "fine" || v.Rules[1].Path != "b.yaml" {
		t.Errorf("rules %+v", v.Rules)
	}
	must(t, os.Remove(filepath.Join(dir, "a.yaml")))
	if _, err := c.reload(); err == nil || !strings.Contains(err.Error(), `b.yaml:2: rules[0].who.tenants[0]: there is no tenant "acme"`) {
		t.Errorf("a tenant that a rule names is gone: %v", err)
	}
}
