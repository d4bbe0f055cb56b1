// Package internal has no code: it holds the tests that keep the house in order. They read the
// source of the whole module and fail on an import that goes up the stack, a package without
// documentation, a dependency nobody argued for, a file that grew too long.
package internal

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the import path of the repository's root.
const module = "myelin"

// source is one parsed Go file.
type source struct {
	path  string // slash-separated, relative to the root of the repository
	pkg   string // directory of the file: "matrix/id", or "." for the root
	lines int
	text  string
	ast   *ast.File
}

// isTest reports whether the file is compiled for tests only: a _test.go file, or any file of a
// package whose name ends in "test", such as sqldbtest.
func (s source) isTest() bool {
	return strings.HasSuffix(s.path, "_test.go") || isTestPackage(s.pkg)
}

func isTestPackage(pkg string) bool { return strings.HasSuffix(path.Base(pkg), "test") }

// imports lists the import paths of the file.
func (s source) imports() []string {
	out := make([]string, 0, len(s.ast.Imports))
	for _, i := range s.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

var fileSet = token.NewFileSet()

// sources parses every Go file of the module once.
var sources = sync.OnceValues(func() ([]source, error) {
	var out []source
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(p, d.Name())
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		raw, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fileSet, p, raw, parser.ParseComments)
		if err != nil {
			return err
		}
		text := string(raw)
		out = append(out, source{path: p, pkg: path.Dir(p), lines: strings.Count(text, "\n"), text: text, ast: f})
		return nil
	})
	return out, err
})

// skipDir leaves out what is no part of the module.
func skipDir(p, name string) error {
	hidden := name != "." && (name[0] == '.' || name[0] == '_')
	switch {
	case hidden, name == "testdata", name == "node_modules", name == "myelin-data", name == "zz":
		return filepath.SkipDir
	case p != "." && fileExists(filepath.Join("..", p, "go.mod")):
		return filepath.SkipDir
	}
	return nil
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

func load(t *testing.T) []source {
	t.Helper()
	all, err := sources()
	if err != nil {
		t.Fatalf("read the module's source: %v", err)
	}
	if len(all) < 5 {
		t.Fatalf("found %d Go files, so this test looks in the wrong place", len(all))
	}
	return all
}

// packages groups the files by directory, in order.
func packages(all []source) (names []string, files map[string][]source) {
	files = map[string][]source{}
	for _, s := range all {
		files[s.pkg] = append(files[s.pkg], s)
	}
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, files
}

// hasCode reports whether anything but _test.go files is in the package.
func hasCode(files []source) bool {
	for _, f := range files {
		if !strings.HasSuffix(f.path, "_test.go") {
			return true
		}
	}
	return false
}

// requirements reads the module paths that go.mod requires; direct ones map to true.
func requirements(t *testing.T) map[string]bool {
	t.Helper()
	f, err := os.Open("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]bool{}
	inBlock := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "require (":
			inBlock = true
			continue
		case line == ")":
			inBlock = false
			continue
		case strings.HasPrefix(line, "require "):
			line = strings.TrimPrefix(line, "require ")
		case !inBlock:
			continue
		}
		if name, rest, ok := strings.Cut(line, " "); ok {
			out[name] = !strings.Contains(rest, "// indirect")
		}
	}
	return out
}
