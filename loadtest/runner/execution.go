package runner

import (
	"errors"
	"time"

	"github.com/grafana/sobek"

	"github.com/voicecore-ai/sluice/exit"
)

// live is an object whose members are asked for each time.
func (v *vu) live(name string, members map[string]func() any) *sobek.Object {
	o := &strictObject{v: v, name: name, members: map[string]sobek.Value{}}
	for key := range members {
		o.members[key] = nil
	}
	o.get = func(key string) sobek.Value { return v.rt.ToValue(members[key]()) }
	return v.rt.NewDynamicObject(o)
}

// moduleExecution is k6/execution.
func (v *vu) moduleExecution() map[string]any {
	scenario := map[string]func() any{
		"name":                func() any { return v.inIteration().config.name },
		"executor":            func() any { return v.inIteration().config.executor },
		"startTime":           func() any { return v.inIteration().started.UnixMilli() },
		"progress":            func() any { return v.inIteration().progress() },
		"iterationInInstance": func() any { v.inIteration(); return v.inScenario },
		"iterationInTest":     func() any { v.inIteration(); return v.inScenario },
	}
	instance := map[string]func() any{
		"iterationsInterrupted": func() any { return v.run.interrupted.Load() },
		"iterationsCompleted":   func() any { return v.run.completed.Load() },
		"vusActive":             func() any { return v.run.active.Load() },
		"vusInitialized":        func() any { return v.run.initialised.Load() },
		"currentTestRunDuration": func() any {
			if !v.ready {
				return 0
			}
			return ms(time.Since(v.run.began))
		},
	}
	tags := v.rt.NewDynamicObject(&vuTags{v})
	metrics := v.strict("k6/execution vu.metrics", map[string]sobek.Value{"tags": tags})
	user := map[string]func() any{
		"idInInstance":        func() any { return v.id },
		"idInTest":            func() any { return v.id },
		"iterationInInstance": func() any { return v.iteration },
		"iterationInScenario": func() any { return v.iteration },
		"tags":                func() any { return tags },
		"metrics":             func() any { return metrics },
	}
	test := map[string]func() any{
		"abort":   func() any { return v.abort },
		"fail":    func() any { return v.failTest },
		"options": func() any { return v.run.options.raw },
	}
	return map[string]any{
		"scenario": v.live("k6/execution scenario", scenario), "instance": v.live("k6/execution instance", instance),
		"vu": v.live("k6/execution vu", user), "test": v.live("k6/execution test", test),
	}
}

// inIteration is the scenario of the iteration at hand; outside of one it throws.
func (v *vu) inIteration() *scenario {
	if v.scenario == nil || !v.ready {
		panic(v.rt.NewTypeError("exec.scenario is there only in an iteration of a scenario"))
	}
	return v.scenario
}

// abort ends the run, with its teardown and summary.
func (v *vu) abort(call sobek.FunctionCall) sobek.Value {
	why := "the script called exec.test.abort()"
	if !sobek.IsUndefined(call.Argument(0)) {
		why += ": " + call.Argument(0).String()
	}
	if !v.ready {
		panic(v.rt.NewGoError(errors.New(why)))
	}
	v.run.cancel(exit.With(codeAborted, errors.New(why)))
	return v.stopped()
}

// failTest lets the run go on, and fail at its end.
func (v *vu) failTest(call sobek.FunctionCall) sobek.Value {
	why := "exec.test.fail()"
	if !sobek.IsUndefined(call.Argument(0)) {
		why = call.Argument(0).String()
	}
	v.run.failed.CompareAndSwap(nil, &why)
	return sobek.Undefined()
}

// tagged is the VU's tags outside of groups.
func (v *vu) tagged() *tagSet {
	if len(v.own) == 0 {
		return v.base
	}
	own := make(map[string]string, len(v.own))
	for key, value := range v.own {
		own[key] = value
	}
	return &tagSet{own: own, up: v.base}
}

// vuTags is exec.vu.metrics.tags: what a script sets there is on all samples of the VU from then on.
type vuTags struct{ v *vu }

// Get is a tag.
func (t *vuTags) Get(key string) sobek.Value {
	if value, ok := t.v.tags.get(key); ok {
		return t.v.rt.ToValue(value)
	}
	return nil
}

// Set sets a tag.
func (t *vuTags) Set(key string, value sobek.Value) bool {
	if _, ok := value.(*sobek.Object); ok || sobek.IsUndefined(value) || sobek.IsNull(value) {
		panic(t.v.rt.NewTypeError("exec.vu.metrics.tags.%s: want a string, number or boolean", key))
	}
	t.v.own[key] = value.String()
	t.v.tags = &tagSet{own: map[string]string{key: value.String()}, up: t.v.tags}
	return true
}

// Has tells whether there is such a tag.
func (t *vuTags) Has(key string) bool { _, ok := t.v.tags.get(key); return ok }

// Delete removes one that the script has set.
func (t *vuTags) Delete(key string) bool {
	delete(t.v.own, key)
	t.v.tags = t.v.tagged()
	return true
}

// Keys are those that the script has set.
func (t *vuTags) Keys() []string { return sortedKeys(t.v.own) }
