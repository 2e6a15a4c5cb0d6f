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

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/lint"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

func meshAnalyzeCommand() *cobra.Command {
	var f meshFlags
	var files []string
	var complete bool
	c := &cobra.Command{
		Use:   "analyze",
		Short: "Look for wiring that undoes what Sluice decides, in files or in the cluster",
		Long: `Reads Kubernetes objects, of files with -f or else of the cluster, and names what undoes a decision: a filter that fails open,
a field that Envoy does not know, a policy that asks nobody. It contacts no proxy; 'sluice mesh doctor' does.
addons.analyze in the values runs it in the cluster on a schedule.

docs/reference/lint.md explains each code and how one is waived. The exit status is 3 if there is an error.`,
		Example: `  sluice mesh analyze
  sluice mesh analyze -f my-envoyfilter.yaml -f policies/
  sluice mesh render --profile voicecore | sluice mesh analyze --complete -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			problems, err := f.problems(c.Context(), c.InOrStdin(), files, complete)
			if err != nil {
				return err
			}
			r := &check.Report{Results: []check.Result{{Code: "SD351", Title: "nothing undoes a decision", Findings: check.FromLint(problems)}}}
			if err := f.printReport(c.OutOrStdout(), "analyze", r); err != nil {
				return err
			}
			return failing(r)
		},
	}
	f.outputs(c, "table", checkFormats...)
	f.cluster(c)
	f.where(c)
	c.Flags().StringArrayVarP(&files, "file", "f", nil, "`file` of objects in place of the cluster's, a folder of them, or - for standard input; repeatable")
	c.Flags().BoolVar(&complete, "complete", false, "the files are all there is, so that what is missing among them is missing")
	return c
}

func (f *meshFlags) problems(ctx context.Context, in io.Reader, files []string, complete bool) ([]lint.Problem, error) {
	o := lint.Options{RootNamespace: f.namespace, Complete: complete}
	if len(files) > 0 {
		var all []lint.Problem
		objects, err := readObjects(in, files)
		if err == nil {
			all = lint.Objects(objects, o)
		}
		return all, err
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
	return check.Lint(ctx, m)
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
			return nil, &exitError{exitInput, err}
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
