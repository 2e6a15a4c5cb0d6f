package loadtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/loadtest/runner"
)

// suiteOptions are the options that a suite gives to k6.
type suiteOptions struct {
	Thresholds map[string][]string
	Scenarios  map[string]struct{ Executor string }
}

// optionsOf reads a suite's options, as k6 gets them for so many replicas.
func optionsOf(t *testing.T, suite, wiring string, replicas int) (o suiteOptions) {
	t.Helper()
	dir := t.TempDir()
	e, err := expect("catalogue")
	if err != nil {
		t.Fatal(err)
	}
	e.Wiring, e.Store, e.Replicas = wiring, "redis", replicas
	limits := filepath.Join(dir, "limits.json")
	if err := e.write(limits); err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(filepath.Join("suites", suite+".js"))
	if err != nil {
		t.Fatal(err)
	}
	from := Options{Root: ".."}
	protos, err := filepath.Abs(from.protos())
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "script.js")
	write(t, script, fmt.Sprintf("import { options as its } from %q;\nexport default function () {}\nexport function handleSummary() { return { stdout: JSON.stringify(its) }; }\n", path))
	var stdout, stderr bytes.Buffer
	c := runner.Config{Script: script, Env: map[string]string{"LIMITS": limits, "BASE_URL": "http://127.0.0.1:1", "OUT": dir, "PROTOS": protos}, Stdout: &stdout, Stderr: &stderr}
	if err := runner.Run(t.Context(), c); err != nil {
		t.Fatal(err, stderr.String())
	}
	_, text, _ := strings.Cut(stdout.String(), "\n")
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err, text)
	}
	return o
}

var ofTenant = regexp.MustCompile(`^sluice_allowed\{tenant:([^,}]+)`)

func TestEverySuiteHoldsEachTenantOnBothSidesAndDropsNothing(t *testing.T) {
	for _, s := range suites {
		for _, replicas := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s with replicas: %d", s.name, replicas), func(t *testing.T) {
				t.Parallel()
				o := optionsOf(t, s.name, "ext_authz", replicas)
				if got := strings.Join(o.Thresholds["dropped_iterations"], ","); got != "count==0" {
					t.Errorf("the threshold of dropped_iterations is %q, want count==0", got)
				}
				low, high := map[string]bool{}, map[string]bool{}
				for name, list := range o.Thresholds {
					if tenant := ofTenant.FindStringSubmatch(name); tenant != nil {
						low[tenant[1]] = low[tenant[1]] || bounded(t, list, ">=") > 0
						high[tenant[1]] = high[tenant[1]] || bounded(t, list, "<=") > 0
					}
				}
				if len(low) == 0 {
					t.Error("no threshold is about a tenant")
				}
				for tenant := range low {
					if !low[tenant] || !high[tenant] {
						t.Errorf("what %s is allowed has a bound below: %v, and above: %v; want both", tenant, low[tenant], high[tenant])
					}
				}
			})
		}
	}
}

// bounded is the bound of a counter's threshold with that comparison; 0 for none.
func bounded(t *testing.T, thresholds []string, comparison string) (bound float64) {
	t.Helper()
	for _, text := range thresholds {
		if number, ok := strings.CutPrefix(text, "count"+comparison); ok {
			if _, err := fmt.Sscan(number, &bound); err != nil {
				t.Errorf("threshold %q: %v", text, err)
			}
		}
	}
	return bound
}

// Suites whose requests follow from the answers before: they send one after the other, and offer no load.
var inTurn = map[string]bool{"headers": true, "refill": true}

func TestWhatOffersALoadHasAnArrivalRate(t *testing.T) {
	for _, s := range suites {
		arrivals := 0
		for name, scenario := range optionsOf(t, s.name, "ext_authz", 1).Scenarios {
			if strings.HasSuffix(scenario.Executor, "-arrival-rate") {
				arrivals++
			} else if name != "operator" && name != "once" && !inTurn[s.name] {
				t.Errorf("%s: scenario %s has the executor %s, want an arrival rate", s.name, name, scenario.Executor)
			}
		}
		if (arrivals == 0) != inTurn[s.name] {
			t.Errorf("%s has %d scenarios with an arrival rate", s.name, arrivals)
		}
	}
}

func TestScriptsFetchNothing(t *testing.T) {
	scripts, err := filepath.Glob("*/*.js")
	if err != nil {
		t.Fatal(err)
	}
	if len(scripts) < len(suites) {
		t.Fatalf("%d scripts", len(scripts))
	}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := regexp.MustCompile(`https?://[^'$]*`).Find(text); at != nil {
			t.Errorf("%s names %s; what it needs must be beside it", path, at)
		}
	}
}
