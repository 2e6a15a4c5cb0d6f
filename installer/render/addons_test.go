package render

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/deploy/dashboards"
)

// configFile is one file of a ConfigMap.
func configFile(t *testing.T, configMap, file string, sets ...string) string {
	t.Helper()
	data, _ := lookup(t, values(t, "voicecore", sets...), "ConfigMap", configMap).Object["data"].(map[string]any)
	content, _ := data[file].(string)
	return content
}

func TestGrafanaHasEveryDashboard(t *testing.T) {
	files, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(files) != 7 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	for _, name := range files {
		text, err := dashboards.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var want, got struct {
			UID, Title string
			Panels     []json.RawMessage
		}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(configFile(t, "grafana-dashboards", name)), &got); err != nil || got.UID != want.UID || len(got.Panels) != len(want.Panels) {
			t.Errorf("%s: %s with %d panels, %v; want %s with %d", name, got.UID, len(got.Panels), err, want.UID, len(want.Panels))
		}
	}
}

func TestExemplarsLeadToJaegerWhereThereIsOne(t *testing.T) {
	const leads = "exemplarTraceIdDestinations: [{name: trace_id, datasourceUid: jaeger}]"
	if sources := configFile(t, "grafana", "datasources.yaml"); !strings.Contains(sources, leads) || !strings.Contains(sources, "uid: jaeger") {
		t.Errorf("%s", sources)
	}
	if sources := configFile(t, "grafana", "datasources.yaml", "addons.jaeger.enabled=false"); strings.Contains(sources, "jaeger") || !strings.Contains(sources, "type: prometheus") {
		t.Errorf("without Jaeger:\n%s", sources)
	}
	if config := configFile(t, "prometheus", "prometheus.yml"); !strings.Contains(config, "target_label: job\n    replacement: sluice") {
		t.Errorf("no target is known as Sluice:\n%s", config)
	}
}
