package loadtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/loadtest/runner"
)

// suiteOptions are the options that a suite gives to k6.
type suiteOptions struct {
	Thresholds map[string][]string
	Scenarios  map[string]struct{ Executor string }
}

// optionsOf reads a suite's options, as k6 gets them for so many replicas and so many times the short form.
func optionsOf(t *testing.T, suite string, replicas, scale int) (o suiteOptions) {
	t.Helper()
	summarise(t, replicas, scale, fmt.Sprintf("import { options as its } from %q;\nconst answer = () => its;", beside(t, "suites/"+suite+".js")), &o)
	return o
}

// beside is the absolute path of a script.
func beside(t *testing.T, script string) string {
	t.Helper()
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// summarise runs a script that sends nothing, and reads what its function answer gives.
func summarise(t *testing.T, replicas, scale int, text string, into any) {
	t.Helper()
	dir := t.TempDir()
	e, err := expect("catalogue")
	if err != nil {
		t.Fatal(err)
	}
	e.Wiring, e.Store, e.Replicas = "ext_authz", "redis", replicas
	limits := filepath.Join(dir, "limits.json")
	if err := e.write(limits); err != nil {
		t.Fatal(err)
	}
	from := Options{Root: ".."}
	protos, err := filepath.Abs(from.protos())
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "script.js")
	write(t, script, text+"\nexport default function () {}\nexport function handleSummary() { return { stdout: JSON.stringify(answer()) }; }\n")
	var stdout, stderr bytes.Buffer
	c := runner.Config{Script: script, Env: map[string]string{"LIMITS": limits, "BASE_URL": "http://127.0.0.1:1", "OUT": dir, "PROTOS": protos, "SCALE": strconv.Itoa(scale)}, Stdout: &stdout, Stderr: &stderr}
	if err := runner.Run(t.Context(), c); err != nil {
		t.Fatal(err, stderr.String())
	}
	_, said, _ := strings.Cut(stdout.String(), "\n")
	if err := json.Unmarshal([]byte(said), into); err != nil {
		t.Fatal(err, said)
	}
}

func TestABusyMachineExcusesWhatDidNotHoldButForWhatWasAllowedTooOften(t *testing.T) {
	const script = `import { judge, report, verdict } from %q;
const c = { sent: 10, allowed: 7, limited: 3, unexpected: 0, lag: 5 };
const late = { lag: 900 };
const result = (counts, bound, data = { metrics: {} }) => {
  const v = verdict();
  judge(v, 'smooth-1', { ...c, ...counts }, bound);
  return JSON.parse(report('any', data, v)[__ENV.OUT + '/any.json']).result;
};
const dropped = { metrics: { dropped_iterations: { values: { count: 1 }, thresholds: { 'count==0': { ok: false } } } } };
const answer = () => ({
  'all held': result({}, { low: 5, high: 9 }),
  'all held, and answers were late': result(late, { low: 5, high: 9 }),
  'too few': result({}, { low: 8, high: 9 }),
  'too few, and answers were late': result(late, { low: 8, high: 9 }),
  'too many': result({}, { low: 5, high: 6 }),
  'too many, and answers were late': result(late, { low: 5, high: 6 }),
  'an answer of another kind': result({ unexpected: 1 }, { low: 5, high: 9 }),
  'requests were not sent': result({}, { low: 5, high: 9 }, dropped),
});`
	want := map[string]string{
		"all held": green, "all held, and answers were late": green,
		"too few": red, "too few, and answers were late": unclear,
		"too many": red, "too many, and answers were late": red,
		"an answer of another kind": red, "requests were not sent": unclear,
	}
	got := map[string]string{}
	summarise(t, 1, 1, fmt.Sprintf(script, beside(t, "lib/summary.js")), &got)
	for what, verdict := range want {
		if got[what] != verdict {
			t.Errorf("%s: %q, want %s", what, got[what], verdict)
		}
	}
}

var ofTenant = regexp.MustCompile(`^sluice_allowed\{tenant:([^,}]+)`)

func TestEverySuiteHoldsEachTenantOnBothSidesAndDropsNothing(t *testing.T) {
	for _, s := range suites {
		for _, replicas := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s with replicas: %d", s.name, replicas), func(t *testing.T) {
				t.Parallel()
				held(t, optionsOf(t, s.name, replicas, 1))
			})
		}
	}
	t.Run("soak for an hour, which is judged by the minute", func(t *testing.T) {
		t.Parallel()
		o := optionsOf(t, "soak", 3, 240)
		held(t, o)
		for _, minute := range []string{"0", "59"} {
			if name := "sluice_allowed{tenant:contract-1,phase:" + minute + "}"; o.Thresholds[name] == nil {
				t.Errorf("no threshold keeps %s", name)
			}
		}
	})
}

// held wants thresholds of dropped_iterations and, on both sides, of each tenant.
func held(t *testing.T, o suiteOptions) {
	t.Helper()
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
		for name, scenario := range optionsOf(t, s.name, 1, 1).Scenarios {
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
