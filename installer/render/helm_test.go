package render

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"istio.io/istio/manifests"
)

func chartOf(files map[string]string) fs.FS {
	out := fstest.MapFS{"c/Chart.yaml": {Data: []byte("apiVersion: v2\nname: c\nversion: 1.0.0\n")}}
	for name, text := range files {
		out["c/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestAChartIsRefusedForWhatItWouldNotDo(t *testing.T) {
	for _, c := range []struct {
		says   string
		files  map[string]string
		values map[string]any
		want   string
	}{
		{
			"a value that the schema forbids",
			map[string]string{"values.schema.json": `{"type":"object","additionalProperties":false,"properties":{"n":{"type":"integer"}}}`},
			map[string]any{"m": 1}, "additional properties 'm' not allowed",
		},
		{
			"a value that an Istio chart has no default for, deep inside",
			map[string]string{"values.yaml": "_internal_defaults_do_not_set: {global: {hub: x, proxy: {image: y}}}\n"},
			map[string]any{"global": map[string]any{"hub": "h", "proxy": map[string]any{"img": "z"}, "open": map[string]any{"any": 1}}},
			"it has no value global.proxy.img, so it would not do what they ask for",
		},
		{"a template that fails", map[string]string{"templates/a.yaml": `{{ fail "no" }}`}, nil, "no"},
		{"a template that gives no YAML", map[string]string{"templates/a.yaml": "kind: [\n"}, nil, "yaml"},
		{"a field given twice", map[string]string{"templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\ndata: {}\n"}, nil, "already set"},
		{"a folder without a chart", map[string]string{"Chart.yaml": ""}, nil, "chart c"},
	} {
		t.Run(c.says, func(t *testing.T) {
			_, err := helm(chartOf(c.files), "c", release{name: "c", namespace: "n", values: c.values, open: []string{"global.open"}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestHooksTestsAndNotesAreLeftOut(t *testing.T) {
	objects, err := helm(chartOf(map[string]string{
		"templates/NOTES.txt":       "thank you",
		"templates/_helpers.tpl":    `{{ define "x" }}y{{ end }}`,
		"templates/hook.yaml":       "apiVersion: batch/v1\nkind: Job\nmetadata: {name: hook, annotations: {helm.sh/hook: pre-install}}\n",
		"templates/tests/test.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: test, annotations: {helm.sh/hook: test}}\n",
		"templates/b.yaml":          "# a comment\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: {{ .Release.Name }}-b, annotations: {}}\nspec: {replicas: null}\n",
		"templates/a.yaml":          "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: s, namespace: other}\n",
	}), "c", release{name: "r", namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objects {
		got = append(got, o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName())
	}
	if want := "ServiceAccount other/s, ClusterRole /a, Deployment n/r-b"; strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
	if empty := emptyFields(objects[2].Object, "b"); len(empty) > 0 || objects[2].GetAnnotations() != nil {
		t.Errorf("fields without a value: %v", empty)
	}
}

// TestChartsMayComeFromAFolder is the way in for a build of Istio of one's own.
func TestChartsMayComeFromAFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, manifests.FS); err != nil {
		t.Fatal(err)
	}
	built, copied := all(t, values(t, "default")), all(t, values(t, "default", "istio.charts="+dir))
	for i := range built {
		if string(text(t, built[i].Objects)) != string(text(t, copied[i].Objects)) {
			t.Errorf("%s differs", built[i].Name)
		}
	}
	crd := filepath.Join(dir, "charts", "base", "files", "crd-all.gen.yaml")
	if err := os.Chmod(crd, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(crd); err != nil {
		t.Fatal(err)
	}
	if _, err := All(values(t, "default", "istio.charts="+dir)); err == nil || !strings.Contains(err.Error(), "crd-all.gen.yaml") {
		t.Errorf("without the definitions: %v", err)
	}
}
