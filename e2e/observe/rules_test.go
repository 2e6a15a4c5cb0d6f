package observe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
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

// meshFiles are the files of the mesh's own Prometheus, as the installer renders them for the profile voicecore, in a folder.
func meshFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for document := range strings.SplitSeq(read(t, "../../deploy/kubernetes/istio/certificate-rotation.yaml"), "\n---\n") {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
			Data     map[string]string
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if object.Kind != "ConfigMap" || object.Metadata.Name != "prometheus" {
			continue
		}
		for name, text := range object.Data {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "/etc/prometheus/", "")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

const meshTests = "../../installer/render/testdata/rules.test.yaml"

func TestTheMeshsRulesSayWhatTheirTestsWant(t *testing.T) {
	dir := meshFiles(t)
	if out, err := promtool(t, dir, "check", "config", "prometheus.yml"); err != nil || strings.Count(out, "rules found") != 3 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := promtool(t, dir, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml", "sluice.yml", "sluice-rates.yml"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	tests := func() (string, error) { return promtool(t, dir, "test", "rules", "rules.test.yaml") }
	if err := os.WriteFile(filepath.Join(dir, "rules.test.yaml"), []byte(read(t, meshTests)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := tests(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Run("Sluice's are those of deploy/prometheus", func(t *testing.T) {
		for name, of := range map[string]string{"sluice.yml": "alerts.yaml", "sluice-rates.yml": "recording.yaml"} {
			if read(t, filepath.Join(dir, name)) != read(t, filepath.Join(rules, of)) {
				t.Errorf("%s is not %s", name, of)
			}
		}
	})
	t.Run("a rule that is wrong is found", func(t *testing.T) {
		text := read(t, filepath.Join(dir, "rules.yml"))
		for alert, change := range map[string][2]string{
			"WorkloadCertificateNotRenewed": {`{resource_name="default"}) < 388800`, `) < 388800`},
			"WorkloadCertificateExpires":    {"< 86400", "< 8640"},
			"RootCertificateExpires":        {"min(citadel", "max(citadel"},
			"CircuitBreakerOpen":            {" + rate(envoy_cluster_upstream_cx_overflow[5m])", ""},
			"EndpointsEjected":              {"for: 5m\n    labels: {severity: warning}\n    annotations:\n      summary: \"{{ $labels.pod }} has", "for: 1m\n    labels: {severity: warning}\n    annotations:\n      summary: \"{{ $labels.pod }} has"},
			"ProxyRejectsConfiguration":     {"offset 10m", "offset 0s"},
		} {
			wrong := strings.Replace(text, change[0], change[1], 1)
			if err := os.WriteFile(filepath.Join(dir, "rules.yml"), []byte(wrong), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := tests(); wrong == text || err == nil || !strings.Contains(out, alert) {
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
	ours, meshs := read(t, rules+"/alerts.yaml"), read(t, filepath.Join(meshFiles(t), "rules.yml"))
	text, tests := ours+meshs, read(t, rules+"/rules.test.yaml")+read(t, meshTests)
	const link = `(?s)- alert: (\w+)\n[^\n]*(?:\n {%d,}[^\n]*)*?runbook_url: https://github.com/voicecore-ai/sluice/blob/main/docs/runbooks.md#` // indented so
	alerts := names(`(?m)^ +- alert: (\w+)$`, text)
	if len(alerts) < 24 {
		t.Fatalf("%d alerts", len(alerts))
	}
	for what, got := range map[string][]string{
		"that have a section of docs/runbooks.md":      names(`(?m)^## (\w+)$`, read(t, "../../docs/runbooks.md")),
		"that a test sees fire":                        slices.Compact(names(`alertname: (\w+)\n +exp_alerts:\n`, tests)),
		"that a test sees silent, where all is well":   names(`name: (\w+), where all is well\n`, tests),
		"that link to the section that has their name": slices.Sorted(slices.Values(append(names(fmt.Sprintf(link, 8), ours), names(fmt.Sprintf(link, 4), meshs)...))),
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
