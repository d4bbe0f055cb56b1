package appservice

import (
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// TestInviteFromOutside: of an invite to a room that is elsewhere an application service is told its event, as far as it is known.
func TestInviteFromOutside(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		var news []bus.Entry
		b := bus.New(bus.Config{})
		b.Subscribe(func(r bus.Range) { news = append(news, r.Entries...) })
		db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
		g, err := graph.Open(t.Context(), graph.Config{DB: db})
		if err != nil {
			t.Fatal(err)
		}
		s, err := compile(Registration{ID: "irc", HSToken: "h", Sender: "bot", Namespaces: Namespaces{Users: []Namespace{{true, "@irc_.*"}}}}, hashToken("a"), "", "here.example")
		if err != nil {
			t.Fatal(err)
		}
		k := &worker{Sender: &Sender{cfg: Config{Graph: g}}, s: s}
		told := func(user id.UserID, m graph.Membership, event id.EventID, ts int64) gjson.Result {
			t.Helper()
			const far = `[{"type":"m.room.name","state_key":"","sender":"@erin:there.example","content":{"name":"Far"}},
				{"type":"m.room.member","state_key":"@irc_a:here.example","sender":"@erin:there.example","content":{"membership":"invite"}}]`
			news = nil
			if err := g.SetOutOfBand(t.Context(), graph.OutOfBand{Room: "!far:there.example", User: user, Membership: m, Stripped: []byte(far), ID: event, TS: ts}); err != nil {
				t.Fatal(err)
			}
			var x transaction
			for _, e := range news {
				if err := k.add(t.Context(), &x, e); err != nil {
					t.Fatal(err)
				}
			}
			if len(x.events) == 0 {
				return gjson.Result{}
			}
			return gjson.ParseBytes(x.events[0])
		}
		e := told("@irc_a:here.example", graph.Invite, "$invite", 1700000000000)
		if e.Get("event_id").Str != "$invite" || e.Get("origin_server_ts").Int() != 1700000000000 || e.Get("room_id").Str != "!far:there.example" ||
			e.Get("unsigned.invite_room_state.#").Int() != 2 || e.Get("sender").Str != "@erin:there.example" {
			t.Errorf("told %s", e.Raw)
		}
		if e := told("@irc_a:here.example", graph.Invite, "", 0); e.Get("event_id").Str == "" || e.Get("origin_server_ts").Int() == 0 {
			t.Errorf("told %s", e.Raw)
		}
		if e := told("@somebody:here.example", graph.Invite, "$other", 1); e.Exists() {
			t.Errorf("told %s of somebody else", e.Raw)
		}
	})
}
