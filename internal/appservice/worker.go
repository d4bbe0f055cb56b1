package appservice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/e2ee"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
)

const (
	// firstPause and lastPause bound how long an application service that failed is left alone. One that sends a request is tried soon.
	firstPause = time.Second
	lastPause  = 5 * time.Minute
	// saveEvery is how often it is written down that nothing of what happened concerned the application service.
	saveEvery = 10 * time.Second
	// pollStream is how long the silence of the bus is trusted.
	pollStream = 30 * time.Second
	// farewell is how long what arrived may take to be written down when the worker is told to stop.
	farewell = 3 * time.Second
)

// worker brings one application service what concerns it. One goroutine uses it.
type worker struct {
	*Sender
	s      *Service
	lease  *work.Lease
	stream *feed

	interest *interest
	// The application service has everything up to pos. body is the transaction under way, after which it has everything up to to.
	pos, to sqldb.Pos
	body    []byte
	// end is the end of the stream when the worker took over, which the bus may not know yet.
	end sqldb.Pos
	// saved is pos as the database has it, at a time. mail are the inboxes that the transactions since then emptied.
	saved sqldb.Pos
	at    time.Time
	mail  []e2ee.Inboxed
}

// run sends until ctx ends.
func (k *worker) run(ctx context.Context) error {
	if err := k.load(ctx); err != nil {
		return err
	}
	err := k.follow(ctx)
	if ctx.Err() == nil || errors.Is(err, work.ErrLost) || k.body != nil || k.pos == k.saved {
		return err
	}
	// What has arrived need not be sent again.
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if bad := k.save(bye); bad != nil && !errors.Is(bad, sqldb.ErrClosed) && !errors.Is(bad, work.ErrLost) {
		k.log.Warn("a transaction will be sent to an application service again", "appservice", k.s.ID, "error", bad)
	}
	return err
}

// load reads how far the application service has got. One that never was sent anything begins now.
func (k *worker) load(ctx context.Context) error {
	k.interest, k.mail = newInterest(k.s, &k.cfg), nil
	err := k.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		last, err := tx.Last()
		if err != nil {
			return err
		}
		k.end = last
		tx.Queue(stmtNewQueue, k.s.ID, last)
		_, err = tx.Get(stmtQueue, []any{k.s.ID}, &k.pos, &k.to, &k.body)
		return err
	})
	if err != nil {
		return fmt.Errorf("load the queue of the application service %s: %w", k.s.ID, err)
	}
	k.saved, k.at = k.pos, time.Now()
	return nil
}

// follow makes transactions of the stream and delivers them, one after the other.
func (k *worker) follow(ctx context.Context) error {
	for {
		if k.body != nil {
			if err := k.deliver(ctx); err != nil {
				return err
			}
			k.arrived()
		}
		last, err := k.wait(ctx)
		if err != nil {
			return err
		}
		if last <= k.pos {
			continue
		}
		body, to, err := k.compose(ctx, k.pos, last)
		if err != nil {
			return fmt.Errorf("make a transaction for the application service %s: %w", k.s.ID, err)
		}
		if body == nil {
			k.pos = to
			continue
		}
		k.body, k.to = body, to
		if err := k.save(ctx); err != nil {
			k.body = nil
			return err
		}
	}
}

// arrived takes note of a delivered transaction.
func (k *worker) arrived() {
	k.metrics.events.Add(float64(gjson.GetBytes(k.body, "events.#").Int()))
	gjson.GetBytes(k.body, gjson.Escape(mailField)).ForEach(func(_, m gjson.Result) bool {
		k.mail = append(k.mail, e2ee.Inboxed{
			User: id.UserID(m.Get("to_user_id").Str), Device: id.DeviceID(m.Get("to_device_id").Str), After: k.pos, UpTo: k.to,
		})
		return true
	})
	k.pos, k.body = k.to, nil
}

// wait returns the end of the stream once it is past what the application service has. Before it waits, what arrived is written down; what merely did not
// concern the application service is now and then.
func (k *worker) wait(ctx context.Context) (sqldb.Pos, error) {
	if last := max(k.end, k.cfg.Bus.Last()); last > k.pos {
		if k.pos > k.saved && time.Since(k.at) >= saveEvery {
			if err := k.save(ctx); err != nil {
				return 0, err
			}
		}
		return last, nil
	}
	if len(k.mail) > 0 || k.saved != k.pos && (k.to == k.pos || time.Since(k.at) >= saveEvery) {
		if err := k.save(ctx); err != nil {
			return 0, err
		}
	}
	short, cancel := context.WithTimeout(ctx, pollStream)
	defer cancel()
	last, err := k.cfg.Bus.Wait(short, k.pos)
	switch {
	case err == nil:
		return last, nil
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	}
	return k.cfg.DB.Last(ctx) // hints may have been lost
}

// save writes down how far the application service is, and the transaction that it is to get next. What arrived leaves the inboxes that
// it came from in the same transaction.
func (k *worker) save(ctx context.Context) error {
	to := k.pos
	if k.body != nil {
		to = k.to
	}
	err := k.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		if err := k.lease.Check(tx); err != nil {
			return err
		}
		n, err := tx.Exec(stmtMove, k.s.ID, k.pos, to, k.body)
		if err == nil && n == 0 {
			err = errors.New("it was removed")
		}
		if err != nil {
			return err
		}
		return e2ee.Empty(tx, k.mail)
	})
	if err != nil {
		return fmt.Errorf("move the queue of the application service %s: %w", k.s.ID, err)
	}
	k.saved, k.at, k.mail = k.pos, time.Now(), nil
	return nil
}

// deliver sends the transaction under way until the application service has it.
//
// Spec: as Pushing events
// Spec: as sendTransaction
// Calls: as sendTransaction
func (k *worker) deliver(ctx context.Context) error {
	path := "/transactions/" + "m" + strconv.FormatInt(int64(k.to), 10)
	r := request{method: http.MethodPut, path: "/_matrix/app/v1" + path, legacy: path, body: k.body}
	for failures := 0; ; failures++ {
		select {
		case <-k.s.asks.heard: // of before this attempt
		default:
		}
		try, cancel := context.WithTimeout(ctx, pushTime)
		answer, err := k.cfg.Registry.send(try, k.s, r)
		cancel()
		if err == nil && answer.ok() {
			k.metrics.transactions.WithLabelValues("sent").Inc()
			if failures > 0 {
				k.log.Info("an application service takes transactions again", "appservice", k.s.ID, "attempts", failures+1)
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		k.metrics.transactions.WithLabelValues("failed").Inc()
		if err == nil {
			err = fmt.Errorf("it answered with status %d", answer.status)
		}
		pause := min(lastPause, firstPause<<min(failures, 16))
		if failures == 0 {
			k.log.Warn("an application service did not take a transaction; it is sent again until it does", "appservice", k.s.ID, "error", err)
		}
		if err := k.rest(ctx, pause); err != nil {
			return err
		}
	}
}

// rest leaves an application service that failed alone, for a second at least, and then until it sends a request, or has sent one since the attempt.
func (k *worker) rest(ctx context.Context, pause time.Duration) error {
	if err := rest(ctx, firstPause*3/4+rand.N(firstPause/2), nil); err != nil || pause <= firstPause {
		return err
	}
	return rest(ctx, rand.N(pause/2)+pause*3/4, k.s.asks.heard)
}
