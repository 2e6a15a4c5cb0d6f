package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/tenant"
)

// the soft stage, then the enforced one, of one server on one data folder.
func TestTheSoftStageThroughEnvoy(t *testing.T) {
	for wiring, config := range map[string]string{"at the gateway": deploy.Demo, "in a sidecar": deploy.Sidecar, "by ext_proc": deploy.ExtProc} {
		t.Run(wiring, func(t *testing.T) { testSoftStage(t, config) })
	}
}

func testSoftStage(t *testing.T, config string) {
	settings := filepath.Join(t.TempDir(), "sluiced.yaml")
	stage := func(word string) {
		if err := os.WriteFile(settings, []byte("stage: "+word+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stage("soft")
	w := start(t, stack.Options{Config: config, Args: []string{"--config", settings}})
	key := w.tenant(t, "acme", limit("per-hour", hard, 2, time.Hour))
	nobody := func(r *http.Request) { r.Header.Del("x-api-key") }
	expect := func(what string, want int, edits ...func(*http.Request)) {
		t.Helper()
		if s := w.get(t.Context(), key, edits...); s.err != nil || s.status != want {
			t.Errorf("%s: %d, %v, want %d", what, s.status, s.err, want)
		}
	}
	recorded := func(want map[string]int) {
		t.Helper()
		var got map[string]int
		await.That(t, fmt.Sprint("the records ", want), func() bool {
			got = map[string]int{}
			for _, r := range w.decisions(t) {
				word := r.Reason
				if r.ShadowReason != "" {
					word += " instead of " + r.ShadowReason
				}
				if *r.Allowed != (r.Reason == "admitted") || r.ShadowReason != "" && (r.Shadow == nil || *r.Shadow || r.Detail == "") {
					t.Errorf("record %+v", r)
				}
				got[word]++
			}
			return maps.Equal(got, want)
		})
	}

	expect("without a credential", http.StatusOK, nobody)
	expect("as somebody, without a credential", http.StatusOK, nobody, func(r *http.Request) { r.Header.Set("x-tenant-id", "evil"); r.Header.Set("x-sluice-plan", "evil") })
	for name, values := range w.Upstream.Headers() {
		if tenant.IsReservedHeader(name) && !strings.EqualFold(name, tenant.DecisionHeader) || strings.Contains(strings.Join(values, ""), "evil") {
			t.Errorf("the upstream was told %s: %q", name, values)
		}
	}
	expect("with a bad key", http.StatusOK, func(r *http.Request) { r.Header.Set("x-api-key", "slk_no") })
	for name, values := range w.Upstream.Headers() {
		if strings.Contains(strings.Join(values, ""), "slk_no") {
			t.Errorf("the upstream got the credential in %s", name)
		}
	}
	for range 3 {
		expect("with a key", http.StatusOK)
	}
	if got := w.Upstream.Headers().Values(tenant.Header); len(got) != 1 || got[0] != "acme" {
		t.Errorf("over its limit, the tenant is told as %q", got)
	}
	if status := rawStatus(t, w.URL, "x-api-key: "+key+"\r\nhost: other"); status != http.StatusBadRequest {
		t.Errorf("two hosts: %d", status)
	}
	const nobodys, over = "admitted instead of unauthenticated", "admitted instead of over_limit"
	recorded(map[string]int{nobodys: 3, "admitted": 2, over: 1, "malformed": 1})
	if log := w.log(t); !strings.Contains(log, "the stage is soft") {
		t.Error("the log does not warn")
	}
	if m := w.metrics(t); !strings.Contains(m, `sluice_decisions_soft_total{reason="unauthenticated"} 3`) || !strings.Contains(m, `sluice_stage{stage="soft"} 1`) {
		t.Error("the metrics do not say it")
	}

	stage("enforced")
	ended, err := w.Terminate()
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := w.StartSluiced(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.That(t, "Envoy asks the new server", func() bool { return w.get(t.Context(), "", nobody).status == http.StatusUnauthorized })
	expect("enforced, with a key", http.StatusOK)
	expect("enforced, with a key", http.StatusOK)
	expect("enforced, over the limit", http.StatusTooManyRequests)
	recorded(map[string]int{nobodys: 3, "admitted": 4, over: 1, "malformed": 1, "unauthenticated": 1, "over_limit": 1})
}

func TestTheSoftStageOfDescriptorsThroughEnvoy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "demo.yaml"), []byte(descriptors), 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, stack.Options{Config: deploy.RLS, RLS: dir, Args: []string{"--stage", "soft"}})
	for range 3 {
		if s := w.get(t.Context(), "", func(r *http.Request) { r.Header.Set("x-user", "banned") }); s.status != http.StatusOK {
			t.Errorf("%d, %v", s.status, s.err)
		}
	}
	if m := w.metrics(t); !strings.Contains(m, `sluice_rls_calls_total{result="shadowed"} 3`) {
		t.Error("the metrics do not say it")
	}
}
