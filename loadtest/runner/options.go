package runner

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/sobek"
)

// options are a script's.
type options struct {
	scenarios       []scenarioConfig // by name
	thresholds      map[string][]*threshold
	tags            map[string]string
	trendStats      []string
	setupTimeout    time.Duration
	teardownTimeout time.Duration
	summaryTimeout  time.Duration

	batch, batchPerHost   int64
	maxRedirects          int64
	userAgent             string
	throw                 bool
	discardResponseBodies bool
	insecureSkipTLSVerify bool
	noConnectionReuse     bool
	noVUConnectionReuse   bool

	raw map[string]any
}

var defaultTrendStats = []string{"avg", "min", "med", "max", "p(90)", "p(95)"}

// readOptions reads all there is, or reports all that can't be.
func readOptions(raw map[string]any, v *vu) (options, error) {
	d := &decoder{v: v}
	o := options{
		raw: raw, thresholds: map[string][]*threshold{}, trendStats: defaultTrendStats,
		setupTimeout: time.Minute, teardownTimeout: time.Minute, summaryTimeout: 2 * time.Minute,
		batch: 20, batchPerHost: 6, maxRedirects: 10, userAgent: "sluice-loadtest-runner (not k6)",
	}
	top := d.object("options", raw)
	top.strings("tags", &o.tags)
	top.duration("setupTimeout", &o.setupTimeout)
	top.duration("teardownTimeout", &o.teardownTimeout)
	top.duration("handleSummaryTimeout", &o.summaryTimeout)
	top.positive("batch", &o.batch)
	top.positive("batchPerHost", &o.batchPerHost)
	top.number("maxRedirects", &o.maxRedirects)
	top.text("userAgent", &o.userAgent)
	top.flag("throw", &o.throw)
	top.flag("discardResponseBodies", &o.discardResponseBodies)
	top.flag("insecureSkipTLSVerify", &o.insecureSkipTLSVerify)
	top.flag("noConnectionReuse", &o.noConnectionReuse)
	top.flag("noVUConnectionReuse", &o.noVUConnectionReuse)
	if list, ok := top.list("summaryTrendStats"); ok {
		o.trendStats = nil
		for _, item := range list {
			name := fmt.Sprint(item)
			if _, ok := percentile(name); !ok && !slices.Contains([]string{"avg", "min", "med", "max", "count"}, name) {
				top.problem("summaryTrendStats", fmt.Sprintf("has no %q; there are avg, min, med, max, count and p(N)", name))
			}
			o.trendStats = append(o.trendStats, name)
		}
	}
	thresholds := top.child("thresholds")
	for _, name := range sortedKeys(thresholds.m) {
		o.thresholds[name] = thresholds.thresholds(name)
	}
	o.scenarios = readScenarios(d, top)
	top.done()
	return o, errors.Join(d.problems...)
}

// readScenarios reads options.scenarios, or the one that vus, iterations, duration and stages stand for.
func readScenarios(d *decoder, top *object) []scenarioConfig {
	_, some := top.m["scenarios"]
	short := map[string]any{}
	for _, key := range []string{"vus", "iterations", "duration", "stages"} {
		if value, ok := top.m[key]; ok {
			short[key] = value
			top.seen[key] = true
			if some {
				top.problem(key, "can't stand beside scenarios; give it within one")
			}
		}
	}
	if some {
		var list []scenarioConfig
		scenarios := top.child("scenarios")
		for _, name := range sortedKeys(scenarios.m) {
			list = append(list, readScenario(name, scenarios.child(name)))
		}
		if len(list) == 0 {
			top.problem("scenarios", "has none")
		}
		return list
	}
	short["executor"] = "shared-iterations"
	switch {
	case short["stages"] != nil:
		short["executor"] = "ramping-vus"
		if short["vus"] != nil {
			short["startVUs"] = short["vus"]
			delete(short, "vus")
		}
	case short["iterations"] != nil && short["duration"] != nil:
		short["maxDuration"] = short["duration"]
		delete(short, "duration")
	case short["duration"] != nil:
		short["executor"] = "constant-vus"
	}
	return []scenarioConfig{readScenario("default", d.object("options", short))}
}

// scenarioConfig is one scenario of the options.
type scenarioConfig struct {
	name, executor, exec    string
	startTime, gracefulStop time.Duration
	env, tags               map[string]string

	vus, maxVUs      int64
	iterations       int64
	duration         time.Duration // when no iteration starts any more
	rate             int64         // per timeUnit, at the beginning
	timeUnit         time.Duration
	stages           []stage
	gracefulRampDown time.Duration
}

type stage struct {
	duration time.Duration
	target   int64
}

const (
	constantArrivalRate = "constant-arrival-rate"
	rampingArrivalRate  = "ramping-arrival-rate"
	perVUIterations     = "per-vu-iterations"
	sharedIterations    = "shared-iterations"
	constantVUs         = "constant-vus"
	rampingVUs          = "ramping-vus"
)

var executors = []string{constantArrivalRate, constantVUs, perVUIterations, rampingArrivalRate, rampingVUs, sharedIterations}

func readScenario(name string, o *object) scenarioConfig {
	c := scenarioConfig{name: name, exec: "default", gracefulStop: 30 * time.Second, gracefulRampDown: 30 * time.Second, vus: 1, iterations: 1, timeUnit: time.Second}
	o.text("executor", &c.executor)
	o.text("exec", &c.exec)
	o.duration("startTime", &c.startTime)
	o.duration("gracefulStop", &c.gracefulStop)
	o.strings("env", &c.env)
	o.strings("tags", &c.tags)
	switch c.executor {
	case constantArrivalRate, rampingArrivalRate:
		if c.executor == constantArrivalRate {
			o.required("rate", "duration")
			o.positive("rate", &c.rate)
			o.duration("duration", &c.duration)
		} else {
			c.rate = 0
			o.number("startRate", &c.rate)
			o.stages(&c)
		}
		o.required("preAllocatedVUs")
		o.duration("timeUnit", &c.timeUnit)
		o.number("preAllocatedVUs", &c.vus)
		c.maxVUs = c.vus
		o.number("maxVUs", &c.maxVUs)
		if c.maxVUs < c.vus || c.maxVUs < 1 {
			o.problem("maxVUs", "want at least 1, and at least preAllocatedVUs")
		}
		if c.timeUnit <= 0 {
			o.problem("timeUnit", "want more than 0")
		}
	case perVUIterations, sharedIterations:
		c.duration = 10 * time.Minute
		o.positive("vus", &c.vus)
		o.positive("iterations", &c.iterations)
		o.duration("maxDuration", &c.duration)
		if c.executor == sharedIterations && c.iterations < c.vus {
			o.problem("iterations", "want at least one for each of vus")
		}
	case constantVUs:
		o.required("duration")
		o.positive("vus", &c.vus)
		o.duration("duration", &c.duration)
	case rampingVUs:
		o.number("startVUs", &c.vus)
		o.duration("gracefulRampDown", &c.gracefulRampDown)
		o.stages(&c)
	default:
		o.problem("executor", fmt.Sprintf("%q is none of %s", c.executor, strings.Join(executors, ", ")))
		return c
	}
	switch {
	case c.stages != nil && c.duration > 0: // k6 takes a short ramp, and nothing else that is
	case c.executor == perVUIterations || c.executor == sharedIterations:
		o.atLeastOneSecond("maxDuration", c.duration)
	default:
		o.atLeastOneSecond("duration", c.duration)
	}
	if o.d.v.function(c.exec) == nil {
		o.problem("exec", fmt.Sprintf("the script exports no function %q", c.exec))
	}
	o.done()
	return c
}

// decoder collects what is wrong with options.
type decoder struct {
	v        *vu
	problems []error
}

// object is an object of the options, and what was read of it.
type object struct {
	d    *decoder
	path string
	m    map[string]any
	seen map[string]bool
}

func (d *decoder) object(path string, m map[string]any) *object {
	return &object{d: d, path: path, m: m, seen: map[string]bool{}}
}

// problem reports what is wrong with a member, and the line of the script where a member of that name first is.
func (o *object) problem(key, what string) {
	file := o.d.v.run.bundle.path
	at := file
	source := o.d.v.run.bundle.sources[file]
	if begin := strings.Index(source, "options"); begin >= 0 {
		member := regexp.MustCompile(`(?:^|[\s{,'"\[])` + regexp.QuoteMeta(key) + `['"]?\]?\s*[:,}]`)
		if found := member.FindStringIndex(source[begin:]); found != nil {
			at = fmt.Sprintf("%s:%d", file, 1+strings.Count(source[:begin+found[0]+1], "\n"))
		}
	}
	o.d.problems = append(o.d.problems, fmt.Errorf("%s: %s.%s: %s", at, o.path, key, what))
}

func (o *object) done() {
	for _, key := range sortedKeys(o.m) {
		if !o.seen[key] {
			o.problem(key, "this runner has no such option here; it has "+strings.Join(sortedKeys(o.seen), ", "))
		}
	}
}

func (o *object) required(keys ...string) {
	for _, key := range keys {
		if _, ok := o.m[key]; !ok {
			o.problem(key, "is missing")
		}
	}
}

// field reads a member with a type of JSON.
func field[T any](o *object, key, want string) (value T, ok bool) {
	o.seen[key] = true
	raw, some := o.m[key]
	if !some || raw == nil {
		return value, false
	}
	value, ok = raw.(T)
	if !ok {
		o.problem(key, fmt.Sprintf("want %s, not %v", want, raw))
	}
	return value, ok
}

func (o *object) text(key string, to *string) {
	if s, ok := field[string](o, key, "a string"); ok {
		*to = s
	}
}

func (o *object) flag(key string, to *bool) {
	if b, ok := field[bool](o, key, "true or false"); ok {
		*to = b
	}
}

func (o *object) number(key string, to *int64) {
	if f, ok := field[float64](o, key, "a whole number"); ok {
		if f != math.Trunc(f) || f < 0 || f > 1e9 {
			o.problem(key, fmt.Sprintf("want a whole number from 0 to 1e9, not %v", f))
			return
		}
		*to = int64(f)
	}
}

func (o *object) positive(key string, to *int64) {
	o.number(key, to)
	if *to < 1 {
		o.problem(key, "want at least 1")
	}
}

func (o *object) atLeastOneSecond(key string, d time.Duration) {
	if d < time.Second {
		o.problem(key, "want at least 1s")
	}
}

func (o *object) duration(key string, to *time.Duration) {
	o.seen[key] = true
	raw, some := o.m[key]
	if !some || raw == nil {
		return
	}
	d, err := duration(raw)
	if err != nil {
		o.problem(key, err.Error())
	}
	*to = d
}

// duration is k6's: a number of milliseconds, or a text such as 1m30s or 2d.
func duration(raw any) (time.Duration, error) {
	switch raw := raw.(type) {
	case float64:
		return time.Duration(raw * float64(time.Millisecond)), nil
	case int64:
		return time.Duration(raw) * time.Millisecond, nil
	case string:
		rest, days := raw, time.Duration(0)
		if number, after, ok := strings.Cut(raw, "d"); ok {
			n, err := strconv.ParseUint(number, 10, 16)
			if err != nil {
				break
			}
			days, rest = time.Duration(n)*24*time.Hour, after
			if rest == "" {
				return days, nil
			}
		}
		if n, err := strconv.ParseFloat(rest, 64); err == nil && days == 0 && n >= 0 {
			return time.Duration(n * float64(time.Millisecond)), nil
		}
		if d, err := time.ParseDuration(rest); err == nil && d >= 0 {
			return days + d, nil
		}
	}
	return 0, fmt.Errorf("want a duration such as 30s or 1m30s, not %v", raw)
}

func (o *object) strings(key string, to *map[string]string) {
	m, ok := field[map[string]any](o, key, "an object of strings")
	if !ok {
		return
	}
	*to = map[string]string{}
	for name, value := range m {
		(*to)[name] = fmt.Sprint(value)
	}
}

func (o *object) list(key string) ([]any, bool) { return field[[]any](o, key, "a list") }

func (o *object) child(key string) *object {
	m, _ := field[map[string]any](o, key, "an object")
	return o.d.object(o.path+"."+key, m)
}

func (o *object) stages(c *scenarioConfig) {
	list, _ := o.list("stages")
	for i, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			o.problem("stages", fmt.Sprintf("want objects with duration and target, not %v", item))
			continue
		}
		one := o.d.object(fmt.Sprintf("%s.stages[%d]", o.path, i), m)
		var s stage
		one.required("duration", "target")
		one.duration("duration", &s.duration)
		one.number("target", &s.target)
		one.done()
		c.stages = append(c.stages, s)
		c.duration += s.duration
	}
}

// thresholds reads the conditions on one metric.
func (o *object) thresholds(key string) (list []*threshold) {
	items, ok := o.list(key)
	if !ok {
		return nil
	}
	for _, item := range items {
		var abort bool
		var delay time.Duration
		source, ok := item.(string)
		if m, is := item.(map[string]any); is {
			one := o.d.object(o.path+"."+key, m)
			one.required("threshold")
			one.text("threshold", &source)
			one.flag("abortOnFail", &abort)
			one.duration("delayAbortEval", &delay)
			one.done()
			ok = source != ""
		}
		if !ok {
			o.problem(key, fmt.Sprintf("want a text such as count==0, or an object with threshold, not %v", item))
			continue
		}
		t, err := parseThreshold(source)
		if err != nil {
			o.problem(key, err.Error())
			continue
		}
		t.abortOnFail, t.delay = abort, delay
		list = append(list, t)
	}
	return list
}

// durationOf reads a duration that a script passes to a function.
func (v *vu) durationOf(what string, value sobek.Value) time.Duration {
	d, err := duration(value.Export())
	if err != nil {
		panic(v.rt.NewTypeError("%s: %s", what, err.Error()))
	}
	return d
}
