package sqldb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgresEngine keeps a pool of reading connections and makes the one that writes. Statements are prepared by name, so a pooler
// between us and PostgreSQL must work per session.
type postgresEngine struct {
	pool *pgxpool.Pool
	log  *slog.Logger
}

func openPostgres(ctx context.Context, url string, readers int, log *slog.Logger) (engine, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(readers)
	params := cfg.ConnConfig.RuntimeParams
	if params["application_name"] == "" {
		params["application_name"] = "myelin"
	}
	params["jit"] = "off" // our statements are short
	params["client_encoding"] = "UTF8"
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	e := &postgresEngine{pool: pool, log: log}
	if err := e.check(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return e, nil
}

// check refuses what we cannot work on and warns about what weakens our promises.
func (e *postgresEngine) check(ctx context.Context) error {
	var encoding, version, fsync string
	err := e.pool.QueryRow(ctx, `SELECT pg_encoding_to_char(encoding), current_setting('server_version_num'), current_setting('fsync')
		FROM pg_database WHERE datname = current_database()`).Scan(&encoding, &version, &fsync)
	if err != nil {
		return err
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the PostgreSQL database has the encoding %s: create it with ENCODING 'UTF8'", encoding)
	}
	if n, _ := strconv.Atoi(version); n < 130000 {
		return fmt.Errorf("PostgreSQL 13 or later is needed, this is %s", version)
	}
	if fsync != "on" {
		e.log.Warn("PostgreSQL runs with fsync=off: a power failure can destroy the database")
	}
	return nil
}

func (e *postgresEngine) writer(ctx context.Context) (session, error) {
	conn, err := pgx.ConnectConfig(ctx, e.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	s := &pgSession{conn: conn.PgConn(), types: conn.TypeMap()}
	// A commit must wait for the disk whatever the role's or the database's default says; stronger settings stay. A node
	// that hangs inside a transaction must not keep the stream row from the others.
	_, err = s.conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
		SELECT set_config('idle_in_transaction_session_timeout', '60s', false)`).ReadAll()
	if err != nil {
		s.close()
		return nil, fmt.Errorf("set up the writing connection: %w", err)
	}
	return s, nil
}

const pgSessionKey = "myelin session" // in the connection's custom data

func (e *postgresEngine) reader(ctx context.Context) (session, error) {
	pooled, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	conn := pooled.Conn()
	s, ok := conn.PgConn().CustomData()[pgSessionKey].(*pgSession)
	if !ok {
		s = &pgSession{conn: conn.PgConn(), types: conn.TypeMap()}
		conn.PgConn().CustomData()[pgSessionKey] = s
	}
	s.pooled = pooled
	return s, nil
}

// release gives the connection back; the pool drops it if it is broken or still in a transaction.
func (e *postgresEngine) release(s session) {
	ps := s.(*pgSession)
	pooled := ps.pooled
	ps.pooled = nil
	ps.reset()
	pooled.Release()
}

func (e *postgresEngine) close() { e.pool.Close() }

// pgSession speaks the extended protocol in pipelines: what is queued travels with the next statement whose result is wanted, in
// one round trip, up to one Sync. If a statement fails the server skips the rest of the pipeline.
type pgSession struct {
	conn   *pgconn.PgConn
	types  *pgtype.Map
	pooled *pgxpool.Conn // nil for the writer
	stmts  []*pgStmt     // by Stmt.id
	calls  []pgCall      // queued
	arena  []byte        // backs the parameters of calls
	xid    string        // of the open write transaction, once known
}

type pgStmt struct {
	desc    *pgconn.StatementDescription
	formats []int16 // of the parameters
}

type pgCall struct {
	stmt   *Stmt
	ps     *pgStmt
	params [][]byte
	each   func(*Row) error
}

var binaryResults = []int16{pgtype.BinaryFormatCode}

var (
	stmtXid        = Escape("transaction id", "SELECT '0'", "SELECT CAST(pg_current_xact_id() AS TEXT)")
	stmtXactStatus = Escape("transaction status", "SELECT ?1", "SELECT pg_xact_status(CAST(CAST($1 AS TEXT) AS xid8))")
)

// unknownOutcome is the error of a COMMIT whose answer did not arrive.
type unknownOutcome struct {
	xid string
	err error
}

func (u *unknownOutcome) Error() string { return ErrUnknownOutcome.Error() + ": " + u.err.Error() }
func (u *unknownOutcome) Unwrap() []error {
	return []error{ErrUnknownOutcome, u.err}
}

func (s *pgSession) broken() bool { return s.conn.IsClosed() }

func (s *pgSession) close() {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	_ = s.conn.Close(ctx)
}

func (s *pgSession) prepare(ctx context.Context, st *Stmt) (*pgStmt, error) {
	if st.id >= 0 && st.id < len(s.stmts) && s.stmts[st.id] != nil {
		return s.stmts[st.id], nil
	}
	if s.conn.TxStatus() == 'E' && len(s.calls) > 0 {
		// The way back out of the failed state is queued; until it is sent nothing can be prepared.
		if err := s.flush(ctx); err != nil {
			return nil, err
		}
	}
	name := ""
	if st.id >= 0 {
		name = "s" + strconv.Itoa(st.id)
	}
	desc, err := s.conn.Prepare(ctx, name, st.pg, nil)
	if err != nil {
		return nil, err
	}
	ps := &pgStmt{desc: desc, formats: make([]int16, len(desc.ParamOIDs))}
	for i := range ps.formats {
		ps.formats[i] = pgtype.BinaryFormatCode
	}
	if st.id >= 0 {
		for len(s.stmts) <= st.id {
			s.stmts = append(s.stmts, nil)
		}
		s.stmts[st.id] = ps
	}
	return ps, nil
}

func (s *pgSession) queue(ctx context.Context, st *Stmt, args []any) error {
	if err := s.add(ctx, st, args, nil); err != nil {
		return err
	}
	if st == stmtBeginWrite {
		s.xid = ""
		return s.add(ctx, stmtXid, nil, func(r *Row) error { return r.Scan(&s.xid) })
	}
	return nil
}

func (s *pgSession) ask(ctx context.Context, st *Stmt, args []any, each func(*Row) error) error {
	return s.add(ctx, st, args, each)
}

func (s *pgSession) add(ctx context.Context, st *Stmt, args []any, each func(*Row) error) error {
	if st.id < 0 { // it may need what is queued, and uses the one unnamed statement
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	ps, err := s.prepare(ctx, st)
	if err != nil {
		return err
	}
	if len(args) != len(ps.desc.ParamOIDs) {
		return fmt.Errorf("%d arguments for %d placeholders", len(args), len(ps.desc.ParamOIDs))
	}
	params := make([][]byte, len(args))
	for i, arg := range args {
		if params[i], err = s.encode(arg, ps.desc.ParamOIDs[i]); err != nil {
			return fmt.Errorf("$%d: %w", i+1, err)
		}
	}
	s.calls = append(s.calls, pgCall{st, ps, params, each})
	return nil
}

func (s *pgSession) run(ctx context.Context, st *Stmt, args []any, each func(*Row) error) (int64, error) {
	if st == stmtRollback {
		s.reset()
		if s.conn.TxStatus() == 'I' {
			return 0, nil // BEGIN was not sent yet
		}
		ctx = context.WithoutCancel(ctx)
	}
	if st == stmtCommit && s.xid == "" {
		// The transaction's id must be known before COMMIT is sent, so that its outcome can be asked for.
		if err := s.flush(ctx); err != nil {
			return 0, err
		}
	}
	if err := s.add(ctx, st, args, each); err != nil {
		return 0, err
	}
	return s.send(ctx)
}

func (s *pgSession) flush(ctx context.Context) error {
	_, err := s.send(ctx)
	return err
}

func (s *pgSession) reset() {
	clear(s.calls)
	s.calls = s.calls[:0]
	if cap(s.arena) > 1<<20 {
		s.arena = nil
	}
	s.arena = s.arena[:0]
}

// send executes the calls and returns the row count of the last.
func (s *pgSession) send(ctx context.Context) (rows int64, err error) {
	if len(s.calls) == 0 {
		return 0, nil
	}
	defer s.reset()
	committing := s.calls[len(s.calls)-1].stmt == stmtCommit
	p := s.conn.StartPipeline(ctx)
	for _, c := range s.calls {
		p.SendQueryStatement(c.ps.desc, c.params, c.ps.formats, binaryResults)
	}
	var rowErr error
	if err = p.Sync(); err == nil {
		for i := range s.calls {
			rows, rowErr, err = s.receive(ctx, p, &s.calls[i])
			if err != nil || rowErr != nil {
				break
			}
		}
	}
	if end := p.Close(); end != nil && err == nil {
		err = end
	}
	switch {
	case err == nil:
		return rows, rowErr
	case committing && s.broken():
		return 0, &unknownOutcome{s.xid, err}
	}
	return 0, err
}

// receive reads one call's result. rowErr is an error of its row callback.
func (s *pgSession) receive(ctx context.Context, p *pgconn.Pipeline, c *pgCall) (rows int64, rowErr, err error) {
	res, err := p.GetResults()
	if err != nil {
		return 0, nil, err
	}
	rr, ok := res.(*pgconn.ResultReader)
	if !ok {
		return 0, nil, fmt.Errorf("unexpected %T from PostgreSQL", res)
	}
	if c.each != nil {
		row := Row{cols: &pgRow{rr: rr, types: s.types}}
		for rowErr == nil && rr.NextRow() {
			if rowErr = c.each(&row); rowErr == nil {
				rowErr = context.Cause(ctx)
			}
		}
	}
	tag, err := rr.Close()
	if err == nil && c.stmt == stmtCommit && tag.String() != "COMMIT" {
		err = errors.New("PostgreSQL rolled the transaction back")
	}
	return tag.RowsAffected(), rowErr, err
}

// listen waits on a connection of its own for notifications.
func (e *postgresEngine) listen(ctx context.Context, channel string, ready func(), heard func(payload string)) error {
	conn, err := pgx.ConnectConfig(ctx, e.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	ready()
	for {
		wait, cancel := context.WithTimeout(ctx, listenPatience)
		n, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			heard(n.Payload)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !pgconn.Timeout(err):
			return err
		default: // silence: is the server still there?
			if err := conn.Ping(ctx); err != nil {
				return err
			}
		}
	}
}
