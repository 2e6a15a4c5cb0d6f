package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/console"
)

func meshDashboardCommand() *cobra.Command {
	var f meshFlags
	var port int
	var quiet bool
	c := &cobra.Command{
		Use:   "dashboard kiali|jaeger|prometheus|grafana",
		Short: "Show a console of the mesh on this machine",
		Long: `Forwards a port of the loopback address to a console, through the API server and with your rights, prints the
address, opens it in a browser where there is one, and goes on until Ctrl-C. Each connection goes to a Pod that is ready
at the time, so that it survives a restart of the console.`,
		Example: `  sluice mesh dashboard kiali
  sluice mesh dashboard grafana --port 8300 --no-browser`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: console.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := k.Installed(c.Context(), f.namespace)
			if err != nil {
				return err
			}
			var mu sync.Mutex
			open, err := console.Listen(c.Context(), console.Options{Cluster: k, Mesh: m, Name: args[0], Port: port, Failed: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				c.PrintErrln("sluice:", err)
			}})
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(c.OutOrStdout(), open.URL); err != nil {
				return err
			}
			if !quiet {
				browse(c.Context(), open.URL)
			}
			return open.Serve(c.Context())
		},
	}
	f.cluster(c)
	f.where(c)
	c.Flags().IntVar(&port, "port", 0, "port on this machine; the console's own unless told, or any if that is taken")
	c.Flags().BoolVar(&quiet, "no-browser", false, "only print the address")
	return c
}

// browse opens a browser if this machine seems to have one. Who sees none has the address.
func browse(ctx context.Context, url string) {
	var command []string
	switch {
	case runtime.GOOS == "darwin":
		command = []string{"open", url}
	case runtime.GOOS == "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", url}
	case os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "":
		command = []string{"xdg-open", url}
	default:
		return
	}
	b := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // one of three programs, with an address of our own
	if b.Start() == nil {
		go func() { _ = b.Wait() }()
	}
}
