package observe

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const rules = "../../deploy/prometheus"

// promtool runs Prometheus' own tool in a folder.
func promtool(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), tool("promtool"), args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestRulesSayWhatTheirTestsWant(t *testing.T) {
	if out, err := promtool(t, rules, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml", "recording.yaml"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := promtool(t, rules, "test", "rules", "rules.test.yaml"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Run("a rule that is wrong is found", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"alerts.yaml", "recording.yaml", "rules.test.yaml"} {
			text := strings.NewReplacer("for: 15m", "for: 5m", "> 3600", "> 3800").Replace(read(t, filepath.Join(rules, name)))
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := promtool(t, dir, "test", "rules", "rules.test.yaml")
		for _, alert := range []string{"SluiceLimitRefusesMost", "SluiceTenantNearLimit", "SluiceKeysOld"} {
			if err == nil || !strings.Contains(out, alert) {
				t.Errorf("%s passes: %v\n%s", alert, err, out)
			}
		}
	})
}

func TestEachAlertIsTestedAndHasARunbook(t *testing.T) {
	names := func(pattern, text string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		slices.Sort(all)
		return all
	}
	text, tests := read(t, rules+"/alerts.yaml"), read(t, rules+"/rules.test.yaml")
	alerts := names(`(?m)^ +- alert: (\w+)$`, text)
	if len(alerts) < 18 {
		t.Fatalf("%d alerts", len(alerts))
	}
	for what, got := range map[string][]string{
		"that have a section of docs/runbooks.md":      names(`(?m)^## (\w+)$`, read(t, "../../docs/runbooks.md")),
		"that a test sees fire":                        slices.Compact(names(`alertname: (\w+)\n +exp_alerts:\n`, tests)),
		"that a test sees silent, where all is well":   names(`name: (\w+), where all is well\n`, tests),
		"that link to the section that has their name": names(`(?s)- alert: (\w+)\n[^\n]*(?:\n {8,}[^\n]*)*?runbook_url: https://github.com/voicecore-ai/sluice/blob/main/docs/runbooks.md#`, text),
	} {
		if !slices.Equal(got, alerts) {
			t.Errorf("alerts %s: %v\nwant %v", what, got, alerts)
		}
	}
	for _, alert := range alerts {
		if !strings.Contains(text, "docs/runbooks.md#"+strings.ToLower(alert)+"\n") {
			t.Errorf("no link to #%s", strings.ToLower(alert))
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
