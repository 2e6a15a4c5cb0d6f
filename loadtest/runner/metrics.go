package runner

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grafana/sobek"
)

// kind is what a metric makes of its samples.
type kind string

const (
	counter kind = "counter"
	gauge   kind = "gauge"
	rate    kind = "rate"
	trend   kind = "trend"
)

// tagSet is a sample's tags: its own, and those of where it comes from. It does not change.
type tagSet struct {
	own map[string]string
	up  *tagSet
}

func (t *tagSet) get(key string) (string, bool) {
	for ; t != nil; t = t.up {
		if value, ok := t.own[key]; ok {
			return value, true
		}
	}
	return "", false
}

// metric is a metric, or a sub-metric of another that has only the samples with its tags.
type metric struct {
	name       string
	kind       kind
	contains   string // default, time or data
	subs       []*metric
	tags       map[string]string // of a sub-metric
	thresholds []*threshold

	n, nonZero          int64
	sum, min, max, last float64
	values              []float64 // of a trend
	sorted              bool
}

func (m *metric) add(value float64) {
	if m.n == 0 {
		m.min, m.max = value, value
	}
	m.n++
	m.sum += value
	m.last, m.min, m.max = value, min(m.min, value), max(m.max, value)
	if value != 0 {
		m.nonZero++
	}
	if m.kind == trend {
		m.values, m.sorted = append(m.values, value), false
	}
}

func (m *metric) has(t *tagSet) bool {
	for key, want := range m.tags {
		if got, ok := t.get(key); !ok || got != want {
			return false
		}
	}
	return true
}

// aggregate is what a threshold or a summary calls it. Without a sample all are 0.
func (m *metric) aggregate(name string, elapsed time.Duration) float64 {
	switch name {
	case "count":
		if m.kind == counter {
			return m.sum
		}
		return float64(m.n)
	case "rate":
		if m.kind == rate {
			return ratio(float64(m.nonZero), float64(m.n))
		}
		return ratio(m.sum, elapsed.Seconds())
	case "value":
		return m.last
	case "min":
		return m.min
	case "max":
		return m.max
	case "avg":
		return ratio(m.sum, float64(m.n))
	case "med":
		return m.percentile(50)
	case "passes":
		return float64(m.nonZero)
	case "fails":
		return float64(m.n - m.nonZero)
	}
	p, _ := percentile(name)
	return m.percentile(p)
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// percentile reads p(N).
func percentile(name string) (float64, bool) {
	inner, ok := strings.CutPrefix(name, "p(")
	if !ok || !strings.HasSuffix(inner, ")") {
		return 0, false
	}
	p, err := strconv.ParseFloat(strings.TrimSuffix(inner, ")"), 64)
	return p, err == nil && p >= 0 && p <= 100
}

// percentile is between the two values that are next to it, in proportion.
func (m *metric) percentile(p float64) float64 {
	if len(m.values) == 0 {
		return 0
	}
	if !m.sorted {
		slices.Sort(m.values)
		m.sorted = true
	}
	at := p / 100 * float64(len(m.values)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(m.values)-1)
	return m.values[low] + (m.values[high]-m.values[low])*(at-float64(low))
}

// registry is all metrics of a run. VUs add to it at the same time.
type registry struct {
	mu     sync.Mutex
	byName map[string]*metric
}

func newRegistry() *registry { return &registry{byName: map[string]*metric{}} }

// get is the metric of that name, made where there is none.
func (r *registry) get(name string, k kind, contains string) (*metric, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.byName[name]; m != nil {
		if m.kind != k || m.contains != contains {
			return nil, fmt.Errorf("metric %q is a %s of %s values already", name, m.kind, m.contains)
		}
		return m, nil
	}
	m := &metric{name: name, kind: k, contains: contains}
	r.byName[name] = m
	return m, nil
}

func (r *registry) add(m *metric, value float64, t *tagSet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.add(value)
	for _, sub := range m.subs {
		if sub.has(t) {
			sub.add(value)
		}
	}
}

// all are the metrics that have samples or thresholds, with sub-metrics, by name.
func (r *registry) all() []*metric {
	var list []*metric
	for _, m := range r.byName {
		if m.n > 0 || len(m.thresholds) > 0 || len(m.subs) > 0 {
			list = append(list, m)
		}
		list = append(list, m.subs...)
	}
	slices.SortFunc(list, func(a, b *metric) int { return cmp.Compare(a.name, b.name) })
	return list
}

// builtin are the metrics that every run has.
type builtin struct {
	vus, vusMax, iterations, iterationDuration, dropped, checks, groupDuration, dataSent, dataReceived *metric
	grpcDuration                                                                                       *metric

	reqs, reqFailed, reqDuration, reqBlocked, reqConnecting, reqTLS, reqSending, reqWaiting, reqReceiving *metric
}

func builtins(r *registry) (b builtin) {
	for _, d := range []struct {
		to       **metric
		name     string
		kind     kind
		contains string
	}{
		{&b.vus, "vus", gauge, "default"}, {&b.vusMax, "vus_max", gauge, "default"},
		{&b.iterations, "iterations", counter, "default"}, {&b.iterationDuration, "iteration_duration", trend, "time"},
		{&b.dropped, "dropped_iterations", counter, "default"}, {&b.checks, "checks", rate, "default"},
		{&b.groupDuration, "group_duration", trend, "time"},
		{&b.dataSent, "data_sent", counter, "data"}, {&b.dataReceived, "data_received", counter, "data"},
		{&b.grpcDuration, "grpc_req_duration", trend, "time"},
		{&b.reqs, "http_reqs", counter, "default"}, {&b.reqFailed, "http_req_failed", rate, "default"},
		{&b.reqDuration, "http_req_duration", trend, "time"}, {&b.reqBlocked, "http_req_blocked", trend, "time"},
		{&b.reqConnecting, "http_req_connecting", trend, "time"}, {&b.reqTLS, "http_req_tls_handshaking", trend, "time"},
		{&b.reqSending, "http_req_sending", trend, "time"}, {&b.reqWaiting, "http_req_waiting", trend, "time"},
		{&b.reqReceiving, "http_req_receiving", trend, "time"},
	} {
		*d.to, _ = r.get(d.name, d.kind, d.contains) // the names differ
	}
	return b
}

// moduleMetrics is k6/metrics.
func (v *vu) moduleMetrics() map[string]any {
	return map[string]any{"Counter": v.metricClass(counter), "Gauge": v.metricClass(gauge), "Rate": v.metricClass(rate), "Trend": v.metricClass(trend)}
}

func (v *vu) metricClass(k kind) func(sobek.ConstructorCall) *sobek.Object {
	return func(call sobek.ConstructorCall) *sobek.Object {
		if v.ready {
			panic(v.rt.NewTypeError("metrics are made while the script is read, outside of functions that iterations call"))
		}
		name := call.Argument(0).String()
		if !validName(name) {
			panic(v.rt.NewTypeError("metric name %q: want a letter or _, and 1 to 127 letters, digits and _ after it", name))
		}
		contains := "default"
		if call.Argument(1).ToBoolean() {
			contains = "time"
		}
		m, err := v.run.metrics.get(name, k, contains)
		if err != nil {
			panic(v.rt.NewGoError(err))
		}
		add := func(call sobek.FunctionCall) sobek.Value {
			if !v.ready {
				panic(v.rt.NewTypeError("%s.add works only in functions that iterations call", name))
			}
			value, t := call.Argument(0).ToFloat(), v.tagsOf(call.Argument(1))
			if math.IsNaN(value) || k == counter && value < 0 {
				panic(v.rt.NewTypeError("%s.add(%v): want a number%s", name, call.Argument(0), map[bool]string{true: " that is not negative"}[k == counter]))
			}
			v.run.metrics.add(m, value, t)
			return v.rt.ToValue(true)
		}
		return v.strict(string(k), map[string]sobek.Value{"name": v.rt.ToValue(name), "add": v.rt.ToValue(add)})
	}
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return len(name) >= 2 && len(name) <= 128
}

// tagsOf is a script's object of tags, over those of the VU.
func (v *vu) tagsOf(value sobek.Value) *tagSet {
	own := v.stringMap("tags", value)
	if len(own) == 0 {
		return v.tags
	}
	return &tagSet{own: own, up: v.tags}
}

// stringMap reads an object of strings, numbers and booleans; nil for none.
func (v *vu) stringMap(what string, value sobek.Value) map[string]string {
	if value == nil || sobek.IsUndefined(value) || sobek.IsNull(value) {
		return nil
	}
	object, ok := value.(*sobek.Object)
	if !ok {
		panic(v.rt.NewTypeError("%s: want an object of strings, not %v", what, value))
	}
	out := make(map[string]string, 4)
	for _, key := range object.Keys() {
		item := object.Get(key)
		if _, ok := item.(*sobek.Object); ok || sobek.IsUndefined(item) || sobek.IsNull(item) {
			panic(v.rt.NewTypeError("%s: %s is %v, want a string", what, key, item))
		}
		out[key] = item.String()
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
