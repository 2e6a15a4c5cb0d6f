package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/support"
)

func meshSupportCommand() *cobra.Command {
	var f meshFlags
	o := support.Options{Since: time.Hour, Limit: 100}
	c := &cobra.Command{
		Use:   "support",
		Short: "Pack what somebody needs who is to help, without secrets",
		Long: `Packs the mesh's objects, events, pods, the ends of the logs of istiod, proxies and Sluice, and what each proxy
runs and counts into one archive, and prints what is in it. It changes nothing.

Values of Secrets and of environment variables are left out; every text is searched for tokens, JWTs, keys, passwords and the
values of the mesh's own Secrets. What only you know to be secret, such as names in a path, is not found: look before you pass it on.`,
		Example: `  sluice mesh support
  sluice mesh support -o mesh.tgz --since 15m --max-size 20`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			if o.Mesh, err = k.Installed(c.Context(), f.namespace); err != nil {
				return err
			}
			if f.output == "" {
				f.output = "sluice-support-" + time.Now().UTC().Format("20060102T150405Z") + ".tgz"
			}
			file, err := os.OpenFile(f.output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("the archive: %w", err)
			}
			p := newMeshProgress(c)
			bounded := o
			bounded.Cluster, bounded.Version, bounded.Limit = k, app.VersionText(), o.Limit*1_000_000
			bounded.Progress = func(what string) { p.event(cluster.Event{Component: "support", Text: "reading " + what}) }
			index, err := support.Collect(c.Context(), file, bounded)
			p.end()
			if err = errors.Join(err, file.Close()); err != nil {
				return errors.Join(err, os.Remove(f.output))
			}
			return printSupport(c.OutOrStdout(), f.output, index)
		},
	}
	c.Flags().StringVarP(&f.output, "output", "o", "", "`file` to write, which must not be there; a name with the time unless told")
	c.Flags().DurationVar(&o.Since, "since", o.Since, "how far back logs and events go")
	c.Flags().Int64Var(&o.Limit, "max-size", o.Limit, "`megabytes` that it may be, unpacked")
	f.cluster(c)
	f.where(c)
	return c
}

// printSupport counts what was collected by folder, and says what is missing.
func printSupport(w io.Writer, file string, index *support.Index) error {
	type sum struct{ files, bytes int }
	sums := map[string]*sum{}
	var order []string
	for _, one := range index.Files {
		folder, _, ok := strings.Cut(one.Name, "/")
		if !ok {
			folder = "inventory"
		}
		if sums[folder] == nil {
			sums[folder] = &sum{}
			order = append(order, folder)
		}
		sums[folder].files++
		sums[folder].bytes += one.Size
	}
	t := meshTable("what", "files", "kilobytes")
	for _, folder := range order {
		t.AppendRow(table.Row{folder, sums[folder].files, (sums[folder].bytes + 999) / 1000})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d places were redacted\n", t.Render(), index.Redacted)
	for _, m := range index.Missing {
		fmt.Fprintf(&b, "not in it: %s\n", m)
	}
	fmt.Fprintln(&b, file)
	_, err := io.WriteString(w, b.String())
	return err
}
