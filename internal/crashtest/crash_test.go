package crashtest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/servertest"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

const (
	crashes      = 50
	crashesShort = 8
	workers      = 8
	sharedRooms  = 3
	// longestLoad is the longest time under load before a crash.
	longestLoad = 600 * time.Millisecond
	// longestStart bounds the time after which a starting server is killed; every startRounds-th crash is of that kind.
	longestStart = 120 * time.Millisecond
	startRounds  = 6
	// replays is how many answered requests are sent again after each crash, and olds how many old tokens are used.
	replays = 10
	olds    = 10
)

// trial is everything about one engine.
type trial struct {
	t        *testing.T
	options  []string
	random   *rand.Rand
	process  *process
	server   *servertest.Server
	workers  []*worker
	follower *follower
	rooms    []string
	// known is each room's history as it was found so far: event to text.
	known map[string]map[string]string
}

func TestCrash(t *testing.T) {
	rounds := crashes
	if testing.Short() {
		rounds = crashesShort
	}
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			tr := newTrial(t, d, seed)
			events := 0
			for round := range rounds {
				tr.crash(round)
				events = tr.examine(false)
				if t.Failed() {
					t.Fatalf("after crash %d of seed %d; the server's log:\n%s", round+1, seed, tr.process.log)
				}
			}
			tr.examine(true)
			attempts := 0
			for _, w := range tr.workers {
				attempts += w.attempts
			}
			t.Logf("%d crashes, %d requests, %d events in the shared rooms, %d syncs", rounds, attempts, events, len(tr.follower.tokens))
			if events < 20*rounds {
				t.Errorf("only %d events were sent, which is hardly a load", events)
			}
		})
	}
}

func newTrial(t *testing.T, d sqldb.Dialect, seed uint64) *trial {
	tr := &trial{t: t, random: rand.New(rand.NewPCG(seed, 1)), known: make(map[string]map[string]string)}
	for key, value := range map[string]string{
		"data_dir": filepath.Join(t.TempDir(), "data"), "client.listen": "127.0.0.1:0", "registration": "open", "rate_limits": "off", "log.requests": "off",
	} {
		tr.options = append(tr.options, "-o", key+"="+value)
	}
	if d == sqldb.PostgreSQL {
		tr.options = append(tr.options, "-o", "database="+sqldbtest.URL(t, d))
	}
	tr.process = spawn(t, tr.options)
	t.Cleanup(func() { tr.process.kill(t) })
	tr.server = servertest.External(t, tr.process.url(t))

	reader := tr.server.Register(t, "reader")
	tr.follower = &follower{client: reader, seen: make(map[string]int)}
	for range sharedRooms {
		room := reader.CreateRoom(servertest.M{
			"preset": "public_chat", "power_level_content_override": servertest.M{"events": servertest.M{"org.example.worker": 0}},
		})
		tr.rooms = append(tr.rooms, room)
		tr.known[room] = make(map[string]string)
	}
	for i := range workers {
		w := &worker{
			client: tr.server.Register(t, "worker"), number: i, room: tr.rooms[i%sharedRooms], random: rand.New(rand.NewPCG(seed, uint64(i+2))),
			events: make(map[string]string), topics: make(map[string]string), whole: make(map[string]bool),
		}
		w.client.Join(w.room)
		tr.workers = append(tr.workers, w)
	}
	if _, err := tr.follower.once("0"); err != nil {
		t.Fatal(err)
	}
	return tr
}

// crash loads the server, kills it at a random instant, and starts it again.
func (tr *trial) crash(round int) {
	t := tr.t
	t.Helper()
	l := startLoad(t, tr.workers, tr.follower)
	instant := time.NewTimer(time.Duration(tr.random.Int64N(int64(longestLoad))))
	<-instant.C
	tr.process.kill(t)
	l.stop(t)
	for _, line := range tr.process.log.complaints() {
		t.Errorf("the server logged: %s", line)
	}
	tr.process = spawn(t, tr.options)
	if round%startRounds == startRounds-1 {
		instant.Reset(time.Duration(tr.random.Int64N(int64(longestStart))))
		<-instant.C
		tr.process.kill(t)
		tr.process = spawn(t, tr.options)
	}
	tr.server.Moved(tr.process.url(t))
}

// examine compares what the server has with what it promised, and returns the number of events in the shared rooms.
func (tr *trial) examine(whole bool) int {
	t := tr.t
	t.Helper()
	for _, w := range tr.workers {
		tr.settle(w)
		tr.replay(w)
	}
	total := 0
	for _, room := range tr.rooms {
		if whole {
			tr.known[room] = make(map[string]string)
		}
		tr.readHistory(room)
		total += len(tr.known[room])
	}
	for _, w := range tr.workers {
		tr.compare(w)
		tr.examineRooms(w, whole)
	}
	tr.examineSyncs()
	return total
}

// settle sends again what got no answer.
func (tr *trial) settle(w *worker) {
	tr.t.Helper()
	r := w.pending
	w.pending = nil
	if r == nil {
		return
	}
	if r.path == "createRoom" {
		return // without a transaction ID it may or may not have happened; examineRooms looks for halves
	}
	r.answer = w.client.OK(r.method, r.path, r.body)
	w.note(r)
}

// replay sends some answered requests again; the answers must be the same.
func (tr *trial) replay(w *worker) {
	tr.t.Helper()
	for range min(replays, len(w.sent)) {
		r := w.sent[tr.random.IntN(len(w.sent))]
		again := w.client.OK(r.method, r.path, r.body)
		if got, want := again.At("event_id").Str, r.answer.At("event_id").Str; got != want {
			tr.t.Errorf("%s of %s was answered %s and is now answered %s", r.path, w.client.User, want, got)
		}
	}
}

// readHistory reads a room from its end to what is known.
func (tr *trial) readHistory(room string) {
	t := tr.t
	t.Helper()
	known := tr.known[room]
	fresh := make(map[string]string)
	from := ""
	for {
		q := []any{"dir", "b", "limit", "500"}
		if from != "" {
			q = append(q, "from", from)
		}
		page, err := tr.follower.client.Try("GET", servertest.Path("rooms", room, "messages")+servertest.Query(q...), nil)
		if err != nil || page.Status != 200 {
			t.Fatalf("read the history of %s: %v", room, err)
		}
		reached := false
		page.At("chunk").ForEach(func(_, e gjson.Result) bool {
			event := e.Get("event_id").Str
			if _, reached = known[event]; reached {
				return false
			}
			if _, twice := fresh[event]; twice {
				t.Errorf("%s is twice in the history of %s", event, room)
			}
			fresh[event] = e.Get("content.body").Str
			return true
		})
		from = page.At("end").Str
		if reached || from == "" {
			break
		}
	}
	for event, text := range fresh {
		known[event] = text
	}
}

// compare looks for a worker's messages in the history, and for its state and account data.
func (tr *trial) compare(w *worker) {
	t := tr.t
	t.Helper()
	known := tr.known[w.room]
	prefix, found := fmt.Sprintf("w%d-", w.number), make(map[string]string)
	for event, text := range known {
		if !strings.HasPrefix(text, prefix) {
			continue
		}
		if other := found[text]; other != "" {
			t.Errorf("%q is in the history twice: %s and %s", text, other, event)
		}
		found[text] = event
		if w.events[text] != event {
			t.Errorf("%q is in the history as %s and was acknowledged as %q", text, event, w.events[text])
		}
	}
	for text, event := range w.events {
		if found[text] != event {
			t.Errorf("%q was acknowledged as %s and is gone", text, event)
		}
	}
	if want := w.topics[w.room]; want != "" {
		if got := w.client.State(w.room, "org.example.worker", w.client.User).Get("value").Str; got != want {
			t.Errorf("the state of %s is %q, want %q", w.client.User, got, want)
		}
	}
	if w.data != 0 {
		got := w.client.OK("GET", servertest.Path("user", w.client.User, "account_data", "org.example.counter"), nil).At("value").Int()
		if got != int64(w.data) {
			t.Errorf("the account data of %s is %d, want %d", w.client.User, got, w.data)
		}
	}
}

// examineRooms: each room of a worker is whole. Those that were found whole before are looked at again at the end.
func (tr *trial) examineRooms(w *worker, again bool) {
	t := tr.t
	t.Helper()
	joined := make(map[string]bool)
	w.client.OK("GET", "joined_rooms", nil).At("joined_rooms").ForEach(func(_, r gjson.Result) bool {
		joined[r.Str] = true
		return true
	})
	for _, room := range w.rooms {
		if !joined[room] {
			t.Errorf("room %s was acknowledged and %s is not in it", room, w.client.User)
		}
	}
	delete(joined, w.room)
	for room := range joined {
		if w.whole[room] && !again {
			continue
		}
		w.whole[room] = true
		state := w.client.OK("GET", servertest.Path("rooms", room, "state"), nil).At()
		for _, typ := range []string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.name"} {
			if !servertest.Find(state, typ).Exists() {
				t.Errorf("room %s has no %s", room, typ)
			}
		}
	}
}

// examineSyncs: the chain of syncs has each event of the shared rooms exactly once, and old tokens work.
func (tr *trial) examineSyncs() {
	t, f := tr.t, tr.follower
	t.Helper()
	if _, err := f.once("0"); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	for event, times := range f.seen {
		if times != 1 {
			t.Errorf("sync brought %s %d times", event, times)
		}
	}
	for _, room := range tr.rooms {
		for event, text := range tr.known[room] {
			if f.seen[event] == 0 && !t.Failed() { // one example is enough
				t.Errorf("sync never brought %s (%q) of %s", event, text, room)
			}
		}
	}
	for range min(olds, len(f.tokens)) {
		since := f.tokens[tr.random.IntN(len(f.tokens))]
		// With a small limit: what is old has many events after it.
		f.client.OK("GET", "sync"+servertest.Query("since", since, "timeout", "0", "filter", servertest.M{"room": servertest.M{"timeline": servertest.M{"limit": 3}}}), nil)
	}
}
