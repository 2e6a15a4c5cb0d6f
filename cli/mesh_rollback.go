package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

func meshRollbackCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "rollback [REVISION]",
		Short: "Lay an earlier installation down again",
		Long: `Installs what an earlier revision of the inventory laid down, the one before the last unless told. The
inventory keeps three; 'sluice mesh status' lists them. Custom resource definitions stay as they are, since an older
one could orphan what is stored. The rollback becomes a revision of its own.`,
		Example: `  sluice mesh status                 # which revisions there are
  sluice mesh rollback --yes
  sluice mesh rollback 4`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			number := 0
			if len(args) == 1 {
				var err error
				if number, err = strconv.Atoi(args[0]); err != nil || number < 1 {
					return exit.With(exitUsage, fmt.Errorf("REVISION %q is not a number from 1", args[0]))
				}
			}
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			return f.lay(c, func(o cluster.Options) ([]cluster.Change, error) {
				return k.Rollback(c.Context(), f.namespace, number, o)
			})
		},
	}
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.where(c)
	f.taking(c)
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask before the first change")
	f.within(c)
	return c
}
