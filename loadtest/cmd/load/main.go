// Command load runs the load tests' suites against the real path on this machine, and prints what came of them.
// 'make load' builds what it needs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/voicecore-ai/sluice/loadtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1) //nolint:gocritic // stop only un-registers signals
	}
}

func run(ctx context.Context) error {
	root := flag.String("root", ".", "folder of the module")
	envoy := flag.String("envoy", ".tools/bin/envoy", "path of Envoy")
	sluiced := flag.String("sluiced", "bin/sluiced", "path of sluiced")
	redis := flag.String("redis-server", "redis-server", "path of redis-server")
	runner := flag.String("runner", "bin/loadrunner", "path of the runner for where no k6 is on the PATH")
	store := flag.String("store", "both", "memory, redis or both")
	wiring := flag.String("wiring", "", strings.Join(loadtest.Wirings, ", ")+`; "" for the first and, of what is about replicas, all`)
	names := flag.String("suite", "", "suites to run, with commas between; \"\" for all of "+strings.Join(loadtest.Names(), ", "))
	scale := flag.Float64("scale", 1, "how many times as long as the short form")
	parallel := flag.Int("parallel", 1, "suites at a time")
	out := flag.String("out", "artifacts/load", "folder for results and logs")
	selftest := flag.Bool("selftest", false, "run the suites against limiters that are broken, and fail if they do not")
	accuracy := flag.Bool("accuracy", false, "print what each algorithm allows in each wiring beside what it should")
	flag.Parse()
	o := loadtest.Options{
		Root: *root, Envoy: *envoy, Sluiced: *sluiced, Redis: *redis, Wiring: *wiring, Scale: *scale, Parallel: *parallel, Log: os.Stdout,
		Suites: strings.FieldsFunc(*names, func(r rune) bool { return r == ',' }), Stores: loadtest.Stores,
	}
	if *wiring != "" && !slices.Contains(loadtest.Wirings, *wiring) {
		return fmt.Errorf("-wiring %s: want one of %s", *wiring, strings.Join(loadtest.Wirings, ", "))
	}
	if *store != "both" {
		o.Stores = []string{*store}
	}
	var err error
	if o.Out, err = filepath.Abs(*out); err != nil {
		return err
	}
	o.Runner = command(ctx, *runner)
	switch {
	case *selftest:
		return loadtest.SelfTest(ctx, o)
	case *accuracy:
		return loadtest.Accuracy(ctx, o)
	}
	return loadtest.Load(ctx, o)
}

// command is what runs a script, and says which of the two it is.
func command(ctx context.Context, runner string) []string {
	k6, err := exec.LookPath("k6")
	if err != nil {
		fmt.Printf("No k6 is on the PATH: the suites run on Sluice's own runner, %s, which is not k6.\n", runner)
		return []string{runner, "run"}
	}
	version, err := exec.CommandContext(ctx, k6, "version").Output() //nolint:gosec // found on the PATH
	if err != nil {
		version = fmt.Appendf(nil, "k6, which does not tell its version: %v", err)
	}
	fmt.Printf("The suites run on %s from %s.\n", strings.TrimSpace(string(version)), k6)
	return []string{k6, "run", "--quiet", "--no-usage-report"} // it would tell its makers
}
