package internal

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Limits of size. Style asks for 500 and 70; these are where a reader gives up.
const (
	maxFileLines = 800
	maxFuncLines = 100
)

// longFiles and longFunctions are exceptions: tables that mirror the specification. The name of
// a function is "path/to/file.go:Name".
var (
	longFiles     = map[string]string{}
	longFunctions = map[string]string{}
)

// bannedNames say nothing about what a package holds.
var bannedNames = strings.Fields("util utils common helper helpers types models model misc base shared lib core")

// unfinished are the words that mark work somebody meant to come back to. They are put together
// here so that a search for them finds only real ones.
var unfinished = regexp.MustCompile(`\b(` + strings.Join([]string{
	"TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK", "(?i:for" + " now)", "(?i:not" + " implemented)", "(?i:un" + "implemented)", "(?i:st" + "ub(bed)?)",
}, "|") + `)\b`)

func TestEveryPackageHasDoc(t *testing.T) {
	names, files := packages(load(t))
	for _, pkg := range names {
		if !hasCode(files[pkg]) {
			continue
		}
		at := slices.IndexFunc(files[pkg], func(f source) bool { return path.Base(f.path) == "doc.go" })
		if at < 0 {
			t.Errorf("package %s has no doc.go", pkg)
			continue
		}
		doc := files[pkg][at].ast
		want := "Package " + doc.Name.Name + " "
		if doc.Name.Name == "main" {
			want = "Command " + path.Base(pkg) + " "
		}
		switch {
		case doc.Doc == nil:
			t.Errorf("%s has no package comment", files[pkg][at].path)
		case !strings.HasPrefix(doc.Doc.Text(), want):
			t.Errorf("the package comment of %s does not begin with %q", pkg, want)
		case len(doc.Doc.Text()) < 120:
			t.Errorf("the package comment of %s says too little: what it owns, its invariants, what it refuses", pkg)
		}
	}
}

func TestPackageNames(t *testing.T) {
	names, files := packages(load(t))
	for _, pkg := range names {
		if slices.Contains(bannedNames, path.Base(pkg)) {
			t.Errorf("package %s: name it after what it holds", pkg)
		}
		for _, f := range files[pkg] {
			name := strings.TrimSuffix(f.ast.Name.Name, "_test")
			if name != "main" && pkg != "." && name != strings.ReplaceAll(path.Base(pkg), "-", "") {
				t.Errorf("%s is of package %s in a folder of another name", f.path, name)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for _, f := range load(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		if f.lines > maxFileLines && longFiles[f.path] == "" {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, maxFileLines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			n := fileSet.Position(fn.End()).Line - fileSet.Position(fn.Pos()).Line + 1
			if n > maxFuncLines && longFunctions[f.path+":"+fn.Name.Name] == "" {
				t.Errorf("%s: %s has %d lines, more than %d", fileSet.Position(fn.Pos()), fn.Name.Name, n, maxFuncLines)
			}
		}
	}
}

// TestNothingIsLeftUnfinished reads comments only: strings belong to the user.
func TestNothingIsLeftUnfinished(t *testing.T) {
	for _, f := range load(t) {
		if f.isTest() {
			continue
		}
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				if word := unfinished.FindString(c.Text); word != "" {
					t.Errorf("%s: the comment says %q: finish it or make the server say so to the client", fileSet.Position(c.Pos()), word)
				}
			}
		}
	}
}

// TestNoInit keeps hidden work out of packages: what is built is built by a constructor.
func TestNoInit(t *testing.T) {
	for _, f := range load(t) {
		if f.isTest() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: no init functions", fileSet.Position(fn.Pos()))
			}
		}
	}
}
