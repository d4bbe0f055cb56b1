package room_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/cryptotest"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// One seed alone: go test ./internal/room -run 'TestConvergence/SQLite/seed=17$' -v
var simSeeds = flag.Int("simseeds", 240, "how many seeds TestConvergence runs on SQLite; a tenth of them on PostgreSQL")

// TestConvergence lets three servers, each with its own engine and database, change one room at once
// while their events travel with random delays and out of order, forks of power levels, bans,
// joins and topics included. Some events are made by a server that cheats about what it knows.
// Once everything is delivered all must agree on the state and on which events are rejected.
func TestConvergence(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			seeds := *simSeeds
			if d == sqldb.PostgreSQL {
				seeds /= 10
			}
			var nodes []*node
			for _, name := range simNames {
				db, err := sqldb.Open(t.Context(), sqldb.Config{URL: sqldbtest.URL(t, d)})
				must(t, err)
				t.Cleanup(func() { must(t, db.Close()) })
				nodes = append(nodes, startAs(t, db, name))
			}
			var sum simCounts
			for seed := range seeds {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					w := newWorld(t, nodes, uint64(seed))
					w.run()
					sum.add(w.counts)
				})
			}
			t.Logf("%+v", sum)
		})
	}
}

var simNames = []id.ServerName{"one.example", "two.example", "three.example"}

// simCounts say what happened, so that a run in which nothing interesting does shows.
type simCounts struct {
	Events, Refused, Missing, SoftFailed, Rejected, Merges, Redacted int
}

func (c *simCounts) add(o simCounts) {
	c.Events += o.Events
	c.Refused += o.Refused
	c.Missing += o.Missing
	c.SoftFailed += o.SoftFailed
	c.Rejected += o.Rejected
	c.Merges += o.Merges
	c.Redacted += o.Redacted
}

// world is one room on three servers and the network between them.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	version *roomver.Version
	room    id.RoomID
	nodes   []*node
	// inbox holds what is on its way to each server.
	inbox [][]*event.PDU
	all   []*event.PDU
	// first is how many events the room began with.
	first  int
	ts     int64
	counts simCounts
}

func newWorld(t *testing.T, nodes []*node, seed uint64) *world {
	cryptotest.SetGlobalRandom(t, seed) // event IDs of versions 1 and 2
	versions := roomver.All()
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), version: versions[int(seed)%len(versions)],
		nodes: nodes, inbox: make([][]*event.PDU, len(nodes)), ts: 1_000_000 * int64(seed+1),
	}
	for _, n := range nodes {
		n.t = t
	}
	w.begin(seed)
	return w
}

// anchor is a user of each server who keeps the power to speak, so that the server takes part to
// the end.
func anchor(server int) id.UserID { return id.UserID("@anchor:" + string(simNames[server])) }

// crowd are the users whose memberships and levels change.
var crowd = []id.UserID{
	"@a:one.example", "@b:one.example", "@a:two.example", "@b:two.example", "@a:three.example", "@b:three.example",
}

func serverOf(u id.UserID) int { return slices.Index(simNames, u.Domain()) }

// begin makes the first events and gives them to all servers.
func (w *world) begin(seed uint64) {
	creator, one := anchor(0), w.nodes[0]
	signer, _ := one.ours.Key(simNames[0])
	state := map[event.Key]*event.PDU{}
	var events []*event.PDU
	add := func(sender id.UserID, typ, stateKey, content string) {
		d := event.Draft{
			RoomID: w.room, Type: typ, StateKey: &stateKey, Sender: sender, Content: []byte(content),
			OriginServerTS: w.tick(), Depth: int64(len(events) + 1),
		}
		if n := len(events); n > 0 {
			d.PrevEvents = []id.EventID{events[n-1].ID()}
		}
		for _, k := range eventauth.NeededFor(w.version, typ, &stateKey, sender, d.Content) {
			if e := state[k]; e != nil {
				d.AuthEvents = append(d.AuthEvents, e.ID())
			}
		}
		p := w.build(d, signer)
		events = append(events, p)
		state[p.Key()] = p
		w.room = p.RoomID()
	}
	if !w.version.CreateAsRoomID {
		w.room = id.RoomID(fmt.Sprintf("!sim%d:%s", seed, simNames[0]))
	}
	add(creator, "m.room.create", "", fmt.Sprintf(`{"creator":%q,"room_version":%q}`, creator, w.version.ID))
	add(creator, "m.room.member", string(creator), joinContent)
	add(creator, "m.room.power_levels", "", w.levels(0))
	add(creator, "m.room.join_rules", "", `{"join_rule":"public"}`)
	for server := 1; server < len(simNames); server++ {
		add(anchor(server), "m.room.member", string(anchor(server)), joinContent)
	}
	for _, u := range crowd[:4] {
		add(u, "m.room.member", string(u), joinContent)
	}
	for _, n := range w.nodes {
		must(w.t, n.adopt(w.version, events))
	}
	w.all, w.first = events, len(events)
}

// build makes an event outside of the engines.
func (w *world) build(d event.Draft, signer sign.Key) *event.PDU {
	w.t.Helper()
	next := 0
	p, err := d.Build(w.version, d.Sender.Domain(), signer, func() string {
		next++
		return fmt.Sprintf("sim%d-%d-%d", w.rng.Uint64(), w.ts, next)
	})
	must(w.t, err)
	return p
}

func (w *world) tick() int64 {
	w.ts += w.rng.Int64N(3) // times of several servers may be equal
	return w.ts
}

// levels makes a power level event in which the anchors keep their power.
func (w *world) levels(strangers int) string {
	users := map[id.UserID]int{anchor(1): 100, anchor(2): 100}
	if !w.version.PrivilegedCreators {
		users[anchor(0)] = 100
	}
	for _, u := range crowd {
		users[u] = []int{0, 50, 60, 90}[w.rng.IntN(4)] * min(1, strangers)
	}
	if strangers == 0 {
		users[crowd[0]], users[crowd[2]], users[crowd[3]] = 50, 50, 90
	}
	raw := `{"users":{`
	for i, u := range slices.Sorted(maps.Keys(users)) {
		if i > 0 {
			raw += ","
		}
		raw += fmt.Sprintf("%q:%d", u, users[u])
	}
	pick := func(of ...int) int { return of[w.rng.IntN(len(of))] }
	return raw + fmt.Sprintf(`},"ban":%d,"kick":%d,"invite":%d,"state_default":50,"events":{"m.room.topic":%d,"m.room.power_levels":60},"redact":50}`,
		pick(50, 60), pick(50, 60), pick(0, 50), pick(0, 50))
}

// adopt gives a room to a server that hasn't taken part so far.
func (n *node) adopt(v *roomver.Version, events []*event.PDU) error {
	head, err := n.graph.NewHead(n.ctx, events[0].RoomID(), v)
	if err != nil {
		return err
	}
	c := &graph.Commit{Prev: head}
	for _, p := range events {
		nid, err := n.graph.NextNID(n.ctx)
		if err != nil {
			return err
		}
		e := &graph.Event{NID: nid, PDU: p}
		if head, err = head.Advance(e); err != nil {
			return err
		}
		c.Events = append(c.Events, e)
	}
	c.Next = head
	return n.graph.Commit(c).Wait(n.ctx)
}

func (w *world) run() {
	for range 20 + w.rng.IntN(40) {
		switch n := w.rng.IntN(20); {
		case n < 9:
			w.act(w.rng.IntN(len(w.nodes)))
		case n < 11:
			w.cheat(w.rng.IntN(len(w.nodes)))
		default:
			w.deliverOne(w.rng.IntN(len(w.nodes)))
		}
	}
	w.deliverAll()
	for server := range w.nodes {
		// Each server ties up its loose ends where the others see it.
		_, err := w.nodes[server].Send(w.nodes[server].ctx, room.Message{Room: w.room, Proposal: room.Proposal{
			Sender: anchor(server), Type: "m.room.message", Content: []byte(`{"body":"done"}`), TS: w.tick(),
		}})
		if err != nil {
			w.t.Fatalf("the last word of %s: %v", simNames[server], err)
		}
		w.publish(server)
		w.deliverAll()
	}
	w.compare()
}

// act does something by a user of the server.
func (w *world) act(server int) {
	n := w.nodes[server]
	user := w.userOf(server)
	target := crowd[w.rng.IntN(len(crowd))]
	m := room.Membership{Room: w.room, Sender: user, Target: target, TS: w.tick(), Reason: fmt.Sprint(w.ts)}
	var err error
	switch w.rng.IntN(12) {
	case 0, 1:
		_, err = n.Send(n.ctx, room.Message{Room: w.room, Proposal: room.Proposal{
			Sender: user, Type: "m.room.message", Content: []byte(`{"body":"hello"}`), TS: m.TS,
		}})
	case 2, 3:
		_, err = n.Send(n.ctx, room.Message{Room: w.room, Proposal: room.Proposal{
			Sender: user, Type: "m.room.topic", StateKey: key(""), Content: fmt.Appendf(nil, `{"topic":"%d"}`, m.TS), TS: m.TS,
		}})
	case 4, 5:
		_, err = n.Send(n.ctx, room.Message{Room: w.room, Proposal: room.Proposal{
			Sender: user, Type: "m.room.power_levels", StateKey: key(""), Content: []byte(w.levels(1)), TS: m.TS,
		}})
	case 6:
		_, err = n.Ban(n.ctx, m)
	case 7:
		_, err = n.Kick(n.ctx, m)
	case 8:
		_, err = n.Unban(n.ctx, m)
	case 9:
		_, err = n.Join(n.ctx, room.Join{Membership: room.Membership{Room: w.room, Sender: user, TS: m.TS}})
	case 10:
		if user == anchor(server) {
			rule := []string{"public", "invite"}[w.rng.IntN(2)]
			_, err = n.Send(n.ctx, room.Message{Room: w.room, Proposal: room.Proposal{
				Sender: user, Type: "m.room.join_rules", StateKey: key(""), Content: fmt.Appendf(nil, `{"join_rule":%q}`, rule), TS: m.TS,
			}})
		} else {
			_, err = n.Leave(n.ctx, m)
		}
	case 11:
		err = w.redact(n, user, m.TS)
	}
	w.acceptRefusal(err)
	w.publish(server)
}

// redact takes back a message or a topic that the server knows.
func (w *world) redact(n *node, user id.UserID, ts int64) error {
	target := w.all[w.rng.IntN(len(w.all))]
	if typ := target.Type(); typ != "m.room.message" && typ != "m.room.topic" {
		return nil
	}
	_, err := n.Redact(n.ctx, room.Redaction{Room: w.room, Sender: user, Target: target.ID(), TS: ts})
	return err
}

func (w *world) userOf(server int) id.UserID {
	if w.rng.IntN(3) == 0 {
		return anchor(server)
	}
	return crowd[2*server+w.rng.IntN(2)]
}

func (w *world) acceptRefusal(err error) {
	w.t.Helper()
	if err == nil {
		return
	}
	if !mxerr.Is(err, mxerr.CodeForbidden) && !mxerr.Is(err, mxerr.CodeNotFound) {
		w.t.Fatal(err)
	}
	w.counts.Refused++
}

// publish sends the others what the server has made since.
func (w *world) publish(server int) {
	events := w.nodes[server].timeline(w.room)
	for _, e := range events {
		known := slices.ContainsFunc(w.all, func(p *event.PDU) bool { return p.ID() == e.PDU.ID() })
		if !known {
			w.send(server, e.PDU)
		}
	}
}

func (w *world) send(from int, p *event.PDU) {
	w.all = append(w.all, p)
	w.counts.Events++
	if len(p.PrevEvents()) > 1 {
		w.counts.Merges++
	}
	for to := range w.nodes {
		if to != from {
			w.inbox[to] = append(w.inbox[to], p)
		}
	}
}

// cheat makes an event of the server on top of some older events, as if the server had not
// heard of what followed. It is allowed or not by the state there.
func (w *world) cheat(server int) {
	n := w.nodes[server]
	// Not from before the first members came: resolution could take the anchors out of the room.
	timeline := n.timeline(w.room)[w.first-1:]
	prev := []*event.PDU{timeline[w.rng.IntN(len(timeline))].PDU}
	user := w.userOf(server)
	typ, stateKey, content := "m.room.message", (*string)(nil), `{"body":"late"}`
	switch w.rng.IntN(4) {
	case 0:
		typ, stateKey, content = "m.room.topic", key(""), fmt.Sprintf(`{"topic":"late %d"}`, w.tick())
	case 1:
		typ, stateKey, content = "m.room.power_levels", key(""), w.levels(1)
	case 2:
		typ, stateKey, content = "m.room.member", key(string(crowd[w.rng.IntN(len(crowd))])), `{"membership":"ban"}`
	}
	signer, _ := n.ours.Key(simNames[server])
	p, err := n.foreign(w.room, user, typ, stateKey, content, prev, w.tick(), signer)
	must(w.t, err)
	if slices.ContainsFunc(w.all, func(o *event.PDU) bool { return o.ID() == p.ID() }) {
		return
	}
	w.send(-1, p)
}

// deliverOne delivers something on its way to the server, not in order. It comes back where what it
// refers to has not come yet.
func (w *world) deliverOne(to int) bool {
	box := w.inbox[to]
	if len(box) == 0 {
		return false
	}
	i := w.rng.IntN(len(box))
	p := box[i]
	verdict, _, err := w.nodes[to].Receive(w.nodes[to].ctx, p)
	var missing *room.Missing
	if errors.As(err, &missing) {
		w.counts.Missing++
		return false
	}
	if err != nil {
		w.t.Fatalf("%s receives %s: %v", simNames[to], p.Raw(), err)
	}
	if verdict == room.SoftFailed {
		w.counts.SoftFailed++
	}
	w.inbox[to] = slices.Delete(slices.Clone(box), i, i+1)
	return true
}

func (w *world) deliverAll() {
	for stuck := 0; ; {
		waiting := 0
		for to := range w.nodes {
			waiting += len(w.inbox[to])
			if !w.deliverOne(to) {
				stuck++
			} else {
				stuck = 0
			}
		}
		if waiting == 0 {
			return
		}
		if stuck > 10_000 {
			w.t.Fatal("events whose ancestors never come")
		}
	}
}

// compare fails the test where the servers differ.
func (w *world) compare() {
	first := w.nodes[0]
	want := first.wholeState(w.room)
	for i, n := range w.nodes[1:] {
		got := n.wholeState(w.room)
		for k, e := range want {
			if got[k] != e {
				w.t.Errorf("%s: %v is %s, and %s on %s", simNames[0], k, e, got[k], simNames[i+1])
			}
		}
		if len(got) != len(want) {
			w.t.Errorf("%d entries of state on %s, %d on %s", len(want), simNames[0], len(got), simNames[i+1])
		}
	}
	for _, n := range w.nodes {
		head, err := n.graph.Head(n.ctx, w.room)
		must(w.t, err)
		if len(head.Extremities) != 1 || head.Extremities[0].ID != w.all[len(w.all)-1].ID() {
			w.t.Errorf("the room ends with %+v, want %s", head.Extremities, w.all[len(w.all)-1].ID())
		}
	}
	for _, p := range w.all {
		w.compareEvent(p)
	}
	for _, n := range w.nodes {
		n.checkCounts(w.room)
	}
}

func (w *world) compareEvent(p *event.PDU) {
	var rejected []bool
	for _, n := range w.nodes {
		e, ok, err := n.graph.Event(n.ctx, p.ID())
		must(w.t, err)
		if !ok {
			w.t.Fatalf("%s was not stored", p.ID())
		}
		rejected = append(rejected, e.Flags&graph.Rejected != 0)
		if e.Flags&graph.Redacted != 0 {
			w.counts.Redacted++
		}
	}
	if rejected[0] {
		w.counts.Rejected++
	}
	if rejected[0] != rejected[1] || rejected[0] != rejected[2] {
		w.t.Errorf("is %s rejected? %v\n%s", p.ID(), rejected, p.Raw())
	}
}
