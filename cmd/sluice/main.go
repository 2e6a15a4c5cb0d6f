// Command sluice is the operator's command line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // conditions with time zones, in an image without them

	"github.com/voicecore-ai/sluice/cli"
	"github.com/voicecore-ai/sluice/exit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := cli.Command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sluice:", err)
		os.Exit(exit.Code(err)) //nolint:gocritic // stop only un-registers signals
	}
}
