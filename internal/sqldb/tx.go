package sqldb

import (
	"context"
	"errors"
	"fmt"
)

// Tx is a transaction, or the part of a group commit that belongs to one Write function. It is valid while the function it was
// given to runs, and for that goroutine.
type Tx struct {
	state *txState
	done  bool
}

// txState is what the parts of one transaction share.
type txState struct {
	db    *DB
	ctx   context.Context
	sess  session
	write bool
	inRow bool
	seen  bool  // a result was given to the function
	err   error // of the first statement that failed since the last rollback; nothing else runs after it

	entries []any
	locked  bool // the stream row is locked by this transaction
	first   Pos  // value of the stream row when locked
	pos     Pos  // last position assigned
}

// mark is where a savepoint goes back to.
type mark struct {
	entries int
	locked  bool
	first   Pos
	pos     Pos
}

func (st *txState) mark() mark { return mark{len(st.entries), st.locked, st.first, st.pos} }

// restore undoes in memory what ROLLBACK TO undoes in the database; a lock of the stream row taken since is gone too.
func (st *txState) restore(m mark) {
	clear(st.entries[m.entries:])
	st.entries = st.entries[:m.entries]
	st.locked, st.first, st.pos = m.locked, m.first, m.pos
	st.err = nil
}

var (
	errTxDone   = errors.New("sqldb: the transaction has ended")
	errInRow    = errors.New("sqldb: a statement inside a row callback")
	errReadOnly = errors.New("sqldb: not in a read transaction")
	errStop     = errors.New("stop") // ends a query early, without an error
)

func (tx *Tx) usable() error {
	switch st := tx.state; {
	case tx.done:
		return errTxDone
	case st.inRow:
		return errInRow
	case st.err != nil:
		return st.err
	default:
		return context.Cause(st.ctx)
	}
}

// failed records a statement's error: the transaction, or the savepoint, cannot go on.
func (tx *Tx) failed(s *Stmt, err error) error {
	tx.state.err = fmt.Errorf("%w\n\tin: %s", err, s)
	return tx.state.err
}

// Exec executes s and returns the number of rows it changed.
func (tx *Tx) Exec(s *Stmt, args ...any) (rows int64, err error) {
	if err := tx.usable(); err != nil {
		return 0, err
	}
	tx.state.db.metrics.statements.Add(1)
	rows, err = tx.state.sess.run(tx.state.ctx, s, args, nil)
	if err != nil {
		return 0, tx.failed(s, err)
	}
	tx.state.seen = true
	return rows, nil
}

// Queue executes s sometime before the next call that returns a result, at the latest at the end of the transaction. An error
// surfaces there, and fails the Write function. It saves a round trip; arguments are copied.
func (tx *Tx) Queue(s *Stmt, args ...any) {
	if tx.usable() != nil {
		return
	}
	tx.state.db.metrics.statements.Add(1)
	if err := tx.state.sess.queue(tx.state.ctx, s, args); err != nil {
		_ = tx.failed(s, err)
	}
}

// Query calls row for each row of the result. An error of row ends the query and is returned. row must not use tx.
func (tx *Tx) Query(s *Stmt, row func(r *Row) error, args ...any) error {
	if err := tx.usable(); err != nil {
		return err
	}
	st := tx.state
	st.db.metrics.statements.Add(1)
	var stopped error
	st.inRow = true
	defer func() { st.inRow = false }()
	_, err := st.sess.run(st.ctx, s, args, func(r *Row) error {
		st.seen = true
		stopped = row(r)
		return stopped
	})
	switch {
	case stopped == errStop:
		return nil
	case stopped != nil:
		return stopped
	case err != nil:
		return tx.failed(s, err)
	}
	st.seen = true
	return nil
}

// eachAtOnce bounds the executions that Each sends together.
const eachAtOnce = 256

// Each executes s n times, the i-th time with args(i), and calls row for each row of the results, in that order. It takes a round trip for
// hundreds of them. Otherwise it is like Query.
func (tx *Tx) Each(s *Stmt, n int, args func(i int) []any, row func(i int, r *Row) error) error {
	if err := tx.usable(); err != nil || n == 0 {
		return err
	}
	st := tx.state
	st.db.metrics.statements.Add(int64(n))
	var stopped error
	st.inRow = true
	defer func() { st.inRow = false }()
	for i := range n {
		err := st.sess.ask(st.ctx, s, args(i), func(r *Row) error {
			st.seen = true
			stopped = row(i, r)
			return stopped
		})
		if err == nil && (i == n-1 || i%eachAtOnce == eachAtOnce-1) {
			err = st.sess.flush(st.ctx)
		}
		switch {
		case stopped != nil:
			return stopped
		case err != nil:
			return tx.failed(s, err)
		}
	}
	st.seen = true
	return nil
}

// Get scans the first row of the result into dest, or reports that there is none.
func (tx *Tx) Get(s *Stmt, args []any, dest ...any) (found bool, err error) {
	err = tx.Query(s, func(r *Row) error {
		if err := r.Scan(dest...); err != nil {
			return err
		}
		found = true
		return errStop
	}, args...)
	if err != nil {
		return false, fmt.Errorf("get: %w", err)
	}
	return found, nil
}

// Pos assigns the next position of the stream. The first call of a transaction locks the stream row until the commit, so call
// it late, after what can be slow.
func (tx *Tx) Pos() (Pos, error) {
	st := tx.state
	if err := tx.usable(); err != nil {
		return 0, err
	}
	if !st.write {
		return 0, errReadOnly
	}
	if !st.locked {
		var pos Pos
		found, err := tx.Get(stmtLockStream, nil, &pos)
		if err != nil {
			return 0, err
		}
		if !found {
			return 0, errors.New("sqldb: the stream row is missing")
		}
		// When this transaction locked the row before and let go (a savepoint was rolled back) the row still holds the value
		// from before the transaction, but parts that were kept may have assigned positions: they kept the lock then.
		st.locked, st.first, st.pos = true, pos, pos
	}
	st.pos++
	return st.pos, nil
}

// Last returns the last position assigned before this transaction's view of the database, or by this transaction.
func (tx *Tx) Last() (Pos, error) {
	if tx.state.locked {
		return tx.state.pos, nil
	}
	var pos Pos
	_, err := tx.Get(stmtLast, nil, &pos)
	return pos, err
}

// Emit adds an entry to the Commit that Config.Committed will get. It is dropped if the Write function fails.
func (tx *Tx) Emit(entry any) { tx.state.entries = append(tx.state.entries, entry) }

// Dialect says which engine runs the transaction.
func (tx *Tx) Dialect() Dialect { return tx.state.db.dialect }
