package runner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/loadtest/runner"
)

// result is how a run ended.
type result struct {
	code           int
	err            error
	stdout, stderr string
	dir            string
}

// summary is what handleSummary was given, which scripts end with [keep] write.
type summary struct {
	State struct {
		TestRunDurationMs float64 `json:"testRunDurationMs"`
	} `json:"state"`
	RootGroup struct {
		Checks []struct {
			Name          string `json:"name"`
			Passes, Fails int64
		} `json:"checks"`
		Groups []struct {
			Path string `json:"path"`
		} `json:"groups"`
	} `json:"root_group"`
	Metrics map[string]struct {
		Type, Contains string
		Values         map[string]float64
		Thresholds     map[string]struct{ OK bool }
	} `json:"metrics"`
}

const keep = "\nexport function handleSummary(data) { return { [`${__ENV.DIR}/summary.json`]: JSON.stringify(data) }; }\n"

// run runs a script, with files beside it.
func run(t *testing.T, env map[string]string, script string, files ...string) result {
	t.Helper()
	return runWithin(t.Context(), t, env, script, files...)
}

func runWithin(ctx context.Context, t *testing.T, env map[string]string, script string, files ...string) result {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"DIR": dir}
	maps.Copy(all, env)
	put := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("script.js", script)
	for i := 0; i < len(files); i += 2 {
		put(files[i], files[i+1])
	}
	var stdout, stderr bytes.Buffer
	err := runner.Run(ctx, runner.Config{Script: filepath.Join(dir, "script.js"), Env: all, Stdout: &stdout, Stderr: &stderr})
	return result{exit.Code(err), err, stdout.String(), stderr.String(), dir}
}

// want fails the test unless the run ended so, with all these texts in its error.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit status %d, want %d: %v\n%s", r.code, code, r.err, r.stderr)
	}
	for _, text := range texts {
		if r.err == nil || !strings.Contains(r.err.Error(), text) {
			t.Errorf("the error is %v, want %q in it", r.err, text)
		}
	}
}

func (r result) summary(t *testing.T) (s summary) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, "summary.json"))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		t.Fatalf("no summary: %v; the run ended with %v\n%s", err, r.err, r.stderr)
	}
	return s
}

// server answers 429 to each third request, and counts by X-Tenant.
func server(t *testing.T) (url string, seen func(tenant string) int64) {
	t.Helper()
	var n atomic.Int64
	var counts sync.Map
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := counts.LoadOrStore(r.Header.Get("X-Tenant"), new(atomic.Int64))
		c.(*atomic.Int64).Add(1)
		if n.Add(1)%3 == 0 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, _ = w.Write([]byte(`{"hello":"you"}`))
	}))
	t.Cleanup(s.Close)
	return s.URL, func(tenant string) int64 {
		c, ok := counts.Load(tenant)
		if !ok {
			return 0
		}
		return c.(*atomic.Int64).Load()
	}
}

func TestRequestsAreCountedExactly(t *testing.T) {
	url, seen := server(t)
	r := run(t, map[string]string{"URL": url}, `
import http from 'k6/http';
import { check } from 'k6';
import { Counter } from 'k6/metrics';
const answers = new Counter('answers');
http.setResponseCallback(http.expectedStatuses(200, 429));
export const options = {
  scenarios: {
    a: { executor: 'per-vu-iterations', vus: 3, iterations: 10, env: { TENANT: 'a' }, tags: { tenant: 'a' } },
    b: { executor: 'shared-iterations', vus: 3, iterations: 15, env: { TENANT: 'b' }, tags: { tenant: 'b' } },
  },
  thresholds: { 'answers{tenant:a}': ['count==30'], 'answers{tenant:b,status:200}': ['count>0'], 'http_reqs{status:429}': ['count==15'], http_req_failed: ['rate==0'], checks: ['rate==1'] },
};
export default function () {
  const r = http.get(__ENV.URL, { headers: { 'X-Tenant': __ENV.TENANT } });
  answers.add(1, { status: String(r.status) });
  check(r, { hello: (r) => r.json().hello === 'you' });
}`+keep)
	r.want(t, 0)
	m := r.summary(t).Metrics
	if got := []float64{m["answers"].Values["count"], m["answers{tenant:a}"].Values["count"], m["http_reqs"].Values["count"], m["iterations"].Values["count"]}; got[0] != 45 || got[1] != 30 || got[2] != 45 || got[3] != 45 {
		t.Errorf("answers, those of a, requests and iterations are %v, want 45, 30, 45 and 45", got)
	}
	if a, b := seen("a"), seen("b"); a != 30 || b != 15 {
		t.Errorf("the server saw %d of a and %d of b, want 30 and 15", a, b)
	}
	if c := r.summary(t).RootGroup.Checks; len(c) != 1 || c[0].Passes != 45 || c[0].Fails != 0 {
		t.Errorf("checks are %+v, want one with 45 passes", c)
	}
	if !strings.Contains(strings.SplitN(r.stdout, "\n", 2)[0], "not k6") {
		t.Errorf("the first line is %q, and does not say that this is not k6", r.stdout)
	}
}

func TestArrivalRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run(t, nil, `
export const options = {
  scenarios: {
    steady: { executor: 'constant-arrival-rate', rate: 100, duration: '1s', preAllocatedVUs: 100 },
    minute: { executor: 'constant-arrival-rate', rate: 600, timeUnit: '1m', duration: '1s', preAllocatedVUs: 10 },
    ramp: { executor: 'ramping-arrival-rate', startRate: 20, stages: [{ target: 60, duration: '1s' }, { target: 10, duration: '0s' }, { target: 10, duration: '500ms' }], preAllocatedVUs: 45 },
  },
  thresholds: {
    'iterations{scenario:steady}': ['count==100'], 'iterations{scenario:minute}': ['count==10'],
    'iterations{scenario:ramp}': ['count>=44', 'count<=46'], dropped_iterations: ['count==0'],
  },
};
export default function () {}`).want(t, 0)
	})
}

func TestAnIterationForWhichNoVUIsFreeIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run(t, nil, `
import { sleep } from 'k6';
export const options = {
  scenarios: {
    stuck: { executor: 'constant-arrival-rate', rate: 10, duration: '1s', preAllocatedVUs: 2 },
    other: { executor: 'per-vu-iterations', exec: 'other' },
  },
  thresholds: { dropped_iterations: ['count==8'], 'dropped_iterations{scenario:stuck}': ['count==8'], 'iterations{scenario:stuck}': ['count==2'], vus_max: ['value==3'] },
};
export default function () { sleep(3); }
export function other() {}`).want(t, 0)
	})
}

func TestMoreVUsAreMadeForWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run(t, nil, `
import { sleep } from 'k6';
import exec from 'k6/execution';
import { Gauge } from 'k6/metrics';
const vus = new Gauge('made');
export const options = {
  scenarios: { s: { executor: 'constant-arrival-rate', rate: 20, duration: '1s', preAllocatedVUs: 1, maxVUs: 40 } },
  thresholds: { made: ['value>1', 'value<=40'], dropped_iterations: ['count>=1'], iterations: ['count>=2'] },
};
export default function () { sleep(1); vus.add(exec.instance.vusInitialized); }`).want(t, 0)
	})
}

func TestThresholdsDecideTheExitStatus(t *testing.T) {
	for _, c := range []struct {
		name, condition string
		code            int
	}{
		{"a threshold that holds is 0", `'nn{kind:odd}': ['count==5']`, 0},
		{"one that does not is 99", `'nn{kind:odd}': ['count==6']`, 99},
		{"a sub-metric has only its samples", `'nn{kind:odd,other:x}': ['count>0']`, 99},
		{"what has no sample is 0", `'nn{kind:none}': ['count==0', 'rate<=0'], 'tt{kind:none}': ['p(95)==0', 'max<=0']`, 0},
		{"and so is less than what is wanted", `'rr{kind:none}': ['rate==1']`, 99},
		{"a trend's percentiles are between its values", `tt: ['med==4.5', 'p(0)==0', 'p(100)==9', 'p(90)>8.0', 'p(90)<8.2', 'avg==4.5', 'min==0', 'max==9']`, 0},
		{"a gauge has its last value", `gg: ['value==9']`, 0},
		{"one of several is enough to fail", `nn: ['count==10', 'count!=10']`, 99},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, nil, `
import { Counter, Gauge, Rate, Trend } from 'k6/metrics';
const [n, g, r, t] = [new Counter('nn'), new Gauge('gg'), new Rate('rr'), new Trend('tt', true)];
export const options = { iterations: 10, thresholds: { `+c.condition+` } };
export default function () {
  n.add(1, { kind: __ITER % 2 ? 'odd' : 'even' });
  g.add(__ITER); t.add(__ITER); r.add(__ITER < 5);
}`).want(t, c.code)
		})
	}
}

func TestSetupAndTeardown(t *testing.T) {
	r := run(t, nil, `
import { Counter } from 'k6/metrics';
import { add } from './lib.js';
const seen = new Counter('seen');
export const options = { scenarios: { s: { executor: 'per-vu-iterations', vus: 2, iterations: 2, exec: 'work' } }, thresholds: { seen: ['count==168'] } };
export function setup() { return { list: [40, 2] }; }
export function work(data) { seen.add(data.list.reduce(add, 0)); data.list.pop(); data.list.push(2); }
export function teardown(data) { console.log('torn down with', data); }`+keep, "lib.js", `export const add = (a, b) => a + b;`)
	r.want(t, 0)
	if !strings.Contains(r.stderr, `torn down with {"list":[40,2]}`) {
		t.Errorf("teardown did not log what setup returned:\n%s", r.stderr)
	}
}
