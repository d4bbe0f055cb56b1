package delayed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	alice, bob = id.UserID("@alice:a.example"), id.UserID("@bob:a.example")
	room       = id.RoomID("!r:a.example")
	hour       = int64(3_600_000)
)

// rooms stands for what sends events: it makes one event of each transaction, as rooms do, unless it refuses.
type rooms struct {
	mu      sync.Mutex // guards all below
	refusal error
	order   []string
	made    map[graph.TxnRef]id.EventID
	sent    chan Event
}

func (r *rooms) send(_ context.Context, e Event) (id.EventID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusal != nil {
		return "", r.refusal
	}
	if event, ok := r.made[e.Txn()]; ok {
		return event, nil
	}
	event := id.EventID(fmt.Sprintf("$%d", len(r.made)))
	r.made[e.Txn()] = event
	r.order = append(r.order, e.ID)
	r.sent <- e
	return event, nil
}

func (r *rooms) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = err
}

func newRooms() *rooms {
	return &rooms{made: make(map[graph.TxnRef]id.EventID), sent: make(chan Event, 1000)}
}

func start(t *testing.T, db *sqldb.DB, send func(context.Context, Event) (id.EventID, error)) *Delayed {
	t.Helper()
	d, err := Open(t.Context(), Config{DB: db, Send: send})
	must(t, err)
	return d
}

// run has what is due sent until stop is called.
func run(t *testing.T, d *Delayed) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, nil) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the loop ended by %v", err)
		}
	})
}

func message(user id.UserID, delay int64) Event {
	return Event{User: user, Room: room, Type: "m.room.message", Content: []byte(`{"body":"later"}`), Delay: delay}
}

// until polls what the table says of an event; the loop writes it after it has sent.
func until(t *testing.T, d *Delayed, delay, what string, so func(Event) bool) Event {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		e, err := d.get(t.Context(), delay)
		must(t, err)
		if so(e) {
			return e
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %+v, not %s", delay, e, what)
		}
	}
}

func TestScheduling(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		d := start(t, open(), newRooms().send)
		key := ""
		state := message(alice, 2*hour)
		state.State, state.Sticky = &key, 5
		second, err := d.Schedule(ctx, state, graph.TxnRef{})
		must(t, err)
		txn := graph.TxnRef{User: alice, Device: "D", Scope: "s", ID: "1"}
		first, err := d.Schedule(ctx, message(alice, hour), txn)
		must(t, err)
		if again, err := d.Schedule(ctx, message(alice, hour), txn); err != nil || again != first {
			t.Errorf("the same transaction made %s after %s, %v", again, first, err)
		}
		if known, ok, err := d.Scheduled(ctx, txn); err != nil || !ok || known != first {
			t.Errorf("the transaction made %q, %v", known, err)
		}
		list, err := d.List(ctx, alice)
		must(t, err)
		if len(list) != 2 || list[0].ID != first || list[1].ID != second || list[0].State != nil || list[1].State == nil || list[1].Sticky != 5 {
			t.Fatalf("scheduled are %+v", list)
		}
		if _, err := d.Get(ctx, bob, first); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("somebody else's event: %v", err)
		}
		must(t, d.Restart(ctx, first))
		if e, err := d.Get(ctx, alice, first); err != nil || e.Scheduled < list[0].Scheduled {
			t.Errorf("restarted: %+v, %v", e, err)
		}
		must(t, d.Cancel(ctx, first))
		must(t, d.Cancel(ctx, first))
		for what, err := range map[string]error{"restart": d.Restart(ctx, first), "send": d.SendNow(ctx, first)} {
			if !errors.Is(err, ErrFinalised) {
				t.Errorf("%s what was cancelled: %v", what, err)
			}
		}
		if err := d.Cancel(ctx, "unknown"); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("cancel nothing: %v", err)
		}
		for delay, code := range map[int64]mxerr.Code{0: mxerr.CodeInvalidParam, -1: mxerr.CodeInvalidParam, MaxDelay.Milliseconds() + 1: mxerr.CodeUnknown} {
			if _, err := d.Schedule(ctx, message(alice, delay), graph.TxnRef{}); !mxerr.Is(err, code) {
				t.Errorf("a delay of %d: %v", delay, err)
			}
		}
		// One waits already.
		for range MaxScheduled - 1 {
			_, err := d.Schedule(ctx, message(alice, hour), graph.TxnRef{})
			must(t, err)
		}
		if _, err := d.Schedule(ctx, message(alice, hour), graph.TxnRef{}); !mxerr.Is(err, mxerr.CodeLimitExceeded) {
			t.Errorf("one too many: %v", err)
		}
		_, err = d.Schedule(ctx, message(bob, hour), graph.TxnRef{})
		must(t, err)
	})
}

// What is due is sent in its order; what is not, is not.
func TestDue(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		r := newRooms()
		d := start(t, open(), r.send)
		var want []string
		for delay := range int64(5) {
			name, err := d.Schedule(t.Context(), message(alice, 1+delay), graph.TxnRef{})
			must(t, err)
			want = append(want, name)
		}
		late, err := d.Schedule(t.Context(), message(alice, hour), graph.TxnRef{})
		must(t, err)
		stop := run(t, d)
		defer stop()
		for range want {
			<-r.sent
		}
		e := until(t, d, want[4], "sent", func(e Event) bool { return e.status == sent })
		if e.EventID == "" || e.Finalised == 0 || string(e.Content) != "{}" {
			t.Errorf("sent is %+v", e)
		}
		if fmt.Sprint(r.order) != fmt.Sprint(want) {
			t.Errorf("sent in the order %v, want %v", r.order, want)
		}
		if err := d.Cancel(t.Context(), want[0]); !errors.Is(err, ErrFinalised) {
			t.Errorf("cancel what was sent: %v", err)
		}
		must(t, d.SendNow(t.Context(), want[0])) // as the client wants it
		if e, err := d.Get(t.Context(), alice, late); err != nil || e.status != waiting {
			t.Errorf("what is due in an hour is %+v, %v", e, err)
		}
		must(t, d.SendNow(t.Context(), late))
		if len(r.made) != 6 {
			t.Errorf("%d events were made", len(r.made))
		}
	})
}

// A process that ends in the middle of sending loses nothing and sends nothing twice. Until then nobody can cancel.
func TestCrashWhileSending(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		r, db := newRooms(), open()
		d := start(t, db, func(ctx context.Context, e Event) (id.EventID, error) {
			if _, err := r.send(ctx, e); err != nil {
				return "", err
			}
			<-ctx.Done() // the event is in the room, and nobody hears of it
			return "", ctx.Err()
		})
		name, err := d.Schedule(t.Context(), message(alice, 1), graph.TxnRef{})
		must(t, err)
		stop := run(t, d)
		defer stop()
		<-r.sent
		for what, err := range map[string]error{"cancel": d.Cancel(t.Context(), name), "restart": d.Restart(t.Context(), name)} {
			if !errors.Is(err, ErrFinalised) {
				t.Errorf("%s while it is sent: %v", what, err)
			}
		}
		stop()
		d = start(t, db, r.send)
		defer run(t, d)()
		if e := until(t, d, name, "sent", func(e Event) bool { return e.status == sent }); e.EventID != "$0" || len(r.made) != 1 {
			t.Errorf("%d events were made; it is %s", len(r.made), e.EventID)
		}
	})
}

// Why an event could not be sent is kept for its user. Sent by hand it waits on.
func TestRefused(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		r := newRooms()
		r.refuse(mxerr.Forbidden("you are not in this room"))
		d := start(t, open(), r.send)
		byHand, err := d.Schedule(t.Context(), message(bob, hour), graph.TxnRef{})
		must(t, err)
		if err := d.SendNow(t.Context(), byHand); !mxerr.Is(err, mxerr.CodeForbidden) {
			t.Errorf("sent by hand: %v", err)
		}
		name, err := d.Schedule(t.Context(), message(alice, 1), graph.TxnRef{})
		must(t, err)
		defer run(t, d)()
		e := until(t, d, name, "refused", func(e Event) bool { return e.status == failed })
		if string(e.Error) != `{"errcode":"M_FORBIDDEN","error":"you are not in this room"}` || e.EventID != "" {
			t.Errorf("it came to %+v", e)
		}
		must(t, d.Cancel(t.Context(), name)) // it is never sent, as the client wants it
		r.refuse(nil)
		must(t, d.SendNow(t.Context(), byHand))
		if e, err := d.Get(t.Context(), bob, byHand); err != nil || e.EventID == "" {
			t.Errorf("sent by hand in the end: %+v, %v", e, err)
		}
	})
}

// Of an account that ends nothing is sent any more, and nothing kept.
func TestDeactivated(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx, db := t.Context(), open()
		d := start(t, db, newRooms().send)
		ended, err := d.Schedule(ctx, message(alice, hour), graph.TxnRef{})
		must(t, err)
		must(t, d.Cancel(ctx, ended))
		_, err = d.Schedule(ctx, message(alice, hour), graph.TxnRef{})
		must(t, err)
		_, err = d.Schedule(ctx, message(bob, hour), graph.TxnRef{})
		must(t, err)
		must(t, db.Write(ctx, func(tx *sqldb.Tx) error { return Deactivated(tx, alice) }))
		if _, err := d.Get(ctx, alice, ended); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("what was cancelled: %v", err)
		}
		for user, want := range map[id.UserID]int{alice: 0, bob: 1} {
			if list, err := d.List(ctx, user); err != nil || len(list) != want {
				t.Errorf("of %s there are %d, %v", user, len(list), err)
			}
		}
	})
}

// What became of events is kept for a while.
func TestForget(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx, db := t.Context(), open()
		d := start(t, db, newRooms().send)
		var names []string
		for range 2 {
			name, err := d.Schedule(ctx, message(alice, hour), graph.TxnRef{})
			must(t, err)
			must(t, d.Cancel(ctx, name))
			names = append(names, name)
		}
		must(t, db.Write(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(sqlAge, names[0], now()-Retention.Milliseconds()-1)
			return err
		}))
		must(t, d.Forget(ctx))
		if _, err := d.Get(ctx, alice, names[0]); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("after the retention: %v", err)
		}
		if _, err := d.Get(ctx, alice, names[1]); err != nil {
			t.Error(err)
		}
	})
}

var sqlAge = sqldb.SQL(`UPDATE delayed_events SET finalised = $2 WHERE delay_id = $1`)
