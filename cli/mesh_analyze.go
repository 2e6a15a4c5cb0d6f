package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/istioctl"
	"github.com/voicecore-ai/sluice/installer/lint"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

func meshAnalyzeCommand() *cobra.Command {
	var f meshFlags
	var a analysis
	c := &cobra.Command{
		Use:   "analyze",
		Short: "Look for wiring that undoes what Sluice decides, and ask Istio's own analyzers",
		Long: `Reads Kubernetes objects, of files with -f or else of the cluster, and names what undoes a decision: a filter that fails open,
a field that Envoy does not know, a policy that asks nobody. It contacts no proxy; 'sluice mesh doctor' does.

Istio's own analyzers are those of the istioctl on PATH, or of --istioctl, with the same files or cluster; their messages are findings
under their own codes. Where there is no istioctl, or it fails, a warning says that they did not run.

addons.analyze in the values runs it in the cluster on a schedule.

docs/reference/lint.md explains Sluice's codes and how one is waived; those that begin with IST are explained at the address that
-o json has beside each. The exit status is 3 if there is an error, Istio's or Sluice's.`,
		Example: `  sluice mesh analyze
  sluice mesh analyze --context production --istioctl ./istio-1.31.4/bin/istioctl -o junit > analyze.xml
  sluice mesh analyze -f my-envoyfilter.yaml -f policies/
  sluice mesh render --profile voicecore | sluice mesh analyze --complete -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := f.analyze(c.Context(), c.InOrStdin(), a)
			if err != nil {
				return err
			}
			if err := f.printReport(c.OutOrStdout(), "analyze", r); err != nil {
				return err
			}
			return failing(r)
		},
	}
	f.outputs(c, "table", checkFormats...)
	f.cluster(c)
	f.where(c)
	c.Flags().StringArrayVarP(&a.files, "file", "f", nil, "`file` of objects in place of the cluster's, a folder of them, or - for standard input; repeatable")
	c.Flags().BoolVar(&a.complete, "complete", false, "the files are all there is, so that what is missing among them is missing")
	c.Flags().StringVar(&a.istioctl, "istioctl", "", "`path` of the istioctl whose analyzers are asked too; the one on PATH unless told")
	return c
}

// analysis is what is analyzed, and by whom else.
type analysis struct {
	files    []string // none: the cluster
	complete bool
	istioctl string
}

func (f *meshFlags) analyze(ctx context.Context, in io.Reader, a analysis) (*check.Report, error) {
	ours := check.Result{Code: "SD351", Title: "nothing undoes a decision"}
	if len(a.files) > 0 {
		objects, err := readObjects(in, a.files)
		if err != nil {
			return nil, err
		}
		ours.Findings = check.FromLint(lint.Objects(objects, lint.Options{RootNamespace: f.namespace, Complete: a.complete}))
		return &check.Report{Results: []check.Result{ours, istioctl.Objects(ctx, a.istioctl, objects, a.complete)}}, ctx.Err()
	}
	k, err := f.connect(ctx)
	if err != nil {
		return nil, err
	}
	// The inventory is a Secret, and whoever only looks on a schedule reads none.
	v := &profile.Values{}
	v.Istio.Namespace = f.namespace
	m, err := check.Open(k, check.Options{Mesh: &cluster.Mesh{Values: v}})
	if err != nil {
		return nil, err
	}
	problems, err := check.Lint(ctx, m)
	if err != nil {
		return nil, err
	}
	ours.Findings = check.FromLint(problems)
	istiods, err := check.Istiods(ctx, m)
	if err != nil {
		return nil, err
	}
	theirs := istioctl.Cluster(ctx, a.istioctl, istioctl.Target{Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, Istiods: istiods})
	return &check.Report{Results: []check.Result{ours, theirs}}, ctx.Err()
}

// readObjects reads files, what lies in folders by its ending, and standard input.
func readObjects(in io.Reader, names []string) (all render.Objects, err error) {
	read := func(name string, r io.Reader) error {
		objects, err := lint.Read(r)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, objects...)
		return nil
	}
	for _, name := range names {
		if name == "-" {
			err = read("standard input", in)
		} else {
			err = eachFile(name, read)
		}
		if err != nil {
			return nil, exit.With(exitInput, err)
		}
	}
	return all, nil
}

// eachFile opens a file, or every file of objects in a folder and beneath it.
func eachFile(name string, read func(string, io.Reader) error) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		return read(name, file)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			return err
		}
		file, err := root.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		return read(filepath.Join(name, path), file)
	})
}
