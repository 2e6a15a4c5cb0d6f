// Package loadtest runs the suites of load tests in suites/ against the real path: Envoy, sluiced on either store, and
// an upstream. It loads the reference catalogue into the server, and hands each suite the limits that the server's own compiler
// makes of it, so that no number stands twice.
//
// The suites are k6 scripts. Where k6 is on the PATH it runs them, else the runner beside this package, which is not k6.
// A suite's verdict is its own; this package starts, stops and breaks what the suite is about. Each suite
// has a path of its own, so nothing that one used up is missed by the next. One costs about a second to start.
package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stores are where counters can be kept.
var Stores = []string{"memory", "redis"}

// Wirings are the ways in which Envoy can ask, the default one first.
var Wirings = []string{"ext_authz", "ext_proc", "rls"}

// suite is one script and what it needs of the path.
type suite struct {
	name       string
	replicas   int  // of sluiced where the store is shared
	sidecar    bool // a client's Envoy before the gateway's
	calls      bool // a gRPC service behind it
	alone      bool // leaves ports free for a while, which another path might take
	everywhere bool // in each wiring on Redis, also where one is not named
	known      bool // holds what only a door says that knows the tenant
	hides      bool // wants a killed replica's requests asked of another, which only ext_authz does; elsewhere it has one
}

var suites = []suite{
	{name: "smoke", replicas: 2},
	{name: "under", replicas: 2},
	{name: "over", replicas: 2},
	{name: "burst", replicas: 2},
	{name: "isolation", replicas: 2},
	{name: "refill", replicas: 2, known: true},
	{name: "headers", replicas: 2, known: true},
	{name: "retries", replicas: 2, sidecar: true},
	{name: "failure", replicas: 2, alone: true, known: true, hides: true},
	{name: "overhead", replicas: 2, known: true},
	{name: "scale-out", replicas: 3, alone: true, everywhere: true},
	{name: "soak", replicas: 2},
	{name: "grpc", replicas: 2, calls: true, everywhere: true},
}

// runsIn tells whether the suite has something to hold in that wiring.
func (s suite) runsIn(wiring string) bool { return wiring != "rls" || !s.known }

// Options say what to run and with what.
type Options struct {
	Root     string // of the module
	Envoy    string
	Sluiced  string
	Redis    string   // redis-server
	Runner   []string // command that runs a script, before its path
	Suites   []string // empty for all
	Stores   []string
	Wiring   string  // "" for those that are of interest
	Scale    float64 // times as long as the short form
	Parallel int     // suites at a time
	Out      string  // folder of results
	Log      io.Writer
}

// job is one suite on one store, with a defect or none.
type job struct {
	suite  suite
	store  string
	wiring string
	defect *defect
}

func (j job) String() string {
	name := j.suite.name + "-" + j.store + "-" + j.wiring
	if j.defect != nil {
		name += "-" + j.defect.name
	}
	return name
}

// Load runs suites and prints a table of them. The error names those that are not green, and why.
func Load(ctx context.Context, o Options) error {
	var jobs []job
	for _, s := range suites {
		for _, store := range o.Stores {
			for _, wiring := range Wirings {
				asked := wiring == o.Wiring || o.Wiring == "" && (wiring == Wirings[0] || s.everywhere && store == "redis")
				if o.wants(s) && asked && s.runsIn(wiring) {
					jobs = append(jobs, job{suite: s, store: store, wiring: wiring})
				}
			}
		}
	}
	if len(jobs) == 0 {
		return fmt.Errorf("no suite %s in wiring %s; one of %s", strings.Join(o.Suites, ", "), o.Wiring, strings.Join(Names(), ", "))
	}
	results, err := o.run(ctx, jobs)
	_, _ = fmt.Fprintf(o.Log, "\n%s\n", byStore(results))
	if err != nil {
		return err
	}
	return allGreen(results)
}

func allGreen(results []Result) error {
	var wrong []string
	for _, r := range results {
		if r.Result != green {
			wrong = append(wrong, fmt.Sprintf("%s on %s by %s is %s: %s", r.Suite, r.Store, r.Wiring, r.Result, strings.Join(slices.Concat(r.Problems, r.Doubts), "; ")))
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}

// SelfTest runs the suites against each defect in both wirings that know the tenant, and prints the tables. The error names those that had to be red
// and are not.
func SelfTest(ctx context.Context, o Options) error {
	wirings := Wirings[:2]
	if o.Wiring != "" {
		wirings = []string{o.Wiring}
	}
	var jobs []job
	for _, wiring := range wirings {
		for i, d := range defects {
			for _, s := range suites {
				// Where several replicas count is what scale-out is about; the others are as well off with one.
				store := "memory"
				if s.replicas > 2 {
					store = "redis"
				}
				if o.wants(s) && s.runsIn(wiring) && (d.only == "" || d.only == s.name) {
					jobs = append(jobs, job{suite: s, store: store, wiring: wiring, defect: &defects[i]})
				}
			}
		}
	}
	results, err := o.run(ctx, jobs)
	for _, wiring := range wirings {
		_, _ = fmt.Fprintf(o.Log, "\n%s\n\n%s\n", wiring, byDefect(results, wiring))
	}
	for _, d := range defects {
		_, _ = fmt.Fprintf(o.Log, "\n%s: %s", d.name, d.says)
	}
	_, _ = fmt.Fprintln(o.Log)
	if err != nil {
		return err
	}
	var wrong []string
	for i, r := range results {
		if jobs[i].defect.concerns(r.Suite) && r.Result != red {
			wrong = append(wrong, fmt.Sprintf("%s by %s is %s though %s", r.Suite, r.Wiring, r.Result, jobs[i].defect.says))
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, ", "))
	}
	return nil
}

// Accuracy runs the suite over in every wiring on every store, and prints what was allowed beside what a log of all hits allows.
func Accuracy(ctx context.Context, o Options) error {
	var jobs []job
	for _, wiring := range Wirings {
		for _, store := range o.Stores {
			for _, s := range suites {
				if s.name == "over" && (o.Wiring == "" || o.Wiring == wiring) {
					jobs = append(jobs, job{suite: s, store: store, wiring: wiring})
				}
			}
		}
	}
	results, err := o.run(ctx, jobs)
	_, _ = fmt.Fprintf(o.Log, "\n%s\n", byAlgorithm(results))
	if err != nil {
		return err
	}
	return allGreen(results)
}

// Names are the suites'.
func Names() (names []string) {
	for _, s := range suites {
		names = append(names, s.name)
	}
	return names
}

func (o *Options) wants(s suite) bool {
	return len(o.Suites) == 0 || slices.Contains(o.Suites, s.name)
}

// run runs jobs, so many at a time, and keeps their order. The first error ends it.
func (o *Options) run(ctx context.Context, jobs []job) ([]Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]Result, len(jobs))
	places := make(chan struct{}, max(o.Parallel, 1))
	var wait sync.WaitGroup
	var mu sync.Mutex // of o.Log
	var turns turns
	for i, j := range jobs {
		places <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wait.Go(func() {
			defer func() { <-places }()
			result, text, err := o.attempt(ctx, j, &turns)
			results[i] = result
			mu.Lock()
			defer mu.Unlock()
			_, _ = fmt.Fprint(o.Log, text)
			if err != nil {
				cancel(fmt.Errorf("%v: %w", j, err))
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return results, context.Cause(ctx)
	}
	return results, nil
}

// turns keeps jobs out of each other's way.
type turns struct {
	alone    sync.RWMutex
	starting sync.Mutex // a port is free from when it is drawn until something listens on it
}

// tries is how often a suite is run that says it was the machine: once beside others, then alone, and when the machine is calm.
const tries = 8

// calm waits until a goroutine was run in time for two seconds, but no longer than half a minute.
func calm(ctx context.Context) {
	const nap, late, quiet, most = 10 * time.Millisecond, 100 * time.Millisecond, 2 * time.Second, 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	since := time.Now()
	for before := since; ctx.Err() == nil && time.Since(since) < quiet; before = time.Now() {
		select {
		case <-ctx.Done():
		case <-time.After(nap):
		}
		if time.Since(before) > nap+late {
			since = time.Now()
		}
	}
}

// long is the scale from which a suite is run once: nobody waits five hours for a verdict.
const long = 16

// attempt runs a job until its suite comes to a verdict.
func (o *Options) attempt(ctx context.Context, j job, t *turns) (result Result, text string, err error) {
	for try := range tries {
		lock := t.alone.RLocker()
		if try > 0 || j.suite.alone {
			lock = &t.alone
		}
		var said string
		func() {
			lock.Lock()
			defer lock.Unlock()
			if try > 0 {
				calm(ctx)
			}
			result, said, err = o.once(ctx, j, t)
		}()
		text += said
		if err != nil || result.Result != unclear || o.Scale >= long {
			break
		}
	}
	return result, text, err
}

// once runs a job on a path of its own.
func (o *Options) once(ctx context.Context, j job, t *turns) (result Result, text string, err error) {
	dir := filepath.Join(o.Out, j.String())
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return Result{}, "", err
	}
	t.starting.Lock()
	p, err := start(ctx, o, j, dir)
	t.starting.Unlock()
	if err != nil {
		return Result{}, "", fmt.Errorf("%w (logs are in %s)", err, dir)
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	text, code, err := o.script(ctx, j, p)
	if err != nil {
		return Result{}, text, err
	}
	result, err = readResult(dir, j, code)
	if err != nil {
		return result, text, fmt.Errorf("%w\n%s", err, text)
	}
	return result, text, nil
}
