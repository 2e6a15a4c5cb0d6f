package sluice

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	meshID   = regexp.MustCompile(`\bM-\d\d\b`)
	meshRun  = regexp.MustCompile(`t\.Run\("(M-\d\d) `)
	goldenOf = regexp.MustCompile(`golden ([a-z-]+)`)
)

// docs/mesh.md names, for each line of what the mesh is to be, the test that shows it: each is there, and each test of the mesh is named.
func TestTheMeshPageNamesTestsThatAreThere(t *testing.T) {
	text, err := os.ReadFile("docs/mesh.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	named, there := sorted(meshID.FindAllString(page, -1)), sorted(meshTests(t))
	if len(there) < 20 || !slices.Equal(named, there) {
		t.Errorf("the page names\n%v\nand e2e/mesh has\n%v", named, there)
	}
	for _, m := range goldenOf.FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("installer", "render", "testdata", "voicecore", m[1]+".yaml")); err != nil {
			t.Errorf("golden %s: %v", m[1], err)
		}
	}
	for _, name := range testName.FindAllString(page, -1) {
		if !anyFileHas(t, "e2e", "func "+name+"(") {
			t.Errorf("there is no test %s", name)
		}
	}
}

func sorted(ids []string) []string {
	slices.Sort(ids)
	return slices.Compact(ids)
}

// meshTests are the ids by which sub-tests of the mesh begin.
func meshTests(t *testing.T) (ids []string) {
	t.Helper()
	eachTest(t, filepath.Join("e2e", "mesh"), func(text string) {
		for _, m := range meshRun.FindAllStringSubmatch(text, -1) {
			ids = append(ids, m[1])
		}
	})
	return ids
}

func anyFileHas(t *testing.T, dir, what string) (found bool) {
	t.Helper()
	eachTest(t, dir, func(text string) { found = found || strings.Contains(text, what) })
	return found
}

func eachTest(t *testing.T, dir string, do func(text string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			do(string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
