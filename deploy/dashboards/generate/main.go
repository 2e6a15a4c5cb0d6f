// Command generate writes the Grafana dashboards of deploy/dashboards from the tables beside it. With
// -check it writes nothing, and fails where a file is not what the tables say. 'make generate' runs it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// board is one dashboard; each of its variables lists the values of a label of a metric.
type board struct {
	name, title string
	variables   []variable
	panels      []panel
}

type variable struct{ name, metric, label string }

// panel is one picture: its queries, and what their lines are called, in turn.
type panel struct {
	title, says string
	unit        string // as Grafana names it; "short" is a number
	single      bool   // one number, not its course
	queries     []query
}

type query struct{ expr, legend string }

func main() {
	dir := flag.String("dir", "deploy/dashboards", "`folder` of the dashboards")
	check := flag.Bool("check", false, "compare, and write nothing")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	var problems []error
	for _, b := range boards {
		text, err := b.json()
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		path := filepath.Join(dir, b.name+".json")
		if !check {
			if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // a file of the repository
				return err
			}
			continue
		}
		if is, err := os.ReadFile(path); err != nil || !bytes.Equal(is, text) { //nolint:gosec // likewise
			problems = append(problems, fmt.Errorf("%s is not what deploy/dashboards/generate says: run 'make generate' and commit the result", path))
		}
	}
	return errors.Join(problems...)
}

// source is the Prometheus that whoever looks has chosen.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

func (b *board) json() ([]byte, error) {
	d := dashboard.NewDashboardBuilder(b.title) //nolint:staticcheck // the successor is for newer Grafanas than many have
	d.Uid("sluice-"+b.name).Tags([]string{"sluice"}).Time("now-1h", "now").Refresh("30s").Timezone("browser").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("Sluice").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"sluice"}).AsDropdown(true).KeepTime(true)).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus"))
	for _, v := range b.variables {
		d.WithVariable(dashboard.NewQueryVariableBuilder(v.name).Label(v.name).Datasource(source()).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
			Query(dashboard.StringOrMap{String: cog.ToPtr(fmt.Sprintf("label_values(%s, %s)", v.metric, v.label))}))
	}
	for i := range b.panels {
		if p := &b.panels[i]; p.single {
			d.WithPanel(p.stat())
		} else {
			d.WithPanel(p.course())
		}
	}
	built, err := d.Build()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(built, "", "  ")
	return append(text, '\n'), err
}

func (p *panel) targets() (all []cog.Builder[variants.Dataquery]) {
	for i, q := range p.queries {
		target := prometheus.NewDataqueryBuilder().Datasource(source()).Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + i))).Range()
		if strings.Contains(q.expr, "sluice_decision_seconds_bucket") { // its buckets name traces
			target.Exemplar(true)
		}
		all = append(all, target)
	}
	return all
}

const (
	columns = 24 // of Grafana's grid
	height  = 8
)

func (p *panel) course() *timeseries.PanelBuilder {
	return timeseries.NewPanelBuilder().Title(p.title).Description(p.says).Unit(p.unit).Datasource(source()).Targets(p.targets()).Span(columns / 2).Height(height).Min(0).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
}

func (p *panel) stat() *stat.PanelBuilder {
	return stat.NewPanelBuilder().Title(p.title).Description(p.says).Unit(p.unit).Datasource(source()).Targets(p.targets()).Span(columns / 4).Height(height / 2)
}
