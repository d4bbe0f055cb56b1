package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// room is a room made for a run.
type room struct {
	id        string
	members   []user // the first made it
	listeners int64  // /sync connections that wait for its events
}

// action is a kind of request in the mix.
type action uint8

const (
	actMessage action = iota
	actReaction
	actState
	actReceipt
	actTyping
	actions
)

var actionNames = [actions]string{"message", "reaction", "state", "receipt", "typing"}

// mix holds a weight for each action.
type mix [actions]int

func parseMix(s string) (mix, error) {
	var m mix
	total := 0
	for part := range strings.SplitSeq(s, ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.Atoi(weight)
		known := false
		for a, actionName := range actionNames {
			if name == actionName {
				m[a], known = n, true
			}
		}
		if !known || err != nil || n < 0 {
			return m, fmt.Errorf("--mix must be like message=90,receipt=10 with %s, not %q", strings.Join(actionNames[:], ", "), part)
		}
		total += n
	}
	if total == 0 {
		return m, fmt.Errorf("--mix %q has no weight", s)
	}
	return m, nil
}

func (m mix) pick() action {
	total := 0
	for _, w := range m {
		total += w
	}
	n := rand.IntN(total)
	for a, w := range m {
		if n -= w; n < 0 {
			return action(a)
		}
	}
	return actMessage
}

// seat is one sending connection: a user and the rooms it sends to in turn.
type seat struct {
	user  user
	rooms []*room
}

// ear is one listening connection.
type ear struct {
	user  user
	rooms []*room
}

// load is one measured period of sending, with or without listeners.
type load struct {
	b        *bench
	seats    []seat
	ears     []ear
	mix      mix
	rate     float64 // of all seats together, per second; 0: as fast as answers come
	duration time.Duration
	size     int // bytes of a message's body

	from, until time.Time    // the measured part
	due, seen   atomic.Int64 // deliveries to expect and seen, warm-up included
	gaps        atomic.Int64 // timelines that were cut short, so that deliveries are missing
	mu          sync.Mutex   // guards what follows
	sent        [actions]histogram
	delivered   histogram
	failed      int
	lastFailure error
}

// run listens, warms up, sends for the duration and waits until everything has arrived.
func (l *load) run(ctx context.Context) (metrics, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var listening, sending sync.WaitGroup
	if err := l.listen(ctx, &listening); err != nil {
		return nil, err
	}
	meter := l.b.meter()
	l.from = time.Now().Add(l.b.o.warmUp)
	l.until = l.from.Add(l.duration)
	for i := range l.seats {
		sending.Go(func() { l.send(ctx, i) })
	}
	if waitUntil(ctx, l.from) {
		meter.start()
		waitUntil(ctx, l.until)
		meter.stop()
	}
	sending.Wait()
	l.settle(ctx)
	stop()
	listening.Wait()
	if err := ctx.Err(); err != nil && l.b.ctx.Err() != nil {
		return nil, err
	}
	return l.metrics(meter)
}

func waitUntil(ctx context.Context, t time.Time) bool {
	select {
	case <-time.After(time.Until(t)):
		return true
	case <-ctx.Done():
		return false
	}
}

// listen starts the listeners and returns when all have had their first response.
func (l *load) listen(ctx context.Context, wg *sync.WaitGroup) error {
	ready := make(chan error, len(l.ears))
	for _, e := range l.ears {
		for _, r := range e.rooms {
			r.listeners = 0
		}
	}
	for _, e := range l.ears {
		for _, r := range e.rooms {
			r.listeners++
		}
		wg.Go(func() { l.hear(ctx, e, ready) })
	}
	for range l.ears {
		if err := <-ready; err != nil {
			return fmt.Errorf("start to listen: %w", err)
		}
	}
	return nil
}

// hear follows /sync and takes the time of each message.
func (l *load) hear(ctx context.Context, e ear, ready chan<- error) {
	c := l.b.client(e.user)
	defer c.close()
	_, since, err := c.sync(ctx, "", 0)
	ready <- err
	if err != nil {
		return
	}
	var mine histogram
	for ctx.Err() == nil {
		response, next, err := c.sync(ctx, since, 30*time.Second)
		now := time.Now()
		if err != nil {
			if ctx.Err() == nil {
				l.fail(err)
			}
			continue
		}
		since = next
		n := 0
		stamps(response, func(sent int64) {
			n++
			if at := time.Unix(0, sent); !at.Before(l.from) && at.Before(l.until) {
				mine.add(now.Sub(at))
			}
		})
		if bytes.Contains(response, []byte(`"limited":true`)) {
			l.gaps.Add(1)
		}
		l.seen.Add(int64(n))
	}
	l.mu.Lock()
	l.delivered.merge(&mine)
	l.mu.Unlock()
}

// mark precedes the time of sending in a message's body.
const mark = "myelin-bench at "

// stamps calls f with the time of sending of each message in a response.
func stamps(response []byte, f func(unixNano int64)) {
	for {
		at := bytes.Index(response, []byte(mark))
		if at < 0 {
			return
		}
		response = response[at+len(mark):]
		var n int64
		digits := 0
		for digits < len(response) && '0' <= response[digits] && response[digits] <= '9' && digits < 19 {
			n = n*10 + int64(response[digits]-'0')
			digits++
		}
		if digits > 0 {
			f(n)
		}
	}
}

// send is the loop of one sending connection.
func (l *load) send(ctx context.Context, number int) {
	s := l.seats[number]
	w := writer{c: l.b.client(s.user), user: s.user, size: l.size, prefix: fmt.Sprintf("%s-%d-%d-", l.b.run, l.from.UnixNano(), number)}
	defer w.c.close()
	last := make([]string, len(s.rooms)) // event to react to
	var mine [actions]histogram
	next := time.Now()
	gap := time.Duration(0)
	if l.rate > 0 {
		gap = time.Duration(float64(time.Second) * float64(len(l.seats)) / l.rate)
		next = next.Add(gap * time.Duration(number) / time.Duration(len(l.seats)))
	}
	for turn := number; ctx.Err() == nil; turn++ {
		if gap > 0 {
			if !waitUntil(ctx, next) {
				break
			}
			next = next.Add(gap)
		}
		at := turn % len(s.rooms)
		act := l.mix.pick()
		if last[at] == "" {
			act = actMessage
		}
		started := time.Now()
		if started.After(l.until) {
			break
		}
		eventID, err := w.perform(ctx, act, s.rooms[at], last[at])
		finished := time.Now()
		if err != nil {
			if ctx.Err() == nil {
				l.fail(err)
			}
			continue
		}
		if eventID != "" {
			last[at] = eventID
		}
		if act == actMessage {
			l.due.Add(s.rooms[at].listeners)
		}
		if finished.After(l.from) && finished.Before(l.until) {
			mine[act].add(finished.Sub(started))
		}
	}
	l.mu.Lock()
	for a := range mine {
		l.sent[a].merge(&mine[a])
	}
	l.mu.Unlock()
}

func (l *load) fail(err error) {
	l.mu.Lock()
	l.failed++
	l.lastFailure = err
	l.mu.Unlock()
	time.Sleep(time.Millisecond) // a server that refuses at once must not be hammered
}

// settle waits until every acknowledged message arrived, or none has for a while.
func (l *load) settle(ctx context.Context) {
	seen, since := int64(-1), time.Now()
	for ctx.Err() == nil && l.seen.Load() < l.due.Load() {
		if now := l.seen.Load(); now != seen {
			seen, since = now, time.Now()
		} else if time.Since(since) > 3*time.Second {
			return
		}
		waitUntil(ctx, time.Now().Add(10*time.Millisecond))
	}
}

func (l *load) metrics(meter *meter) (metrics, error) {
	var m metrics
	var total uint64
	for a := range l.sent {
		total += l.sent[a].total
	}
	if total == 0 {
		if l.lastFailure != nil {
			return nil, fmt.Errorf("nothing could be sent: %w", l.lastFailure)
		}
		return nil, fmt.Errorf("nothing could be sent")
	}
	seconds := l.duration.Seconds()
	for a := range l.sent {
		h := &l.sent[a]
		if h.total == 0 {
			continue
		}
		name := sends
		if action(a) != actMessage {
			name = actionNames[a] + "s"
		}
		m.add(name, float64(h.total)/seconds, "/s")
		m.times(name, h)
	}
	if len(l.ears) > 0 {
		m.add("deliveries", float64(l.delivered.total)/seconds, "/s")
		m.times("delivery", &l.delivered)
		m.add("lost deliveries", float64(max(0, l.due.Load()-l.seen.Load())), failures)
		m.add("gapped syncs", float64(l.gaps.Load()), failures)
	}
	m.add("failed requests", float64(l.failed), failures)
	meter.report(&m, float64(total))
	if l.lastFailure != nil {
		l.b.say("the last of %d failures: %v", l.failed, l.lastFailure)
	}
	return m, nil
}

// sends is the name of the rate that is compared with the baseline.
const sends = "sends"

// writer makes the requests of one sending connection.
type writer struct {
	c      *client
	user   user
	prefix string // of transaction IDs
	size   int
	n      int
	body   []byte
}

// perform sends one request and returns the ID of the event it made, if it made one.
func (w *writer) perform(ctx context.Context, act action, r *room, about string) (eventID string, err error) {
	w.n++
	txn := w.prefix + strconv.Itoa(w.n)
	base := clientAPI + "/rooms/" + url.PathEscape(r.id)
	method, path := "PUT", ""
	w.body = w.body[:0]
	switch act {
	case actMessage:
		path = base + "/send/m.room.message/" + txn
		w.message()
	case actReaction:
		path = base + "/send/m.reaction/" + txn
		w.body = fmt.Appendf(w.body, `{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":%q}}`, about, txn)
	case actState:
		path = base + "/state/" + benchState + "/" + url.PathEscape("_"+w.user.id)
		w.body = fmt.Appendf(w.body, `{"n":%d}`, w.n)
	case actReceipt:
		method, path = "POST", base+"/receipt/m.read/"+url.PathEscape(about)
		w.body = append(w.body, `{}`...)
	case actTyping:
		path = base + "/typing/" + url.PathEscape(w.user.id)
		w.body = fmt.Appendf(w.body, `{"typing":%t,"timeout":5000}`, w.n%2 == 0)
	}
	status, response, err := w.c.do(ctx, method, path, w.user.token, w.body)
	if err != nil {
		return "", err
	}
	if status != 200 {
		return "", newResponseError(method, path, status, response)
	}
	if act == actMessage {
		var ok bool
		if eventID, ok = textField(response, "event_id"); !ok {
			return "", fmt.Errorf("the answer to a send has no event_id")
		}
	}
	return eventID, nil
}

// message writes the content of a message that says when it was sent.
func (w *writer) message() {
	w.body = append(w.body, `{"msgtype":"m.text","body":"`+mark...)
	from := len(w.body)
	w.body = strconv.AppendInt(w.body, time.Now().UnixNano(), 10)
	w.body = append(w.body, ' ')
	for len(w.body)-from+len(mark) < w.size {
		w.body = append(w.body, "lorem ipsum "...)
	}
	w.body = append(w.body, `"}`...)
}
