package runner

import (
	"context"
	"crypto/md5" //nolint:gosec // names of groups and checks in k6's summary
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/sobek"

	"github.com/voicecore-ai/sluice/exit"
)

// summaryData is what handleSummary is given, as k6 documents it.
type summaryData struct {
	RootGroup groupData             `json:"root_group"`
	Options   map[string]any        `json:"options"`
	State     map[string]any        `json:"state"`
	Metrics   map[string]metricData `json:"metrics"`
}

type groupData struct {
	Name   string      `json:"name"`
	Path   string      `json:"path"`
	ID     string      `json:"id"`
	Groups []groupData `json:"groups"`
	Checks []checkData `json:"checks"`
}

type checkData struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	ID     string `json:"id"`
	Passes int64  `json:"passes"`
	Fails  int64  `json:"fails"`
}

type metricData struct {
	Type       string                   `json:"type"`
	Contains   string                   `json:"contains"`
	Values     map[string]float64       `json:"values"`
	Thresholds map[string]thresholdData `json:"thresholds,omitempty"`
}

type thresholdData struct {
	OK bool `json:"ok"`
}

func (r *run) summaryData(took time.Duration) summaryData {
	r.metrics.mu.Lock()
	defer r.metrics.mu.Unlock()
	d := summaryData{
		RootGroup: r.root.data(),
		Options:   map[string]any{"summaryTrendStats": r.options.trendStats, "summaryTimeUnit": "", "noColor": true},
		State:     map[string]any{"isStdOutTTY": false, "isStdErrTTY": false, "testRunDurationMs": ms(took)},
		Metrics:   map[string]metricData{},
	}
	for _, m := range r.metrics.all() {
		one := metricData{Type: string(m.kind), Contains: m.contains, Values: map[string]float64{}}
		names := map[kind][]string{counter: {"count", "rate"}, gauge: {"value", "min", "max"}, rate: {"rate", "passes", "fails"}, trend: r.options.trendStats}[m.kind]
		for _, name := range names {
			one.Values[name] = m.aggregate(name, took)
		}
		for _, t := range m.thresholds {
			if one.Thresholds == nil {
				one.Thresholds = map[string]thresholdData{}
			}
			one.Thresholds[t.source] = thresholdData{t.ok}
		}
		d.Metrics[m.name] = one
	}
	return d
}

func (g *group) data() groupData {
	d := groupData{Name: g.name, Path: g.path, ID: id(g.path), Groups: []groupData{}, Checks: []checkData{}}
	for _, child := range g.groups {
		d.Groups = append(d.Groups, child.data())
	}
	for _, c := range g.checks {
		d.Checks = append(d.Checks, checkData{c.name, c.path, id(c.path), c.passes, c.fails})
	}
	return d
}

func id(path string) string {
	sum := md5.Sum([]byte(path)) //nolint:gosec // see above
	return hex.EncodeToString(sum[:])
}

// summary prints the summary, or what the script makes of it.
func (r *run) summary(own bool, took time.Duration) error {
	data := r.summaryData(took)
	if !own {
		_, err := fmt.Fprint(r.Stdout, data.text())
		return err
	}
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	v, err := r.newVU(nil)
	if err != nil {
		return exit.With(codeException, err)
	}
	defer v.close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), r.options.summaryTimeout)
	defer cancel()
	value, err := v.call(ctx, v.function("handleSummary"), v.parse(text))
	if err == nil {
		err = r.write(v, value)
	}
	if err != nil {
		return exit.With(codeException, fmt.Errorf("handleSummary: %w", err))
	}
	return nil
}

// write writes what handleSummary returned: to stdout, stderr and files.
func (r *run) write(v *vu, value sobek.Value) error {
	object, ok := value.(*sobek.Object)
	if !ok {
		return fmt.Errorf("it returned %v, want an object of texts by file name", value)
	}
	var problems []error
	for _, name := range object.Keys() {
		var content []byte
		switch item := object.Get(name).Export().(type) {
		case string:
			content = []byte(item)
		case sobek.ArrayBuffer:
			content = item.Bytes()
		default:
			problems = append(problems, fmt.Errorf("%s: want a string or an ArrayBuffer, not %T", name, item))
			continue
		}
		var err error
		switch name {
		case "stdout":
			_, err = r.Stdout.Write(content)
		case "stderr":
			_, err = r.Stderr.Write(content)
		default:
			err = os.WriteFile(name, content, 0o644) //nolint:gosec // a report, for everyone to read
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// text is the summary for a reader.
func (d *summaryData) text() string {
	var b strings.Builder
	for _, name := range sortedKeys(d.Metrics) {
		m := d.Metrics[name]
		fmt.Fprintf(&b, "%s:", name)
		for _, key := range sortedKeys(m.Values) {
			fmt.Fprintf(&b, " %s=%s", key, strconv.FormatFloat(m.Values[key], 'f', -1, 64))
		}
		b.WriteByte('\n')
		for _, source := range sortedKeys(m.Thresholds) {
			verdict := "holds"
			if !m.Thresholds[source].OK {
				verdict = "crossed"
			}
			fmt.Fprintf(&b, "  threshold %s %s\n", source, verdict)
		}
	}
	return b.String()
}
