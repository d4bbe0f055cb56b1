package sqldb

import (
	"context"
	"errors"
	"fmt"
)

var (
	// errCareful: a pipelined statement failed and it is not known whose it was; run again, each unit flushed by itself.
	errCareful = errors.New("a pipelined statement failed")
	// errDisconnected: there is no connection; nothing was committed.
	errDisconnected = errors.New("no connection to the database")
)

// attemptTx is one attempt to commit a batch.
//
// The first attempt is optimistic: on PostgreSQL queued statements of several units travel together, so when one fails its
// owner may be unknown. Then all is rolled back and a careful attempt follows in which each unit's statements are
// flushed before its savepoint is released.
type attemptTx struct {
	c       *committer
	careful bool
	state   *txState
}

// run executes the units and commits. nil: committed (or there was nothing to commit); the outcome of each item is in it.
func (a *attemptTx) run(us []unit) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	if err := a.c.connect(ctx); err != nil {
		return err
	}
	sess := a.c.sess
	a.state = &txState{db: a.c.db, ctx: ctx, sess: sess, write: true}
	defer func() {
		if err != nil && !sess.broken() {
			if _, rb := sess.run(ctx, stmtRollback, nil, nil); rb != nil && !sess.broken() {
				sess.close()
				a.c.sess = nil
			}
		}
	}()
	if err := sess.queue(ctx, stmtBeginWrite, nil); err != nil {
		return a.whole(err)
	}
	// One unit needs no savepoint: if it fails there is nothing else to keep.
	alone := len(us) == 1 && !a.careful
	kept := false
	for _, u := range us {
		ok, err := a.unit(u, alone)
		if err != nil {
			return err
		}
		kept = kept || ok
	}
	if !kept {
		_, err := sess.run(ctx, stmtRollback, nil, nil)
		a.state.restore(mark{})
		return a.whole(err)
	}
	return a.end()
}

// unit runs one unit and reports whether anything of it is to be committed. An error concerns the whole attempt.
func (a *attemptTx) unit(u unit, alone bool) (kept bool, err error) {
	if alone {
		kept, failed := a.call(u)
		switch {
		case failed == nil:
			return kept, nil
		case a.fatal(failed):
			return false, a.whole(failed)
		case len(u) > 1:
			return false, errCareful
		}
		u[0].err = failed
		return false, nil
	}
	kept, failed, err := a.saved(u)
	switch {
	case err != nil || failed == nil:
		return kept, err
	case len(u) == 1:
		u[0].err = failed
		return false, nil
	}
	for i := range u {
		one, failed, err := a.saved(u[i : i+1])
		if err != nil {
			return false, err
		}
		if failed != nil {
			u[i].err = fmt.Errorf("apply %s: %w", u[i].group.name, failed)
		}
		kept = kept || one
	}
	return kept, nil
}

// saved calls a unit inside a savepoint. failed is the error of a statement of it, which undid it.
func (a *attemptTx) saved(u unit) (kept bool, failed, err error) {
	st := a.state
	m := st.mark()
	if err := st.sess.queue(st.ctx, stmtSavepoint, nil); err != nil {
		return false, nil, a.whole(err)
	}
	kept, failed = a.call(u)
	if failed != nil {
		if a.fatal(failed) {
			return false, nil, a.whole(failed)
		}
		if !a.careful && st.db.dialect == PostgreSQL {
			return false, nil, errCareful
		}
	}
	if !kept {
		st.restore(m)
		err = st.sess.queue(st.ctx, stmtRollbackTo, nil)
	}
	if err == nil {
		err = st.sess.queue(st.ctx, stmtRelease, nil)
	}
	if err != nil {
		return false, nil, a.whole(err)
	}
	return kept, failed, nil
}

// call runs a unit's function. failed is the error of a statement (the savepoint must be rolled back); errors of the
// function itself go to its items. kept reports whether the unit's effects are to stay.
func (a *attemptTx) call(u unit) (kept bool, failed error) {
	st := a.state
	for _, it := range u {
		it.err = nil
	}
	tx := &Tx{state: st}
	err := protect(func() error {
		if u[0].fn != nil {
			return u[0].fn(tx)
		}
		errs := u[0].group.apply(tx, u)
		for i, err := range errs {
			if i < len(u) {
				u[i].err = err
			}
		}
		return nil
	})
	tx.done = true
	st.inRow = false
	if st.err == nil && a.careful {
		st.err = st.sess.flush(st.ctx)
	}
	if st.err != nil {
		return false, st.err
	}
	if err != nil {
		for _, it := range u {
			it.err = err
		}
		return false, nil
	}
	if u[0].fn != nil {
		return true, nil
	}
	for _, it := range u {
		if it.err == nil {
			return true, nil
		}
	}
	return false, nil
}

// end writes the stream row as the last statement, and commits.
func (a *attemptTx) end() error {
	st := a.state
	if st.pos > st.first {
		if a.c.notify != "" {
			payload := Announced{st.first, st.pos, st.db.node}
			if err := st.sess.queue(st.ctx, stmtNotify, []any{a.c.notify, payload.String()}); err != nil {
				return a.whole(err)
			}
		}
		if err := st.sess.queue(st.ctx, stmtSetStream, []any{st.pos}); err != nil {
			return a.whole(err)
		}
	}
	_, err := st.sess.run(st.ctx, stmtCommit, nil, nil)
	if err != nil && !a.careful && st.db.dialect == PostgreSQL && !a.fatal(err) {
		return errCareful // a queued statement of some unit failed, so COMMIT was not reached
	}
	return a.whole(err)
}

// fatal reports that an error leaves nothing of the transaction to go on with.
func (a *attemptTx) fatal(err error) bool {
	return a.state.sess.broken() || wholeTransaction(err)
}

// whole prepares an error that fails the attempt as a whole.
func (a *attemptTx) whole(err error) error {
	if err == nil || errors.Is(err, ErrUnknownOutcome) || errors.Is(err, errDisconnected) {
		return err
	}
	if a.state.sess.broken() {
		return fmt.Errorf("%w: %w", errDisconnected, err)
	}
	return err
}
