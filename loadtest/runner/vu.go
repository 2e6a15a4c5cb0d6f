package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grafana/sobek"

	"github.com/voicecore-ai/sluice/exit"
)

// vu is a virtual user: an interpreter that has read the script. One goroutine at a time may use it.
type vu struct {
	run      *run
	rt       *sobek.Runtime
	scenario *scenario // nil for those of setup, teardown and the summary
	id       int64
	ready    bool            // the script was read
	ctx      context.Context //nolint:containedctx // of the call at hand; the interpreter passes none
	base     *tagSet         // of the run and the scenario
	tags     *tagSet         // base, and of groups and exec.vu
	own      map[string]string
	group    *group
	env      *sobek.Object

	iteration  int64 // of this VU, from 0
	inScenario int64 // of the iteration at hand, in the whole scenario
	data       sobek.Value
	hasData    bool

	client   client
	grpcs    []*grpcClient
	received atomic.Int64
	sent     atomic.Int64
}

// newVU makes a VU and lets it read the script.
func (r *run) newVU(s *scenario) (*vu, error) {
	r.bundle.mu.Lock()
	defer r.bundle.mu.Unlock()
	v := &vu{run: r, rt: sobek.New(), scenario: s, group: r.root, iteration: -1, own: map[string]string{}}
	r.bundle.reading = v
	defer func() { r.bundle.reading = nil }()
	if s != nil {
		v.id = r.ids.Add(1)
		r.initialised.Add(1)
	}
	v.rt.SetFieldNameMapper(sobek.UncapFieldNameMapper())
	v.client.callback = defaultExpected
	v.client.start(v)
	v.setTags()
	if err := v.globals(); err != nil {
		return nil, err
	}
	promise := v.rt.CyclicModuleRecordEvaluate(r.bundle.main, r.bundle.resolve)
	if err := settled(promise); err != nil {
		return nil, err
	}
	v.ready = true
	if s != nil {
		for key, value := range s.config.env {
			if err := v.env.Set(key, value); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// settled is the error of a promise that must have been kept by now.
func settled(p *sobek.Promise) error {
	switch p.State() {
	case sobek.PromiseStateFulfilled:
		return nil
	case sobek.PromiseStatePending:
		return errors.New("a promise waits for something that this runner does not have, such as a timer")
	}
	return thrown(p.Result())
}

// thrown is the error for a value that was thrown, with the stack where there is one.
func thrown(value sobek.Value) error {
	if value == nil {
		return errors.New("undefined was thrown")
	}
	if err, ok := value.Export().(error); ok {
		return readable(err)
	}
	if object, ok := value.(*sobek.Object); ok {
		if stack := object.Get("stack"); stack != nil && stack.String() != "" {
			return errors.New(strings.TrimSpace(stack.String()))
		}
	}
	return errors.New(value.String())
}

// readable gives an exception with its stack.
func readable(err error) error {
	var exception *sobek.Exception
	if errors.As(err, &exception) {
		return errors.New(strings.TrimSpace(exception.String()))
	}
	return err
}

func (v *vu) setTags() {
	own := map[string]string{"group": ""}
	if s := v.scenario; s != nil {
		own["scenario"] = s.config.name
		for key, value := range s.config.tags {
			own[key] = value
		}
	}
	v.base = &tagSet{own: own, up: &tagSet{own: v.run.options.tags}}
	v.tags = v.base
}

func (v *vu) globals() error {
	v.env = v.rt.NewObject()
	for key, value := range v.run.Env {
		if err := v.env.Set(key, value); err != nil {
			return err
		}
	}
	console := map[string]sobek.Value{}
	for name, level := range map[string]string{"log": "info", "info": "info", "debug": "debug", "warn": "warn", "error": "error"} {
		console[name] = v.rt.ToValue(func(call sobek.FunctionCall) sobek.Value {
			words := make([]string, len(call.Arguments))
			for i, a := range call.Arguments {
				words[i] = v.shown(a)
			}
			v.run.log.print(level, strings.Join(words, " "))
			return sobek.Undefined()
		})
	}
	for name, value := range map[string]any{
		"__ENV": v.env, "__VU": v.id, "__ITER": 0, "console": v.strict("console", console), "open": v.open,
	} {
		if err := v.rt.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// shown is a value as the console writes it: objects as JSON.
func (v *vu) shown(value sobek.Value) string {
	object, ok := value.(*sobek.Object)
	if !ok {
		return value.String()
	}
	if object.ClassName() == "Error" || object.ClassName() == "Function" {
		return value.String()
	}
	text, err := v.json(value)
	if err != nil {
		return value.String()
	}
	return string(text)
}

// open reads a file, as text or, with "b", as an ArrayBuffer.
func (v *vu) open(call sobek.FunctionCall) sobek.Value {
	if v.ready {
		panic(v.rt.NewTypeError("open() works only while the script is read, outside of functions that iterations call"))
	}
	path := v.fileOf("open", call.Argument(0).String())
	content, err := os.ReadFile(path) //nolint:gosec // a script may read what its user may
	if err != nil {
		panic(v.rt.NewGoError(err))
	}
	switch mode := call.Argument(1); {
	case sobek.IsUndefined(mode), mode.String() == "":
		return v.rt.ToValue(string(content))
	case mode.String() == "b":
		return v.rt.ToValue(v.rt.NewArrayBuffer(content))
	}
	panic(v.rt.NewTypeError("open: mode %q: want none for text, or \"b\"", call.Argument(1).String()))
}

// fileOf is the absolute path of what a script names while it is read.
func (v *vu) fileOf(what, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	// k6 is about to change to what a relative path is relative. Where both are the same it does not matter.
	main := filepath.Dir(v.run.bundle.path)
	if from := filepath.Dir(v.position().file); from != main {
		panic(v.rt.NewTypeError("%s(%q) in another folder than the script's: give an absolute path, for example by -e", what, path))
	}
	return filepath.Join(main, path)
}

// place is where in a script something is called.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// position is the innermost place of the script that is being executed.
func (v *vu) position() place {
	for _, frame := range v.rt.CaptureCallStack(0, nil) {
		if at := frame.Position(); at.Line > 0 {
			return place{frame.SrcName(), at.Line}
		}
	}
	return place{v.run.bundle.path, 1}
}

// unsupported throws for what a script wants and this runner does not have. It ends the run: an iteration that fails is
// only logged, and a script must not lose a part unseen.
func (v *vu) unsupported(what string) {
	err := fmt.Errorf("%v: %s", v.position(), what)
	if v.ready {
		v.run.cancel(exit.With(codeException, err))
	}
	panic(v.rt.NewGoError(err))
}

// has tells whether the script exports such a function.
func (v *vu) has(name string) bool { return v.function(name) != nil }

func (v *vu) exported(name string) sobek.Value {
	return v.rt.NamespaceObjectFor(v.run.bundle.main).Get(name)
}

func (v *vu) function(name string) sobek.Callable {
	fn, _ := sobek.AssertFunction(v.exported(name))
	return fn
}

// call calls a function of the script until ctx ends.
func (v *vu) call(ctx context.Context, fn sobek.Callable, args ...sobek.Value) (sobek.Value, error) {
	v.ctx = ctx
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		v.rt.Interrupt(errStopped)
		close(interrupted)
	})
	value, err := fn(sobek.Undefined(), args...)
	if !stop() {
		<-interrupted
	}
	v.rt.ClearInterrupt()
	var stopped *sobek.InterruptedError
	if errors.As(err, &stopped) {
		return nil, errStopped
	}
	if err != nil {
		return nil, readable(err)
	}
	if p, ok := value.Export().(*sobek.Promise); ok {
		return p.Result(), settled(p)
	}
	return value, nil
}

// stopped makes the interpreter stop at its next step, for a function that was cut short.
func (v *vu) stopped() sobek.Value {
	v.rt.Interrupt(errStopped)
	return sobek.Undefined()
}

// iterate runs one iteration, the n-th of its scenario.
func (v *vu) iterate(ctx context.Context, n int64) {
	v.iteration++
	v.inScenario = n
	_ = v.rt.Set("__ITER", v.iteration)
	v.client.reset()
	v.run.active.Add(1)
	start := time.Now()
	_, err := v.call(ctx, v.function(v.scenario.config.exec), v.setupData())
	took := time.Since(start)
	v.run.active.Add(-1)
	v.group, v.tags = v.run.root, v.tagged()
	if errors.Is(err, errStopped) {
		v.run.interrupted.Add(1)
		v.flush()
		return
	}
	if err != nil {
		v.run.broken.Add(1)
		v.run.log.print("error", err.Error())
	}
	v.run.completed.Add(1)
	b := &v.run.builtin
	v.run.metrics.add(b.iterations, 1, v.tags)
	v.run.metrics.add(b.iterationDuration, ms(took), v.tags)
	v.flush()
}

// flush counts what went over the VU's connections.
func (v *vu) flush() {
	b := &v.run.builtin
	v.run.metrics.add(b.dataSent, float64(v.sent.Swap(0)), v.tags)
	v.run.metrics.add(b.dataReceived, float64(v.received.Swap(0)), v.tags)
	if v.run.options.noVUConnectionReuse {
		v.client.transport.CloseIdleConnections()
	}
}

func (v *vu) close() {
	v.client.transport.CloseIdleConnections()
	for _, c := range v.grpcs {
		c.close()
	}
}

// setupData is a copy of what setup returned.
func (v *vu) setupData() sobek.Value {
	if !v.hasData {
		v.hasData, v.data = true, sobek.Undefined()
		if v.run.data != nil {
			v.data = v.parse(v.run.data)
		}
	}
	return v.data
}

// json is a value as JSON; nil for undefined.
func (v *vu) json(value sobek.Value) ([]byte, error) {
	stringify, _ := sobek.AssertFunction(v.rt.GlobalObject().Get("JSON").ToObject(v.rt).Get("stringify"))
	text, err := stringify(sobek.Undefined(), value)
	if err != nil {
		return nil, readable(err)
	}
	if sobek.IsUndefined(text) {
		return nil, nil
	}
	return []byte(text.String()), nil
}

// parse is the value of a JSON text that is known to be right.
func (v *vu) parse(text []byte) sobek.Value {
	parse, _ := sobek.AssertFunction(v.rt.GlobalObject().Get("JSON").ToObject(v.rt).Get("parse"))
	value, err := parse(sobek.Undefined(), v.rt.ToValue(string(text)))
	if err != nil {
		panic(v.rt.NewGoError(err))
	}
	return value
}

// options reads the script's options.
func (v *vu) options() (options, error) {
	value := v.exported("options")
	raw := map[string]any{}
	if value != nil && !sobek.IsUndefined(value) {
		text, err := v.json(value)
		if err != nil {
			return options{}, fmt.Errorf("options: %w", err)
		}
		if err := json.Unmarshal(text, &raw); err != nil {
			return options{}, fmt.Errorf("options are no object: %w", err)
		}
	}
	return readOptions(raw, v)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
