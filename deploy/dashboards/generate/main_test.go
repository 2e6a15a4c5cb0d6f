package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/voicecore-ai/sluice/deploy/dashboards"
)

// known are the units of our panels, as Grafana names them.
var known = []string{units.Short, units.RequestsPerSecond, units.OpsPerSecond, units.PercentUnit, units.Seconds, units.Milliseconds, units.BytesIEC}

// schema is Grafana's.
type schema = dashboard.Dashboard //nolint:staticcheck // the successor is for newer Grafanas than many have

// strict reads a dashboard as Grafana's schema has it: a field that is in no schema, of the panels' kinds and the queries too, is an error.
func strict(text []byte) (d schema, err error) {
	runtime := cog.NewRuntime()
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	// The SDK's strict reading says that all is well by an empty list of errors, and then leaves out what it read.
	if err = new(schema).UnmarshalJSONStrict(text); err != nil {
		if found := (cog.BuildErrors)(nil); !errors.As(err, &found) || len(found) > 0 {
			return d, err
		}
	}
	if err = json.Unmarshal(text, &d); err == nil {
		err = d.Validate()
	}
	return d, err
}

// incomplete is what a reader of a dashboard lacks.
func incomplete(d *schema) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if d.Title == nil || *d.Title == "" || d.Uid == nil || !strings.HasPrefix(*d.Uid, "sluice-") {
		problem("no title, or no uid that begins with sluice-")
	}
	titles := map[string]bool{}
	for _, p := range d.Panels {
		panel := p.Panel
		if panel == nil || panel.Title == nil || *panel.Title == "" {
			problem("a panel has no title")
			continue
		}
		if titles[*panel.Title] {
			problem("%s: twice", *panel.Title)
		}
		titles[*panel.Title] = true
		if panel.Description == nil || !strings.HasSuffix(*panel.Description, ".") {
			problem("%s: no description", *panel.Title)
		}
		if panel.FieldConfig == nil || panel.FieldConfig.Defaults.Unit == nil || !slices.Contains(known, *panel.FieldConfig.Defaults.Unit) {
			problem("%s: no unit", *panel.Title)
		}
		if panel.Datasource == nil || panel.Datasource.Uid == nil || *panel.Datasource.Uid != "${datasource}" {
			problem("%s: not of the Prometheus that is chosen", *panel.Title)
		}
		if len(panel.Targets) == 0 {
			problem("%s: no query", *panel.Title)
		}
	}
	return problems
}

func TestDashboardsAreOfGrafanasSchemaAndComplete(t *testing.T) {
	files, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(files) != len(boards) {
		t.Fatalf("%d files of %d dashboards, %v", len(files), len(boards), err)
	}
	for _, name := range files {
		text, err := dashboards.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := strict(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, problem := range incomplete(&d) {
			t.Errorf("%s: %s", name, problem)
		}
		if len(d.Panels) < 6 {
			t.Errorf("%s: %d panels", name, len(d.Panels))
		}
	}
}

func TestWhatADashboardLacksIsFound(t *testing.T) {
	good, err := dashboards.FS.ReadFile("overview.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, with, want string }{
		{`"title": "Decisions by reason"`, `"titel": "Decisions by reason"`, "titel"},
		{`"legendFormat"`, `"legendFormt"`, "legendFormt"},
		{`"displayMode": "list"`, `"displayMod": "list"`, "displayMod"},
		{`"unit": "reqps"`, `"unit": "furlongs"`, "Decisions a second: no unit"},
		{`"description": "All doors of all replicas."`, `"description": ""`, "Decisions a second: no description"},
		{`"title": "CPU"`, `"title": "Memory"`, "Memory: twice"},
	} {
		text := strings.Replace(string(good), c.old, c.with, 1)
		d, err := strict([]byte(text))
		problems := fmt.Sprint(err, incomplete(&d))
		if text == string(good) || !strings.Contains(problems, c.want) {
			t.Errorf("%s for %s: %s", c.with, c.old, problems)
		}
	}
}
