package extauthz_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the list of return paths anew")

// TestEveryReturnPathIsADecision lists, from the source, each way out of a
// function that makes a response, and fails where one is not the answer of
// allow or refuse, or where the list is not the one that was reviewed.
func TestEveryReturnPathIsADecision(t *testing.T) {
	const reviewed = "testdata/return_paths.txt"
	var list []string
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			f, ok := n.(*ast.FuncDecl)
			if ok && f.Body != nil && makesResponse(set, f.Type) {
				list = append(list, ways(t, set, name, f)...)
			}
			return true
		})
	}
	slices.Sort(list)
	got := strings.Join(list, "\n") + "\n"
	if *update {
		if err := os.WriteFile(reviewed, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(reviewed)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the ways out have changed; review them, then run this test with -update:\n%s", got)
	}
	t.Logf("%d ways out of the door:\n%s", len(list), got)
}

func makesResponse(set *token.FileSet, f *ast.FuncType) bool {
	return f.Results != nil && slices.ContainsFunc(f.Results.List, func(r *ast.Field) bool { return source(set, r.Type) == "*rawpb.Raw" })
}

// ways are the returns of f and its assignments to a named result.
func ways(t *testing.T, set *token.FileSet, file string, f *ast.FuncDecl) (list []string) {
	ast.Inspect(f.Body, func(n ast.Node) bool {
		var value ast.Expr
		switch n := n.(type) {
		case *ast.FuncLit: // the deferred recovery, which assigns; an interceptor's handler, which calls check
			return true
		case *ast.ReturnStmt:
			if len(n.Results) == 0 {
				return true
			}
			value = n.Results[0]
		case *ast.AssignStmt:
			if id, ok := n.Lhs[0].(*ast.Ident); !ok || id.Name != "out" {
				return true
			}
			value = n.Rhs[0]
		default:
			return true
		}
		made := source(set, value)
		list = append(list, fmt.Sprintf("%s %s: %s", file, f.Name.Name, made))
		decided := strings.HasPrefix(made, "s.refuse(") || strings.HasPrefix(made, "s.allow(") || strings.HasPrefix(made, "s.check(")
		encodes := f.Name.Name == "allow" || f.Name.Name == "refuse"
		if !decided && !encodes {
			t.Errorf("%s: %s returns %s, which neither allow nor refuse made", set.Position(n.Pos()), f.Name.Name, made)
		}
		return true
	})
	return list
}

func source(set *token.FileSet, n ast.Node) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, set, n); err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
