package crashtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/servertest"
)

// request is one that was sent and must be carried out exactly once.
type request struct {
	method, path string
	body         servertest.M
	// what the answer was; nil as long as there is none.
	answer *servertest.Answer
}

// worker is a user with a device that sends requests one after the other and remembers them.
type worker struct {
	client *servertest.Client
	room   string
	number int
	random *rand.Rand

	next     int
	pending  *request          // got no answer
	events   map[string]string // text of a message to its event's ID
	sent     []*request        // answered, with a transaction ID
	topics   map[string]string // room of ours to the state's last acknowledged value
	rooms    []string          // that we made
	whole    map[string]bool   // rooms that were found whole
	data     int               // the last acknowledged account data
	attempts int
}

// run sends until the server does not answer.
func (w *worker) run(ctx context.Context) error {
	for ctx.Err() == nil {
		r := w.pending
		if r == nil {
			r = w.choose()
		}
		w.pending = r
		w.attempts++
		a, err := w.client.Try(r.method, r.path, r.body)
		if err != nil {
			return nil // the server is gone, which is what this is about
		}
		if a.Status != 200 {
			return fmt.Errorf("%s %s: status %d: %s", r.method, r.path, a.Status, a.Body)
		}
		r.answer = a
		w.pending = nil
		w.note(r)
	}
	return nil
}

// choose makes the next request: mostly a message.
func (w *worker) choose() *request {
	w.next++
	name := fmt.Sprintf("w%d-%d", w.number, w.next)
	switch n := w.random.IntN(40); {
	case n == 0 && len(w.rooms) < 20:
		return &request{method: "POST", path: "createRoom", body: servertest.M{"name": name, "preset": "public_chat"}}
	case n < 4:
		return &request{method: "PUT", path: servertest.Path("rooms", w.room, "state", "org.example.worker", w.client.User), body: servertest.M{"value": name}}
	case n < 6:
		return &request{method: "PUT", path: servertest.Path("user", w.client.User, "account_data", "org.example.counter"), body: servertest.M{"value": w.next}}
	default:
		return &request{method: "PUT", path: servertest.Path("rooms", w.room, "send", "m.room.message", name), body: servertest.M{"msgtype": "m.text", "body": name}}
	}
}

// note remembers what was acknowledged.
func (w *worker) note(r *request) {
	switch {
	case r.path == "createRoom":
		w.rooms = append(w.rooms, r.answer.At("room_id").Str)
	case r.body["msgtype"] != nil:
		w.events[r.body["body"].(string)] = r.answer.At("event_id").Str
		w.sent = append(w.sent, r)
	case r.body["value"] == w.next:
		w.data = w.next
	default:
		w.topics[w.room] = r.body["value"].(string)
	}
}

// follower syncs over all crashes from the last token it got.
type follower struct {
	client *servertest.Client
	since  string
	tokens []string
	seen   map[string]int // event to how often it came
}

// filter leaves out what the trial doesn't look at.
var filter = servertest.M{"room": servertest.M{"timeline": servertest.M{"limit": 20}}, "presence": servertest.M{"types": []string{}}}

// once syncs and notes which events came; gaps are filled as clients do it. It returns false where the server has gone: then
// nothing is noted, and the next call begins from the same token.
func (f *follower) once(timeout string) (bool, error) {
	q := []any{"timeout", timeout, "filter", filter}
	if f.since != "" {
		q = append(q, "since", f.since)
	}
	a, err := f.client.Try("GET", "sync"+servertest.Query(q...), nil)
	if err != nil {
		return false, nil
	}
	if a.Status != 200 {
		return false, fmt.Errorf("sync since %q: status %d: %s", f.since, a.Status, a.Body)
	}
	var came []string
	gone := false
	a.At("rooms", "join").ForEach(func(room, r gjson.Result) bool {
		came = append(came, servertest.Events(r.Get("timeline.events"))...)
		if f.since == "" || !r.Get("timeline.limited").Bool() {
			return true
		}
		var gap []string
		if gap, gone, err = f.between(room.Str, r.Get("timeline.prev_batch").Str, f.since); gone || err != nil {
			return false
		}
		came = append(came, gap...)
		return true
	})
	if gone || err != nil {
		return false, err
	}
	for _, event := range came {
		f.seen[event]++
	}
	f.since = a.At("next_batch").Str
	f.tokens = append(f.tokens, f.since)
	return true, nil
}

// between pages back through the events of a room from one token to an older one. gone says that the server doesn't answer.
func (f *follower) between(room, from, to string) (events []string, gone bool, err error) {
	for from != "" {
		a, err := f.client.Try("GET", servertest.Path("rooms", room, "messages")+servertest.Query("dir", "b", "limit", "500", "from", from, "to", to), nil)
		if err != nil {
			return nil, true, nil
		}
		if a.Status != 200 {
			return nil, false, fmt.Errorf("messages of %s from %q to %q: status %d: %s", room, from, to, a.Status, a.Body)
		}
		events = append(events, servertest.Events(a.At("chunk"))...)
		from = a.At("end").Str
	}
	return events, false, nil
}

func (f *follower) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if ok, err := f.once("1000"); !ok {
			return err
		}
	}
	return nil
}

// load runs everybody until the server is gone or the context ends.
type load struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	failed chan error
}

func startLoad(t *testing.T, workers []*worker, f *follower) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, failed: make(chan error, len(workers)+1)}
	runners := []func(context.Context) error{f.run}
	for _, w := range workers {
		runners = append(runners, w.run)
	}
	for _, run := range runners {
		l.wait.Go(func() {
			if err := run(ctx); err != nil {
				l.failed <- err
			}
		})
	}
	return l
}

// stop waits until all have noticed that the server is gone.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.wait.Wait()
	close(l.failed)
	for err := range l.failed {
		t.Errorf("under load: %v", err)
	}
}
