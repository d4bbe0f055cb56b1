package sqldb

import "runtime"

// Once makes an unregistered statement for a test, in the shared dialect of statements.
func Once(text string) *Stmt { return transient(rewriteSQLite(text), text) }

var (
	RewriteSQLite   = rewriteSQLite
	RewriteDDL      = rewriteDDL
	SplitStatements = splitStatements
)

// Tokens joins the lexer's tokens again.
func Tokens(text string) (joined string) {
	for _, t := range lex(text) {
		joined += t.text
	}
	return joined
}

// Queued is the number of items that wait for the committer.
func (db *DB) Queued() int {
	db.committer.mu.Lock()
	defer db.committer.mu.Unlock()
	return len(db.committer.queue)
}

// WaitQueued returns once n items wait.
func (db *DB) WaitQueued(n int) {
	for db.Queued() < n {
		runtime.Gosched()
	}
}
