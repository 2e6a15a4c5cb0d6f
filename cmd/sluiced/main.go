// Command sluiced is the server: it answers Envoy's questions and keeps the counters.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // conditions with time zones, in an image without them

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/exit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app.Command(os.Environ()).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sluiced:", err)
		os.Exit(exit.Code(err)) //nolint:gocritic // stop only un-registers signals
	}
}
