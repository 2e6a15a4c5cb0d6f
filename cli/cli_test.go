package cli_test

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/cli"
	"github.com/voicecore-ai/sluice/exit"
)

func TestAWordThatIsNoCommandOfAGroupFails(t *testing.T) {
	for line, root := range map[string]*cobra.Command{
		"authz tets":        cli.Command(),
		"audit verfiy":      cli.Command(),
		"mesh instal":       cli.Command(),
		"mesh bundle make":  cli.Command(),
		"mesh upgrade stop": cli.Command(),
		"completion tcsh":   cli.Command(),
		"completion csh":    app.Command(nil),
	} {
		t.Run(root.Name()+" "+line, func(t *testing.T) {
			root.SetOut(io.Discard)
			root.SetArgs(strings.Fields(line))
			err := root.ExecuteContext(t.Context())
			if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "unknown command") {
				t.Errorf("status %d: %v", exit.Code(err), err)
			}
		})
	}
}

func TestAGroupAloneHelps(t *testing.T) {
	for _, line := range []string{"authz", "audit", "mesh", "mesh bundle", "mesh upgrade", "completion"} {
		t.Run(line, func(t *testing.T) {
			var out strings.Builder
			root := cli.Command()
			root.SetOut(&out)
			root.SetArgs(strings.Fields(line))
			if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "Available Commands:") {
				t.Errorf("%v: %s", err, out.String())
			}
		})
	}
}
