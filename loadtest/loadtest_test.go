package loadtest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

func TestExpectationsAreTheCompiledCatalogue(t *testing.T) {
	dir := t.TempDir()
	catalogue := `
plans:
  - name: p
    limits:
      - {name: a, limit: 7, window: 2s}
      - {name: b, algorithm: hard, limit: 9, window: 1m}
tenants:
  - {id: x, plan: p, limits: [{name: a, limit: 5, window: 3s, burst: 2}]}
`
	write(t, filepath.Join(dir, "c.yaml"), catalogue)
	e, err := expect(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(e.Tenants["x"].Limits)
	if err != nil {
		t.Fatal(err)
	}
	// The tenant's own limit replaces the plan's, and defaults are the compiler's.
	want := `[{"name":"a","algorithm":"gcra","limit":5,"windowMs":3000,"burst":2,"durable":false},{"name":"b","algorithm":"hard","limit":9,"windowMs":60000,"durable":true}]`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDoubledCatalogueDoublesEveryLimitAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("catalogue")); err != nil {
		t.Fatal(err)
	}
	if err := double(dir); err != nil {
		t.Fatal(err)
	}
	once, err := expect("catalogue")
	if err != nil {
		t.Fatal(err)
	}
	twice, err := expect(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(twice.Tenants) != len(once.Tenants) || len(once.Tenants) == 0 {
		t.Fatalf("%d tenants, and doubled %d", len(once.Tenants), len(twice.Tenants))
	}
	for id, tenant := range once.Tenants {
		for i, l := range tenant.Limits {
			l.Limit, l.Burst = 2*l.Limit, 2*l.Burst
			if got := twice.Tenants[id].Limits[i]; got != l {
				t.Errorf("%s: %+v, want %+v", id, got, l)
			}
		}
	}
}

func TestDescriptorsAreWhatTheRateLimitServiceLoads(t *testing.T) {
	e, err := expect("catalogue")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "demo.yaml")
	write(t, file, e.descriptors())
	if _, err := rls.Load(file); err != nil {
		t.Error(err)
	}
	if n := strings.Count(e.descriptors(), "value: "); n != len(e.Tenants) {
		t.Errorf("%d descriptors for %d tenants", n, len(e.Tenants))
	}
}

func TestEveryDefectAndEverySuiteHasItsPlace(t *testing.T) {
	for i := range defects {
		d := &defects[i]
		for wiring, config := range map[string]string{"ext_authz": deploy.Demo, "ext_proc": deploy.ExtProc} {
			config, err := withBare(config, wiring)
			if err != nil {
				t.Fatal(err)
			}
			if config, _, err = withSidecar(config); err != nil {
				t.Fatal(err)
			}
			o := stack.Options{Config: config, Dir: t.TempDir(), Catalog: t.TempDir()}
			if err := d.configure(&o); err != nil {
				t.Error(err)
			}
		}
		if (d.set != nil) == (d.shim != nil) {
			t.Errorf("defect %s: is configured: %v, and stands before Envoy: %v; want one of them", d.name, d.set != nil, d.shim != nil)
		}
		if d.only != "" && !d.concerns(d.only) {
			t.Errorf("defect %s runs against %s only, and is not about it", d.name, d.only)
		}
		for _, s := range d.about {
			if _, err := os.Stat(filepath.Join("suites", s+".js")); err != nil {
				t.Errorf("defect %s is about a suite that is not there: %v", d.name, err)
			}
		}
		if len(d.about) == 0 {
			t.Errorf("defect %s is about no suite", d.name)
		}
	}
	scripts, err := filepath.Glob("suites/*.js")
	if err != nil {
		t.Fatal(err)
	}
	if len(scripts) != len(suites) {
		t.Errorf("%d scripts and %d suites", len(scripts), len(suites))
	}
	for _, s := range suites {
		if _, err := os.Stat(filepath.Join("suites", s.name+".js")); err != nil {
			t.Error(err)
		}
	}
}

func TestARefusalThatIsLateIsRepeatedAndNobodyIsAsked(t *testing.T) {
	asked := 0
	broken := late(nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	for _, key := range []string{"a", "a", "b", "a"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set(keyHeader, key)
		w := httptest.NewRecorder()
		broken.ServeHTTP(w, r)
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "60" {
			t.Errorf("%d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want once for each key", asked)
	}
}

func TestAVerdictIsHeldAgainstHowTheScriptEnded(t *testing.T) {
	for _, c := range []struct {
		says, verdict string
		code          int
		want          string
	}{
		{"a green one whose thresholds held stays green", green, 0, green},
		{"a green one whose thresholds were crossed is red", green, thresholdsFailed, red},
		{"an unclear one stays unclear, for the machine crossed them", unclear, thresholdsFailed, unclear},
		{"a script that failed has no verdict", green, 107, ""},
	} {
		t.Run(c.says, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "over.json"), `{"suite":"over","result":"`+c.verdict+`"}`)
			r, err := readResult(dir, job{suite: suite{name: "over"}}, c.code)
			if (err != nil) != (c.want == "") || err == nil && r.Result != c.want {
				t.Errorf("%s, %v; want %s", r.Result, err, c.want)
			}
		})
	}
	if _, err := readResult(t.TempDir(), job{suite: suite{name: "over"}}, 0); err == nil {
		t.Error("a script that wrote no verdict passed")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAPathThatDoesNotStartIsAnErrorAndLeavesNothing(t *testing.T) {
	o := &Options{Root: "..", Sluiced: filepath.Join(t.TempDir(), "none"), Envoy: "none"}
	for _, s := range suites {
		p, err := start(t.Context(), o, job{suite: s, store: "memory", wiring: "ext_authz"}, t.TempDir())
		if err == nil || p != nil || !strings.Contains(err.Error(), "none") {
			t.Errorf("%s: %v, %v; want an error that names the program that is not there", s.name, p, err)
		}
	}
}
