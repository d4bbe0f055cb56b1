package spec

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

// Route is a route found in the source: a composite literal that holds a path and an operationId.
type Route struct {
	Method string // empty where the literal has none
	Path   string
	Op     string
	File   string // where the literal stands: "internal/clientapi/sync.go:17"
}

// Mention is what tests say about operations.
type Mention map[string]bool // operationIds

var methods = map[string]bool{"GET": true, "PUT": true, "POST": true, "DELETE": true, "PATCH": true, "HEAD": true, "OPTIONS": true}

// FindRoutes reads the Go source below root and returns the routes of one API, and the operations
// that a test names: in a string literal of its own or in a citation ("// Spec: cs sync").
func FindRoutes(root fs.FS, api string) ([]Route, Mention, error) {
	s := scan{ids: map[string]bool{}, tested: Mention{}, files: token.NewFileSet()}
	for _, op := range Of(api) {
		s.ids[op.ID] = true
	}
	for short, long := range citationAPIs {
		if long == api {
			s.prefix = short + " "
		}
	}
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if n := d.Name(); p != "." && (n[0] == '.' || n == "testdata" || n == "node_modules" || p == "spec") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(p, ".go"):
			return nil
		}
		raw, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		return s.file(p, raw)
	})
	return s.routes, s.tested, err
}

type scan struct {
	ids    map[string]bool
	prefix string // of citations: "cs "
	files  *token.FileSet
	routes []Route
	tested Mention
}

func (s *scan) file(p string, raw []byte) error {
	f, err := parser.ParseFile(s.files, p, raw, parser.ParseComments)
	if err != nil {
		return err
	}
	if strings.HasSuffix(p, "_test.go") || strings.Contains(p, "test/") {
		s.tests(f)
		return nil
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.CompositeLit); ok {
			s.literal(lit)
		}
		return true
	})
	return nil
}

// literal records a composite literal that is a route: its own elements, not those of literals
// inside it, hold exactly one path and an operationId. A value that names several
// operations, "getEvents peekEvents", is a route for each.
func (s *scan) literal(lit *ast.CompositeLit) {
	at := s.files.Position(lit.Pos())
	r := Route{File: at.Filename + ":" + strconv.Itoa(at.Line)}
	var ops []string
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			e = kv.Value
		}
		if sel, ok := e.(*ast.SelectorExpr); ok && strings.HasPrefix(sel.Sel.Name, "Method") {
			r.Method = strings.ToUpper(strings.TrimPrefix(sel.Sel.Name, "Method"))
			continue
		}
		text, ok := stringOf(e)
		switch {
		case !ok:
		case methods[text]:
			r.Method = text
		case strings.HasPrefix(text, "/"):
			r.Path = text
		default:
			for _, word := range strings.Fields(text) {
				if s.ids[word] {
					ops = append(ops, word)
				}
			}
		}
	}
	if r.Path == "" {
		return
	}
	for _, op := range ops {
		r.Op = op
		s.routes = append(s.routes, r)
	}
}

func (s *scan) tests(f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		if text, ok := stringOf(n); ok && s.ids[text] {
			s.tested[text] = true
		}
		return true
	})
	for _, group := range f.Comments {
		for _, c := range group.List {
			for line := range strings.Lines(c.Text) {
				cited, _ := Citation(strings.TrimRight(line, "\n"))
				for part := range strings.SplitSeq(cited, "; ") {
					if name, ok := strings.CutPrefix(part, s.prefix); ok && s.ids[name] {
						s.tested[name] = true
					}
				}
			}
		}
	}
}

// stringOf evaluates a string literal, or a sum whose last term is one: prefix + "/sync".
func stringOf(n ast.Node) (string, bool) {
	switch e := n.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, _ := stringOf(e.X)
		right, ok := stringOf(e.Y)
		return left + right, ok
	}
	return "", false
}

var parameter = regexp.MustCompile(`\{[^/}]*\}`)

// Serves reports whether a path in the source can be that of an operation: it has the same shape, whatever its
// parameters are called, or the shape of its last segments where the source adds a prefix.
func Serves(path string, op Operation) bool {
	whole, shape := parameter.ReplaceAllString(op.Path, "{}"), parameter.ReplaceAllString(path, "{}")
	return shape == whole || len(shape) > 1 && strings.HasSuffix(whole, shape)
}
