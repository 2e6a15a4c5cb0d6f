package runner_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/loadtest/runner"
)

// BenchmarkRequest is one request as the suites send them, with its samples, and the server that answers it.
func BenchmarkRequest(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello\n")) }))
	defer s.Close()
	script := filepath.Join(b.TempDir(), "script.js")
	if err := os.WriteFile(script, []byte(`
import http from 'k6/http';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';
const [ok, took] = [new Counter('ok'), new Trend('took', true)];
export const options = {
  scenarios: { s: { executor: 'shared-iterations', vus: Math.min(4, Number(__ENV.N)), iterations: Number(__ENV.N) } },
  thresholds: { 'ok{tenant:a}': ['count>0'], 'ok{tenant:b}': ['count==0'], 'took{tenant:a,phase:all}': ['max>=0'] },
};
export default function () {
  const tags = { tenant: 'a', phase: 'all' };
  const r = http.get(__ENV.URL, { headers: { 'x-api-key': 'abc' }, tags: { name: 'calls', ...tags }, timeout: '30s' });
  took.add(r.timings.duration, tags);
  if (r.status === 200) ok.add(1, tags);
  check(r, { 'is 200': (r) => r.status === 200 });
}`), 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var out bytes.Buffer
	err := runner.Run(b.Context(), runner.Config{Script: script, Env: map[string]string{"URL": s.URL, "N": strconv.Itoa(b.N)}, Stdout: &out, Stderr: &out})
	if exit.Code(err) != 0 {
		b.Fatal(err, out.String())
	}
}
