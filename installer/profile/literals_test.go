package profile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// literals are the longest fixed parts of the messages that a file's code can
// give: of each call of wrong or unless, the argument that says what is wrong.
func literals(t *testing.T, source string) (found []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
	must(t, err)
	what := map[string]int{"wrong": 1, "unless": 2}
	ast.Inspect(tree, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		s, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if i, gives := what[s.Sel.Name]; gives && len(call.Args) > i {
			longest := ""
			ast.Inspect(call.Args[i], func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					text, err := strconv.Unquote(l.Value)
					must(t, err)
					for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == '%' }) {
						part = strings.TrimLeft(part, "dqv")
						if len(part) > len(longest) {
							longest = part
						}
					}
				}
				return true
			})
			if longest != "" {
				found = append(found, longest)
			}
		}
		return true
	})
	return found
}
