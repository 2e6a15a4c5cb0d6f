// Command runner runs a k6 script where k6 is not at hand. It is not k6: see package runner.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/loadtest/runner"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runner:", err)
		os.Exit(exit.Code(err)) //nolint:gocritic // stop only un-registers signals
	}
}

const usage = "runner run [-q] [-e KEY=VALUE]... [--summary-mode=disabled] SCRIPT.js"

// invalid is k6's exit status for a wrong configuration.
const invalid = 104

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] != "run" {
		return exit.With(invalid, errors.New("want "+usage))
	}
	flags := pflag.NewFlagSet("runner", pflag.ContinueOnError)
	env := flags.StringArrayP("env", "e", nil, "KEY=VALUE of __ENV, beside the process's environment")
	flags.BoolP("quiet", "q", false, "taken because k6 has it: there is no progress to hide")
	mode := flags.String("summary-mode", "compact", "compact; full, which is the same here; disabled, also for handleSummary")
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return exit.With(invalid, err)
	}
	if flags.NArg() != 1 {
		return exit.With(invalid, errors.New("want one script: "+usage))
	}
	if *mode != "compact" && *mode != "full" && *mode != "disabled" {
		return exit.With(invalid, fmt.Errorf("--summary-mode=%s: want compact, full or disabled", *mode))
	}
	c := runner.Config{Script: flags.Arg(0), Env: map[string]string{}, Stdout: os.Stdout, Stderr: os.Stderr, NoSummary: *mode == "disabled"}
	for _, pair := range append(os.Environ(), *env...) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			value = os.Getenv(key)
		}
		c.Env[key] = value
	}
	return runner.Run(ctx, c)
}
