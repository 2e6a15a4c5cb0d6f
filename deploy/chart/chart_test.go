package chart

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	helm "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

var update = flag.Bool("update", false, "write what the tests compare with: golden files, and the table in README.md")

// load reads the embedded chart, without the files given.
func load(t *testing.T, but ...string) *helm.Chart {
	t.Helper()
	var files []*archive.BufferedFile
	err := fs.WalkDir(FS, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || slices.Contains(but, p) {
			return err
		}
		data, err := FS.ReadFile(p)
		files = append(files, &archive.BufferedFile{Name: p, Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render is what 'helm template sluice --namespace sluice' would print, by template.
func render(c *helm.Chart, values map[string]any, skipSchema bool) (map[string]string, error) {
	all, err := util.ToRenderValuesWithSchemaValidation(c, values,
		common.ReleaseOptions{Name: "sluice", Namespace: "sluice", Revision: 1, IsInstall: true}, nil, skipSchema)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// values reads a file of testdata, as helm -f does.
func values(t *testing.T, name string) map[string]any {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	v, err := loader.LoadValues(f)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// with is a copy of values in which the paths, with dots between, are set.
func with(v map[string]any, set map[string]any) map[string]any {
	v = maps.Clone(v)
	for dotted, value := range set {
		at := v
		keys := strings.Split(dotted, ".")
		for _, key := range keys[:len(keys)-1] {
			below, _ := at[key].(map[string]any)
			below = maps.Clone(below)
			if below == nil {
				below = map[string]any{}
			}
			at[key] = below
			at = below
		}
		at[keys[len(keys)-1]] = value
	}
	return v
}

// documents are the objects of a rendering, by template and then as written.
func documents(rendered map[string]string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		for doc := range strings.SplitSeq("\n"+rendered[name], "\n---\n") {
			if strings.TrimSpace(doc) != "" {
				all = append(all, strings.TrimSpace(doc)+"\n")
			}
		}
	}
	return all
}

// cases are the values files of testdata.
func cases(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".yaml"); !strings.HasSuffix(name, ".golden") {
			names = append(names, name)
		}
	}
	if len(names) < 3 {
		t.Fatalf("only %d values files", len(names))
	}
	return names
}

func TestTheChartRendersAsItDid(t *testing.T) {
	for _, name := range cases(t) {
		t.Run("with the values of "+name, func(t *testing.T) {
			rendered, err := render(load(t), values(t, name), false)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(documents(rendered), "---\n") + "--- # NOTES\n" + rendered["sluice/templates/NOTES.txt"]
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("not %s; if it is meant, run 'go test ./deploy/chart -update' and look at the difference\n%s", golden, got)
			}
		})
	}
}

// TestHelmSeesTheSameChart: what .helmignore leaves of the folder is what is embedded.
func TestHelmSeesTheSameChart(t *testing.T) {
	folder, err := loader.Load(".")
	if err != nil {
		t.Fatal(err)
	}
	raw := func(c *helm.Chart) map[string]string {
		files := map[string]string{}
		for _, f := range c.Raw {
			files[f.Name] = string(f.Data)
		}
		delete(files, ".helmignore")
		return files
	}
	if got, want := raw(load(t)), raw(folder); !maps.Equal(got, want) {
		t.Errorf("embedded: %q\nin the folder: %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	for _, name := range cases(t) {
		for _, m := range lint.RunAll(".", values(t, name), "sluice").Messages {
			if m.Severity > 1 { // 1 is information: it misses an icon
				t.Errorf("helm lint, %s: %s", name, m.Error())
			}
		}
	}
}

// TestTheVersionIsTheChangelogs: the chart and the server are released together.
func TestTheVersionIsTheChangelogs(t *testing.T) {
	text, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## ")
	want, _, _ := strings.Cut(rest, "\n")
	want = strings.Trim(strings.Fields(want)[0], "[]")
	if want == "Unreleased" {
		want = "0.0.0-unreleased"
	}
	m := load(t).Metadata
	if !found || m.Version != want || m.AppVersion != want {
		t.Errorf("version %s, appVersion %s, want %s for both", m.Version, m.AppVersion, want)
	}
}

// TestTheReadmeListsTheValues compares its table with values.yaml and the comments there.
func TestTheReadmeListsTheValues(t *testing.T) {
	text, err := FS.ReadFile("values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	table := "| value | default | |\n| --- | --- | --- |\n" + strings.Join(rows("", root.Content[0], ""), "")
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(readme, []byte(" -->\n"))
	_, after, ok2 := bytes.Cut(rest, []byte("<!-- end -->"))
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the table")
	}
	want := string(before) + " -->\n" + table + "<!-- end -->" + string(after)
	if *update {
		if err := os.WriteFile("README.md", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(readme) != want {
		t.Errorf("the table of README.md is not that of values.yaml; run 'go test ./deploy/chart -update'. It would be\n%s", table)
	}
}

// TestTheGuidesValuesDo renders what the guide tells a newcomer to write.
func TestTheGuidesValuesDo(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guide/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(guide), "```yaml\n")
	block, _, _ := strings.Cut(rest, "```")
	v, err := loader.LoadValues(strings.NewReader(block))
	if err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	if _, err := render(load(t), v, false); err != nil {
		t.Error(err)
	}
}

// rows is one line of the table for each value that has none below it.
func rows(prefix string, node *yaml.Node, comment string) (lines []string) {
	name := strings.TrimSuffix(prefix, ".")
	whole, isWhole := map[string]string{"settings": "`{log-format: json}`", "networkPolicy.dnsTo": "the namespace kube-system"}[name]
	switch {
	case isWhole:
	case node.Kind == yaml.SequenceNode:
		whole = "`[]`"
	case node.Kind == yaml.MappingNode && len(node.Content) == 0:
		whole = "`{}`"
	case node.Kind == yaml.ScalarNode && node.Value != "":
		whole = "`" + node.Value + "`"
	}
	if isWhole || node.Kind != yaml.MappingNode || len(node.Content) == 0 {
		return []string{fmt.Sprintf("| %#q | %s | %s |\n", name, whole, comment)}
	}
	for i := 0; i < len(node.Content); i += 2 {
		key := node.Content[i]
		said := strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "# ", "")), " ")
		if said == "" {
			said = comment
		}
		lines = append(lines, rows(prefix+key.Value+".", node.Content[i+1], said)...)
		comment = ""
	}
	return lines
}
