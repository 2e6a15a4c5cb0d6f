package runner_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

func TestWhatTheRunnerDoesNotHaveIsAnErrorWithItsPlace(t *testing.T) {
	const nothing = "\nexport default function () {}"
	for _, c := range []struct {
		name, script string
		code         int
		texts        []string
	}{
		{"a module of k6", "\nimport { b64encode } from 'k6/encoding';" + nothing, 107, []string{"script.js:2: ", `no module "k6/encoding"`, "k6/http"}},
		{"a module by a URL", "import x from 'https://jslib.k6.io/x.js';" + nothing, 107, []string{"script.js:1: ", "jslib.k6.io"}},
		{"a file that is not there", "\n\nimport './none.js';" + nothing, 107, []string{"script.js:3: ", "none.js"}},
		{"a name of a module", "\nimport { asyncRequest } from 'k6/http';" + nothing, 107, []string{"script.js:2", "asyncRequest"}},
		{"a member of a module", "import http from 'k6/http';\nexport default function () {\n  try { http.asyncRequest('GET', 'x'); } catch (e) {}\n}", 107, []string{"script.js:3: ", "asyncRequest"}},
		{"a member of the execution", "import exec from 'k6/execution';\nexport default function () { exec.vu.mood; }", 107, []string{"script.js:2: ", `"mood"`}},
		{"a parameter of a request", "import http from 'k6/http';\nexport default function () { http.get('http://127.0.0.1:1', { jar: {} }); }", 107, []string{"script.js:2: ", "jar"}},
		{"an option", "export const options = {\n  systemTags: ['url'],\n};" + nothing, 104, []string{"script.js:2: options.systemTags", "it has batch"}},
		{"an option of a scenario", "export const options = { scenarios: { s: {\n  executor: 'constant-vus', duration: '1s',\n  rate: 5 } } };" + nothing, 104, []string{"script.js:3: options.scenarios.s.rate"}},
		{"an executor", "export const options = { scenarios: { s: {\n executor: 'externally-controlled' } } };" + nothing, 104, []string{"script.js:2: options.scenarios.s.executor", "externally-controlled", "ramping-vus"}},
		{"what is missing, all at once", "export const options = { scenarios: { s: { executor: 'constant-arrival-rate', exec: 'other' } } };" + nothing, 104, []string{"s.rate", "s.duration", "s.preAllocatedVUs", `no function "other"`}},
		{"a duration", "export const options = { duration: 'soon', vus: 1 };" + nothing, 104, []string{"duration", "soon", "1m30s"}},
		{"less than a second", "export const options = { scenarios: { s: { executor: 'constant-vus', duration: '500ms' }, t: { executor: 'shared-iterations', maxDuration: 5 } } };" + nothing, 104, []string{"s.duration: want at least 1s", "t.maxDuration: want at least 1s"}},
		{"scenarios beside their short form", "export const options = { vus: 1, scenarios: { s: { executor: 'shared-iterations' } } };" + nothing, 104, []string{"options.vus", "beside scenarios"}},
		{"a threshold's metric", "export const options = { thresholds: { nothing: ['count==1'] } };" + nothing, 104, []string{`no metric "nothing"`, "http_reqs"}},
		{"a threshold's aggregation", "export const options = { thresholds: { iterations: ['p(95)<1'], iteration_duration: ['count==1'] } };" + nothing, 104, []string{"p(95)", "count, rate", "avg, min, max"}},
		{"a threshold's condition", "export const options = { thresholds: {\n iterations: ['count is 1'] } };" + nothing, 104, []string{"script.js:2", "count is 1", "count==0"}},
		{"a threshold's tags", "export const options = { thresholds: { 'iterations{scenario}': ['count==1'] } };" + nothing, 104, []string{"tag:value"}},
		{"a timer", "await new Promise(() => {});" + nothing, 107, []string{"timer"}},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) { run(t, nil, c.script).want(t, c.code, c.texts...) })
	}
}

func TestExceptions(t *testing.T) {
	for _, c := range []struct {
		name, script string
		code         int
		text         string // in the error, or the log where there is none
	}{
		{"while the script is read it is 107", "\nthrow new Error('broken');\nexport default function () {}", 107, "script.js:2"},
		{"in setup it is 107", "export function setup() {\n  throw new Error('broken'); }\nexport default function () {}", 107, "script.js:2"},
		{"in teardown it is 107", "export function teardown() {\n  throw new Error('broken'); }\nexport default function () {}", 107, "script.js:2"},
		{"in handleSummary it is 107", "export function handleSummary() {\n  throw new Error('broken'); }\nexport default function () {}", 107, "script.js:2"},
		{"in an iteration it is logged", "export default function () {\n  throw new Error('broken'); }", 0, "script.js:2"},
		{"by fail it is logged", "import { fail } from 'k6';\nexport default function () {\n  fail('broken'); }", 0, "broken"},
		{"in an async function it is logged", "export default async function () {\n  throw new Error('broken'); }", 0, "broken"},
		{"a syntax error is 107", "export default function () {\n  let = ; }", 107, "script.js"},
		{"too long a setup is 100", "import { sleep } from 'k6';\nexport const options = { setupTimeout: '10ms' };\nexport function setup() { sleep(60); }\nexport default function () {}", 100, "setup took longer than 10ms"},
		{"too long a teardown is 101", "export const options = { teardownTimeout: '10ms' };\nexport function teardown() { for (;;) {} }\nexport default function () {}", 101, "teardown took longer than 10ms"},
		{"an abort is 108", "import exec from 'k6/execution';\nexport const options = { iterations: 9, vus: 1 };\nexport default function () { exec.test.abort('enough'); }", 108, "enough"},
		{"a mark is 110", "import exec from 'k6/execution';\nexport default function () { exec.test.fail('wrong'); }", 110, "wrong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, nil, c.script)
			if r.code == 0 {
				if !strings.Contains(r.stderr, c.text) {
					t.Errorf("the log is %q, want %q in it", r.stderr, c.text)
				}
				c.text = ""
			}
			r.want(t, c.code)
			if c.text != "" {
				r.want(t, c.code, c.text)
			}
		})
	}
}

func TestAThresholdThatAbortsEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, nil, `
import { sleep } from 'k6';
import { Counter } from 'k6/metrics';
const [bad, late] = [new Counter('bad'), new Counter('late')];
export const options = {
  scenarios: { s: { executor: 'constant-vus', vus: 1, duration: '1h' } },
  thresholds: {
    bad: [{ threshold: 'count<3', abortOnFail: true }],
    late: [{ threshold: 'count>1e9', abortOnFail: true, delayAbortEval: '1h' }],
  },
};
export default function () { bad.add(1); late.add(1); sleep(0.1); }
export function teardown() { console.log('torn down'); }`+keep)
		r.want(t, 99, "bad: count<3", "late: count>1e9")
		if ms := r.summary(t).State.TestRunDurationMs; ms != 2000 {
			t.Errorf("it ran for %v ms, want until the first look, after 2000", ms)
		}
		if !strings.Contains(r.stderr, "torn down") {
			t.Error("there was no teardown")
		}
	})
}

func TestARunThatIsStoppedFromOutsideIs105(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stop() }))
	defer s.Close()
	r := runWithin(ctx, t, map[string]string{"URL": s.URL}, `
import http from 'k6/http';
export const options = { scenarios: { s: { executor: 'constant-vus', vus: 1, duration: '1h' } } };
export default function () { http.get(__ENV.URL); }
export function teardown() { console.log('torn down'); }`+keep)
	r.want(t, 105, "from outside")
	r.summary(t)
	if !strings.Contains(r.stderr, "torn down") {
		t.Error("there was no teardown")
	}
}
