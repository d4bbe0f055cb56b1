package delayed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// The bounds on what users may schedule.
const (
	MaxDelay     = 7 * 24 * time.Hour
	MaxScheduled = 100
	Retention    = 7 * 24 * time.Hour

	maxFinalised = 1000
	maxContent   = 64 << 10
)

// Config is what Open needs.
type Config struct {
	DB  *sqldb.DB
	Log *slog.Logger // nil discards
	// Send sends an event in its user's name. That the user may not send it is an *mxerr.Error. It may be called again with the same
	// event and then answers what it answered first.
	Send func(ctx context.Context, e Event) (id.EventID, error)
}

// Delayed is the door to everything in this package. It is safe for concurrent use.
type Delayed struct {
	cfg  Config
	db   *sqldb.DB
	wake chan struct{} // holds a token where something may have become due earlier
}

// Open migrates the table.
func Open(ctx context.Context, cfg Config) (*Delayed, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.DB.Migrate(ctx, Migrations...); err != nil {
		return nil, fmt.Errorf("migrate delayed events: %w", err)
	}
	return &Delayed{cfg: cfg, db: cfg.DB, wake: make(chan struct{}, 1)}, nil
}

// The states of an event. They are stored.
const (
	waiting   = 0
	sending   = 1
	sent      = 2
	cancelled = 3
	failed    = 4
)

// Event is a delayed event. Times are milliseconds since the epoch.
type Event struct {
	ID      string
	User    id.UserID
	Room    id.RoomID
	Type    string
	State   *string // the state key; nil for a message
	Content json.RawMessage
	Delay   int64
	// Scheduled is when the delay began last.
	Scheduled int64
	// Finalised is 0 for what is still to be sent.
	Finalised int64
	// EventID is set for what was sent, Error for what could not be sent.
	EventID id.EventID
	Error   json.RawMessage
	// Sticky is for how many milliseconds the event sticks once it is sent; 0 for most.
	//
	// MSC4354: Sticky events
	Sticky int64

	due    int64
	status int64
}

// Txn makes one event of all attempts to send it.
func (e Event) Txn() graph.TxnRef {
	return graph.TxnRef{User: e.User, Device: graph.DelayedDevice, Scope: "delayed", ID: e.ID}
}

// MarshalJSON writes an event as its user is told of it, with the names of fields of older versions of the proposal as well.
//
// MSC4140: what a client is told of a delayed event.
func (e Event) MarshalJSON() ([]byte, error) {
	m := map[string]any{
		"delay_id": e.ID, "room_id": e.Room, "type": e.Type, "content": e.Content,
		"delay_ms": e.Delay, "delayed_since_ts": e.Scheduled, "scheduled_at": e.Scheduled, "delay": e.Delay, "running_since": e.Scheduled,
	}
	if e.State != nil {
		m["state_key"] = *e.State
	}
	outcome := map[string]any{}
	if e.Finalised != 0 {
		outcome["finalised_ts"], m["finalised"] = e.Finalised, outcome
	}
	if e.EventID != "" {
		outcome["event_id"] = e.EventID
	}
	if e.Error != nil {
		outcome["error"] = e.Error
	}
	maps.Copy(m, outcome)
	return json.Marshal(m)
}

func scan(r *sqldb.Row) (e Event, err error) {
	var state sql.Null[string]
	var content, failure string
	err = r.Scan(&e.ID, &e.User, &e.Room, &e.Type, &state, &content, &e.Delay, &e.Scheduled, &e.due, &e.status, &e.Finalised, &e.EventID, &failure, &e.Sticky)
	if state.Valid {
		e.State = &state.V
	}
	e.Content = json.RawMessage(content)
	if failure != "" {
		e.Error = json.RawMessage(failure)
	}
	return e, err
}

func now() int64 { return time.Now().UnixMilli() }

// Scheduled returns the ID of the delayed event that a client's transaction made before; false where it made none.
func (d *Delayed) Scheduled(ctx context.Context, txn graph.TxnRef) (delay string, ok bool, err error) {
	if txn == (graph.TxnRef{}) {
		return "", false, nil
	}
	err = d.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		ok, err = tx.Get(sqlByTxn, []any{key(txn)}, &delay)
		return err
	})
	return delay, ok, err
}

// key is a hash of a transaction.
func key(txn graph.TxnRef) string {
	raw, err := json.Marshal([]string{string(txn.User), string(txn.Device), txn.Scope, txn.ID})
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ErrTooLong says that an event would wait too long. The status is 400.
//
// MSC4140: clients of today look for the reason beside a code that says nothing.
var ErrTooLong = mxerr.New(mxerr.CodeUnknown, "an event can be delayed by %d ms at most", MaxDelay.Milliseconds()).
	With("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED").With("org.matrix.msc4140.max_delay", MaxDelay.Milliseconds())

// Schedule keeps an event until its delay, in milliseconds, is over, and returns the delayed event's ID. A repeated transaction returns the ID of
// the first. The errors are M_INVALID_PARAM, ErrTooLong and M_LIMIT_EXCEEDED for a user who has too
// many events waiting.
func (d *Delayed) Schedule(ctx context.Context, e Event, txn graph.TxnRef) (string, error) {
	switch {
	case e.Delay <= 0:
		return "", mxerr.InvalidParam("the delay must be more than 0")
	case e.Delay > MaxDelay.Milliseconds():
		return "", ErrTooLong
	case len(e.Content) > maxContent:
		return "", mxerr.TooLarge("an event may have %d bytes at most", maxContent)
	}
	at := now()
	e.ID = rand.Text()
	var state, stored sql.Null[string]
	if e.State != nil {
		state = sql.Null[string]{V: *e.State, Valid: true}
	}
	if txn != (graph.TxnRef{}) {
		stored = sql.Null[string]{V: key(txn), Valid: true}
	}
	var known string
	err := d.db.Write(ctx, func(tx *sqldb.Tx) error {
		known = ""
		if found, err := tx.Get(sqlByTxn, []any{stored}, &known); err != nil || found {
			return err
		}
		var count, first int64
		if _, err := tx.Get(sqlWaiting, []any{e.User}, &count, &first); err != nil {
			return err
		}
		if count >= MaxScheduled {
			return mxerr.LimitExceeded(time.Duration(max(1000, first-at)) * time.Millisecond)
		}
		_, err := tx.Exec(sqlAdd, e.ID, e.User, e.Room, e.Type, state, string(e.Content), e.Delay, at, at+e.Delay, stored, e.Sticky)
		return err
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("schedule an event of %s: %w", e.User, err)
	case known != "":
		return known, nil
	}
	d.hurry()
	return e.ID, nil
}

// hurry has the loop look again.
func (d *Delayed) hurry() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// List returns a user's events that are still to be sent, in the order of their times.
func (d *Delayed) List(ctx context.Context, user id.UserID) ([]Event, error) {
	var list []Event
	err := d.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = []Event{}
		return tx.Query(sqlList, func(r *sqldb.Row) error {
			e, err := scan(r)
			list = append(list, e)
			return err
		}, user)
	})
	return list, err
}

// Get returns one of a user's events, M_NOT_FOUND where there is none of this ID.
func (d *Delayed) Get(ctx context.Context, user id.UserID, delay string) (Event, error) {
	e, err := d.get(ctx, delay)
	if err == nil && e.User != user {
		err = errUnknown
	}
	return e, err
}

var errUnknown = mxerr.NotFound("there is no such delayed event")

func (d *Delayed) get(ctx context.Context, delay string) (e Event, err error) {
	err = d.db.Read(ctx, func(tx *sqldb.Tx) error {
		found := false
		err := tx.Query(sqlGet, func(r *sqldb.Row) (err error) {
			found = true
			e, err = scan(r)
			return err
		}, delay)
		if err == nil && !found {
			err = errUnknown
		}
		return err
	})
	return e, err
}

// ErrFinalised says that an event can't be treated so any more, because it was sent, or cancelled, or is being sent. The status is 409.
var ErrFinalised = mxerr.New(mxerr.CodeUnknown, "this delayed event was sent or cancelled before")

// Cancel has an event never sent.
func (d *Delayed) Cancel(ctx context.Context, delay string) error {
	return d.change(ctx, delay, func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(sqlFinalise, delay, waiting, cancelled, never, now(), "", "")
	}, cancelled, failed)
}

// Restart begins an event's delay anew.
func (d *Delayed) Restart(ctx context.Context, delay string) error {
	return d.change(ctx, delay, func(tx *sqldb.Tx) (int64, error) { return tx.Exec(sqlRestart, delay, now()) })
}

// change changes an event that waits. One that is in one of the states of done is as the client wants it already.
func (d *Delayed) change(ctx context.Context, delay string, fn func(tx *sqldb.Tx) (int64, error), done ...int64) error {
	var rows int64
	err := d.db.Write(ctx, func(tx *sqldb.Tx) (err error) {
		rows, err = fn(tx)
		return err
	})
	if err != nil || rows > 0 {
		return err
	}
	e, err := d.get(ctx, delay)
	if err != nil {
		return err
	}
	for _, status := range done {
		if e.status == status {
			return nil
		}
	}
	return ErrFinalised
}

// SendNow sends an event without waiting for its time. Where it can't be sent now the error says why, and it waits on.
func (d *Delayed) SendNow(ctx context.Context, delay string) error {
	var taken []Event
	err := d.db.Write(ctx, func(tx *sqldb.Tx) error {
		taken = nil
		return tx.Query(sqlTake, func(r *sqldb.Row) error {
			e, err := scan(r)
			taken = append(taken, e)
			return err
		}, delay, now()+holdTime.Milliseconds())
	})
	if err != nil {
		return err
	}
	if len(taken) == 0 {
		e, err := d.get(ctx, delay)
		if err == nil && e.status != sent && e.status != sending {
			err = ErrFinalised
		}
		return err
	}
	// It is to happen, whether or not the client waits for it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTime)
	defer cancel()
	event, refused := d.cfg.Send(ctx, taken[0])
	if refused == nil {
		return d.finalise(ctx, taken[0], sent, event, nil)
	}
	err = d.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlGiveBack, delay)
		return err
	})
	if err != nil {
		return fmt.Errorf("give a delayed event back: %w", err)
	}
	return refused
}

// finalise notes what has become of an event.
func (d *Delayed) finalise(ctx context.Context, e Event, status int64, event id.EventID, why json.RawMessage) error {
	err := d.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(sqlFinalise, e.ID, sending, status, never, now(), event, string(why)); err != nil {
			return err
		}
		_, err := tx.Exec(sqlTrim, e.User, maxFinalised)
		return err
	})
	if err != nil {
		return fmt.Errorf("note what has become of a delayed event: %w", err)
	}
	return nil
}

// Deactivated runs in the transaction that ends an account: nothing more is sent in its name, and what it wanted sent is nobody's business.
func Deactivated(tx *sqldb.Tx, user id.UserID) error {
	_, err := tx.Exec(sqlForgetUser, user)
	return err
}

// Forget deletes what has become of events long ago. The server runs it now and then.
func (d *Delayed) Forget(ctx context.Context) error {
	return d.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlForget, now()-Retention.Milliseconds())
		return err
	})
}
