package sqldb

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"
)

const (
	sqliteApplicationID = 0x4d79656c // "Myel", in the file's header
	sqliteBusy          = 10 * time.Second
)

// sqliteEngine keeps a pool of reading connections. slots holds one value per connection that may exist, nil for one that
// is not open yet.
type sqliteEngine struct {
	path  string
	slots chan *sqliteSession
}

func openSQLite(path string, readers int) (engine, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the database: %w", err)
	}
	e := &sqliteEngine{path: path, slots: make(chan *sqliteSession, readers)}
	for range readers {
		e.slots <- nil
	}
	first, err := e.connect("")
	if err != nil {
		return nil, err
	}
	defer first.close()
	if err := first.own(); err != nil {
		return nil, err
	}
	return e, nil
}

// own checks that the file is ours, or marks an empty one as ours.
func (s *sqliteSession) own() error {
	var id, version, tables int64
	for pragma, to := range map[string]*int64{
		"PRAGMA application_id": &id, "PRAGMA user_version": &version, "SELECT count(*) FROM sqlite_schema": &tables,
	} {
		_, err := s.run(context.Background(), transient(pragma, ""), nil, func(r *Row) error { return r.Scan(to) })
		if err != nil {
			return err
		}
	}
	switch {
	case id == sqliteApplicationID && version > 1:
		return fmt.Errorf("%s has file format %d: it was written by a newer version of Myelin", s.path, version)
	case id == sqliteApplicationID:
		return nil
	case id != 0 || version != 0 || tables != 0:
		return fmt.Errorf("%s is an SQLite database of another program: move it away or name another file", s.path)
	}
	return s.pragmas(fmt.Sprintf("application_id = %d", sqliteApplicationID), "user_version = 1")
}

func (s *sqliteSession) pragmas(settings ...string) error {
	for _, p := range settings {
		if _, err := s.run(context.Background(), transient("PRAGMA "+p, ""), nil, func(*Row) error { return nil }); err != nil {
			return fmt.Errorf("set %s: %w", p, err)
		}
	}
	return nil
}

// connect opens a connection with our settings and those given.
func (e *sqliteEngine) connect(settings ...string) (*sqliteSession, error) {
	name, flags, err := sqliteFile(e.path)
	if err != nil {
		return nil, err
	}
	conn, err := sqlite.OpenConn(name, flags|sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e.path, err)
	}
	// Not SetBlockOnBusy: it waits on a Go timer, which stands still in a synctest bubble while the file system does not.
	conn.SetBusyTimeout(sqliteBusy)
	s := &sqliteSession{conn: conn, path: e.path}
	err = s.pragmas("synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY", "trusted_schema = OFF")
	if err == nil && len(settings) > 0 && settings[0] != "" {
		err = s.pragmas(settings...)
	}
	if err == nil {
		return s, nil
	}
	s.close()
	if code := sqliteCode(err).ToPrimary(); code == sqlite.ResultNotADB || code == sqlite.ResultCorrupt {
		return nil, fmt.Errorf("%s is not an SQLite database, or is damaged: move it away or name another file: %w", e.path, err)
	}
	return nil, err
}

func (e *sqliteEngine) writer(context.Context) (session, error) {
	// The log may grow to 8,000 pages before its pages are copied into the database: fewer fsyncs of the big file.
	s, err := e.connect("journal_mode = WAL", "wal_autocheckpoint = 8000", "journal_size_limit = 67108864", "cache_size = -16384")
	if err != nil {
		return nil, err
	}
	var mode string
	_, err = s.run(context.Background(), transient("PRAGMA journal_mode", ""), nil, func(r *Row) error { return r.Scan(&mode) })
	if err == nil && mode != "wal" {
		err = fmt.Errorf("%s cannot have a write-ahead log (its journal mode stays %s): is it on a network file system?", e.path, mode)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (e *sqliteEngine) reader(ctx context.Context) (session, error) {
	var s *sqliteSession
	select {
	case s = <-e.slots:
	default:
		select {
		case s = <-e.slots:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if s != nil {
		return s, nil
	}
	s, err := e.connect("query_only = ON", "cache_size = -4096")
	if err != nil {
		e.slots <- nil
		return nil, err
	}
	return s, nil
}

func (e *sqliteEngine) release(s session) {
	ss := s.(*sqliteSession)
	if !ss.conn.AutocommitEnabled() { // its transaction could not be ended
		ss.close()
		ss = nil
	}
	e.slots <- ss
}

func (e *sqliteEngine) close() {
	for range cap(e.slots) {
		if s := <-e.slots; s != nil {
			s.close()
		}
	}
}

// sqliteSession executes everything at once; the queue is always empty.
//
// The connection's interrupt stays unset: on the writer it would let one caller's context end the transaction of all, and on
// readers it costs a goroutine per read. The context is looked at between statements and rows instead.
type sqliteSession struct {
	conn  *sqlite.Conn
	path  string
	stmts []*sqlite.Stmt // by Stmt.id
	open  bool           // a transaction was begun and not ended by us
}

func (s *sqliteSession) close() {
	if s.conn != nil {
		for _, st := range s.stmts {
			if st != nil {
				_ = st.Finalize()
			}
		}
		_ = s.conn.Close()
		s.conn = nil
	}
}

// broken: the connection to a file does not break. That SQLite rolls a transaction back by itself after some errors (disk full,
// I/O) is seen by wholeTransaction.
func (s *sqliteSession) broken() bool { return s.conn == nil }

func (s *sqliteSession) flush(context.Context) error { return nil }

func (s *sqliteSession) queue(ctx context.Context, st *Stmt, args []any) error {
	_, err := s.run(ctx, st, args, nil)
	return err
}

func (s *sqliteSession) ask(ctx context.Context, st *Stmt, args []any, each func(*Row) error) error {
	_, err := s.run(ctx, st, args, each)
	return err
}

func (s *sqliteSession) prepare(st *Stmt) (*sqlite.Stmt, error) {
	if st.id >= 0 && st.id < len(s.stmts) && s.stmts[st.id] != nil {
		return s.stmts[st.id], nil
	}
	ps, rest, err := s.conn.PrepareTransient(st.sqlite)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(st.sqlite[len(st.sqlite)-rest:]) != "" {
		_ = ps.Finalize()
		return nil, fmt.Errorf("more than one statement: %s", st.sqlite)
	}
	if st.id >= 0 {
		for len(s.stmts) <= st.id {
			s.stmts = append(s.stmts, nil)
		}
		s.stmts[st.id] = ps
	}
	return ps, nil
}

func (s *sqliteSession) run(ctx context.Context, st *Stmt, args []any, each func(*Row) error) (rows int64, err error) {
	if st == stmtRollback && s.conn.AutocommitEnabled() {
		return 0, nil // rolled back already, by SQLite
	}
	ps, err := s.prepare(st)
	if err != nil {
		return 0, err
	}
	defer func() {
		if st.id < 0 {
			_ = ps.Finalize()
		} else {
			_ = ps.Reset()
		}
	}()
	if n := ps.BindParamCount(); n != len(args) {
		return 0, fmt.Errorf("%d arguments for %d placeholders", len(args), n)
	}
	for i, arg := range args {
		if err := bindSQLite(ps, i+1, arg); err != nil {
			return 0, fmt.Errorf("$%d: %w", i+1, err)
		}
	}
	row := Row{cols: sqliteRow{ps}}
	for {
		more, err := ps.Step()
		if err != nil {
			return 0, err
		}
		if !more {
			break
		}
		rows++
		if each == nil {
			continue
		}
		if err := each(&row); err != nil {
			return rows, err
		}
		if rows&63 == 0 && ctx.Err() != nil {
			return rows, context.Cause(ctx)
		}
	}
	if ps.ColumnCount() == 0 {
		rows = int64(s.conn.Changes())
	}
	return rows, nil
}

func bindSQLite(ps *sqlite.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case nil:
		ps.BindNull(i)
	case int64:
		ps.BindInt64(i, v)
	case int:
		ps.BindInt64(i, int64(v))
	case string:
		if err := checkText(v); err != nil {
			return err
		}
		ps.BindText(i, v)
	case []byte:
		if v == nil {
			ps.BindNull(i)
		} else {
			ps.BindBytes(i, v)
		}
	case float64:
		ps.BindFloat(i, v)
	case []int64, []string:
		return bindSQLiteArray(ps, i, v)
	default:
		n, err := normalise(arg)
		if err != nil {
			return err
		}
		return bindSQLite(ps, i, n)
	}
	return nil
}

// bindSQLiteArray passes an array as JSON text for json_each.
func bindSQLiteArray(ps *sqlite.Stmt, i int, array any) error {
	if strs, ok := array.([]string); ok {
		for _, s := range strs {
			if err := checkText(s); err != nil {
				return err
			}
		}
	}
	text, err := json.Marshal(array)
	if err != nil {
		return err
	}
	if string(text) == "null" {
		text = []byte("[]")
	}
	ps.BindText(i, string(text))
	return nil
}

type sqliteRow struct{ ps *sqlite.Stmt }

func (r sqliteRow) count() int      { return r.ps.ColumnCount() }
func (r sqliteRow) null(i int) bool { return r.ps.ColumnType(i) == sqlite.TypeNull }

func (r sqliteRow) integer(i int) (int64, error) {
	if r.ps.ColumnType(i) != sqlite.TypeInteger {
		return 0, errNotInteger
	}
	return r.ps.ColumnInt64(i), nil
}

func (r sqliteRow) real(i int) (float64, error) { return r.ps.ColumnFloat(i), nil }

func (r sqliteRow) raw(i int) ([]byte, error) {
	if t := r.ps.ColumnType(i); t != sqlite.TypeText && t != sqlite.TypeBlob {
		return nil, errNotText
	}
	b := make([]byte, r.ps.ColumnLen(i))
	r.ps.ColumnBytes(i, b)
	return b, nil
}
