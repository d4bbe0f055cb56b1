package fedsend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"myelin/internal/e2ee"
	"myelin/internal/fedclient"
	"myelin/internal/graph"
)

const (
	// stale is the age at which a transaction that failed is made anew rather than repeated.
	stale = 10 * time.Minute
	// sendTimeout bounds one attempt.
	sendTimeout = time.Minute
)

// flight is one transaction. It is immutable once it has been tried: it may be repeated.
//
// Spec: ss sendTransaction
type flight struct {
	txn  string
	made time.Time
	// events are the PDUs by number; the first queued of them stand first in the link's queue.
	events []entry
	queued int
	edus   []*edu
	// post: letters are to be loaded, at most mostLetters EDUs. rest: there were more.
	post, rest  bool
	mostLetters int
	letters     []*e2ee.Letter
	// owes: what is owed is to be loaded; debt is what of it the transaction pays. more: there was more. patient: it is paid again if the server refuses
	// any of it; again: that happened.
	owes, more     bool
	patient, again bool
	debt           *debt
	// rooms are those that the other side is caught up with once this has arrived.
	rooms []caughtUp
}

// fly sends one transaction of a link.
func (l *leader) fly(ctx context.Context, k *link) {
	s := l.slot()
	f, err := l.attempt(ctx, k)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.release()
	k.flying = false
	switch {
	case err == nil:
		l.succeeded(k, f)
	case ctx.Err() != nil: // we were stopped: nothing is held against anybody
		return
	default:
		l.failed(k, f, err)
	}
	if k.forgettable() {
		delete(l.links, k.route)
		return
	}
	l.awake(k)
}

// attempt makes a transaction and sends it. A panic becomes an error: one server's trouble must not end all sending.
func (l *leader) attempt(ctx context.Context, k *link) (f *flight, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	f, err = l.prepare(ctx, k)
	if err != nil {
		return f, err
	}
	out := f.render()
	if len(f.events)+len(out) == 0 {
		return f, l.arrived(ctx, k, f)
	}
	pdus, err := l.load(ctx, f)
	if err != nil {
		return f, err
	}
	call := fedclient.Call{Origin: k.origin, Destination: k.server, Urgent: true, Timeout: sendTimeout}
	refused, err := l.cfg.Client.SendTransaction(ctx, call, f.txn, fedclient.Transaction{
		OriginServerTS: f.made.UnixMilli(), PDUs: pdus, EDUs: out,
	})
	if err == nil || f.hopeless(err) {
		if err != nil {
			l.log.Warn("something is left out: another server refuses it", "destination", k.server, "error", err)
		}
		f.again = f.patient && f.debt.refused(refused)
		err = l.arrived(ctx, k, f)
	}
	for event, why := range refused {
		l.log.Info("another server refuses an event", "destination", k.server, "event", event, "reason", why)
	}
	return f, err
}

// render returns the EDUs, those first that are kept until they arrive.
func (f *flight) render() (out []json.RawMessage) {
	for _, letter := range f.letters {
		out = append(out, letter.EDUs...)
	}
	return append(out, render(f.edus)...)
}

// hopeless reports whether a transaction of nothing but one letter, or one event that is owed, was refused for what is in it.
func (f *flight) hopeless(err error) bool {
	remote, ok := errors.AsType[*fedclient.RemoteError](err)
	if !ok || !refusal(remote) || len(f.edus) > 0 {
		return false
	}
	return len(f.events) == 0 && len(f.letters) == 1 || f.debt != nil && f.queued == 0 && len(f.events) == 1 && len(f.letters) == 0
}

// refusal reports whether a server said that it will not take a transaction.
func refusal(remote *fedclient.RemoteError) bool {
	return remote.Status == http.StatusBadRequest || remote.Status == http.StatusRequestEntityTooLarge
}

// prepare decides what to send: what was tried before, or else from the queue, or else what the other side missed.
func (l *leader) prepare(ctx context.Context, k *link) (*flight, error) {
	f, q := l.choose(k)
	if err := l.letters(ctx, k, f); err != nil {
		return f, err
	}
	if err := l.pay(ctx, k, f, q.most); err != nil {
		return f, err
	}
	return f, l.catchUp(ctx, f, q)
}

// choose takes what memory has to send, and says what is to be looked for besides.
func (l *leader) choose(k *link) (*flight, search) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.flight != nil && time.Since(k.flight.made) < stale {
		return k.flight, search{}
	}
	k.drop()
	k.outlast()
	f := &flight{txn: rand.Text(), made: time.Now(), queued: min(len(k.queue), k.most)}
	k.fill(f)
	if k.owes && !time.Now().Before(k.owedAt) {
		f.owes, k.owes, f.patient = true, false, k.refusals < maxRefusals
		f.queued = min(f.queued, k.most-k.most/2) // a queue that never ends must not keep it back
	}
	f.events = slices.Clone(k.queue[:f.queued])
	k.head, k.flight = f.queued, f
	q := search{route: k.route, upTo: l.pos, most: k.most, long: k.long}
	if f.queued == 0 && k.behind {
		q.rooms = k.missed()
	}
	return f, q
}

// fill decides how many EDUs a transaction has, and of which kind. Caller holds leader.mu.
func (k *link) fill(f *flight) {
	f.post, f.mostLetters = k.post, min(k.mostLetters, maxLetters)
	if k.post && k.apart && f.queued > 0 {
		if k.turn = !k.turn; k.turn {
			f.queued = 0
		} else {
			f.post = false
		}
	}
	room := maxEDUs
	if f.post {
		k.post, room = false, maxEDUs-maxLetters
	}
	f.edus = k.edus.take(room)
}

// load returns the events of a transaction as they are sent.
func (l *leader) load(ctx context.Context, f *flight) ([]json.RawMessage, error) {
	byRoom := make(map[graph.RoomNID][]int)
	for i, e := range f.events {
		byRoom[e.room] = append(byRoom[e.room], i)
	}
	out := make([]json.RawMessage, len(f.events))
	for room, places := range byRoom {
		nids := make([]graph.EventNID, len(places))
		for i, place := range places {
			nids[i] = f.events[place].nid
		}
		found, err := l.cfg.Graph.Events(ctx, room, nids)
		if err != nil {
			return nil, fmt.Errorf("load events to send: %w", err)
		}
		for i, place := range places {
			out[place] = found[i].PDU.Raw()
		}
	}
	return out, nil
}

// succeeded takes note of a transaction that arrived. Caller holds mu.
func (l *leader) succeeded(k *link, f *flight) {
	k.landed(f)
	if len(f.events)+len(f.render()) == 0 {
		return // nobody was asked
	}
	l.metrics.sent(f)
	if !k.failingSince.IsZero() && k.failures > 2 {
		l.log.Info("a server can be reached again", "destination", k.server, "since", k.failingSince)
	}
	k.well()
}

// failed takes note of a transaction that did not arrive. Caller holds mu.
func (l *leader) failed(k *link, f *flight, err error) {
	l.metrics.transactions.WithLabelValues("failed").Inc()
	var asked time.Duration
	if remote, ok := errors.AsType[*fedclient.RemoteError](err); ok {
		asked = remote.RetryAfter
		if unfit(remote.Status) {
			l.shrink(k, f, remote)
		}
	}
	k.edus.forgetTyping()
	k.failed(reason(err), asked)
	if k.failures == 3 {
		l.log.Info("a server can't be reached", "destination", k.server, "since", k.failingSince, "error", err)
	}
	if k.heard {
		k.hurry()
	}
}

// unfit reports whether a status says that it is the transaction which is wrong, not the moment or the sender.
func unfit(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return status >= 400
}

// shrink makes the next transaction smaller, so that what another server can't digest is found out and does not keep the rest
// from it. Of a transaction with nothing but one event it is clear what is refused, if the server said that it is. Caller holds mu.
func (l *leader) shrink(k *link, f *flight, remote *fedclient.RemoteError) {
	alone := len(f.events) == 1 && len(f.edus)+len(f.letters) == 0
	if alone && refusal(remote) {
		l.log.Warn("an event is left out: another server refuses it", "destination", k.server, "error", remote)
		k.landed(f)
		k.owes = k.owes || f.owes
		return
	}
	k.most = max(1, min(k.most, len(f.events))/2)
	k.mostLetters = max(1, min(k.mostLetters, len(f.letters))/2)
	k.apart = k.apart || len(f.events) > 0 && len(f.letters) > 0
	k.post, k.owes = k.post || f.post, k.owes || f.owes
	k.head, k.flight = 0, nil // the other EDUs are lost
}

// reason is an error in the words of the list of troubles.
func reason(err error) string {
	const most = 400
	text := err.Error()
	if len(text) > most {
		text = text[:most]
	}
	return text
}
