package runner

import (
	"math/rand"
	"time"

	"github.com/grafana/sobek"
)

// group is a group of the script, with its checks, as the summary shows them.
type group struct {
	name, path string
	groups     []*group
	checks     []*checkResult
}

type checkResult struct {
	name, path    string
	passes, fails int64
}

// moduleK6 is k6.
func (v *vu) moduleK6() map[string]any {
	return map[string]any{"check": v.check, "fail": v.fail, "group": v.inGroup, "randomSeed": v.randomSeed, "sleep": v.sleep}
}

// check judges a value by each function, and gives whether all hold. It ends nothing: thresholds do.
func (v *vu) check(call sobek.FunctionCall) sobek.Value {
	if !v.ready {
		panic(v.rt.NewTypeError("check works only in functions that iterations call"))
	}
	value, tags := call.Argument(0), v.tagsOf(call.Argument(2))
	if sobek.IsUndefined(call.Argument(1)) || sobek.IsNull(call.Argument(1)) {
		panic(v.rt.NewTypeError("check: want an object of functions as the second argument"))
	}
	sets := call.Argument(1).ToObject(v.rt)
	all := true
	for _, name := range sets.Keys() {
		result := sets.Get(name)
		var thrown error
		if fn, ok := sobek.AssertFunction(result); ok {
			result, thrown = fn(sobek.Undefined(), value)
		}
		if thrown == nil {
			if _, promise := result.Export().(*sobek.Promise); promise {
				v.unsupported("check: " + name + " gives a promise, which is always true")
			}
		}
		passes := thrown == nil && result.ToBoolean()
		if v.ctx.Err() != nil {
			return v.stopped()
		}
		v.run.count(v.group, name, passes)
		sample := 0.0
		if passes {
			sample = 1
		}
		v.run.metrics.add(v.run.builtin.checks, sample, &tagSet{own: map[string]string{"check": name}, up: tags})
		if thrown != nil {
			panic(thrown)
		}
		all = all && passes
	}
	return v.rt.ToValue(all)
}

// count counts a check for the summary.
func (r *run) count(g *group, name string, passes bool) {
	r.metrics.mu.Lock()
	defer r.metrics.mu.Unlock()
	var c *checkResult
	for _, known := range g.checks {
		if known.name == name {
			c = known
		}
	}
	if c == nil {
		c = &checkResult{name: name, path: g.path + "::" + name}
		g.checks = append(g.checks, c)
	}
	if passes {
		c.passes++
	} else {
		c.fails++
	}
}

func (v *vu) fail(call sobek.FunctionCall) sobek.Value {
	what := "fail() was called"
	if !sobek.IsUndefined(call.Argument(0)) {
		what = call.Argument(0).String()
	}
	e, err := v.rt.New(v.rt.GlobalObject().Get("Error"), v.rt.ToValue(what))
	if err != nil {
		panic(err)
	}
	panic(e)
}

// inGroup calls a function, and tags what it does with the group's path.
func (v *vu) inGroup(call sobek.FunctionCall) sobek.Value {
	if !v.ready {
		panic(v.rt.NewTypeError("group works only in functions that iterations call"))
	}
	fn, ok := sobek.AssertFunction(call.Argument(1))
	if !ok {
		panic(v.rt.NewTypeError("group: want a function as the second argument"))
	}
	outer, tags := v.group, v.tags
	v.group = v.run.child(outer, call.Argument(0).String())
	v.tags = &tagSet{own: map[string]string{"group": v.group.path}, up: tags}
	start := time.Now()
	value, err := fn(sobek.Undefined())
	inner := v.tags
	v.group, v.tags = outer, tags
	if err != nil {
		panic(err)
	}
	if _, promise := value.Export().(*sobek.Promise); promise {
		v.unsupported("group: its function gives a promise, and would go on after the group")
	}
	v.run.metrics.add(v.run.builtin.groupDuration, ms(time.Since(start)), inner)
	return value
}

func (r *run) child(g *group, name string) *group {
	r.metrics.mu.Lock()
	defer r.metrics.mu.Unlock()
	for _, known := range g.groups {
		if known.name == name {
			return known
		}
	}
	c := &group{name: name, path: g.path + "::" + name}
	g.groups = append(g.groups, c)
	return c
}

func (v *vu) randomSeed(call sobek.FunctionCall) sobek.Value {
	source := rand.New(rand.NewSource(call.Argument(0).ToInteger())) //nolint:gosec // it is to be repeatable
	v.rt.SetRandSource(source.Float64)
	return sobek.Undefined()
}

func (v *vu) sleep(call sobek.FunctionCall) sobek.Value {
	if !v.ready {
		panic(v.rt.NewTypeError("sleep works only in functions that iterations call"))
	}
	d := time.Duration(call.Argument(0).ToFloat() * float64(time.Second))
	if !sleepUntil(v.ctx, time.Now().Add(d)) {
		return v.stopped()
	}
	return sobek.Undefined()
}

// moduleData is k6/data.
func (v *vu) moduleData() map[string]any {
	return map[string]any{"SharedArray": v.sharedArray}
}

// sharedItems are the items of a SharedArray as JSON, made by the first VU.
type sharedItems [][]byte

func (v *vu) sharedArray(call sobek.ConstructorCall) *sobek.Object {
	name := call.Argument(0).String()
	fn, ok := sobek.AssertFunction(call.Argument(1))
	switch {
	case v.ready:
		panic(v.rt.NewTypeError("a SharedArray is made while the script is read, outside of functions that iterations call"))
	case !ok:
		panic(v.rt.NewTypeError("SharedArray %q: want a function as the second argument", name))
	}
	items, known := v.run.shared.Load(name)
	if !known {
		value, err := fn(sobek.Undefined())
		if err != nil {
			panic(err)
		}
		array, ok := value.(*sobek.Object)
		if !ok || array.ClassName() != "Array" {
			panic(v.rt.NewTypeError("SharedArray %q: its function gave %v, want an array", name, value))
		}
		list := make(sharedItems, array.Get("length").ToInteger())
		for i := range list {
			if list[i], err = v.json(array.Get(v.rt.ToValue(i).String())); err != nil {
				panic(v.rt.NewGoError(err))
			}
		}
		items = list
		v.run.shared.Store(name, items)
	}
	return v.rt.NewDynamicArray(&sharedArray{v: v, items: items.(sharedItems)}) //nolint:forcetypeassert // nothing else is stored
}

// sharedArray shows the items to one VU, each as a copy that can't be changed.
type sharedArray struct {
	v     *vu
	items sharedItems
}

// Len is the number of items.
func (a *sharedArray) Len() int { return len(a.items) }

// Get is a copy of one.
func (a *sharedArray) Get(i int) sobek.Value {
	if i < 0 || i >= len(a.items) || a.items[i] == nil {
		return sobek.Undefined()
	}
	return a.v.frozen(a.v.parse(a.items[i]))
}

// Set refuses.
func (a *sharedArray) Set(int, sobek.Value) bool { return false }

// SetLen refuses.
func (a *sharedArray) SetLen(int) bool { return false }

// frozen makes a value of JSON one that can't be changed.
func (v *vu) frozen(value sobek.Value) sobek.Value {
	object, ok := value.(*sobek.Object)
	if !ok {
		return value
	}
	for _, key := range object.Keys() {
		v.frozen(object.Get(key))
	}
	freeze, _ := sobek.AssertFunction(v.rt.GlobalObject().Get("Object").ToObject(v.rt).Get("freeze"))
	if _, err := freeze(sobek.Undefined(), object); err != nil {
		panic(v.rt.NewGoError(err))
	}
	return object
}
