package syncer_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/syncer"
	"myelin/internal/view"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// One seed alone: go test ./internal/syncer -run 'TestClientsAgree/SQLite/seed=17$' -v
var histories = flag.Int("histories", 12, "how many random histories TestClientsAgree plays on SQLite; a quarter of them on PostgreSQL")

// TestClientsAgree plays random histories of rooms, with forks, gaps and comings and goings, and lets clients of every
// sort follow them: a client that does as the specification says must hold the server's state after
// each answer, and must have seen each event it may see exactly once where its timeline has no gap.
// An answer from memory must be the same as one from the database.
func TestClientsAgree(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s := start(t, open)
		total := map[string]int{}
		n := *histories
		if s.db.Dialect() == sqldb.PostgreSQL {
			n = max(1, n/4)
		}
		for seed := range n {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				s.tb, s.ctx = t, t.Context()
				w := newWorld(s, uint64(seed))
				w.play(150)
				for what, n := range w.counts {
					total[what] += n
				}
			})
		}
		t.Log(total)
		for _, what := range []string{"gap", "left", "came back", "confirmed", "forked", "lost answer", "cold",
			"slid again", "slid in another process", "expanded", "left while sliding", "kept behind"} {
			if total[what] == 0 && n > 2 {
				t.Errorf("no history had: %s", what)
			}
		}
	})
}

type world struct {
	*server
	rng     *rand.Rand
	rooms   []id.RoomID
	clients []*follower
	sliders []*slider
	counts  map[string]int
	// reliable: no answer is lost any more.
	reliable bool
}

const frank = id.UserID("@frank:there.test")

var locals, remotes = []id.UserID{alice, bob, carol}, []id.UserID{erin, frank}

// newWorld makes rooms whose members may do almost anything. Users of other histories may still be in other rooms.
func newWorld(s *server, seed uint64) *world {
	w := &world{server: s, rng: rand.New(rand.NewPCG(seed, 1)), counts: map[string]int{}}
	versions := roomver.All()
	for i := range 2 {
		v := versions[(int(seed)+5*i)%len(versions)]
		for v.ID == "1" || v.ID == "2" { // IDs of their events are not hashes
			v = versions[w.rng.IntN(len(versions))]
		}
		r := s.create(room.Creation{Version: v})
		levels := `{"users":{"@alice:here.test":100,"@bob:here.test":60,"@erin:there.test":60},"state_default":0}`
		if v.PrivilegedCreators {
			levels = strings.Replace(levels, `"@alice:here.test":100,`, "", 1)
		}
		s.did(s.set(r, alice, "m.room.power_levels", "", levels))
		w.rooms = append(w.rooms, r)
		for _, u := range remotes {
			key := string(u)
			events := s.timeline(r)
			_, _, err := s.foreign(r, u, "m.room.member", &key, `{"membership":"join"}`, events[len(events)-1])
			must(s.tb, err)
		}
	}
	for i, u := range slices.Concat(locals, locals, locals, locals) {
		c := &follower{world: w, user: u, device: id.DeviceID(fmt.Sprint(seed, "-", i)), rooms: map[id.RoomID]*followed{}}
		c.lazy = i%4 == 1
		if i%3 == 2 {
			c.mode = syncer.StateAfter
		}
		c.wide = i < len(locals)
		w.clients = append(w.clients, c)
	}
	w.addSliders(seed)
	return w
}

func (w *world) play(steps int) {
	for range steps {
		if err := w.step(); err != nil {
			if _, refused := mxerr.Of(err); !refused {
				w.tb.Fatal(err)
			}
			w.counts["refused"]++
		}
		for _, c := range w.clients {
			if w.rng.IntN(6) == 0 {
				c.sync()
			}
		}
		for _, c := range w.sliders {
			if w.rng.IntN(6) == 0 {
				c.slide()
			}
		}
	}
	w.reliable = true
	for _, c := range w.sliders {
		c.narrow, c.picky = false, false
		for range 2 {
			c.slide()
		}
	}
	for _, c := range w.clients {
		for range 3 { // what is left, a correction, and nothing
			c.sync()
		}
		c.check(true)
	}
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

func (w *world) step() error {
	r, u := pick(w.rng, w.rooms), pick(w.rng, locals)
	other := pick(w.rng, locals)
	var err error
	switch w.rng.IntN(24) {
	case 0, 1, 2, 3, 4, 5:
		_, err = w.say(r, u, fmt.Sprint("m", w.rng.Uint32()))
	case 6, 7, 8:
		_, err = w.set(r, u, "m.room.topic", "", fmt.Sprintf(`{"topic":"t%d"}`, w.rng.Uint32()))
	case 9, 10:
		_, err = w.set(r, u, "x.state", pick(w.rng, []string{"a", "b", "c"}), fmt.Sprintf(`{"n":%d}`, w.rng.Uint32()))
	case 11:
		_, err = w.set(r, u, "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, pick(w.rng, []string{"shared", "joined", "invited", "world_readable"})))
	case 12, 13, 14:
		_, err = w.join(r, u)
	case 15:
		_, err = w.leave(r, u)
	case 16:
		_, err = w.server.rooms.Invite(w.ctx, on(r, u, other))
	case 17:
		_, err = w.server.rooms.Kick(w.ctx, on(r, u, other))
	case 18:
		if w.rng.IntN(2) == 0 {
			_, err = w.server.rooms.Ban(w.ctx, on(r, u, other))
		} else {
			_, err = w.server.rooms.Unban(w.ctx, on(r, u, other))
		}
	case 19:
		key := string(u)
		_, err = w.join(r, u)
		if err == nil {
			_, err = w.set(r, u, "m.room.member", key, fmt.Sprintf(`{"membership":"join","displayname":"n%d"}`, w.rng.Uint32()))
		}
	default:
		err = w.fork(r)
	}
	return err
}

// fork lets a remote user send something that knows only an older part of the room.
func (w *world) fork(r id.RoomID) error {
	events := w.timeline(r)
	prev := events[max(0, len(events)-1-w.rng.IntN(12))]
	u := pick(w.rng, remotes)
	typ, key, content := "m.room.message", (*string)(nil), `{"body":"far"}`
	state := func(t, k, c string) { typ, key, content = t, &k, c }
	switch w.rng.IntN(6) {
	case 0, 1:
		state("m.room.topic", "", fmt.Sprintf(`{"topic":"far%d"}`, w.rng.Uint32()))
	case 2:
		state("x.state", pick(w.rng, []string{"a", "b", "c"}), fmt.Sprintf(`{"far":%d}`, w.rng.Uint32()))
	case 3:
		state("m.room.member", string(u), fmt.Sprintf(`{"membership":"join","displayname":"far%d"}`, w.rng.Uint32()))
	case 4:
		state("m.room.member", string(pick(w.rng, []id.UserID{bob, carol})), `{"membership":"leave","reason":"far"}`)
	}
	_, verdict, err := w.foreign(r, u, typ, key, content, prev)
	var missing *room.Missing
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil && verdict == room.Accepted && len(w.head(r).Extremities) > 1 {
		w.counts["forked"]++
	}
	return err
}

// follower is a client.
type follower struct {
	*world
	user   id.UserID
	device id.DeviceID
	mode   syncer.StateMode
	lazy   bool
	wide   bool // asks for long timelines
	since  string
	rooms  map[id.RoomID]*followed
}

// followed is what a client holds of a room.
type followed struct {
	joined bool
	state  map[event.Key]id.EventID
	// events are those since the last gap, which ended at the place from.
	events []id.EventID
	from   int64
}

func (c *follower) filter() string {
	limit := 100
	if !c.wide {
		limit = pick(c.rng, []int{1, 2, 3, 5, 20})
	}
	return fmt.Sprintf(`{"room":{"timeline":{"limit":%d},"state":{"lazy_load_members":%v},"include_leave":%v}}`, limit, c.lazy, c.rng.IntN(2) == 0)
}

var age = regexp.MustCompile(`"age":\d+`)

func (c *follower) sync() {
	c.tb.Helper()
	f, err := view.ParseFilter([]byte(c.filter()))
	must(c.tb, err)
	q := syncer.Request{User: c.user, Device: c.device, Filter: f, Mode: c.mode, FullState: c.rng.IntN(20) == 0}
	a, err := c.request(c.syncer, q, c.since)
	must(c.tb, err)
	if !c.reliable && c.rng.IntN(5) == 0 {
		c.counts["lost answer"]++
		return
	}
	if !c.lazy && c.rng.IntN(3) == 0 {
		c.counts["cold"]++
		cold := c.newSyncer()
		b, err := c.request(cold, q, c.since)
		must(c.tb, err)
		cold.Close()
		for _, section := range []string{"join", "leave", "invite", "knock"} {
			x, y := a.Get("rooms."+section).Map(), b.Get("rooms."+section).Map()
			for r := range maps.Keys(y) {
				if was, is := age.ReplaceAllString(x[r].Raw, ""), age.ReplaceAllString(y[r].Raw, ""); was != is {
					at := 0
					for at < min(len(was), len(is)) && was[at] == is[at] {
						at++
					}
					c.tb.Fatalf("%s since %s, from memory: …%.300s\nfrom the database: …%.300s", c.user, c.since, was[max(0, at-100):], is[max(0, at-100):])
				}
			}
			if len(x) != len(y) {
				c.tb.Fatalf("%s since %s: %d rooms in %s from memory, %d from the database", c.user, c.since, len(x), section, len(y))
			}
		}
	}
	if strings.Contains(a.next, "_") {
		c.counts["confirmed"]++
	}
	c.since = a.next
	for _, r := range c.world.rooms {
		c.take(r, a.room("join", r), true)
		for _, section := range []string{"leave", "invite", "knock"} {
			c.take(r, a.room(section, r), false)
		}
	}
	c.check(!strings.Contains(a.next, "_"))
}

// take does what the specification tells clients to do with the part of an answer about a room.
func (c *follower) take(r id.RoomID, part gjson.Result, joined bool) {
	if !part.Exists() {
		return
	}
	f := c.rooms[r]
	if f == nil {
		f = &followed{state: map[event.Key]id.EventID{}}
		c.rooms[r] = f
	}
	timeline := part.Get("timeline")
	lists := []gjson.Result{part.Get("state.events"), timeline.Get("events")}
	if c.mode == syncer.StateAfter {
		lists = []gjson.Result{part.Get("state_after.events")}
	}
	for _, list := range lists {
		for _, e := range list.Array() {
			if key := e.Get("state_key"); key.Exists() {
				f.state[event.Key{Type: e.Get("type").Str, StateKey: key.Str}] = id.EventID(e.Get("event_id").Str)
			}
		}
	}
	switch {
	case !joined:
		c.counts["left"]++
		f.joined = false
		// Who loads members lazily hears of nobody while away.
		maps.DeleteFunc(f.state, func(k event.Key, _ id.EventID) bool { return c.lazy && k.Type == "m.room.member" })
		return
	case timeline.Get("limited").Bool() || !f.joined:
		if f.joined {
			c.counts["gap"]++
		} else if len(f.events) > 0 {
			c.counts["came back"]++
		}
		place, err := view.ParseToken(timeline.Get("prev_batch").Str)
		must(c.tb, err)
		f.from, f.events = int64(place), nil
	}
	f.joined = true
	f.events = append(f.events, ids(timeline.Get("events"))...)
}

// check compares what the client holds with what the server says.
func (c *follower) check(settled bool) {
	c.tb.Helper()
	for r, f := range c.rooms {
		row, _, err := c.graph.MembershipOf(c.ctx, c.user, c.head(r).Room)
		must(c.tb, err)
		if joined := row.Membership == graph.Join; joined != f.joined {
			c.tb.Fatalf("%s in %s: the client thinks joined=%v since %s", c.user, r, f.joined, c.since)
		}
		if f.joined {
			c.checkEvents(r, f)
			if settled || c.mode == syncer.StateAfter {
				c.checkState(r, f)
			}
		}
	}
}

func (c *follower) checkEvents(r id.RoomID, f *followed) {
	c.tb.Helper()
	events := slices.DeleteFunc(c.timeline(r), func(e *graph.Event) bool { return e.Ord <= f.from })
	visible, err := c.view.Visible(c.ctx, c.user, events)
	must(c.tb, err)
	var want []id.EventID
	for i, e := range events {
		if visible[i] {
			want = append(want, e.PDU.ID())
		}
	}
	if !slices.Equal(f.events, want) {
		c.tb.Fatalf("%s in %s from t%d until %s has seen\n%v, not\n%v", c.user, r, f.from, c.since, f.events, want)
	}
}

func (c *follower) checkState(r id.RoomID, f *followed) {
	c.tb.Helper()
	head := c.head(r)
	want := map[event.Key]id.EventID{}
	for key, nid := range head.State.All() {
		events, err := c.graph.Events(c.ctx, head.Room, []graph.EventNID{nid})
		must(c.tb, err)
		want[key] = events[0].PDU.ID()
	}
	for key, e := range want {
		if has := f.state[key]; has != e && !(c.lazy && key.Type == "m.room.member" && has == "") {
			c.tb.Errorf("%s (lazy %v, mode %d) at %s: %v in %s is %q, not %q", c.user, c.lazy, c.mode, c.since, key, r, has, e)
		}
	}
	for key := range f.state {
		if want[key] == "" {
			c.counts["state that went away"]++
		}
	}
	if c.tb.Failed() {
		c.tb.FailNow()
	}
}
