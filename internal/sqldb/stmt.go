package sqldb

import (
	"slices"
	"sync"
)

// Stmt is a statement in the shared dialect. It is prepared once per connection.
type Stmt struct {
	id     int    // index into each connection's table of prepared statements; negative: not kept
	name   string // of an escape, for error messages; the text otherwise
	sqlite string
	pg     string
}

var registry struct {
	mu    sync.Mutex // guards stmts
	stmts []*Stmt
}

// SQL registers a statement. It is for package-level variables: a statement is never forgotten.
func SQL(text string) *Stmt {
	return register(&Stmt{name: text, sqlite: rewriteSQLite(text), pg: text})
}

// Escape registers a statement whose text differs between the engines beyond the rewrites of the shared dialect. A test holds
// the list of all names.
func Escape(name, sqlite, postgres string) *Stmt {
	return register(&Stmt{name: name, sqlite: rewriteSQLite(sqlite), pg: postgres})
}

func register(s *Stmt) *Stmt {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	s.id = len(registry.stmts)
	registry.stmts = append(registry.stmts, s)
	return s
}

// transient makes a statement that is prepared for one use.
func transient(sqlite, pg string) *Stmt {
	return &Stmt{id: -1, name: pg, sqlite: sqlite, pg: pg}
}

// Statements returns every registered statement of the program, in the order of registration.
func Statements() []*Stmt {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	return slices.Clone(registry.stmts)
}

// Text is the statement as it is sent to the engine.
func (s *Stmt) Text(d Dialect) string {
	if d == PostgreSQL {
		return s.pg
	}
	return s.sqlite
}

func (s *Stmt) String() string { return s.name }

var (
	stmtBeginRead  = Escape("begin read", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	stmtBeginWrite = Escape("begin write", "BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL READ COMMITTED")
	stmtCommit     = SQL("COMMIT")
	stmtRollback   = SQL("ROLLBACK")
	stmtSavepoint  = SQL("SAVEPOINT item")
	stmtRelease    = SQL("RELEASE SAVEPOINT item")
	stmtRollbackTo = SQL("ROLLBACK TO SAVEPOINT item")

	stmtLockStream = SQL("SELECT pos FROM stream WHERE one = 1 FOR UPDATE")
	stmtLast       = SQL("SELECT pos FROM stream WHERE one = 1")
	stmtSetStream  = SQL("UPDATE stream SET pos = $1 WHERE one = 1")
	stmtNotify     = Escape("notify", "SELECT ?1, ?2", "SELECT pg_notify($1, $2)")
)
