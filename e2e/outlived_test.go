package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	"github.com/voicecore-ai/sluice/deploy"
)

// S-01 where ext_proc is not attached: the stream runs on, and each entry of the log from the next on says so.
func TestS01ARunningStreamShowsInTheLogThroughEnvoy(t *testing.T) {
	const (
		interval = time.Second
		renewed  = `sluice_access_log_entries_total{result="renewed"} 0`
		outlived = `sluice_access_log_entries_total{result="outlived"} 0`
	)
	config := strings.Replace(deploy.Demo, "access_log_flush_interval: 10s", "access_log_flush_interval: 1s", 1)
	if config == deploy.Demo {
		t.Fatal("the configuration has another interval than this test knows")
	}
	for _, c := range []struct {
		name string
		life time.Duration
		edit func(string) string
	}{
		{"S-01 its token expires", 10 * time.Second, nil},
		{"S-01 its issuer is removed", time.Hour, func(text string) string { text, _, _ = strings.Cut(text, "issuers:"); return text }},
		{"S-01 its issuer is for another audience", time.Hour, func(text string) string { return strings.Replace(text, "audiences: [api]", "audiences: [other]", 1) }},
		{"S-01 its tenant is suspended", time.Hour, func(text string) string {
			return strings.Replace(text, "{id: acme,", "{id: acme, suspended: true,", 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := startKeyServer(t)
			close(k.open)
			service := startTalker(t)
			dir := catalogue(t, strings.Replace(classes, "/plain/**", "/sse", 1)+k.issuer())
			w := start(t, stack.Options{Config: strings.ReplaceAll(config, "${UPSTREAM_PORT}", service.port), Catalog: dir})
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/sse", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("authorization", "Bearer "+k.token(t, c.life))
			response, err := h1().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = response.Body.Close() })
			if response.StatusCode != http.StatusOK {
				t.Fatal(response.StatusCode)
			}
			await.That(t, "it stands at first", func() bool { return !strings.Contains(w.metrics(t), renewed) })
			if !strings.Contains(w.metrics(t), outlived) && c.edit != nil {
				t.Fatal("it is said to have outlived what still stands")
			}
			if c.edit != nil {
				file := filepath.Join(dir, "catalogue.yaml")
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				after := c.edit(string(text))
				if after == string(text) {
					t.Fatal("nothing was edited")
				}
				rewrite(t, file, after)
			}
			// The file is read within two seconds, and entries are sent within another.
			await.Within(t, c.life%time.Hour+interval+2*time.Second+stall, "the log says so", func() bool { return !strings.Contains(w.metrics(t), outlived) })
			if service.live.Load() != 1 {
				t.Error("this door can't end a stream, and it has ended")
			}
		})
	}
	t.Run("S-01 its key is revoked", func(t *testing.T) {
		service := startTalker(t)
		w := start(t, stack.Options{Config: strings.ReplaceAll(config, "${UPSTREAM_PORT}", service.port)})
		kinds()["server-sent events"](t, w, w.tenant(t, "acme", limit("per-minute", fixed, 1000, time.Minute)))
		await.That(t, "it stands at first", func() bool { return !strings.Contains(w.metrics(t), renewed) })
		if !strings.Contains(w.metrics(t), outlived) {
			t.Fatal("it is said to have outlived what still stands")
		}
		w.revoke(t, "acme")
		await.Within(t, 2*interval+stall, "the log says so", func() bool { return !strings.Contains(w.metrics(t), outlived) })
	})
}
