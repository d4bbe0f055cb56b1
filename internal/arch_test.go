package internal

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// The stack. A package may import what its own row lists and nothing else of this module; what it
// lists must stand in a row above, so that imports go one way. "matrix" means every package
// of the protocol core.
//
// A new package is a new row. A new edge between two rows is a line in extraEdges with its reason.
var stack = []struct {
	pkg     string
	imports string
}{
	{"matrix/id", ""},
	{"matrix/mxerr", ""},
	{"matrix/canon", "matrix/mxerr"},
	{"matrix/sign", "matrix/canon matrix/id matrix/mxerr"},
	{"matrix/roomver", "matrix/canon"},
	{"matrix/event", "matrix/canon matrix/id matrix/mxerr matrix/roomver matrix/sign"},
	{"matrix/eventauth", "matrix/canon matrix/event matrix/id matrix/mxerr matrix/roomver matrix/sign"},
	{"matrix/stateres", "matrix/canon matrix/event matrix/eventauth matrix/id matrix/roomver"},
	{"matrix/pushrule", "matrix/canon matrix/event matrix/id matrix/mxerr"},

	{"spec", ""},
	{"spec/cmd/coverage", "spec"},
	{"spec/cmd/extract", "spec"},

	{"internal/config", "matrix"},
	{"internal/sqldb", ""},
	{"internal/sqldb/sqldbtest", "internal/sqldb"},
	{"internal/bus", "matrix internal/sqldb"},
	{"internal/work", "internal/sqldb internal/bus"},
	{"internal/blob", "internal/sqldb"},
	{"internal/blob/s3test", ""},
	{"internal/ours", "matrix internal/sqldb"},
	{"internal/web", "matrix"},
	{"internal/words", ""},
	{"internal/account", "matrix internal/sqldb internal/bus internal/work internal/ours internal/web"},
	{"internal/contact", "matrix internal/sqldb internal/web internal/account"},
	{"internal/captcha", "matrix internal/account"},
	{"internal/fedclient", "matrix internal/sqldb internal/bus internal/work internal/ours"},
	{"internal/identity", "matrix internal/sqldb internal/ours internal/web internal/fedclient"},
	{"internal/graph/statemap", "matrix"},
	{"internal/graph", "matrix internal/graph/statemap internal/sqldb internal/bus internal/work"},
	{"internal/thread", "matrix internal/sqldb internal/bus internal/graph"},
	{"internal/report", "matrix internal/sqldb"},
	{"internal/room", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/fedclient internal/graph"},
	{"internal/view", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/graph internal/room"},
	{"internal/search", "matrix internal/sqldb internal/bus internal/work internal/words internal/graph internal/view"},
	{"internal/e2ee", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/fedclient internal/graph"},
	{"internal/ephemeral", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/graph"},
	{"internal/directory", "matrix internal/sqldb internal/bus internal/work internal/words internal/ours internal/account internal/fedclient internal/graph internal/room internal/view"},
	{"internal/fedroom", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/fedclient internal/graph internal/room internal/view internal/ephemeral"},
	{"internal/delayed", "matrix internal/sqldb internal/work internal/graph"},
	{"internal/notice", "matrix internal/sqldb internal/ours internal/account internal/graph internal/room"},
	{"internal/media", "matrix internal/sqldb internal/bus internal/work internal/blob internal/ours internal/account internal/fedclient"},
	{"internal/push", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/fedclient internal/graph internal/thread internal/view internal/ephemeral"},
	{"internal/appservice", "matrix internal/sqldb internal/bus internal/work internal/ours internal/web internal/account internal/graph internal/view internal/e2ee internal/ephemeral"},
	{"internal/fedsend", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/fedclient internal/graph internal/room internal/fedroom internal/e2ee internal/ephemeral"},
	{"internal/syncer", "matrix internal/sqldb internal/bus internal/work internal/ours internal/account internal/graph internal/thread internal/room internal/view internal/e2ee internal/ephemeral internal/push"},
	{"internal/clientapi", "matrix internal/identity internal/config internal/sqldb internal/bus internal/work internal/ours internal/web internal/account internal/fedclient internal/graph internal/thread internal/report internal/room internal/fedroom internal/view internal/search internal/e2ee internal/ephemeral internal/directory internal/notice internal/media internal/delayed internal/push internal/appservice internal/contact internal/syncer"},
	{"internal/fedapi", "matrix internal/config internal/sqldb internal/bus internal/work internal/ours internal/web internal/account internal/fedclient internal/graph internal/room internal/fedroom internal/view internal/e2ee internal/ephemeral internal/directory internal/media internal/fedsend"},
	{"internal/adminapi", "matrix internal/config internal/sqldb internal/bus internal/work internal/ours internal/web internal/account internal/graph internal/room internal/fedroom internal/view internal/directory internal/media"},
	{"internal/server", "matrix internal/*"},
	{"internal/spectest", "matrix"},
	{"internal/nettest", ""},
	{"internal/servertest", "matrix internal/*"},
	{"internal/clienttest", "internal/*"},
	{"internal/crashtest", "internal/*"},
	{"internal/simulation", "internal/*"},
	{"internal/simulation/replay", ""},
	{"internal/interop", "internal/*"},

	{"cmd/myelin", "matrix internal/account internal/config internal/server internal/sqldb"},
	{"cmd/myelin-complement", "internal/config internal/server"},
	{"cmd/myelin-bench", ""},
}

// extraEdges are imports beyond the plan. Each says why the importer can't do without.
var extraEdges = []struct{ from, to, reason string }{}

func TestImportsGoDown(t *testing.T) {
	row := map[string]int{}
	for i, s := range stack {
		row[s.pkg] = i
	}
	names, files := packages(load(t))
	for _, pkg := range names {
		if !hasCode(files[pkg]) {
			continue
		}
		at, known := row[pkg]
		if !known {
			t.Errorf("package %s has no row in the stack of arch_test.go", pkg)
			continue
		}
		for _, f := range files[pkg] {
			if strings.HasSuffix(f.path, "_test.go") {
				continue
			}
			for _, imp := range f.imports() {
				to, ours := strings.CutPrefix(imp, module+"/")
				if !ours {
					continue
				}
				if isTestPackage(to) && !isTestPackage(pkg) {
					t.Errorf("%s imports %s, which is for tests only", f.path, to)
				}
				below, known := row[to]
				switch {
				case !known:
					t.Errorf("%s imports %s, which has no row in the stack", f.path, to)
				case below >= at:
					t.Errorf("%s imports %s, which is not below it in the stack", f.path, to)
				case !allowed(pkg, stack[at].imports, to):
					t.Errorf("%s imports %s: not an edge of the plan; add it to extraEdges with its reason, or find another way", f.path, to)
				}
			}
		}
	}
}

// allowed reports whether a row's list, or an extra edge, covers the import.
func allowed(from, list, to string) bool {
	for _, e := range extraEdges {
		if e.from == from && e.to == to {
			return true
		}
	}
	for _, pattern := range strings.Fields(list) {
		if pattern == to || pattern == "matrix" && strings.HasPrefix(to, "matrix/") {
			return true
		}
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(to, prefix) {
			return true
		}
	}
	return false
}

func TestEdgesHaveReasonsAndUses(t *testing.T) {
	_, files := packages(load(t))
	for _, e := range extraEdges {
		if len(e.reason) < 15 {
			t.Errorf("the extra edge %s to %s gives no reason", e.from, e.to)
		}
		if used := slices.ContainsFunc(files[e.from], func(f source) bool {
			return slices.Contains(f.imports(), module+"/"+e.to)
		}); !used && len(files[e.from]) > 0 {
			t.Errorf("nothing uses the extra edge %s to %s: remove it", e.from, e.to)
		}
	}
}

// pureStandard is what the protocol core may use of the standard library: nothing that reads a
// clock, a file, a socket or a source of randomness. Packages of "crypto/" are allowed but
// crypto/rand: randomness comes in as an io.Reader.
var pureStandard = strings.Fields(`bytes cmp container/heap embed encoding/base64 encoding/binary encoding/hex encoding/json errors fmt hash hash/maphash
	io iter maps math math/big math/bits net/netip reflect regexp slices sort strconv strings sync time unicode unicode/utf16 unicode/utf8 unsafe`)

// pureModules are the external packages that the core may import, each as pure as the core.
var pureModules = []string{"github.com/tidwall/gjson"}

// impureCalls are the functions of allowed packages that look at the world.
var impureCalls = map[string]string{
	"time": "Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker",
	"fmt":  "Print Printf Println Scan Scanf Scanln",
}

func TestCoreIsPure(t *testing.T) {
	for _, f := range load(t) {
		if !strings.HasPrefix(f.pkg, "matrix/") || f.isTest() {
			continue
		}
		for _, imp := range f.imports() {
			crypto := strings.HasPrefix(imp, "crypto/") && imp != "crypto/rand" && imp != "crypto/tls"
			if strings.HasPrefix(imp, module+"/matrix/") || crypto || slices.Contains(pureStandard, imp) || slices.Contains(pureModules, imp) {
				continue
			}
			t.Errorf("%s imports %s: the core has no I/O, clock, goroutine, randomness or log", f.path, imp)
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine", fileSet.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && slices.Contains(strings.Fields(impureCalls[x.Name]), n.Sel.Name) {
					t.Errorf("%s calls %s.%s", fileSet.Position(n.Pos()), x.Name, n.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestStackIsOrdered keeps the table itself honest: a row lists only rows above it.
func TestStackIsOrdered(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range stack {
		if seen[s.pkg] {
			t.Errorf("%s stands in the stack twice", s.pkg)
		}
		for _, imp := range strings.Fields(s.imports) {
			if imp != "matrix" && path.Base(imp) != "*" && !seen[imp] {
				t.Errorf("the row of %s lists %s, which is not above it", s.pkg, imp)
			}
		}
		seen[s.pkg] = true
	}
}
