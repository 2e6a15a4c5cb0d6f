package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// The exit statuses of 'sluice mesh'; its help lists them.
const (
	exitDiff        = 2
	exitRefused     = 3
	exitNotReady    = 4
	exitConflict    = 5
	exitUsage       = exit.Usage
	exitInput       = 65
	exitInterrupted = 130
)

// meshCommands are the commands under 'sluice mesh', each in a file of its own.
var meshCommands = []func() *cobra.Command{
	meshPreflightCommand, meshRenderCommand, meshDiffCommand, meshInstallCommand, meshVerifyCommand, meshDoctorCommand, meshAnalyzeCommand,
	meshCertsCommand, meshStatusCommand, meshRollbackCommand, meshUninstallCommand, meshUpgradeCommand, meshDashboardCommand,
	meshSupportCommand, meshBundleCommand,
}

func meshCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "mesh",
		Short: "Lay Istio and Sluice down on a cluster, compare, go back, take up",
		Long: `Renders a mesh from a profile and lays it down: namespaces, Istio's definitions, control plane and
gateways, policy, Sluice and the filters that ask it. Objects are written by server-side apply and
never by force. What was laid down is kept in an inventory, Secret sluice-mesh beside istiod, so that
a re-run resumes, a rollback goes back and an uninstallation finds everything.

The exit status of every command here:
    0  done
    1  it failed
    2  diff: the cluster differs
    3  refused, or a check failed
    4  not ready in time
    5  somebody else owns what would be changed, or works on this mesh
   64  the command line is wrong
   65  the values are wrong
  130  interrupted; run it again to go on`,
		Example: `  sluice mesh diff --profile voicecore              # what would change
  sluice mesh install --profile voicecore           # asks before the first change
  sluice mesh install --profile voicecore --set mesh.stage=soft --yes
  sluice mesh status
  sluice mesh render --profile voicecore > mesh.yaml # the same, to read
  sluice mesh upgrade check --to 1.31.5             # what another Istio would mean
  sluice mesh dashboard kiali
  sluice mesh uninstall --dry-run`,
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return exit.With(exitUsage, fmt.Errorf("%w; '%s --help' lists the flags", err, c.CommandPath()))
	})
	addMesh(c, meshCommands)
	return c
}

// addMesh puts commands under another one; their errors get an exit status.
func addMesh(under *cobra.Command, commands []func() *cobra.Command) {
	for _, command := range commands {
		sub := command()
		if !sub.HasSubCommands() {
			sub.Args, sub.RunE = usage(sub.Args), meshErrors(sub.RunE)
		}
		under.AddCommand(sub)
	}
}

// usage makes a wrong number of arguments an error of the command line.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return exit.With(exitUsage, fmt.Errorf("%w; see '%s --help'", err, c.CommandPath()))
		}
		return nil
	}
}

// meshErrors gives errors their exit status.
func meshErrors(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		err := run(c, args)
		switch {
		case err == nil, exit.Has(err):
			return err
		case errors.Is(err, context.Canceled):
			return exit.With(exitInterrupted, fmt.Errorf("interrupted (%w); 'sluice mesh status' says where, running it again goes on", err))
		case errors.Is(err, cluster.ErrConflict):
			return exit.With(exitConflict, err)
		case errors.Is(err, cluster.ErrNotReady):
			return exit.With(exitNotReady, err)
		case errors.Is(err, cluster.ErrRefused):
			return exit.With(exitRefused, err)
		}
		return err
	}
}

// meshFlags are the flags that commands share; each adds those it knows.
type meshFlags struct {
	kubeconfig, context, namespace string
	profile                        profile.Options
	charts, bundle                 string
	output                         string
	timeout                        time.Duration
	take                           []string
	yes, dryRun                    bool
}

// cluster adds the flags that say which cluster.
func (f *meshFlags) cluster(c *cobra.Command) {
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "`path` of the kubeconfig; as kubectl finds it unless told")
	c.Flags().StringVar(&f.context, "context", "", "`name` of the kubeconfig's context; the current one unless told")
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return cluster.Target{Kubeconfig: f.kubeconfig}.Contexts(), cobra.ShellCompDirectiveNoFileComp
	})
}

// values adds the flags that say which mesh.
func (f *meshFlags) values(c *cobra.Command) {
	c.Flags().StringVar(&f.profile.Profile, "profile", "", "`name` of the profile to start from: "+strings.Join(profile.Names(), ", "))
	c.Flags().StringArrayVarP(&f.profile.Files, "file", "f", nil, "YAML `file` of values over the profile; repeatable, later ones win")
	c.Flags().StringArrayVar(&f.profile.Sets, "set", nil, "one value, `path=value` as mesh.stage=soft; repeatable, wins over files")
	c.Flags().StringVar(&f.charts, "charts", "", "`folder` with Istio's charts, in place of those built in")
	complete(c, "profile", profile.Names())
}

// where adds the flag that says where the inventory is, for commands that read no values.
func (f *meshFlags) where(c *cobra.Command) {
	c.Flags().StringVar(&f.namespace, "istio-namespace", "istio-system", "`namespace` of istiod and the inventory")
}

func (f *meshFlags) changing(c *cobra.Command) {
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask before the first change")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would change, as the API server sees it, and change nothing")
	f.within(c)
}

func (f *meshFlags) within(c *cobra.Command) {
	c.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long each component may take")
}

func (f *meshFlags) outputs(c *cobra.Command, usual string, also ...string) {
	all := append([]string{usual}, also...)
	c.Flags().StringVarP(&f.output, "output", "o", usual, "`format`: "+strings.Join(all, ", "))
	complete(c, "output", all)
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		for _, o := range all {
			if f.output == o {
				return run(c, args)
			}
		}
		return exit.With(exitUsage, fmt.Errorf("-o %q; one of %s", f.output, strings.Join(all, ", ")))
	}
}

func (f *meshFlags) taking(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.take, "take-ownership", nil, "take over what this field `manager` set; repeatable")
}

func complete(c *cobra.Command, flag string, values []string) {
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func (f *meshFlags) connect(ctx context.Context) (*cluster.Cluster, error) {
	return cluster.Connect(ctx, cluster.Target{Kubeconfig: f.kubeconfig, Context: f.context, Version: app.Version})
}

// mesh loads the values and renders them.
func (f *meshFlags) mesh() (*cluster.Mesh, error) {
	o := f.profile
	if f.bundle != "" {
		return f.bundled()
	}
	if f.charts != "" {
		// A comma, a brace or a backslash in a path is none of an assignment's.
		o.Sets = append(o.Sets, "istio.charts="+strings.NewReplacer(`\`, `\\`, ",", `\,`, "{", `\{`).Replace(f.charts))
	}
	v, err := profile.Load(o)
	if err != nil {
		return nil, exit.With(exitInput, err)
	}
	components, err := render.All(v)
	if err != nil {
		return nil, exit.With(exitInput, err)
	}
	return &cluster.Mesh{Values: v, Components: components}, nil
}

// confirm asks on a terminal; elsewhere, silence is no consent.
func (f *meshFlags) confirm(c *cobra.Command, question string) error {
	if f.yes {
		return nil
	}
	in, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return exit.With(exitUsage, errors.New("nothing was changed: there is no terminal to ask on; say --yes, or --dry-run to only look"))
	}
	if _, err := io.WriteString(c.ErrOrStderr(), question+" [y/N] "); err != nil {
		return err
	}
	answer := make(chan string, 1)
	go func() { // it may outlive an interrupt, as the process will not
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- line
	}()
	select {
	case <-c.Context().Done():
		return c.Context().Err()
	case line := <-answer:
		if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
			return errors.New("nothing was changed: the answer was not yes")
		}
	}
	return nil
}

// show writes v as the format wants it, a table by its own function.
func show[T any](c *cobra.Command, output string, v T, asTable func(io.Writer, T) error) error {
	if output == "table" {
		return asTable(c.OutOrStdout(), v)
	}
	return encode(c.OutOrStdout(), v, output)
}

// encode writes v as JSON or YAML, with the same names of fields.
func encode(w io.Writer, v any, output string) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if output == "yaml" {
		var plain any
		if err := yaml.Unmarshal(text, &plain); err != nil {
			return err
		}
		if text, err = yaml.Marshal(plain); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(text), "\n"))
	return err
}
