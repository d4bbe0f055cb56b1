package ephemeral

import (
	"fmt"
	"strings"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// hears returns whose presence a sync shows, and how.
func (n *node) hears(user id.UserID, from sqldb.Pos) string {
	n.t.Helper()
	events, err := n.PresenceNews(n.ctx, user, from, n.last())
	n.ok(err)
	var out []string
	for _, e := range events {
		sender, rest, _ := strings.Cut(strings.TrimPrefix(string(e), `{"type":"m.presence","sender":"@`), ":")
		state, _, _ := strings.Cut(rest[strings.Index(rest, `"presence":"`)+12:], `"`)
		out = append(out, sender+" "+state)
	}
	return strings.Join(out, ", ")
}

func TestPresenceNews(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, _ := n.room(bob)
		hear := func(from sqldb.Pos, user id.UserID, want string) {
			t.Helper()
			if got := n.hears(user, from); got != want {
				t.Fatalf("%s hears %q, want %q", user, got, want)
			}
		}
		from := n.last()
		n.ok(n.SetPresence(n.ctx, alice, "A", Online, ""))
		n.ok(n.SetPresence(n.ctx, eve, "E", Unavailable, ""))
		hear(from, bob, "alice online")
		hear(from, alice, "alice online")
		hear(from, eve, "eve unavailable")
		hear(0, bob, "alice online")
		hear(0, eve, "eve unavailable")
		hear(n.last(), bob, "")

		from = n.last()
		_, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: name, Sender: eve}})
		n.ok(err)
		hear(from, eve, "alice online, eve unavailable")
		hear(from, bob, "eve unavailable")
		hear(0, bob, "alice online, eve unavailable")

		from = n.last()
		_, err = n.rooms.Leave(n.ctx, room.Membership{Room: name, Sender: eve})
		n.ok(err)
		n.ok(n.SetPresence(n.ctx, eve, "E", Online, ""))
		n.ok(n.SetPresence(n.ctx, alice, "A", Offline, ""))
		hear(from, bob, "alice offline")
		hear(0, bob, "")

		// Another node remembers none of this, nor this one after a hole in the news.
		other := start(t, open, "b")
		if got := other.hears(bob, from); got != "alice offline" {
			t.Errorf("on another node bob hears %q", got)
		}
		n.follow(bus.Range{From: n.last(), To: n.last(), Foreign: true})
		hear(from, bob, "alice offline")
		hear(from-1, eve, "eve online")
	})
}

// TestPresenceAtFirst: on a server where many are there, who comes is told of those they share rooms with, for a few looks at the database.
func TestPresenceAtFirst(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	n.room(bob)
	n.ok(n.SetPresence(n.ctx, alice, "A", Online, ""))
	for i := range fewOnline + 50 {
		n.ok(n.SetPresence(n.ctx, id.UserID(fmt.Sprintf("@p%d:here.example", i)), "P", Online, ""))
	}
	n.ok(n.SetPresence(n.ctx, bob, "B", Unavailable, ""))
	before := n.db.Stats().Reads
	if got := n.hears(bob, 0); got != "alice online, bob unavailable" {
		t.Errorf("bob hears %q", got)
	}
	if reads := n.db.Stats().Reads - before; reads > 3 {
		t.Errorf("that took %d reads", reads)
	}
}

// TestNoNewsCostsNothing checks that a sync without news of presence reads nothing, and that known pairs are not looked up again.
func TestNoNewsCostsNothing(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	name, _ := n.room(bob)
	n.ok(n.SetPresence(n.ctx, alice, "A", Online, ""))
	from := n.last()
	n.send(name, `{}`)
	to := n.last()
	before := n.db.Stats()
	for range 10 {
		if events, err := n.PresenceNews(n.ctx, bob, from, to); err != nil || len(events) != 0 {
			t.Fatal(events, err)
		}
	}
	if after := n.db.Stats(); after != before {
		t.Errorf("the database was used: %+v, then %+v", before, after)
	}
	for range 2 {
		before = n.db.Stats()
		if events, err := n.PresenceNews(n.ctx, bob, from-1, to); err != nil || len(events) != 1 {
			t.Fatal(events, err)
		}
	}
	if after := n.db.Stats(); after.Reads != before.Reads+1 {
		t.Errorf("a known pair cost %d reads, want 1", after.Reads-before.Reads)
	}
}
