// Package sluice is the module's root. It holds no code, only the test of the
// architecture: who may import whom (docs/adr, README "Layout"), with the reason,
// and a few rules of style that a reader relies on. The rules parse files; a
// 'go list' in a child process would get a cached pass.
package sluice

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

const module = "github.com/voicecore-ai/sluice"

// The packages that rules speak of, as folders of the module.
var (
	doors  = []string{"authz/extauthz", "accesslog", "extproc", "ratelimit/rls", "ratelimit/rlqs"}
	stores = []string{"ratelimit/memstore", "ratelimit/redisstore"}
	// domain packages hold what Sluice means, whatever protocol asks and wherever counters are kept.
	domain = []string{"tenant", "ratelimit", "quota", "gate", "authz", "authz/authn", "authz/answer", "authz/headers", "authz/token", "authz/trust", "authz/audit"}
)

// Modules that only some packages may touch; an import matches its prefix, by whole elements.
var (
	envoyAPI    = []string{"github.com/envoyproxy/go-control-plane"}
	cluster     = []string{"k8s.io", "sigs.k8s.io", "helm.sh", "istio.io", "github.com/fluxcd", "github.com/prometheus-operator"}
	grpcModule  = []string{"google.golang.org/grpc"}
	otelModules = []string{"go.opentelemetry.io"}
	yamlModules = []string{"gopkg.in/yaml.v2", "gopkg.in/yaml.v3", "go.yaml.in/yaml", "sigs.k8s.io/yaml", "github.com/goccy/go-yaml"}
	bolt        = []string{"go.etcd.io/bbolt"}
	redis       = []string{"github.com/redis/go-redis", "github.com/redis/rueidis", "github.com/valkey-io"}
	javascript  = []string{"github.com/grafana/sobek"}
)

// rule is one sentence that holds for the whole module.
type rule struct {
	says  string
	why   string
	check func(files []*file) []string // one line for each place that breaks it
}

// rules is all of them.
var rules = []rule{
	{
		says:  "tenant and boltfile are leaves",
		why:   "everything shares the words of the one, and two stores the other, so they can stand on nothing of ours",
		check: imports(code, in("tenant", "boltfile"), ours()),
	},
	{
		says:  "only boltfile and what keeps a file import bbolt",
		why:   "bbolt panics on a damaged file, so each must be verified and opened in the one way that boltfile knows",
		check: imports(code, not(in("boltfile", "ratelimit/memstore", "quota/catalog")), external(bolt)),
	},
	{
		says:  "only what keeps something in Redis, and what connects to it, import its client",
		why:   "who talks to Redis must be countable: each has a bound on its time and keys, and a line in the ACL",
		check: imports(code, not(in("ratelimit/redisstore", "quota/catalog", "redisconn", "replicas", "redistest", "app")), external(redis)),
	},
	{
		says:  "only tests import await, redistest and testca",
		why:   "they take a test, wait, start and kill processes, and sign whatever is asked for",
		check: imports(code, not(either(under("e2e"), in("await", "redistest", "testca"))), oursIn("await", "redistest", "testca")),
	},
	{
		says:  "outbound is a leaf",
		why:   "the guard of addresses that others choose must be readable whole, and usable by anyone",
		check: imports(code, in("outbound"), ours()),
	},
	{
		says:  "a domain package knows no transport, telemetry, file format or store",
		why:   "what Sluice decides must be testable without a wire, and the same behind every door",
		check: imports(code, in(domain...), external(grpcModule, otelModules, yamlModules, redis, envoyAPI)),
	},
	{
		says:  "a domain package imports only domain packages of ours",
		why:   "dependencies point one way: cmd, app, doors, gate, domain, tenant",
		check: imports(code, in(domain...), ours(domain...)),
	},
	{
		says:  "a door imports no other door",
		why:   "a door is one protocol; what two of them share belongs to the gate or the answer",
		check: imports(code, in(doors...), oursIn(doors...)),
	},
	{
		says:  "a door imports no store",
		why:   "counters are reached through the gate, so that every door charges the same ledger in the same way; its tests may build one",
		check: imports(code, in(doors...), oursIn(stores...)),
	},
	{
		says:  "only doors, app, installer and e2e import go-control-plane",
		why:   "Envoy's types change with Envoy, and that must stop at the edge",
		check: imports(all, not(either(in(doors...), under("app", "installer", "e2e"))), external(envoyAPI)),
	},
	{
		says:  "only installer and its lab import Kubernetes, Helm, Istio and Flux",
		why:   "they are most of the module's weight and none of the server's work",
		check: imports(code, not(under("installer", "e2e/mesh")), external(cluster)),
	},
	{
		says:  "only tests of installer, the chart and e2e import Kubernetes, Helm, Istio and Flux",
		why:   "elsewhere a test of what needs them tests the wrong package, and waits for them to compile",
		check: imports(tests, not(either(under("installer", "e2e"), in("deploy/chart"))), external(cluster)),
	},
	{
		says:  "sluiced links nothing of Kubernetes, Helm, Istio or Flux",
		why:   "the server is one small static binary with few parts to audit",
		check: linksNothingOf("cmd/sluiced", cluster),
	},
	{
		says:  "only the loadtest runner imports an interpreter of JavaScript",
		why:   "what runs scripts is a tool of tests, and nothing that a user runs should be able to",
		check: imports(all, not(in("loadtest/runner")), external(javascript)),
	},
	{
		says:  "only loadtest imports loadtest",
		why:   "it makes load and reads scripts, so nothing of it may be linked into sluiced or sluice",
		check: imports(all, not(under("loadtest")), oursUnder("loadtest")),
	},
	{says: "no init()", why: "work at import time can't fail, be tested or be left out", check: noInit},
	{says: "each package has one package comment", why: "a reader looks for it in one place", check: onePackageComment},
	{says: "a file has at most 600 lines", why: "a file is one concept", check: shortFiles},
	{says: "a package has at most 25 exported names", why: "what is more is two packages, or a part that nobody outside needs", check: fewNames},
	{says: "no time.Sleep in a test outside synctest", why: "it is slow on a fast machine and flaky on a slow one", check: noSleep},
	{says: "a test's name is CamelCase, a sub-test's name is a sentence", why: "a failing line of CI must say what is broken", check: testNames},
}

func TestArchitecture(t *testing.T) {
	files := load(t)
	for _, r := range rules {
		t.Run(r.says, func(t *testing.T) {
			for _, problem := range r.check(files) {
				t.Errorf("%s\n\trule: %s, because %s", problem, r.says, r.why)
			}
		})
	}
}

// TestEveryRuleCatchesItsBreach shows each rule code that breaks it, and code beside it that does not.
func TestEveryRuleCatchesItsBreach(t *testing.T) {
	const p = "// Package x is one.\n"
	imp := func(paths ...string) string {
		b := p + "package x\n"
		for _, i := range paths {
			b += "import _ " + strconv.Quote(i) + "\n"
		}
		return b
	}
	cases := []struct {
		rule     string
		bad      map[string]string
		names    string // part of the message
		tolerate map[string]string
	}{
		{
			"tenant and boltfile are leaves",
			map[string]string{"tenant/a.go": imp(module + "/quota")}, "tenant/a.go",
			map[string]string{"tenant/a.go": imp("strings"), "tenant/a_test.go": imp(module + "/quota")},
		},
		{
			"tenant and boltfile are leaves",
			map[string]string{"boltfile/a.go": imp(module + "/tenant")}, "boltfile/a.go",
			map[string]string{"boltfile/a.go": imp("go.etcd.io/bbolt")},
		},
		{
			"only boltfile and what keeps a file import bbolt",
			map[string]string{"quota/api/a.go": imp("go.etcd.io/bbolt")}, "quota/api/a.go",
			map[string]string{"quota/catalog/a.go": imp("go.etcd.io/bbolt", module+"/boltfile"), "ratelimit/memstore/a.go": imp("go.etcd.io/bbolt")},
		},
		{
			"only what keeps something in Redis, and what connects to it, import its client",
			map[string]string{"ratelimit/lease/a.go": imp("github.com/redis/go-redis/v9")}, "ratelimit/lease/a.go",
			map[string]string{"ratelimit/redisstore/a.go": imp("github.com/redis/go-redis/v9"), "cli/a_test.go": imp("github.com/redis/go-redis/v9")},
		},
		{
			"only tests import await, redistest and testca",
			map[string]string{"app/a.go": imp(module + "/redistest")}, "app/a.go",
			map[string]string{"app/a_test.go": imp(module + "/redistest"), "e2e/x/a.go": imp(module + "/redistest")},
		},
		{
			"outbound is a leaf",
			map[string]string{"outbound/a.go": imp(module + "/tenant")}, "outbound/a.go",
			map[string]string{"outbound/a.go": imp("net/http"), "app/a.go": imp(module + "/outbound")},
		},
		{
			"a domain package knows no transport, telemetry, file format or store",
			map[string]string{"authz/authn/a.go": imp("google.golang.org/grpc/codes")}, "google.golang.org/grpc/codes",
			map[string]string{"authz/authn/a.go": imp("google.golang.org/grpcweb"), "app/a.go": imp("google.golang.org/grpc"), "quota/catalog/a.go": imp("go.yaml.in/yaml/v3")},
		},
		{
			"a domain package knows no transport, telemetry, file format or store",
			map[string]string{"quota/a.go": imp("go.yaml.in/yaml/v3")}, "quota/a.go", nil,
		},
		{
			"a domain package knows no transport, telemetry, file format or store",
			map[string]string{"gate/a.go": imp("github.com/redis/go-redis/v9")}, "gate/a.go", nil,
		},
		{
			"a domain package imports only domain packages of ours",
			map[string]string{"gate/a.go": imp(module + "/ratelimit/memstore")}, "ratelimit/memstore",
			map[string]string{"gate/a.go": imp(module+"/ratelimit", module+"/quota"), "gate/a_test.go": imp(module + "/ratelimit/memstore")},
		},
		{
			"a door imports no other door",
			map[string]string{"extproc/a.go": imp(module + "/authz/extauthz")}, "extproc/a.go",
			map[string]string{"extproc/a.go": imp(module + "/gate")},
		},
		{
			"a door imports no store",
			map[string]string{"ratelimit/rls/a.go": imp(module + "/ratelimit/memstore")}, "ratelimit/rls/a.go",
			map[string]string{"ratelimit/rls/a_test.go": imp(module + "/ratelimit/memstore"), "app/a.go": imp(module + "/ratelimit/memstore")},
		},
		{
			"only doors, app, installer and e2e import go-control-plane",
			map[string]string{"cli/a_test.go": imp("github.com/envoyproxy/go-control-plane/envoy/config/core/v3")}, "cli/a_test.go",
			map[string]string{"accesslog/a.go": imp("github.com/envoyproxy/go-control-plane/envoy/config/core/v3"), "e2e/bench/a.go": imp("github.com/envoyproxy/go-control-plane/envoy/config/core/v3")},
		},
		{
			"only installer and its lab import Kubernetes, Helm, Istio and Flux",
			map[string]string{"cli/a.go": imp("helm.sh/helm/v4/pkg/engine")}, "cli/a.go",
			map[string]string{"installer/a.go": imp("k8s.io/client-go/rest"), "installer/x/a.go": imp("istio.io/api"), "e2e/mesh/lab/a.go": imp("k8s.io/api"), "deploy/chart/a_test.go": imp("helm.sh/helm/v4/pkg/engine")},
		},
		{
			"only installer and its lab import Kubernetes, Helm, Istio and Flux",
			map[string]string{"deploy/chart/a.go": imp("helm.sh/helm/v4/pkg/engine")}, "deploy/chart/a.go", nil,
		},
		{
			"only tests of installer, the chart and e2e import Kubernetes, Helm, Istio and Flux",
			map[string]string{"app/a_test.go": imp("k8s.io/api/core/v1")}, "app/a_test.go",
			map[string]string{"deploy/chart/a_test.go": imp("k8s.io/api/core/v1"), "installer/a_test.go": imp("helm.sh/helm/v4/pkg/engine")},
		},
		{
			"sluiced links nothing of Kubernetes, Helm, Istio or Flux",
			map[string]string{
				"cmd/sluiced/main.go": imp(module + "/app"), "app/a.go": imp(module + "/installer"), "installer/a.go": imp("k8s.io/client-go/rest"),
			}, "cmd/sluiced → app → installer → k8s.io/client-go/rest",
			map[string]string{
				"cmd/sluiced/main.go": imp(module + "/app"), "app/a.go": imp("fmt"), "app/a_test.go": imp(module + "/installer"),
				"cmd/sluice/main.go": imp(module + "/installer"), "installer/a.go": imp("k8s.io/client-go/rest"),
			},
		},
		{
			"only the loadtest runner imports an interpreter of JavaScript",
			map[string]string{"loadtest/a_test.go": imp("github.com/grafana/sobek/parser")}, "loadtest/a_test.go",
			map[string]string{"loadtest/runner/a.go": imp("github.com/grafana/sobek")},
		},
		{
			"only loadtest imports loadtest",
			map[string]string{"app/a.go": imp(module + "/loadtest/runner")}, "app/a.go",
			map[string]string{"loadtest/cmd/runner/a.go": imp(module + "/loadtest/runner"), "loadtest/a_test.go": imp(module+"/loadtest", module+"/app")},
		},
		{
			"no init()",
			map[string]string{"gate/a.go": p + "package x\nfunc init() {}\n"}, "gate/a.go:3",
			map[string]string{"wasm/a.go": p + "package x\nfunc init() {}\n", "gate/a.go": p + "package x\ntype t int\nfunc (t) init() {}\n"},
		},
		{
			"each package has one package comment",
			map[string]string{"gate/a.go": "package x\n"}, "gate has no",
			map[string]string{"gate/a.go": p + "package x\n", "gate/b.go": "//go:build linux\n\npackage x\n"},
		},
		{
			"each package has one package comment",
			map[string]string{"gate/a.go": p + "package x\n", "gate/b.go": p + "package x\n"}, "gate/b.go", nil,
		},
		{
			"a file has at most 600 lines",
			map[string]string{"gate/a.go": p + "package x\n" + strings.Repeat("// line\n", 599)}, "601 lines",
			map[string]string{
				"gate/a.go": p + "package x\n" + strings.Repeat("// line\n", 598), "gate/a_test.go": p + "package x\n" + strings.Repeat("// line\n", 900),
				"gen/a.go": "// Code generated by hand. DO NOT EDIT.\npackage x\n" + strings.Repeat("// line\n", 900),
			},
		},
		{
			"a package has at most 25 exported names",
			map[string]string{"gate/a.go": p + "package x\nconst (\n" + names(20) + ")\n", "gate/b.go": "package x\ntype T struct{ F int }\nvar V, W, X int\nfunc F() {}\nfunc G() {}\n"}, "gate has 26",
			map[string]string{
				"gate/a.go": p + "package x\nconst (\n" + names(24) + ")\ntype T struct{ F, G int }\nfunc (T) M() {}\nfunc f() {}\n", "gate/a_test.go": "package x\nvar V int\n",
				"gen/a.go": "// Code generated by hand. DO NOT EDIT.\npackage x\nconst (\n" + names(30) + ")\n",
			},
		},
		{
			"no time.Sleep in a test outside synctest",
			map[string]string{"gate/a_test.go": "package x\nimport \"time\"\nfunc f() { time.Sleep(1) }\n"}, "gate/a_test.go:3",
			map[string]string{
				"gate/a.go":      "package x\nimport \"time\"\nfunc f() { time.Sleep(1) }\n",
				"gate/a_test.go": "package x\nimport (\"time\"; \"testing/synctest\")\nfunc f() { synctest.Test(nil, func() { time.Sleep(1) }) }\n",
			},
		},
		{
			"no time.Sleep in a test outside synctest",
			map[string]string{"gate/a_test.go": "package x\nimport clock \"time\"\nvar nap = clock.Sleep\n"}, "gate/a_test.go:3", nil,
		},
		{
			"a test's name is CamelCase, a sub-test's name is a sentence",
			map[string]string{"gate/a_test.go": "package x\nfunc Test_it(t *testing.T) {}\n"}, "Test_it",
			map[string]string{"gate/a_test.go": "package x\nfunc TestIt(t *testing.T) { t.Run(\"it works\", nil); t.Run(c.name, nil) }\n"},
		},
		{
			"a test's name is CamelCase, a sub-test's name is a sentence",
			map[string]string{"gate/a_test.go": "package x\nfunc TestIt(t *testing.T) { t.Run(\"case1\", nil) }\n"}, "case1", nil,
		},
	}
	shown := map[string]bool{}
	for _, c := range cases {
		shown[c.rule] = true
		i := slices.IndexFunc(rules, func(r rule) bool { return r.says == c.rule })
		if i < 0 {
			t.Fatalf("no rule says %q", c.rule)
		}
		t.Run(c.rule+", shown by "+c.names, func(t *testing.T) {
			if got := rules[i].check(parse(t, c.bad)); len(got) != 1 || !strings.Contains(got[0], c.names) {
				t.Errorf("the breach gave %q, want one message with %q", got, c.names)
			}
			if got := rules[i].check(parse(t, c.tolerate)); len(got) != 0 {
				t.Errorf("code that keeps the rule gave %q", got)
			}
		})
	}
	for _, r := range rules {
		if !shown[r.says] {
			t.Errorf("no case breaks the rule %q", r.says)
		}
	}
}

// names declares n exported constants.
func names(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "C%d = %d\n", i, i)
	}
	return b.String()
}

// file is one parsed Go file of the module.
type file struct {
	path      string // from the module's root, with slashes
	dir       string // its folder, "." for the root
	test      bool
	generated bool
	lines     int
	imports   []string
	ast       *ast.File
	set       *token.FileSet
}

func (f *file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.set.Position(n.Pos()).Line)
}

// load parses the module's files, tests too. Folders with a go.mod of their own,
// testdata and folders that begin with '.' or '_' are not of the module.
func load(t *testing.T) []*file {
	t.Helper()
	var files []*file
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != ".":
			name := d.Name()
			_, noModule := os.Stat(filepath.Join(p, "go.mod"))
			if name == "testdata" || name[0] == '.' || name[0] == '_' || noModule == nil {
				return fs.SkipDir
			}
			return nil
		case d.IsDir() || !strings.HasSuffix(p, ".go"):
			return nil
		}
		source, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parseFile(filepath.ToSlash(p), string(source))
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, must := range []string{"cmd/sluiced", "app", "gate", "tenant", "gen/sluice/quota/v1"} {
		if !slices.ContainsFunc(files, func(f *file) bool { return f.dir == must }) {
			t.Fatalf("no file of %s was found: the rules would hold for nothing", must)
		}
	}
	return files
}

func parse(t *testing.T, sources map[string]string) (files []*file) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(sources)) {
		f, err := parseFile(p, sources[p])
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func parseFile(p, source string) (*file, error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, p, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &file{
		path: p, dir: path.Dir(p), test: strings.HasSuffix(p, "_test.go"), generated: ast.IsGenerated(tree),
		lines: strings.Count(source, "\n"), ast: tree, set: set,
	}
	for _, i := range tree.Imports {
		to, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		f.imports = append(f.imports, to)
	}
	return f, nil
}

// --- import rules

// code, tests and all say which files a rule binds.
func code(f *file) bool  { return !f.test }
func tests(f *file) bool { return f.test }
func all(*file) bool     { return true }

// A match speaks of a folder.
type match func(dir string) bool

func in(dirs ...string) match { return func(dir string) bool { return slices.Contains(dirs, dir) } }

func under(roots ...string) match {
	return func(dir string) bool {
		return slices.ContainsFunc(roots, func(root string) bool { return within(root, dir) })
	}
}

func not(m match) match { return func(dir string) bool { return !m(dir) } }

func either(a, b match) match { return func(dir string) bool { return a(dir) || b(dir) } }

func within(root, p string) bool { return p == root || strings.HasPrefix(p, root+"/") }

// A target is what an import names: a folder of the module, or a path of another.
type target struct {
	path string
	ours bool
}

func targetOf(imported string) target {
	if dir, ok := strings.CutPrefix(imported, module+"/"); ok {
		return target{dir, true}
	}
	return target{imported, false}
}

// A ban speaks of an import that a file in folder from has.
type ban func(from string, to target) bool

// ours bans every package of the module but those given.
func ours(but ...string) ban {
	return func(_ string, to target) bool { return to.ours && !in(but...)(to.path) }
}

// oursIn bans these packages of the module, except to themselves.
func oursIn(dirs ...string) ban {
	return func(from string, to target) bool { return to.ours && to.path != from && in(dirs...)(to.path) }
}

// oursUnder bans these packages of the module, and those in their folders.
func oursUnder(roots ...string) ban {
	return func(_ string, to target) bool { return to.ours && under(roots...)(to.path) }
}

func external(modules ...[]string) ban {
	return func(_ string, to target) bool { return !to.ours && under(slices.Concat(modules...)...)(to.path) }
}

// imports makes the check that no file of these folders has a banned import.
func imports(which func(*file) bool, from match, banned ban) func([]*file) []string {
	return func(files []*file) (problems []string) {
		for _, f := range files {
			if !which(f) || !from(f.dir) {
				continue
			}
			for _, to := range f.imports {
				if banned(f.dir, targetOf(to)) {
					problems = append(problems, f.path+" imports "+to)
				}
			}
		}
		return problems
	}
}

// linksNothingOf follows the imports of a command's code inside the module and
// reports each chain that ends in one of the modules.
func linksNothingOf(command string, modules []string) func([]*file) []string {
	banned := external(modules)
	return func(files []*file) (problems []string) {
		seen := map[string]bool{command: true}
		chains := [][]string{{command}}
		for len(chains) > 0 {
			chain := chains[0]
			chains = chains[1:]
			for _, f := range files {
				if f.test || f.dir != chain[len(chain)-1] {
					continue
				}
				for _, imported := range f.imports {
					to := targetOf(imported)
					next := append(slices.Clone(chain), to.path)
					switch {
					case banned(f.dir, to):
						problems = append(problems, strings.Join(next, " → "))
					case to.ours && !seen[to.path]:
						seen[to.path] = true
						chains = append(chains, next)
					}
				}
			}
		}
		return problems
	}
}

// --- rules of style

func noInit(files []*file) (problems []string) {
	for _, f := range files {
		if within("wasm", f.dir) || f.generated {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				problems = append(problems, f.at(fn)+" declares init()")
			}
		}
	}
	return problems
}

func onePackageComment(files []*file) (problems []string) {
	has := map[string]bool{}
	for _, f := range files {
		if f.test || f.generated || within("gen/sluice", f.dir) {
			continue
		}
		documented := f.ast.Doc != nil
		if documented && has[f.dir] {
			problems = append(problems, f.path+" has a second package comment")
		}
		has[f.dir] = has[f.dir] || documented
	}
	for _, dir := range slices.Sorted(maps.Keys(has)) {
		if !has[dir] {
			problems = append(problems, dir+" has no package comment")
		}
	}
	return problems
}

const maxLines = 600

func shortFiles(files []*file) (problems []string) {
	for _, f := range files {
		if !f.test && !f.generated && f.lines > maxLines {
			problems = append(problems, fmt.Sprintf("%s has %d lines", f.path, f.lines))
		}
	}
	return problems
}

const maxNames = 25

// fewNames counts what a package exports: constants, variables, types and functions, not fields or methods.
func fewNames(files []*file) (problems []string) {
	exported := map[string]int{}
	count := func(f *file, name *ast.Ident) {
		if name.IsExported() {
			exported[f.dir]++
		}
	}
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					count(f, d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						count(f, s.Name)
					case *ast.ValueSpec:
						for _, name := range s.Names {
							count(f, name)
						}
					}
				}
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(exported)) {
		if n := exported[dir]; n > maxNames {
			problems = append(problems, fmt.Sprintf("%s has %d exported names", dir, n))
		}
	}
	return problems
}

func noSleep(files []*file) (problems []string) {
	for _, f := range files {
		if !f.test {
			continue
		}
		clock, bubble := f.localName("time"), f.localName("testing/synctest")
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && isSelector(call.Fun, bubble, "Test") {
				return false // its time is not real
			}
			if isSelector(n, clock, "Sleep") {
				problems = append(problems, f.at(n)+" sleeps")
			}
			return true
		})
	}
	return problems
}

// localName is the name under which a file imports a package, "" if it does not.
func (f *file) localName(imported string) string {
	for _, i := range f.ast.Imports {
		if i.Path.Value != strconv.Quote(imported) {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

func isSelector(n ast.Node, pkg, name string) bool {
	s, ok := n.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && pkg != "" && x.Name == pkg
}

func testNames(files []*file) (problems []string) {
	for _, f := range files {
		if !f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil {
				continue
			}
			for _, kind := range []string{"Test", "Fuzz", "Benchmark"} {
				if rest, ok := strings.CutPrefix(fn.Name.Name, kind); ok && rest != "" && (strings.Contains(rest, "_") || !unicode.IsUpper(rune(rest[0]))) {
					problems = append(problems, f.at(fn)+": "+fn.Name.Name+" is not CamelCase")
				}
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 || !isSelector(call.Fun, "t", "Run") {
				return true
			}
			literal, ok := call.Args[0].(*ast.BasicLit)
			if ok && !strings.Contains(literal.Value, " ") {
				problems = append(problems, f.at(call)+": the sub-test "+literal.Value+" is no sentence")
			}
			return true
		})
	}
	return problems
}
