package spec

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
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

// Found is what the source says of the operations of one API.
type Found struct {
	Routes []Route
	// Called are operations that the server asks of others: those of a request to another server, a literal with a field op, and those that a
	// comment names, "// Calls: as ping".
	Called Mention
	// Tested are those that a test names, in a string literal of its own or in a citation ("// Spec: cs sync"), and all where a
	// test asks all operations of the API's document.
	Tested Mention
}

// Find reads the Go source below root and returns what it says of one API.
func Find(root fs.FS, api string) (*Found, error) {
	s := scan{api: api, ids: map[string]bool{}, files: token.NewFileSet(), values: map[[2]string]string{}}
	s.Called, s.Tested = Mention{}, Mention{}
	var parsed []source
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
		f, err := parser.ParseFile(s.files, p, raw, parser.ParseComments)
		if err != nil {
			return err
		}
		parsed = append(parsed, source{p, f})
		s.constants(f, path.Dir(p))
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, f := range parsed {
		s.file(f)
	}
	return &s.Found, nil
}

// source is a parsed file.
type source struct {
	path string
	ast  *ast.File
}

type scan struct {
	Found
	api    string
	ids    map[string]bool
	prefix string // of citations: "cs "
	files  *token.FileSet
	// values are constant strings by folder and name; "" where a folder has several of the name.
	values map[[2]string]string
	folder string // of the file that is looked at
}

// constants notes the constant strings of a file, those inside of functions as well.
func (s *scan) constants(f *ast.File, folder string) {
	ast.Inspect(f, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			return true
		}
		for _, spec := range decl.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if i >= len(v.Values) {
					break
				}
				text, ok := s.stringOf(v.Values[i])
				key := [2]string{folder, name.Name}
				if was, twice := s.values[key]; !ok || twice && was != text {
					text = ""
				}
				s.values[key] = text
			}
		}
		return true
	})
}

func (s *scan) file(f source) {
	s.folder = path.Dir(f.path)
	if strings.HasSuffix(f.path, "_test.go") || strings.Contains(f.path, "test/") {
		s.tests(f.ast)
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if lit, ok := n.(*ast.CompositeLit); ok {
			s.literal(lit)
		}
		return true
	})
	s.mentions(f.ast, Calls, s.Called)
}

// Calls returns which operations a comment line says the code calls, and false where it says nothing.
func Calls(line string) (string, bool) {
	m := callsLine.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// mentions notes the operations that lines of comments name.
func (s *scan) mentions(f *ast.File, read func(line string) (string, bool), to Mention) {
	for _, group := range f.Comments {
		for _, c := range group.List {
			for line := range strings.Lines(c.Text) {
				cited, _ := read(strings.TrimRight(line, "\n"))
				for part := range strings.SplitSeq(cited, "; ") {
					if name, ok := strings.CutPrefix(part, s.prefix); ok && s.ids[name] {
						to[name] = true
					}
				}
			}
		}
	}
}

// call notes the operation of a request that is sent to another server: a literal with a field op.
func (s *scan) call(lit *ast.CompositeLit) {
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return
		}
		if field, ok := kv.Key.(*ast.Ident); ok && field.Name == "op" {
			if op, _ := s.stringOf(kv.Value); s.ids[op] && s.api == ServerServer {
				s.Called[op] = true
			}
		}
	}
}

// literal records a composite literal that is a route: its own elements, not those of literals
// inside it, hold exactly one path and an operationId, and its fields are exported, if it names them. A value that names several
// operations, "getEvents peekEvents", is a route for each.
func (s *scan) literal(lit *ast.CompositeLit) {
	at := s.files.Position(lit.Pos())
	r := Route{File: at.Filename + ":" + strconv.Itoa(at.Line)}
	var ops []string
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if field, ok := kv.Key.(*ast.Ident); ok && !field.IsExported() {
				s.call(lit) // a request that we send, in a type of its package
				return
			}
			e = kv.Value
		}
		if sel, ok := e.(*ast.SelectorExpr); ok && strings.HasPrefix(sel.Sel.Name, "Method") {
			r.Method = strings.ToUpper(strings.TrimPrefix(sel.Sel.Name, "Method"))
			continue
		}
		text, ok := s.stringOf(e)
		if name, is := e.(*ast.Ident); is {
			text = s.values[[2]string{s.folder, name.Name}]
			ok = text != ""
		}
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
		s.Routes = append(s.Routes, r)
	}
}

func (s *scan) tests(f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && s.asksAll(call) {
			for op := range s.ids {
				s.Tested[op] = true
			}
		}
		if text, ok := s.stringOf(n); ok && s.ids[text] {
			s.Tested[text] = true
		}
		return true
	})
	s.mentions(f, Citation, s.Tested)
}

// asksAll reports whether a test takes all operations of the API's document to ask them: spectest.Operations(spec.ClientServer).
func (s *scan) asksAll(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != "Operations" || len(call.Args) != 1 {
		return false
	}
	of, ok := call.Args[0].(*ast.SelectorExpr)
	return ok && apiConstants[of.Sel.Name] == s.api
}

// apiConstants are the names of the constants that name the APIs.
var apiConstants = map[string]string{
	"ClientServer": ClientServer, "ServerServer": ServerServer, "ApplicationService": ApplicationService, "Identity": Identity, "PushGateway": PushGateway,
}

// stringOf evaluates a string literal, or a sum whose last term is one: prefix + "/sync". A constant of the package counts
// with its value, anything else in front as empty.
func (s *scan) stringOf(n ast.Node) (string, bool) {
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
		left, _ := s.stringOf(e.X)
		if name, ok := e.X.(*ast.Ident); ok {
			left = s.values[[2]string{s.folder, name.Name}]
		}
		right, ok := s.stringOf(e.Y)
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
