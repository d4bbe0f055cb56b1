package sqldb

import (
	"context"
	"fmt"
	"sync/atomic"
)

// PanicError carries a panic of a Write function from the committer to the goroutine that called Write, where it is raised.
type PanicError struct {
	Value any
	Stack []byte // of the committer, where the function panicked
}

func (p *PanicError) Error() string {
	return fmt.Sprintf("panic in a database write: %v\n\n%s", p.Value, p.Stack)
}

const (
	itemWaiting int32 = iota
	itemTaken
	itemWithdrawn
)

// Ticket is the promise of an outcome for one item.
type Ticket struct {
	state atomic.Int32
	done  chan struct{} // closed when err is set
	err   error
}

// Failed returns a Ticket that has failed already, for items that cannot be submitted at all.
func Failed(err error) *Ticket {
	t := &Ticket{done: make(chan struct{}), err: err}
	t.state.Store(itemTaken)
	close(t.done)
	return t
}

// Done is closed once the outcome is known.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Wait returns the item's outcome: nil means committed and fsynced. If ctx ends before the committer took the item, the item is
// withdrawn, never applied, and ctx's error returned; once it is taken Wait waits for the outcome whatever ctx says. To wait
// without ever withdrawing use a context that does not end, or Done.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
	case <-ctx.Done():
		if t.state.CompareAndSwap(itemWaiting, itemWithdrawn) {
			t.resolve(context.Cause(ctx))
		}
		<-t.done
	}
	if p, ok := t.err.(*PanicError); ok {
		panic(p)
	}
	return t.err
}

func (t *Ticket) take() bool { return t.state.CompareAndSwap(itemWaiting, itemTaken) }

func (t *Ticket) resolve(err error) {
	t.err = err
	close(t.done)
}

// item is one thing the committer has to do: a Write function or an item of a Batcher.
type item struct {
	ticket *Ticket
	fn     func(tx *Tx) error // a Write function, or
	group  *group             // the Batcher this item belongs to
	value  any
	size   int
	err    error // outcome in the current attempt, by the item's own doing
}

func newItem(g *group, value any) *item {
	it := &item{ticket: &Ticket{done: make(chan struct{})}, group: g, value: value}
	if s, ok := value.(interface{ Size() int }); ok {
		it.size = s.Size()
	}
	return it
}

// group is the untyped side of a Batcher.
type group struct {
	name  string
	apply func(tx *Tx, items []*item) []error
}

// Batcher applies items of one kind together: all that were queued while the last commit ran go into the next transaction by
// one call of apply.
type Batcher[T any] struct {
	db    *DB
	group *group
}

// NewBatcher makes a Batcher. apply runs in the committer and gets the items in the order of Submit; it returns nil, or one error
// or nil per item. The error of an item is its outcome and does not touch the others: apply must leave no effect of an item
// it fails. When a statement fails, all of apply is undone and it is called again for each item alone, so apply may run
// several times for an item. A T with a method Size() int tells its bytes, which bounds what goes into one transaction.
func NewBatcher[T any](db *DB, name string, apply func(tx *Tx, items []T) []error) *Batcher[T] {
	return &Batcher[T]{db: db, group: &group{name: name, apply: func(tx *Tx, items []*item) []error {
		values := make([]T, len(items))
		for i, it := range items {
			values[i] = it.value.(T)
		}
		return apply(tx, values)
	}}}
}

// Submit queues an item and returns at once.
func (b *Batcher[T]) Submit(v T) *Ticket {
	it := newItem(b.group, v)
	b.db.committer.submit(it)
	return it.ticket
}
