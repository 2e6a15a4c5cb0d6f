package lint_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/voicecore-ai/sluice/installer/lint"
)

// read reads the objects of a file; "# complete" at its top says that they are all there are.
func read(t *testing.T, path string) (objects []*unstructured.Unstructured, o lint.Options) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o.Complete = bytes.HasPrefix(text, []byte("# complete\n"))
	objects, err = lint.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return objects, o
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text, says string
		n                int
	}{
		{"documents and comments", "# nothing\n---\n{apiVersion: v1, kind: Pod}\n---\n\n---\n{apiVersion: v1, kind: Service}\n", "", 2},
		{"a list is its items", "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod}, {apiVersion: v1, kind: Service}]}", "", 2},
		{"JSON is YAML", `{"apiVersion": "v1", "kind": "Pod"}`, "", 1},
		{"what is no object is an error", "{apiVersion: v1, kind: Pod}\n---\nname: x\n", "document 2: no apiVersion or no kind", 0},
		{"what is no mapping is an error", "[1, 2]", "document 1: ", 0},
		{"what is no YAML is an error", "a: [", "document 1: ", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, err := lint.Read(strings.NewReader(c.text))
			if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) || len(objects) != c.n {
				t.Errorf("%d objects, %v", len(objects), err)
			}
		})
	}
}

// codes are all rules, as the page lists them.
func codes(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/reference/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^### (SL\d+)$`).FindAllStringSubmatch(string(page), -1) {
		out = append(out, m[1])
	}
	return out
}

func TestEveryRuleRefusesTheBadAndTakesTheGood(t *testing.T) {
	documented := codes(t)
	if !slices.Equal(documented, lint.Codes()) {
		t.Errorf("docs/reference/lint.md explains %v, and the rules are %v", documented, lint.Codes())
	}
	for _, code := range lint.Codes() {
		t.Run(code+" refuses its bad file", func(t *testing.T) {
			objects, o := read(t, filepath.Join("testdata", code+".bad.yaml"))
			problems := lint.Objects(objects, o)
			found := false
			for _, p := range problems {
				if p.Code != code {
					t.Errorf("another problem: %+v", p)
					continue
				}
				found = true
				if p.Says == "" || p.Fix == "" || p.Object == "" || p.Field == "" || p.Doc != "docs/reference/lint.md#"+strings.ToLower(code) {
					t.Errorf("not all is said: %+v", p)
				}
			}
			if !found {
				t.Errorf("nothing was said of it; only %+v", problems)
			}
		})
		t.Run(code+" takes its good file", func(t *testing.T) {
			objects, o := read(t, filepath.Join("testdata", code+".good.yaml"))
			if len(objects) == 0 {
				t.Fatal("the file is empty")
			}
			for _, p := range lint.Objects(objects, o) {
				if p.Code == code && p.Severity != lint.Waived {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}

func TestAWaiverNeedsAReason(t *testing.T) {
	objects, o := read(t, filepath.Join("testdata", "SL121.bad.yaml"))
	for _, c := range []struct {
		name, annotation string
		severity         lint.Severity
		misused          bool
	}{
		{"a reason waives", "SL121: nobody else reaches it", lint.Waived, false},
		{"no reason does not", "SL121:", lint.Error, true},
		{"another code does not", "SL122: nobody else reaches it", lint.Error, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects[0].SetAnnotations(map[string]string{lint.Waive: c.annotation})
			problems := lint.Objects(objects, o)
			misused := slices.ContainsFunc(problems, func(p lint.Problem) bool { return p.Code == "SL100" })
			i := slices.IndexFunc(problems, func(p lint.Problem) bool { return p.Code == "SL121" })
			if i < 0 || problems[i].Severity != c.severity || misused != c.misused {
				t.Errorf("%+v", problems)
			}
			if lint.Failed(problems) != (c.severity == lint.Error || c.misused) {
				t.Errorf("Failed is %v", lint.Failed(problems))
			}
		})
	}
}

// TestNothingPanics: what a user wrote may be of any shape.
func TestNothingPanics(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	shapes := []any{nil, "text", 1.5, []any{nil, "x", map[string]any{}}, map[string]any{"@type": 1}}
	n := 0
	for _, path := range files {
		objects, _ := read(t, path)
		for _, o := range objects {
			raw, err := json.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			for k := range paths(o.Object) {
				for _, shape := range shapes {
					var copied map[string]any
					if err := json.Unmarshal(raw, &copied); err != nil {
						t.Fatal(err)
					}
					replace(copied, k, shape)
					lint.Objects([]*unstructured.Unstructured{{Object: copied}, nil}, lint.Options{Complete: n%2 == 0})
					n++
				}
			}
		}
	}
	if n < 1000 {
		t.Errorf("only %d objects were tried", n)
	}
}

// paths counts the values of an object, in the order in which replace finds them.
func paths(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for _, inner := range v {
			n += 1 + paths(inner)
		}
	case []any:
		for _, inner := range v {
			n += 1 + paths(inner)
		}
	}
	return n
}

// replace puts a shape in the place of the k-th value.
func replace(root map[string]any, k int, shape any) {
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			keys := make([]string, 0, len(v))
			for key := range v {
				keys = append(keys, key)
			}
			slices.Sort(keys)
			for _, key := range keys {
				if k == 0 {
					v[key] = shape
				}
				if k--; k >= 0 {
					walk(v[key])
				}
			}
		case []any:
			for i := range v {
				if k == 0 {
					v[i] = shape
				}
				if k--; k >= 0 {
					walk(v[i])
				}
			}
		}
	}
	walk(root)
}
