package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

// upgradeCommands are the steps of an upgrade, in their order, each in a file of its own.
var upgradeCommands = []func() *cobra.Command{
	upgradeCheckCommand, upgradeStartCommand, upgradeStatusCommand, upgradePromoteCommand, upgradeRollbackCommand, upgradeFinishCommand,
}

func meshUpgradeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "upgrade",
		Short: "Move to another version of Istio, a second control plane beside the first",
		Long: `Moves a mesh to another version of Istio without a gap: a new control plane is laid down beside the old
one under a revision of its own, namespaces move to it one after another and can move back, and the old one is removed when
nobody is attached to it any more. How far it is stands in the inventory: each step resumes when it is run again,
on any machine. While an upgrade is under way, install and rollback are refused.

Only definitions, control planes, gateways, the labels that choose between them and the default validator change. Everything else
is as it was laid down until the next 'sluice mesh install'.`,
		Example: `  sluice mesh upgrade check --to 1.31.5            # what stands in the way
  sluice mesh upgrade start --to 1.31.5            # a second control plane; no proxy moves
  sluice mesh upgrade promote --namespace canary   # this namespace first
  sluice mesh upgrade status
  sluice mesh upgrade promote                      # the rest, gateways last
  sluice mesh upgrade rollback                     # or all of it back
  sluice mesh upgrade finish                       # the old control plane goes`,
	}
	addMesh(c, upgradeCommands)
	return c
}

// movingFlags are those of the steps that move proxies.
func (f *meshFlags) moving(c *cobra.Command) {
	f.cluster(c)
	f.where(c)
	f.taking(c)
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask before the first change")
	c.Flags().DurationVar(&f.timeout, "timeout", f.timeout, "how long each workload may take to become ready")
}

// move shows who is where, asks, takes a step with progress, and shows it again.
func (f *meshFlags) move(c *cobra.Command, question string, do func(*cluster.Cluster, cluster.Options) error) error {
	k, err := f.connect(c.Context())
	if err != nil {
		return err
	}
	if !f.yes {
		s, err := k.UpgradeStatus(c.Context(), f.namespace)
		if err == nil {
			err = printUpgrade(c.ErrOrStderr(), s)
		}
		if err == nil {
			err = f.confirm(c, question)
		}
		if err != nil {
			return err
		}
	}
	p := newMeshProgress(c)
	err = do(k, cluster.Options{Timeout: f.timeout, TakeOwnership: f.take, Progress: p.event})
	p.end()
	if err != nil {
		return err
	}
	s, err := k.UpgradeStatus(c.Context(), f.namespace)
	if err != nil {
		return err
	}
	return printUpgrade(c.OutOrStdout(), s)
}

// errDry stops a step before its first change.
var errDry = errors.New("nothing is to be changed")

func upgradeHint(v, revision string) string {
	return fmt.Sprintf("put istio.version %s and istio.revision %s into your values, so that the next 'sluice mesh install' stays there", v, revision)
}
