package sqldb_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// escapes are all statements of the program whose text differs between the engines. A new one needs a good reason.
var escapes = []string{
	"begin read",         // isolation levels are named differently
	"begin write",        // SQLite must say that it will write
	"migration lock",     // nodes that start at once; SQLite has one writer
	"notify",             // hints between nodes
	"transaction id",     // to ask for the outcome of a broken commit
	"transaction status", // the same
}

func TestEscapesAreFew(t *testing.T) {
	var found []string
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return nil // somebody is writing it
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			sel, _ := call.Fun.(*ast.SelectorExpr)
			ident, _ := call.Fun.(*ast.Ident)
			if ident != nil && ident.Name == "Escape" && file.Name.Name == "sqldb" || sel != nil && sel.Sel.Name == "Escape" && isPackage(sel.X, "sqldb") {
				name := "?"
				if lit, ok := call.Args[0].(*ast.BasicLit); ok {
					name, _ = strconv.Unquote(lit.Value)
				}
				found = append(found, name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	want := slices.Clone(escapes)
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Errorf("dialect escapes in the program: %q\nallowed: %q", found, want)
	}
}

func isPackage(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name
}
