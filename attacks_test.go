package sluice

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// cases are how many attacks of each kind there are: paths, headers, identity, tokens, failure, ext_proc, bodies, rules,
// streams, audit, tracing. Of the configuration three are this repository's: the others are a mesh's.
var cases = map[string]int{"P": 13, "H": 16, "I": 8, "J": 12, "F": 10, "E": 12, "B": 5, "X": 8, "S": 2, "A": 6, "T": 5}

var (
	caseID   = regexp.MustCompile(`\b([PHIJFEBXSATC])-(\d\d)\b`)
	caseFunc = regexp.MustCompile(`^(?:Test|Fuzz)((?:[PHIJFEBXSATC]\d\d)+)`)
	oneID    = regexp.MustCompile(`[PHIJFEBXSATC]\d\d`)
	testName = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*…?`)
)

// docs/reference/attacks.md has a row for each case; each row has a test with its id in the name, through a real Envoy where
// it does not say why not; and each test that a row names is there.
func TestEachAttackHasARowAndATestOfItsName(t *testing.T) {
	text, err := os.ReadFile("docs/reference/attacks.md")
	if err != nil {
		t.Fatal(err)
	}
	functions, anywhere, end2end := testsByCase(t)
	for _, problem := range compareAttacks(string(text), functions, anywhere, end2end) {
		t.Error(problem)
	}
}

// compareAttacks is every way in which the page and the tests differ.
func compareAttacks(page string, functions, anywhere, end2end map[string]bool) (problems []string) {
	rows := map[string]string{}
	for line := range strings.Lines(page) {
		if cells := strings.SplitN(line, "|", 3); len(cells) == 3 {
			for _, id := range caseID.FindAllString(cells[1], -1) {
				rows[id] += cells[2]
			}
		}
	}
	wanted := []string{"C-05", "C-06", "C-10"}
	for letter, n := range cases {
		for i := range n {
			wanted = append(wanted, fmt.Sprintf("%s-%02d", letter, i+1))
		}
	}
	slices.Sort(wanted)
	for _, id := range wanted {
		row, there := rows[id]
		switch {
		case !there:
			problems = append(problems, id+" has no row in docs/reference/attacks.md")
		case strings.Contains(row, "does not apply"):
		case !anywhere[id]:
			problems = append(problems, id+" is in the name of no test, and its row does not say why it does not apply")
		case !end2end[id] && !strings.Contains(strings.ToLower(row), "not through envoy"):
			problems = append(problems, id+" is in the name of no test of e2e, and its row does not say why it is not through Envoy")
		}
	}
	for id := range rows {
		if !slices.Contains(wanted, id) {
			problems = append(problems, id+" has a row, and is none of the cases")
		}
	}
	for _, name := range testName.FindAllString(page, -1) {
		prefix, cut := strings.CutSuffix(name, "…")
		found := functions[prefix]
		for f := range functions {
			found = found || cut && strings.HasPrefix(f, prefix)
		}
		if !found {
			problems = append(problems, name+" is named in docs/reference/attacks.md, and there is no such test")
		}
	}
	slices.Sort(problems)
	return slices.Compact(problems)
}

// testsByCase are the functions of tests, and the ids in their names and in those of sub-tests. A sub-test's name may be
// anywhere in a file of tests, so each text that begins with an id counts.
func testsByCase(t *testing.T) (functions, anywhere, end2end map[string]bool) {
	t.Helper()
	functions, anywhere, end2end = map[string]bool{}, map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go") || path == "attacks_test.go":
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		note := func(id string) {
			anywhere[id] = true
			if strings.HasPrefix(filepath.ToSlash(path), "e2e/") {
				end2end[id] = true
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				functions[n.Name.Name] = n.Recv == nil
				if m := caseFunc.FindStringSubmatch(n.Name.Name); m != nil {
					for _, id := range oneID.FindAllString(m[1], -1) {
						note(id[:1] + "-" + id[1:])
					}
				}
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					if id := caseID.FindString(s); id != "" && strings.HasPrefix(s, id) {
						note(id)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return functions, anywhere, end2end
}

func TestWhatIsMissingAmongTheAttacksIsFound(t *testing.T) {
	text, err := os.ReadFile("docs/reference/attacks.md")
	if err != nil {
		t.Fatal(err)
	}
	functions, anywhere, end2end := testsByCase(t)
	page := string(text)
	for want, change := range map[string]func(){
		"X-08 has no row":                       func() { page = strings.Replace(page, "| X-08 |", "| X |", 1) },
		"X-07 is in the name of no test, ":      func() { delete(anywhere, "X-07") },
		"X-03 is in the name of no test of e2e": func() { delete(end2end, "X-03") },
		"P-99 has a row, and is none":           func() { page += "\n| P-99 | x | y | z |\n" },
		"TestOfNobody is named":                 func() { page += "\nTestOfNobody\n" },
	} {
		change()
		if problems := compareAttacks(page, functions, anywhere, end2end); !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, want) }) {
			t.Errorf("not found: %s, but %q", want, problems)
		}
	}
}
