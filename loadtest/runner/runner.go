// Package runner runs k6 scripts where k6 is not at hand. It is not k6 and shares no code with it: it is an interpreter of
// JavaScript (sobek) with the parts of k6's documented interface that the scripts of loadtest use. What it does not have is
// an error that says where, and never nothing. docs/reference/loadtest-runner.md lists what it has, and where it differs.
//
// Call Run. A virtual user (VU) is an interpreter with connections of its own: a tenth of a megabyte, and what its script makes.
// The values of a Trend are kept until the end: 8 bytes each, and again for each sub-metric.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grafana/sobek"

	"github.com/voicecore-ai/sluice/exit"
)

// The statuses that k6 documents.
const (
	codeSetupTimeout    = 100
	codeTeardownTimeout = 101
	codeThresholds      = 99
	codeInvalid         = 104
	codeExternal        = 105
	codeException       = 107
	codeAborted         = 108
	codeMarkedFailed    = 110
)

const banner = "This is sluice's loadtest runner, not k6. It follows k6 v2: its script modules, options, executors, thresholds, summary and exit codes."

// Config is what a run is told beside its script.
type Config struct {
	Script         string
	Env            map[string]string // __ENV
	Stdout, Stderr io.Writer
	NoSummary      bool // neither a summary nor handleSummary
}

// Run runs a script. The error has k6's exit status for it: see [exit.Code].
func Run(ctx context.Context, c Config) error {
	_, _ = fmt.Fprintln(c.Stdout, banner)
	b, err := newBundle(c.Script)
	if err != nil {
		return exit.With(codeException, err)
	}
	r := &run{Config: c, bundle: b, metrics: newRegistry(), log: &logger{to: c.Stderr}, root: &group{}}
	r.builtin = builtins(r.metrics)
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	v, err := r.newVU(nil)
	if err != nil {
		return exit.With(codeException, err)
	}
	if r.options, err = v.options(); err == nil {
		err = r.metrics.watch(r.options.thresholds)
	}
	if err != nil {
		return exit.With(codeInvalid, err)
	}
	return r.all(v)
}

// run is one run of one script.
type run struct {
	Config
	bundle  *bundle
	metrics *registry
	builtin builtin
	log     *logger
	options options
	root    *group
	shared  sync.Map // of SharedArray: name to items

	protosets sync.Map // what gRPC clients load: how it is named to *descriptorpb.FileDescriptorSet

	ctx    context.Context // ends when nothing more may start
	cancel context.CancelCauseFunc

	began                          time.Time
	ids                            atomic.Int64
	initialised, active            atomic.Int64
	completed, interrupted, broken atomic.Int64
	failed                         atomic.Pointer[string]
	data                           []byte // what setup returned, as JSON; nil for undefined
}

// errStopped ends iterations that a run's end does not wait for.
var errStopped = errors.New("the iteration was stopped")

// all runs what comes after the first reading of the script. first is the VU that read it.
func (r *run) all(first *vu) error {
	list, err := r.prepareAll()
	if err != nil {
		return exit.With(codeException, err)
	}
	r.began = time.Now()
	var problems []error
	if first.has("setup") {
		if err := r.setup(); err != nil {
			return err
		}
	}
	problems = append(problems, r.scenarios(list))
	if first.has("teardown") {
		err := r.once("teardown", r.options.teardownTimeout, codeTeardownTimeout, func(v *vu) []sobek.Value { return []sobek.Value{v.setupData()} }, nil)
		problems = append(problems, err)
	}
	took := time.Since(r.began)
	failed := r.metrics.judge(took)
	if !r.NoSummary {
		problems = append(problems, r.summary(first.has("handleSummary"), took))
	}
	if len(failed) > 0 {
		problems = append(problems, exit.With(codeThresholds, fmt.Errorf("thresholds were crossed: %s", strings.Join(failed, ", "))))
	}
	if why := r.failed.Load(); why != nil {
		problems = append(problems, exit.With(codeMarkedFailed, fmt.Errorf("the script marked the run as failed: %s", *why)))
	}
	return errors.Join(problems...)
}

func (r *run) setup() error {
	return r.once("setup", r.options.setupTimeout, codeSetupTimeout, nil, func(v *vu, value sobek.Value) error {
		text, err := v.json(value)
		if err != nil {
			return fmt.Errorf("setup returned what is no JSON: %w", err)
		}
		r.data = text
		return nil
	})
}

// once calls an exported function in a VU of its own, which ends with it.
func (r *run) once(name string, timeout time.Duration, code int, args func(*vu) []sobek.Value, then func(*vu, sobek.Value) error) error {
	v, err := r.newVU(nil)
	if err != nil {
		return exit.With(codeException, err)
	}
	defer v.close()
	v.tags = &tagSet{own: map[string]string{"group": "::" + name}, up: v.tags}
	base := r.ctx
	if name != "setup" { // they run after an abort, too
		base = context.WithoutCancel(base)
	}
	ctx, cancel := context.WithTimeoutCause(base, timeout, errTimeout)
	defer cancel()
	var given []sobek.Value
	if args != nil {
		given = args(v)
	}
	value, err := v.call(ctx, v.function(name), given...)
	v.flush()
	switch {
	case err == nil && then != nil:
		err = then(v, value)
	case errors.Is(context.Cause(ctx), errTimeout):
		return exit.With(code, fmt.Errorf("%s took longer than %v", name, timeout))
	case context.Cause(r.ctx) != nil && (name == "setup" || errors.Is(err, errStopped)):
		return r.ended()
	}
	if err != nil {
		return exit.With(codeException, fmt.Errorf("%s: %w", name, err))
	}
	return nil
}

var errTimeout = errors.New("it took too long")

// ended is why the run was ended before its time, or nil.
func (r *run) ended() error {
	err := context.Cause(r.ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errCrossed):
		return nil // the thresholds say so
	case !exit.Has(err):
		return exit.With(codeExternal, errors.New("the run was stopped from outside"))
	}
	return err
}

// prepareAll makes the VUs of all scenarios.
func (r *run) prepareAll() (list []*scenario, err error) {
	for _, c := range r.options.scenarios {
		s, err := r.prepare(c)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// scenarios runs all of them, and what watches them.
func (r *run) scenarios(list []*scenario) error {
	watching, stop := context.WithCancel(r.ctx)
	var watchers, running sync.WaitGroup
	watchers.Go(func() { r.watchVUs(watching) })
	watchers.Go(func() { r.watchThresholds(watching) })
	start := time.Now()
	for _, s := range list {
		running.Go(func() { s.start(r.ctx, start) })
	}
	running.Wait()
	stop()
	watchers.Wait()
	for _, s := range list {
		s.close()
	}
	return r.ended()
}

// watchVUs samples the number of VUs each second, as k6 does.
func (r *run) watchVUs(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		r.metrics.add(r.builtin.vus, float64(r.active.Load()), nil)
		r.metrics.add(r.builtin.vusMax, float64(r.initialised.Load()), nil)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// errCrossed ends a run whose threshold with abortOnFail was crossed.
var errCrossed = errors.New("a threshold that aborts was crossed")

// watchThresholds judges those that abort every other second, as k6 does.
func (r *run) watchThresholds(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if crossed := r.metrics.aborts(time.Since(r.began)); crossed != "" {
				r.log.print("error", "threshold crossed, the run ends: "+crossed)
				r.cancel(errCrossed)
			}
		}
	}
}

// logger writes whole lines of many VUs.
type logger struct {
	mu sync.Mutex
	to io.Writer
}

func (l *logger) print(level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = fmt.Fprintf(l.to, "%-5s %s\n", level, text)
}
