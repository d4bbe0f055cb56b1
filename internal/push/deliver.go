package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// maxFlights bounds the requests to gateways at once, maxPerHost those to one host, maxPerUser those of one user's pushers.
	maxFlights = 200
	maxPerHost = 20
	maxPerUser = 3
	// flightTime bounds a request, from looking up the host to the last byte of the answer, which is at most maxAnswer bytes.
	flightTime = 10 * time.Second
	maxAnswer  = 64 << 10
	// firstRetry is how long a pusher is left alone after a failure; each further one doubles it up to lastRetry.
	firstRetry = 2 * time.Second
	lastRetry  = time.Hour
	// outdated is how long it makes sense to tell of an event; keepDue is how many of them wait for a pusher that fails.
	outdated = 24 * time.Hour
	keepDue  = 50
	// lookAgain is how long the loop trusts that it is told of what is due.
	lookAgain = 15 * time.Second
	maxFound  = 500
)

var (
	sqlDuePushers = sqldb.SQL(`SELECT p.pusher_id, p.user_id, p.host FROM pushers p WHERE p.retry <= $1
		AND EXISTS (SELECT 1 FROM push_due d WHERE d.pusher_id = p.pusher_id)
		AND NOT (p.host = ANY($2)) AND NOT (p.pusher_id = ANY($3)) LIMIT $4`)
	sqlNextRetry = sqldb.SQL(`SELECT MIN(p.retry) FROM pushers p WHERE p.retry > $1
		AND EXISTS (SELECT 1 FROM push_due d WHERE d.pusher_id = p.pusher_id)`)
	sqlPusherState = sqldb.SQL(`SELECT user_id, shown, badge, failures, created FROM pushers WHERE pusher_id = $1`)
	sqlDueOf       = sqldb.SQL(`SELECT ord, since FROM push_due WHERE pusher_id = $1 ORDER BY ord LIMIT $2`)
	sqlDropDue     = sqldb.SQL(`DELETE FROM push_due WHERE pusher_id = $1 AND ord = $2`)
	sqlTold        = sqldb.SQL(`UPDATE pushers SET badge = $2, failures = 0, retry = 0 WHERE pusher_id = $1`)
	sqlFailed      = sqldb.SQL(`UPDATE pushers SET failures = failures + 1, retry = $2 WHERE pusher_id = $1`)
	sqlTrimDue     = sqldb.SQL(`DELETE FROM push_due WHERE pusher_id = $1 AND ord < (SELECT ord FROM push_due WHERE pusher_id = $1
		ORDER BY ord DESC LIMIT 1 OFFSET $2) AND ord > 0`)
)

// dispatcher decides which pushers may send now. A gateway that hangs takes its own share of requests and no more.
type dispatcher struct {
	p    *Push
	done chan struct{} // holds one signal at most

	mu    sync.Mutex // guards what follows
	busy  map[int64]duePusher
	hosts map[string]int
	users map[id.UserID]int
}

type duePusher struct {
	id   int64
	user id.UserID
	host string
}

// deliver tells gateways what is due until its context ends.
func (p *Push) deliver(ctx context.Context) error {
	d := &dispatcher{p: p, done: make(chan struct{}, 1), busy: make(map[int64]duePusher), hosts: make(map[string]int), users: make(map[id.UserID]int)}
	var flights sync.WaitGroup
	defer flights.Wait()
	for {
		found, next, err := d.find(ctx)
		if err != nil {
			return err
		}
		for _, who := range found {
			if d.begin(who) {
				flights.Go(func() {
					d.p.fly(ctx, who)
					d.end(who)
				})
			}
		}
		t := time.NewTimer(next)
		select {
		case <-p.wake:
		case <-d.done:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

// find returns pushers that have something to tell, and when to look again.
func (d *dispatcher) find(ctx context.Context) (found []duePusher, next time.Duration, err error) {
	hosts, busy := d.full()
	now := time.Now().UnixMilli()
	next = lookAgain
	err = d.p.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		err := tx.Query(sqlDuePushers, func(r *sqldb.Row) error {
			var who duePusher
			err := r.Scan(&who.id, &who.user, &who.host)
			found = append(found, who)
			return err
		}, now, hosts, busy, maxFound)
		if err != nil {
			return err
		}
		var retry *int64
		if _, err := tx.Get(sqlNextRetry, []any{now}, &retry); err != nil {
			return err
		}
		if retry != nil {
			next = min(next, time.Duration(*retry-now)*time.Millisecond)
		}
		return nil
	})
	return found, next, wrap(err, "find due pushers")
}

func (d *dispatcher) full() (hosts []string, busy []int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hosts, busy = []string{}, []int64{}
	for host, n := range d.hosts {
		if n >= maxPerHost {
			hosts = append(hosts, host)
		}
	}
	for n := range d.busy {
		busy = append(busy, n)
	}
	return hosts, busy
}

func (d *dispatcher) begin(who duePusher) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.busy[who.id]; ok || len(d.busy) >= maxFlights || d.hosts[who.host] >= maxPerHost || d.users[who.user] >= maxPerUser {
		return false
	}
	d.busy[who.id] = who
	d.hosts[who.host]++
	d.users[who.user]++
	return true
}

func (d *dispatcher) end(who duePusher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, who.id)
	if d.hosts[who.host]--; d.hosts[who.host] == 0 {
		delete(d.hosts, who.host)
	}
	if d.users[who.user]--; d.users[who.user] == 0 {
		delete(d.users, who.user)
	}
	signal(d.done)
}

// errRejected says that the gateway knows that the push key leads nowhere.
var errRejected = errors.New("the push key was rejected")

// fly tells a gateway what is due for one pusher, up to a number of messages.
func (p *Push) fly(ctx context.Context, who duePusher) {
	const messages = 20
	for range messages {
		more, err := p.tellNext(ctx, who)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errRejected):
			err = p.db.Write(ctx, func(tx *sqldb.Tx) error {
				tx.Queue(sqlDropPusher, who.id)
				tx.Queue(sqlDropAllDue, who.id)
				return nil
			})
			if err != nil {
				p.log.Warn("a rejected pusher was not deleted", "user", who.user, "error", err)
			}
			return
		case err != nil:
			p.log.Info("a push gateway was not told", "host", who.host, "user", who.user, "error", err)
			return
		case !more:
			return
		}
	}
}

// pusherState is a pusher at work.
type pusherState struct {
	Pusher
	id       int64
	user     id.UserID
	badge    int
	failures int
	created  int64
}

// tellNext tells the oldest of what is due, if anything is.
func (p *Push) tellNext(ctx context.Context, who duePusher) (more bool, err error) {
	s := &pusherState{id: who.id}
	var ord, since int64
	err = p.db.Read(ctx, func(tx *sqldb.Tx) error {
		more = false
		var shown string
		found, err := tx.Get(sqlPusherState, []any{who.id}, &s.user, &shown, &s.badge, &s.failures, &s.created)
		if err != nil || !found {
			return err
		}
		if err := json.Unmarshal([]byte(shown), &s.Pusher); err != nil {
			return fmt.Errorf("read a stored pusher: %w", err)
		}
		more, err = tx.Get(sqlDueOf, []any{who.id, 1}, &ord, &since)
		return err
	})
	if err != nil || !more {
		return false, err
	}
	badge, body := s.badge, []byte(nil)
	if time.Since(time.UnixMilli(since)) < outdated {
		if badge, body, err = p.message(ctx, s, ord); err != nil {
			return false, err
		}
	}
	if body != nil {
		err = p.post(ctx, s, body)
	}
	if err != nil && !errors.Is(err, errRejected) && ctx.Err() == nil {
		pause := min(firstRetry<<min(s.failures, 20), lastRetry)
		retry := time.Now().Add(pause*3/4 + rand.N(pause/2)).UnixMilli()
		failed := p.db.Write(ctx, func(tx *sqldb.Tx) error {
			tx.Queue(sqlFailed, s.id, retry)
			tx.Queue(sqlTrimDue, s.id, keepDue-1)
			return nil
		})
		return false, errors.Join(err, failed)
	}
	if err != nil {
		return false, err
	}
	return true, wrap(p.db.Write(ctx, func(tx *sqldb.Tx) error {
		tx.Queue(sqlDropDue, s.id, ord)
		if body != nil && (badge != s.badge || s.failures > 0) {
			tx.Queue(sqlTold, s.id, badge)
		}
		return nil
	}), "note what a gateway was told")
}

// post sends a message to the pusher's gateway. Redirects are not followed.
//
// Spec: pg notify
// Calls: pg notify
func (p *Push) post(ctx context.Context, s *pusherState, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, flightTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, gjson.GetBytes(s.Data, "url").Str, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Myelin")
	res, err := p.cfg.Gateways.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer: %w", err)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("the gateway answered %d", res.StatusCode)
	case len(answer) > maxAnswer:
		return fmt.Errorf("the gateway's answer is longer than %d bytes", maxAnswer)
	}
	rejected, err := parseAnswer(answer)
	if err == nil && slices.Contains(rejected, s.Pushkey) {
		err = errRejected
	}
	return err
}

// parseAnswer reads which push keys a gateway rejects. An empty object rejects none.
func parseAnswer(raw []byte) ([]string, error) {
	var answer struct {
		Rejected []string `json:"rejected"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("the gateway's answer is not what it should be: %w", err)
	}
	return answer.Rejected, nil
}
