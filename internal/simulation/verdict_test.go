package simulation

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// held is an event as one server holds it.
type held struct {
	id       string
	flags    graph.Flags
	in       bool // part of the room's graph
	prev     []string
	depth    int64
	ts       int64
	typ, key string
	sender   id.ServerName
	n        int64 // the deed that made it
	body     []byte
	nid      graph.EventNID
	before   map[event.Key]graph.EventNID // state before it, by the server's own numbers
}

// holding is what one server holds of the room.
type holding struct {
	town   *town
	events map[string]*held
	state  map[event.Key]string
	ends   []string
	byNID  map[graph.EventNID]string
	// trouble is what could not be repaired, by event.
	trouble map[string]string
}

var (
	roomEvents = sqldb.SQL(`SELECT event_id, flags, ord IS NOT NULL, ts, body, event_nid FROM events WHERE room_nid = $1`)
	troubles   = sqldb.SQL(`SELECT event_id, 'it waits' FROM staged UNION ALL SELECT event_id, 'given up: ' || reason FROM given_up`)
)

// open reads what a server that has stopped holds. It is nil where it holds nothing.
func (w *world) open(s *town) *holding {
	ctx := w.t.Context()
	check := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatalf("read what %s holds: %v", s.name, err)
		}
	}
	db, err := sqldb.Open(ctx, sqldb.Config{URL: "sqlite:" + filepath.Join(s.server.Config.DataDir, "myelin.db")})
	check(err)
	defer func() { check(db.Close()) }()
	g, err := graph.Open(ctx, graph.Config{DB: db})
	check(err)
	if _, known, err := g.RoomNID(ctx, id.RoomID(w.room)); err != nil || !known {
		check(err)
		return nil
	}
	head, err := g.Head(ctx, id.RoomID(w.room))
	if err != nil {
		return nil // known from an invite only
	}
	h := &holding{town: s, events: map[string]*held{}, state: map[event.Key]string{}, byNID: map[graph.EventNID]string{}, trouble: map[string]string{}}
	check(db.Read(ctx, func(tx *sqldb.Tx) error {
		err := tx.Query(roomEvents, func(r *sqldb.Row) error {
			e, in := &held{}, int64(0)
			if err := r.Scan(&e.id, &e.flags, &in, &e.ts, &e.body, &e.nid); err != nil {
				return err
			}
			e.in = in != 0
			p, err := event.Parse(head.Version, e.body)
			if err != nil {
				return err
			}
			for _, x := range p.PrevEvents() {
				e.prev = append(e.prev, string(x))
			}
			e.depth, e.sender, e.typ, e.n = p.Depth(), p.Sender().Domain(), p.Type(), gjson.GetBytes(e.body, "content.n").Int()
			if p.IsState() {
				e.key = p.Key().StateKey
			}
			h.events[e.id], h.byNID[e.nid] = e, e.id
			return nil
		}, head.Room)
		if err != nil {
			return err
		}
		return tx.Query(troubles, func(r *sqldb.Row) error {
			var e, why string
			err := r.Scan(&e, &why)
			h.trouble[e] = why
			return err
		})
	}))
	for k, nid := range head.State.All() {
		h.state[k] = h.byNID[nid]
	}
	for _, e := range h.events {
		if !e.in {
			continue
		}
		stored, err := g.Events(ctx, head.Room, []graph.EventNID{e.nid})
		check(err)
		before, err := g.StateBefore(ctx, stored[0])
		check(err)
		e.before = maps.Collect(before.All())
	}
	for _, x := range head.Extremities {
		h.ends = append(h.ends, string(x.ID))
	}
	return h
}

func (h *holding) has(e string) bool { return h.events[e] != nil && h.events[e].in }

// joined reports whether the holding's state has a joined user of a server.
func (h *holding) joined(server string) bool {
	for _, who := range people {
		e := h.events[h.state[event.Key{Type: "m.room.member", StateKey: "@" + who + ":" + server}]]
		if e != nil && gjson.GetBytes(e.body, "content.membership").Str == "join" {
			return true
		}
	}
	return false
}

// judge compares what the servers hold.
func (w *world) judge(last string) {
	var all, residents []*holding
	for _, s := range w.towns {
		if h := w.open(s); h != nil {
			all = append(all, h)
		}
	}
	for _, h := range all {
		if h.town.anchored || h.joined(h.town.name) && all[0].joined(h.town.name) {
			residents = append(residents, h)
		}
	}
	union := make(map[string]*held)
	for _, h := range all {
		for e, x := range h.events {
			// Who was outside by the sender's account is given the event without its content.
			if was := union[e]; was == nil || x.in && (!was.in || was.n == 0) {
				union[e] = x
			}
		}
	}
	w.sameState(residents, last)
	w.sameEvents(residents, union, last)
	w.sameVerdicts(residents)
	w.samePast(residents, union)
	w.promises(all, union)
	for _, h := range residents {
		for e, trouble := range h.trouble {
			if !h.has(e) { // what came by another way may have its turn later
				w.t.Errorf("%s has trouble with %s: %s", h.town.name, e, trouble)
			}
		}
	}
	if w.t.Failed() {
		w.list(all, union)
	}
}

func (w *world) sameState(residents []*holding, last string) {
	first := residents[0]
	for _, h := range residents {
		ends := slices.DeleteFunc(slices.Clone(h.ends), func(e string) bool { return h.alone(e, residents) })
		if !slices.Equal(ends, []string{last}) {
			w.t.Errorf("on %s the room ends with %q, want %s", h.town.name, h.ends, last)
		}
		for k, e := range first.state {
			if h.state[k] != e {
				w.t.Errorf("%s %q is %s on %s, and %s on %s", k.Type, k.StateKey, e, first.town.name, h.state[k], h.town.name)
			}
		}
		if len(h.state) != len(first.state) {
			w.t.Errorf("%d entries of state on %s, %d on %s", len(first.state), first.town.name, len(h.state), h.town.name)
		}
	}
}

// alone reports whether an event is one that a visitor made and nobody else wanted to hear, so that none of the others follows it.
func (h *holding) alone(e string, residents []*holding) bool {
	if h.town.anchored || string(h.events[e].sender) != h.town.name {
		return false
	}
	return !slices.ContainsFunc(residents, func(other *holding) bool {
		x := other.events[e]
		return other.town.anchored && x != nil && x.flags&graph.SoftFailed == 0
	})
}

// sameEvents checks that residents have what they should have.
func (w *world) sameEvents(residents []*holding, union map[string]*held, last string) {
	for _, h := range residents {
		need := make(map[string]bool)
		if h.town.anchored {
			for e, x := range union {
				need[e] = x.in && x.ts > w.settled.UnixMilli() && w.public(x, residents)
			}
		} else {
			entry := h.entry()
			maps.Copy(need, ancestors(union, last))
			for e := range ancestors(union, entry) {
				delete(need, e)
			}
			maps.DeleteFunc(need, func(e string, _ bool) bool { return union[entry] == nil || union[e].depth < union[entry].depth })
		}
		for _, e := range slices.Sorted(maps.Keys(need)) {
			if need[e] && !h.has(e) {
				w.t.Errorf("%s lacks %s", h.town.name, describe(union[e]))
			}
		}
	}
}

// public reports whether an event is one that the servers with an anchor can have learned of: those that one of them has, and
// those that somebody was told to be sent.
func (w *world) public(e *held, residents []*holding) bool {
	for _, h := range residents {
		if h.town.anchored && h.has(e.id) {
			return true
		}
	}
	return false
}

// entry is the last join of a user of the server. Whether the server was in the room before, as far as it knew itself, is not for the room to tell.
func (h *holding) entry() string {
	var found *held
	for _, e := range h.events {
		if e.in && h.joins(e) && (found == nil || e.depth > found.depth) {
			found = e
		}
	}
	if found == nil {
		return ""
	}
	return found.id
}

// joins reports whether an event is the join of a user of the server.
func (h *holding) joins(e *held) bool {
	return e != nil && e.typ == "m.room.member" && string(id.UserID(e.key).Domain()) == h.town.name && gjson.GetBytes(e.body, "content.membership").Str == "join"
}

// ancestors are an event and all before it.
func ancestors(events map[string]*held, from string) map[string]bool {
	seen := map[string]bool{}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		if e := events[queue[0]]; e != nil && !seen[queue[0]] {
			seen[queue[0]] = true
			queue = append(queue, e.prev...)
		}
	}
	return seen
}

// sameVerdicts checks that the same events are rejected.
func (w *world) sameVerdicts(residents []*holding) {
	by := make(map[string]*holding)
	for _, h := range residents {
		for _, e := range slices.Sorted(maps.Keys(h.events)) {
			x := h.events[e]
			if !x.in {
				continue
			}
			other := by[e]
			if other == nil {
				by[e] = h
				continue
			}
			if (x.flags^other.events[e].flags)&graph.Rejected != 0 {
				w.t.Errorf("%s is %s on %s, and %s on %s", describe(x), flags(x), h.town.name, flags(other.events[e]), other.town.name)
			}
		}
	}
}

// samePast checks that the state before each event is the same. Of those that follow a difference only the first is named.
func (w *world) samePast(residents []*holding, union map[string]*held) {
	order := slices.SortedFunc(maps.Values(union), func(a, b *held) int { return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.id, b.id)) })
	for _, e := range order {
		var first *holding
		for _, h := range residents {
			switch {
			case !h.has(e.id):
			case first == nil:
				first = h
			default:
				if d := difference(first, h, e.id); d != "" {
					w.t.Errorf("before %s %s", describe(e), d)
					return
				}
			}
		}
	}
}

// difference says in what the states before an event differ.
func difference(a, b *holding, e string) string {
	one, two := a.events[e].before, b.events[e].before
	keys := maps.Clone(one)
	maps.Copy(keys, two)
	for k := range keys {
		if x, y := a.byNID[one[k]], b.byNID[two[k]]; x != y {
			return fmt.Sprintf("%s %q is %s on %s, and %s on %s", k.Type, k.StateKey, x, a.town.name, y, b.town.name)
		}
	}
	return ""
}

// promises compares what is there with what clients were told.
func (w *world) promises(all []*holding, union map[string]*held) {
	made := make(map[int64][]string)
	for e, x := range union {
		if x.n != 0 && x.typ != "m.room.member" {
			made[x.n] = append(made[x.n], e)
		}
	}
	for _, d := range w.deeds {
		events := made[int64(d.n)]
		switch {
		case len(events) > 1:
			w.t.Errorf("%d (%s %s) made %d events: %q", d.n, d.by.id, d.what, len(events), events)
		case d.status >= 400 && len(events) > 0:
			w.t.Errorf("%d (%s %s) was refused, and made %s", d.n, d.by.id, d.what, events[0])
		}
		if d.status != http.StatusOK || d.event == "" {
			continue
		}
		if len(events) == 0 || events[0] != d.event {
			w.t.Errorf("%d (%s %s) was acknowledged as %s, and made %q", d.n, d.by.id, d.what, d.event, events)
		}
		for _, h := range all {
			if (h.town == d.by.town || h.town.anchored) && !h.has(d.event) {
				w.t.Errorf("%s lacks what was acknowledged: %d (%s %s) %s", h.town.name, d.n, d.by.id, d.what, d.event)
			}
		}
	}
}

func describe(e *held) string {
	return fmt.Sprintf("%s (%s %q, of %s, n=%d, depth %d)", e.id, e.typ, e.key, e.sender, e.n, e.depth)
}

func flags(e *held) string {
	out := ""
	for _, f := range []struct {
		flag graph.Flags
		name string
	}{{graph.Outlier, "outlier"}, {graph.Rejected, "rejected"}, {graph.SoftFailed, "soft-failed"}, {graph.Backfilled, "backfilled"}} {
		if e.flags&f.flag != 0 {
			out += " " + f.name
		}
	}
	if !e.in {
		out += " outside"
	}
	if out == "" {
		return "accepted"
	}
	return out[1:]
}

var watch = flag.String("watch", "", "log of failing seeds what is in the state before each event under this `type and key`, such as \"m.room.member @x:c.test\"")

// list logs who has what, for those who look into a failure.
func (w *world) list(all []*holding, union map[string]*held) {
	events := slices.SortedFunc(maps.Values(union), func(a, b *held) int { return int(a.depth - b.depth) })
	typ, key, watching := strings.Cut(*watch, " ")
	for _, e := range events {
		line := describe(e) + " after " + fmt.Sprint(e.prev)
		for _, h := range all {
			x := h.events[e.id]
			if x == nil {
				line += fmt.Sprintf("; %s: no", h.town.name)
				continue
			}
			line += fmt.Sprintf("; %s: %s", h.town.name, flags(x))
			if watching && x.in {
				line += fmt.Sprintf(" (%.8s)", h.byNID[x.before[event.Key{Type: typ, StateKey: key}]])
			}
		}
		w.t.Log(line)
	}
}
