package runner_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// echo answers with what it was sent, and knows /redirect/N, /status/N, /slow and /cut.
func echo(t *testing.T) (url string, connections func() int) {
	t.Helper()
	var mu sync.Mutex
	addresses := map[string]bool{}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		addresses[r.RemoteAddr] = true
		mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		cookies := []string{}
		for _, c := range r.Cookies() {
			cookies = append(cookies, c.String())
		}
		w.Header().Add("X-Two", "one")
		w.Header().Add("X-Two", "two")
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "yes"})
		_, _ = fmt.Fprintf(w, `{"method":%q,"host":%q,"type":%q,"one":%q,"body":%q,"cookies":%q}`,
			r.Method, r.Host, r.Header.Get("Content-Type"), r.Header.Get("X-One"), body, strings.Join(cookies, ";"))
	})
	mux.HandleFunc("/redirect/{n}", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscan(r.PathValue("n"), &n)
		http.Redirect(w, r, map[bool]string{true: fmt.Sprintf("/redirect/%d", n-1), false: "/"}[n > 1], http.StatusFound)
	})
	mux.HandleFunc("/status/{n}", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscan(r.PathValue("n"), &n)
		w.WriteHeader(n)
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(addresses)
	}
}

// holds runs a script whose iteration calls want(what, got, expected), and fails the test for each that differs.
func holds(t *testing.T, env map[string]string, iteration string, files ...string) result {
	t.Helper()
	r := run(t, env, `
import http from 'k6/http';
import exec from 'k6/execution';
import { check, group, randomSeed } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import { SharedArray } from 'k6/data';
let wants = 0;
function want(what, got, expected) {
  wants++;
  if (JSON.stringify(got) !== JSON.stringify(expected)) console.error(what + ' is', got, 'and not', expected);
}
`+iteration, files...)
	r.want(t, 0)
	for _, line := range strings.Split(r.stderr, "\n") {
		if strings.HasPrefix(line, "error") {
			t.Error(line)
		}
	}
	return r
}

func TestRequestsAndResponses(t *testing.T) {
	url, connections := echo(t)
	holds(t, map[string]string{"URL": url}, `
const base = __ENV.URL;
export const options = { thresholds: {
  'http_reqs{name:redirected}': ['count==4'], 'http_reqs{name:redirected,status:302}': ['count==3'], 'http_reqs{name:refused}': ['count==1'],
  'http_req_failed{name:refused}': ['rate==1'], 'http_req_failed{name:accepted}': ['rate==0'], 'http_reqs{error_code:1050}': ['count==1'],
  'http_req_duration{name:refused,expected_response:true}': ['max==0'], 'http_req_duration{name:accepted,expected_response:true}': ['max>0'],
  'http_req_failed{name:unjudged}': ['rate==0'], 'http_reqs{group:::outer::inner}': ['count==1'], 'http_reqs{mood:good}': ['count==1'],
  data_sent: ['count>500'], data_received: ['count>500'], http_req_waiting: ['max>0'],
} };
export default function () {
  let r = http.get(base, { headers: { 'X-One': 1, Host: 'other.example' } });
  want('status', [r.status, r.status_text, r.proto, r.error, r.error_code], [200, '200 OK', 'HTTP/1.1', '', 0]);
  want('headers', r.json(), { method: 'GET', host: 'other.example', type: '', one: '1', body: '', cookies: '' });
  want('a header of two', r.headers['X-Two'], 'one, two');
  want('an absent header', r.headers['X-None'], undefined);
  want('duration', r.timings.duration > 0 && r.timings.waiting <= r.timings.duration, true);
  http.get(base);
  want('a cookie', http.get(base).json().cookies, 'seen=yes');
  want('post', http.post(base, 'text').json().body, 'text');
  want('a form', [http.post(base, { a: 1, b: 'x y' }).json()].map((r) => [r.type, r.body]), [['application/x-www-form-urlencoded', 'a=1&b=x+y']]);
  want('bytes', http.put(base, new Uint8Array([65, 66]).buffer).json().body, 'AB');
  want('methods', [http.patch(base, 'p'), http.del(base), http.request('PUT', base, 'x'), http.options(base)].map((r) => r.json().method), ['PATCH', 'DELETE', 'PUT', 'OPTIONS']);
  want('head', [http.head(base)].map((r) => [r.status, r.body]), [[200, '']]);
  want('as a text', [String(r), Object.keys(JSON.parse(JSON.stringify(r))).length, r.hasOwnProperty('status')], ['[object Object]', 9, true]);
  want('no body', http.get(base, { responseType: 'none' }).body, null);
  want('binary', new Uint8Array(http.get(base, { responseType: 'binary' }).body)[0], 123);
  want('redirected', http.get(base + '/redirect/3', { tags: { name: 'redirected' } }).url, base + '/');
  want('not redirected', http.get(base + '/redirect/3', { redirects: 0 }).status, 302);
  want('too often redirected', http.get(base + '/redirect/20').status, 302);
  want('an error status', [http.get(base + '/status/503', { tags: { name: 'refused' } })].map((r) => [r.status, r.error_code, r.error]), [[503, 1503, '']]);
  http.get(base + '/status/503', { tags: { name: 'accepted' }, responseCallback: http.expectedStatuses(429, { min: 500, max: 510 }) });
  http.get(base + '/status/503', { tags: { name: 'unjudged' }, responseCallback: null });
  r = http.get(base + '/slow', { timeout: '50ms' });
  want('a timeout', [r.status, r.error_code, r.body, r.error.includes('50ms')], [0, 1050, null, true]);
  want('nobody there', [http.get('http://127.0.0.1:1/')].map((r) => [r.status, r.error_code]), [[0, 1212]]);
  want('cut off', http.get(base + '/cut').status, 0);
  want('a batch', http.batch([base, ['POST', base, 'b'], { method: 'PUT', url: base, body: 'c' }]).map((r) => r.json().method + r.json().body), ['GET', 'POSTb', 'PUTc']);
  want('a named batch', Object.entries(http.batch({ x: base })).map(([k, r]) => k + r.status), ['x200']);
  want('a group', group('outer', () => group('inner', () => http.get(base).status)), 200);
  exec.vu.metrics.tags.mood = 'good';
  http.get(base);
  want('no URL', (() => { try { http.get('nowhere'); } catch (e) { return e.message.includes('http://'); } })(), true);
  want('wants', wants, 25);
}`)
	if n := connections(); n > 12 { // one, those of a batch, and one after each that was cut; a busy machine may lose some
		t.Errorf("one VU used %d connections, want them kept", n)
	}
}

func TestEachVUKeepsItsConnection(t *testing.T) {
	url, connections := echo(t)
	run(t, map[string]string{"URL": url}, `
import http from 'k6/http';
export const options = { scenarios: { s: { executor: 'per-vu-iterations', vus: 3, iterations: 20 } } };
export default function () { http.get(__ENV.URL); }`).want(t, 0)
	if n := connections(); n < 3 || n > 15 { // net/http gives one up whose end it did not see in time, on a busy machine
		t.Errorf("3 VUs used %d connections for 60 requests, want 3 or a few more", n)
	}
}

func TestModules(t *testing.T) {
	r := holds(t, map[string]string{"GIVEN": "yes"}, `
import { shared, base } from './lib/values.js';
import * as everything from './lib/values.js';
const users = new SharedArray('users', () => { console.log('made'); return JSON.parse(open('users.json')); });
const text = open('users.json'), bytes = open('users.json', 'b');
export const options = {
  scenarios: { s: { executor: 'per-vu-iterations', vus: 2, iterations: 1, env: { OWN: 'mine' }, tags: { from: 's' }, startTime: '10ms' } },
  thresholds: { 'checks{kind:good}': ['rate==1'], 'checks{check:is wrong}': ['rate==0'], 'iterations{from:s}': ['count==2'], 'checks{group:::g}': ['rate==1'] },
};
export default function () {
  want('an import', [shared, base(), Object.keys(everything)], [7, 'base', ['base', 'shared']]);
  want('users', [users.length, users[1].name, users.map((u) => u.name), [...users].length], [2, 'b', ['a', 'b'], 2]);
  want('a change', (() => { try { users[0].name = 'changed'; } catch (e) { return e.name + users[0].name; } })(), 'TypeErrora');
  want('open', [text.length > 10, bytes.byteLength], [true, text.length]);
  want('env', [__ENV.OWN, __ENV.GIVEN, __ENV.NONE], ['mine', 'yes', undefined]);
  want('VU', [__VU === exec.vu.idInTest, __ITER, exec.vu.iterationInScenario, [1, 2].includes(__VU)], [true, 0, 0, true]);
  const s = exec.scenario;
  want('scenario', [s.name, s.executor, Math.abs(Date.now() - s.startTime) < 60000, s.progress < 1, [0, 1].includes(s.iterationInTest)], ['s', 'per-vu-iterations', true, true, true]);
  want('instance', [exec.instance.vusInitialized, exec.instance.vusActive >= 1, exec.instance.currentTestRunDuration > 0], [2, true, true]);
  want('options', exec.test.options.scenarios.s.vus, 2);
  want('checks', [check(1, { 'is one': (v) => v === 1 }, { kind: 'good' }), check(1, { 'is wrong': (v) => v === 2 }), group('g', () => check(1, { 'is in a group': () => true }))], [true, false, true]);
  randomSeed(1); const first = Math.random(); randomSeed(1);
  want('a seed', Math.random(), first);
  console.log('object', { a: [1] }, null, undefined, 1.5);
}`+keep, "lib/values.js", "import { one } from '../one.js';\nexport const shared = 6 + one;\nexport function base() { return 'base'; }", "one.js", "export const one = 1;", "users.json", `[{"name": "a"}, {"name": "b"}]`)
	if n := strings.Count(r.stderr, "made"); n != 1 {
		t.Errorf("the SharedArray was made %d times", n)
	}
	if !strings.Contains(r.stderr, `object {"a":[1]} null undefined 1.5`) {
		t.Errorf("the console wrote %q", r.stderr)
	}
	s := r.summary(t)
	got := []string{}
	for _, c := range s.RootGroup.Checks {
		got = append(got, fmt.Sprint(c.Name, c.Passes, c.Fails))
	}
	if !slices.Equal(got, []string{"is one2 0", "is wrong0 2"}) || len(s.RootGroup.Groups) != 1 || s.RootGroup.Groups[0].Path != "::g" {
		t.Errorf("the root group is %v and %v", got, s.RootGroup.Groups)
	}
	m := s.Metrics["checks"]
	if m.Type != "rate" || m.Contains != "default" || m.Values["passes"] != 4 || m.Values["fails"] != 2 {
		t.Errorf("checks are %+v", m)
	}
	if m := s.Metrics["iteration_duration"]; m.Contains != "time" || m.Values["p(95)"] <= 0 || m.Values["med"] <= 0 {
		t.Errorf("iteration_duration is %+v", m)
	}
	if th := s.Metrics["checks{kind:good}"].Thresholds["rate==1"]; !th.OK {
		t.Errorf("thresholds of checks{kind:good} are %+v", s.Metrics["checks{kind:good}"])
	}
}

func TestVUExecutors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run(t, nil, `
import { sleep } from 'k6';
export const options = {
  scenarios: {
    constant: { executor: 'constant-vus', vus: 3, duration: '1s', gracefulStop: '1m' },
    ramp: { executor: 'ramping-vus', startVUs: 0, stages: [{ target: 4, duration: '700ms' }, { target: 4, duration: '600ms' }, { target: 0, duration: '700ms' }] },
  },
  thresholds: {
    // Each VU of constant begins 15, at 0, 70 … 980 ms; those of ramp begin 27, 22, 17 and 12 while they may.
    'iterations{scenario:constant}': ['count==45'], 'iterations{scenario:ramp}': ['count==78'], 'iteration_duration{scenario:constant}': ['min==70', 'max==70'],
  },
};
export default function () { sleep(0.07); }`).want(t, 0)
	})
}

func TestAnIterationThatGoesOnIsStoppedAfterItsScenario(t *testing.T) {
	t.Parallel() // it waits
	run(t, nil, `
export const options = {
  scenarios: { short: { executor: 'shared-iterations', vus: 2, iterations: 10, maxDuration: '2s', gracefulStop: '0s' } },
  thresholds: { dropped_iterations: ['count==8'], iterations: ['count==0'] },
};
export default function () { for (;;) {} }`).want(t, 0)
}

func TestHandleSummaryWritesFiles(t *testing.T) {
	r := run(t, nil, `
export default function () {}
export function handleSummary(data) {
  const name = __ENV.DIR + '/';
  return { stdout: 'to stdout\n', stderr: 'to stderr\n', [name + 'a.txt']: 'text', [name + 'b.bin']: new Uint8Array([1, 2]).buffer };
}`)
	r.want(t, 0)
	for name, want := range map[string]string{"a.txt": "text", "b.bin": "\x01\x02"} {
		if got, err := os.ReadFile(filepath.Join(r.dir, name)); string(got) != want {
			t.Errorf("%s has %q, want %q: %v", name, got, want, err)
		}
	}
	if !strings.HasSuffix(r.stdout, "\nto stdout\n") || r.stderr != "to stderr\n" {
		t.Errorf("stdout has %q and stderr %q", r.stdout, r.stderr)
	}
}

func TestTheSummaryWithoutHandleSummaryIsReadable(t *testing.T) {
	r := run(t, nil, "export const options = { thresholds: { iterations: ['count==2'] } };\nexport default function () {}")
	r.want(t, 99, "iterations: count==2, but it is 1")
	for _, line := range []string{"iterations: count=1 rate=", "  threshold count==2 crossed"} {
		if !strings.Contains(r.stdout, line) {
			t.Errorf("%q is not in\n%s", line, r.stdout)
		}
	}
}
