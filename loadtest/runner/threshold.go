package runner

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// threshold is one condition on a metric.
type threshold struct {
	source      string
	aggregate   string
	operator    string
	bound       float64
	abortOnFail bool
	delay       time.Duration // before abortOnFail is judged
	ok          bool
}

var thresholdSyntax = regexp.MustCompile(`^\s*([a-z]+(?:\(\s*[0-9.]+\s*\))?)\s*(===?|!==?|<=|>=|<|>)\s*(-?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*$`)

func parseThreshold(source string) (*threshold, error) {
	parts := thresholdSyntax.FindStringSubmatch(source)
	if parts == nil {
		return nil, fmt.Errorf("threshold %q: want an aggregation, a comparison and a number, such as p(95)<200 or count==0", source)
	}
	bound, err := strconv.ParseFloat(parts[3], 64)
	if err != nil {
		return nil, fmt.Errorf("threshold %q: %q is no number", source, parts[3])
	}
	return &threshold{source: source, aggregate: strings.ReplaceAll(parts[1], " ", ""), operator: parts[2], bound: bound, ok: true}, nil
}

// fits tells whether a kind of metric has the aggregation.
func (t *threshold) fits(k kind) error {
	can := map[kind][]string{counter: {"count", "rate"}, gauge: {"value"}, rate: {"rate"}, trend: {"avg", "min", "max", "med", "p(N)"}}[k]
	if _, ok := percentile(t.aggregate); ok && k == trend || slices.Contains(can, t.aggregate) {
		return nil
	}
	return fmt.Errorf("threshold %q: a %s has no %s; it has %s", t.source, k, t.aggregate, strings.Join(can, ", "))
}

func (t *threshold) holds(value float64) bool {
	switch t.operator {
	case "<":
		return value < t.bound
	case "<=":
		return value <= t.bound
	case ">":
		return value > t.bound
	case ">=":
		return value >= t.bound
	case "!=", "!==":
		return value != t.bound
	}
	return value == t.bound
}

// selector reads name{tag:value,…}.
func selector(text string) (name string, tags map[string]string, err error) {
	name, inner, some := strings.Cut(text, "{")
	if !some {
		return strings.TrimSpace(name), nil, nil
	}
	inner, closed := strings.CutSuffix(strings.TrimSpace(inner), "}")
	if !closed || strings.TrimSpace(inner) == "" {
		return "", nil, fmt.Errorf("threshold on %q: want name{tag:value,…}", text)
	}
	tags = map[string]string{}
	for _, pair := range strings.Split(inner, ",") {
		key, value, ok := strings.Cut(pair, ":")
		if key = unquoted(key); !ok || key == "" {
			return "", nil, fmt.Errorf("threshold on %q: %q is not tag:value", text, pair)
		}
		tags[key] = unquoted(value)
	}
	return strings.TrimSpace(name), tags, nil
}

func unquoted(s string) string { return strings.Trim(strings.TrimSpace(s), `'"`) }

// watch makes the sub-metrics that thresholds name, and reports each threshold that can't be.
func (r *registry) watch(thresholds map[string][]*threshold) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var problems []error
	for _, text := range sortedKeys(thresholds) {
		name, tags, err := selector(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		m := r.byName[name]
		if m == nil {
			problems = append(problems, fmt.Errorf("threshold on %q: the script makes no metric %q, and none is built in; there are %s", text, name, strings.Join(sortedKeys(r.byName), ", ")))
			continue
		}
		for _, t := range thresholds[text] {
			if err := t.fits(m.kind); err != nil {
				problems = append(problems, fmt.Errorf("options.thresholds[%q]: %w", text, err))
			}
		}
		if tags != nil {
			sub := &metric{name: text, kind: m.kind, contains: m.contains, tags: tags}
			m.subs = append(m.subs, sub)
			m = sub
		}
		m.thresholds = thresholds[text]
	}
	return errors.Join(problems...)
}

// judge judges every threshold, at the end, and gives those that failed.
func (r *registry) judge(elapsed time.Duration) (failed []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.all() {
		for _, t := range m.thresholds {
			value := m.aggregate(t.aggregate, elapsed)
			if t.ok = t.holds(value); !t.ok {
				failed = append(failed, fmt.Sprintf("%s: %s, but it is %v", m.name, t.source, value))
			}
		}
	}
	return failed
}

// aborts gives a threshold that ends the run now. One without a sample yet is not judged.
func (r *registry) aborts(elapsed time.Duration) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.all() {
		for _, t := range m.thresholds {
			if t.abortOnFail && m.n > 0 && elapsed >= t.delay && !t.holds(m.aggregate(t.aggregate, elapsed)) {
				return m.name + ": " + t.source
			}
		}
	}
	return ""
}
