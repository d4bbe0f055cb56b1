package fedapi

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"myelin/matrix/mxerr"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		turns := newTurns(1)
		first, err := turns.take(ctx, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		// Others don't wait.
		other, err := turns.take(ctx, "b.example")
		if err != nil {
			t.Fatal(err)
		}
		other()
		var order []int
		results := make(chan error, maxWaiting)
		for i := range maxWaiting {
			go func() {
				done, err := turns.take(ctx, "a.example")
				if err == nil {
					order = append(order, i) // one at a time, or the race detector says so
					done()
				}
				results <- err
			}()
		}
		synctest.Wait()
		if len(order) != 0 {
			t.Fatalf("%d had their turn before the first was done", len(order))
		}
		if _, err := turns.take(ctx, "a.example"); !mxerr.Is(err, mxerr.CodeLimitExceeded) {
			t.Errorf("one too many: %v", err)
		}
		first()
		synctest.Wait()
		if len(order) != maxWaiting {
			t.Errorf("%d of %d had their turn", len(order), maxWaiting)
		}
		for range maxWaiting {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}

		// Who goes away waits no longer.
		first, err = turns.take(ctx, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := turns.take(ctx, "a.example")
			results <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("gone: %v", err)
		}
		first()
		if len(turns.of) != 0 {
			t.Errorf("%d servers are remembered", len(turns.of))
		}
	})
}
