package chart

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/voicecore-ai/sluice/deploy/prometheus"
)

// A chart reads no file beside itself, so it has a copy.
func TestTheRulesAreThoseOfDeployPrometheus(t *testing.T) {
	for name, want := range map[string]string{"alerts.yaml": prometheus.Alerts, "recording.yaml": prometheus.Recording} {
		path := filepath.Join("rules", name)
		if *update {
			must(t, os.WriteFile(path, []byte(want), 0o600))
		}
		got, err := os.ReadFile(path)
		must(t, err)
		if string(got) != want {
			t.Errorf("%s is not deploy/prometheus/%s; run 'make generate'", path, name)
		}
	}
}
