package sqldb_test

import (
	"context"
	"errors"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

func TestListen(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		notify := func(c *sqldb.Config) { c.Notify = "test channel" }
		a, b := openThings(t, open, notify), open(notify)
		ctx, cancel := context.WithCancelCause(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		heard := make(chan sqldb.Announced, 10)
		go func() {
			ended <- a.Listen(ctx, "test channel", func() { close(ready) }, func(n sqldb.Announced) { heard <- n })
		}()
		<-ready
		take := func(tx *sqldb.Tx) error { _, err := tx.Pos(); return err }
		fail := func(tx *sqldb.Tx) error { return errors.Join(take(tx), errMine) }
		_ = a.Write(t.Context(), take) // ourselves: not heard
		_ = b.Write(t.Context(), fail)
		_ = b.Write(t.Context(), insert(1)) // no position
		together(t, b, take, fail, take)
		if a.Dialect() == sqldb.PostgreSQL {
			if n := <-heard; n.From != 1 || n.To != 3 {
				t.Errorf("heard %v", n)
			}
		}
		cancel(errMine)
		if err := <-ended; !errors.Is(err, errMine) {
			t.Errorf("Listen ended with %v", err)
		}
		if len(heard) > 0 {
			t.Errorf("also heard %v", <-heard)
		}
	})
}
