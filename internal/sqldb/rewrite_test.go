package sqldb_test

import (
	"slices"
	"strings"
	"testing"

	"myelin/internal/sqldb"
)

func TestRewriteSQLite(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"SELECT a FROM t WHERE b = $1 AND c = $12", "SELECT a FROM t WHERE b = ?1 AND c = ?12"},
		{"SELECT a FROM t WHERE b = ANY($2)", "SELECT a FROM t WHERE b IN (SELECT value FROM json_each(?2))"},
		{"SELECT a FROM t WHERE b =any ( $2 ) OR c = $1", "SELECT a FROM t WHERE b IN (SELECT value FROM json_each(?2)) OR c = ?1"},
		{"SELECT a FROM t FOR UPDATE", "SELECT a FROM t"},
		{"SELECT a FROM t for\n update ", "SELECT a FROM t"},
		{"SELECT '$1 FOR UPDATE', \"for update\" FROM t -- = ANY($1)", "SELECT '$1 FOR UPDATE', \"for update\" FROM t -- = ANY($1)"},
		{"SELECT 'it''s $1' /* $2 */, $3", "SELECT 'it''s $1' /* $2 */, ?3"},
		{"INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = $1", "INSERT INTO t (a) VALUES (?1) ON CONFLICT (a) DO UPDATE SET a = ?1"},
		{"SELECT company FROM t WHERE many = $1", "SELECT company FROM t WHERE many = ?1"},
		{"SELECT a FROM t WHERE b = 'ANY($1)'", "SELECT a FROM t WHERE b = 'ANY($1)'"},
	} {
		if got := sqldb.RewriteSQLite(c.in); got != c.want {
			t.Errorf("%q\n got %q\nwant %q", c.in, got, c.want)
		}
	}
}

func TestRewriteDDL(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"CREATE TABLE t (a TEXT NOT NULL DEFAULT 'TEXT', b BLOB, c INTEGER PRIMARY KEY, d BIGINT) WITHOUT ROWID",
			`CREATE TABLE t (a TEXT COLLATE "C" NOT NULL DEFAULT 'TEXT', b BYTEA, c BIGINT PRIMARY KEY, d BIGINT) `},
		{"CREATE INDEX i ON t (context, blobs)", "CREATE INDEX i ON t (context, blobs)"},
	} {
		if got := sqldb.RewriteDDL(c.in); got != c.want {
			t.Errorf("%q\n got %q\nwant %q", c.in, got, c.want)
		}
	}
}

func TestSplitStatements(t *testing.T) {
	got := sqldb.SplitStatements(";; CREATE TABLE a (x TEXT DEFAULT ';'); -- one; two\n\n /* ; */ ;\nINSERT INTO a VALUES ('--')")
	want := []string{"CREATE TABLE a (x TEXT DEFAULT ';')", "INSERT INTO a VALUES ('--')"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func FuzzRewrite(f *testing.F) {
	for _, s := range sqldb.Statements() {
		f.Add(s.Text(sqldb.PostgreSQL))
	}
	f.Add("SELECT 'a''b' \"c\" /* d */ -- e\n = ANY ( $1 ) for update; $0 $ $x")
	f.Fuzz(func(t *testing.T, text string) {
		if got := sqldb.Tokens(text); got != text {
			t.Fatalf("the lexer lost something: %q became %q", text, got)
		}
		once := sqldb.RewriteSQLite(text)
		if twice := sqldb.RewriteSQLite(once); !strings.Contains(text, "FOR") && len(twice) > len(once) {
			t.Fatalf("rewriting again grows %q to %q", once, twice)
		}
		// What is quoted or commented never changes.
		if lit := "'" + strings.ReplaceAll(text, "'", "''") + "'"; sqldb.RewriteSQLite(lit) != lit || sqldb.RewriteDDL(lit) != lit {
			t.Fatalf("a literal was rewritten: %q", lit)
		}
		for _, s := range sqldb.SplitStatements(text) {
			if strings.Trim(s, " \t\n\v\f\r") == "" {
				t.Fatalf("an empty statement in %q", text)
			}
		}
	})
}
