package delayed

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// batchSize is how many events are taken at once, and atOnce for how many users events are sent at the same time.
	batchSize = 200
	atOnce    = 8
	// sendTime is how long sending one event may take, and holdTime how long who took it has it to himself.
	sendTime = time.Minute
	holdTime = 2 * time.Minute
	// retryTime is how long an event waits that the server failed to send.
	retryTime = 30 * time.Second
	// pollTime is how long the loop trusts that no other node scheduled anything.
	pollTime = 5 * time.Second
)

// Run sends what is due for as long as ctx lasts, on one node at a time.
func (d *Delayed) Run(ctx context.Context, _ *work.Lease) error {
	// What was being sent when a process ended is gone on with at once.
	err := d.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlTakeUp, now())
		return err
	})
	if err != nil {
		return err
	}
	for {
		due, err := d.takeDue(ctx)
		if err != nil {
			return err
		}
		if err := d.sendAll(ctx, due); err != nil {
			return err
		}
		if len(due) == batchSize {
			continue
		}
		if err := d.wait(ctx); err != nil {
			return err
		}
	}
}

// takeDue claims what is to be sent, the longest overdue first.
func (d *Delayed) takeDue(ctx context.Context) ([]Event, error) {
	next, ok, err := d.next(ctx)
	if at := now(); err != nil || !ok || next > at {
		return nil, err
	}
	var due []Event
	err = d.db.Write(ctx, func(tx *sqldb.Tx) error {
		due = nil
		at := now()
		return tx.Query(sqlTakeDue, func(r *sqldb.Row) error {
			e, err := scan(r)
			due = append(due, e)
			return err
		}, at, at+holdTime.Milliseconds(), batchSize)
	})
	slices.SortFunc(due, func(x, y Event) int {
		if c := x.Scheduled + x.Delay - y.Scheduled - y.Delay; c != 0 {
			return int(min(max(c, -1), 1))
		}
		return 0
	})
	return due, err
}

// next is when the loop next has something to do; false where it has nothing.
func (d *Delayed) next(ctx context.Context) (due int64, ok bool, err error) {
	err = d.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		ok, err = tx.Get(sqlNext, nil, &due)
		return err
	})
	return due, ok && due < never, err
}

// sendAll sends events of several users at a time, those of each in their order.
func (d *Delayed) sendAll(ctx context.Context, due []Event) error {
	var order []id.UserID
	queues := make(map[id.UserID][]Event)
	for _, e := range due {
		if queues[e.User] == nil {
			order = append(order, e.User)
		}
		queues[e.User] = append(queues[e.User], e)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, user := range order {
		group.Go(func() error {
			for _, e := range queues[user] {
				if err := d.send(ctx, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// send sends one event. The error is one of the database or that the loop is to end: that the event can't be sent is noted.
func (d *Delayed) send(ctx context.Context, e Event) error {
	short, cancel := context.WithTimeout(ctx, sendTime)
	event, err := d.cfg.Send(short, e)
	cancel()
	if err == nil {
		return d.finalise(ctx, e, sent, event, nil)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if refused, ok := mxerr.Of(err); ok {
		why, err := json.Marshal(map[string]string{"errcode": string(refused.Code), "error": refused.Text})
		if err != nil {
			return err
		}
		return d.finalise(ctx, e, failed, "", why)
	}
	d.cfg.Log.Error("a delayed event could not be sent yet", slog.String("user", string(e.User)), slog.String("room", string(e.Room)), slog.Any("error", err))
	return d.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlPutOff, e.ID, now()+retryTime.Milliseconds())
		return err
	})
}

// wait returns when something is due, or may be.
func (d *Delayed) wait(ctx context.Context) error {
	next, ok, err := d.next(ctx)
	if err != nil {
		return err
	}
	pause := pollTime
	if ok {
		pause = min(pause, time.Until(time.UnixMilli(next)))
	}
	timer := time.NewTimer(max(pause, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-d.wake:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
