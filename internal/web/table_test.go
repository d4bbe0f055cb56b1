package web

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"

	"myelin/matrix/mxerr"
)

// TestStatusTableIsComplete: each errcode constant has a status, and each status a constant.
func TestStatusTableIsComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../matrix/mxerr/mxerr.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := make(map[mxerr.Code]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Code" {
			return true
		}
		for _, v := range spec.Values {
			code, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared[mxerr.Code(code)] = true
		}
		return true
	})
	if len(declared) < 40 {
		t.Fatalf("found only %d codes", len(declared))
	}
	for code := range declared {
		if statusOf[code] == 0 {
			t.Errorf("%s has no HTTP status", code)
		}
	}
	for code := range statusOf {
		if !declared[code] {
			t.Errorf("%s has a status and is no constant of package mxerr", code)
		}
	}
}
