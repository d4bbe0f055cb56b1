package servertest

import (
	"testing"

	"github.com/tidwall/gjson"
)

// TestErasure: who comes into a room after a user was erased gets redacted copies of what that user wrote; who was there reads it as before.
//
// Spec: cs deactivateAccount
func TestErasure(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		carol, dave, erin := x.a.Register(t, "carol"), x.a.Register(t, "dave"), x.b.Register(t, "erin")
		carol.Join(x.room)
		c := n.Start("c.test")
		frank := c.Register(t, "frank")
		alone := x.alice.CreateRoom(M{"preset": "public_chat"})
		carol.Join(alone)
		x.alice.Say(alone, "secret words")
		x.alice.Say(alone, "more secret words")
		gone := x.alice.Say(x.room, "secret words")
		x.alice.OK("PUT", Path("rooms", x.room, "send", "m.room.message", "edit"), M{
			"msgtype": "m.text", "body": "* other words", "m.new_content": M{"msgtype": "m.text", "body": "other words"},
			"m.relates_to": M{"rel_type": "m.replace", "event_id": gone},
		})
		left := carol.Say(x.room, "words of somebody else")
		sees(x.bob, x.room, left)
		text := func(who *Client, event string) string {
			a := who.OK("GET", Path("rooms", x.room, "event", event), nil)
			return a.At("content", "body").Str + a.At("unsigned", "m.relations", "m.replace", "content", "m.new_content", "body").Str
		}
		if got := text(carol, gone); got != "secret words"+"other words" && got != "other words"+"other words" {
			t.Fatalf("before: %q", got)
		}
		before := text(carol, gone)
		x.alice.Authenticated("POST", "account/deactivate", M{"erase": true})
		dave.Join(x.room)
		joinVia(erin, x.room, x.b)
		joinVia(frank, alone, x.a)

		if got := text(carol, gone); got != before {
			t.Errorf("who was there reads %q", got)
		}
		if got := text(dave, gone); got != "" {
			t.Errorf("a newcomer reads %q", got)
		}
		if got := text(dave, left); got != "words of somebody else" {
			t.Errorf("of others a newcomer reads %q", got)
		}
		if name := dave.State(x.room, "m.room.name", "").Get("name").Str; name != "Here" {
			t.Errorf("the room's name is %q", name)
		}
		messages := func(who *Client, room string) (found []string) {
			for _, e := range who.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", 50), nil).At("chunk").Array() {
				if e.Get("sender").Str == x.alice.User && e.Get("type").Str == "m.room.message" {
					found = append(found, e.Get("content").Raw)
				}
			}
			return found
		}
		for _, content := range messages(dave, x.room) {
			if content != "{}" {
				t.Errorf("in the history a newcomer reads %s", content)
			}
		}
		if len(messages(dave, x.room)) != 2 || len(messages(carol, x.room)) != 2 || gjson.Get(messages(carol, x.room)[1], "body").Str != "secret words" {
			t.Errorf("the histories are %v and %v", messages(dave, x.room), messages(carol, x.room))
		}
		search := func(who *Client) int64 {
			a := who.OK("POST", "search", M{"search_categories": M{"room_events": M{"search_term": "words"}}})
			return a.At("search_categories", "room_events", "results").Get("#").Int()
		}
		if a, b := search(carol), search(dave); a <= b {
			t.Errorf("%d messages are found, by a newcomer %d", a, b)
		}
		// The server that was there has it all, and decides itself; one that comes gets copies from us.
		if got := text(x.bob, gone); got != before {
			t.Errorf("on the other server somebody reads %q", got)
		}
		frank.eventually("the history has come", func() bool { return len(messages(frank, alone)) == 2 })
		for _, content := range messages(frank, alone) {
			if content != "{}" {
				t.Errorf("a server that came later reads %s", content)
			}
		}
	})
}
