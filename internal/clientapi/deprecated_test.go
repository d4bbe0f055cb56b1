package clientapi_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

func TestInitialSync(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"preset":"public_chat","name":"One"}`, "bob")
		a.room(`{"invite":["@bob:here.example"]}`)
		var last string
		for i := range 5 {
			last = a.send(room, fmt.Sprint(i))
		}
		a.ok("bob", "PUT /user/@bob:here.example/rooms/"+room+"/tags/u.x", `{}`)
		a.ok("bob", "PUT /user/@bob:here.example/account_data/x", `{"y":1}`)
		a.ok("alice", "PUT /presence/@alice:here.example/status", `{"presence":"online"}`)

		got := a.ok("bob", "GET /rooms/"+room+"/initialSync?limit=2", "")
		if got.Get("membership").Str != "join" || got.Get("visibility").Str != "private" || got.Get("messages.chunk.#").Int() != 2 ||
			got.Get("messages.chunk.1.event_id").Str != last || got.Get("account_data.0.type").Str != "m.tag" ||
			got.Get(`state.#(type=="m.room.name").content.name`).Str != "One" {
			t.Errorf("the room is %s", got)
		}
		before := a.ok("bob", "GET /rooms/"+room+"/messages?dir=b&limit=1&from="+got.Get("messages.start").Str, "")
		if before.Get("chunk.0.content.body").Str != "2" {
			t.Errorf("before the first message stands %s", before)
		}
		a.refused(403, "M_FORBIDDEN", "eve", "GET /rooms/"+room+"/initialSync", "")

		all := a.ok("bob", "GET /initialSync?limit=1", "")
		if all.Get("rooms.#").Int() != 2 || all.Get(`account_data.#(type=="x").content.y`).Int() != 1 || all.Get("presence.0.sender").Str != "@alice:here.example" ||
			all.Get(`rooms.#(membership=="invite").invite.content.membership`).Str != "invite" ||
			all.Get(`rooms.#(membership=="join").messages.chunk.0.event_id`).Str != last {
			t.Errorf("all is %s", all)
		}
		// Whom bob doesn't want to hear of.
		for _, unwanted := range []string{`m.ignored_user_list {"ignored_users":{"@alice:here.example":{}}}`, `m.invite_permission_config {"default_action":"block"}`} {
			typ, content, _ := strings.Cut(unwanted, " ")
			says := func(content string) {
				if err := a.accounts.SetData(t.Context(), "@bob:here.example", "", typ, []byte(content)); err != nil {
					t.Fatal(err)
				}
			}
			says(content)
			got := a.ok("bob", "GET /initialSync?limit=1", "")
			if got.Get("rooms.#").Int() != 1 || typ == "m.ignored_user_list" && got.Get("presence.#").Int() != 0 {
				t.Errorf("with %s all is %s", typ, got)
			}
			says(`{}`)
		}
		a.ok("bob", "POST /rooms/"+room+"/leave", "")
		a.send(room, "secret")
		if got := a.ok("bob", "GET /initialSync", "").Get("rooms.#").Int(); got != 1 {
			t.Errorf("%d rooms after bob left one", got)
		}
		left := a.ok("bob", "GET /initialSync?archived=true&limit=1", "").Get(`rooms.#(membership=="leave")`)
		if left.Get("messages.chunk.0.content.membership").Str != "leave" {
			t.Errorf("bob left with %s", left)
		}
	})
}

func TestStream(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"preset":"public_chat"}`, "bob")
		closed := a.room(`{}`)
		from := a.ok("bob", "GET /initialSync", "").Get("end").Str
		a.send(closed, "hidden")
		sent := a.send(room, "seen")
		got := a.ok("bob", "GET /events?from="+from, "")
		if got.Get("start").Str != from || got.Get("chunk.#.event_id").Raw != `["`+sent+`"]` {
			t.Errorf("bob gets %s", got)
		}
		from = got.Get("end").Str
		if got := a.ok("bob", "GET /events?from="+from, ""); got.Get("chunk").Raw != `[]` {
			t.Errorf("again bob gets %s", got)
		}
		a.refused(400, "M_INVALID_PARAM", "bob", "GET /events?from=x", "")
		a.refused(400, "M_INVALID_PARAM", "bob", "GET /events?timeout=x", "")

		// A request that waits gets what comes, and not what is none of its business.
		var wait sync.WaitGroup
		wait.Go(func() {
			_, got := a.call("bob", "GET /events?timeout=60000&from="+from, "")
			if got.Get("chunk.0.content.body").Str != "late" {
				t.Errorf("waiting bob gets %s", got)
			}
		})
		a.send(closed, "hidden")
		sent = a.send(room, "late")
		wait.Wait()

		if got := a.ok("bob", "GET /events/"+sent, ""); got.Get("content.body").Str != "late" {
			t.Errorf("the event is %s", got)
		}
		a.refused(404, "M_NOT_FOUND", "eve", "GET /events/"+sent, "")
		a.refused(404, "M_NOT_FOUND", "bob", "GET /events/$x", "")
	})
}

// TestPeeking looks into a world readable room without joining it.
func TestPeeking(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"preset":"public_chat"}`)
		a.refused(403, "M_FORBIDDEN", "eve", "GET /events?room_id="+room, "")
		a.send(room, "before")
		a.ok("alice", "PUT /rooms/"+room+"/state/m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		a.send(room, "first")
		got := a.ok("eve", "GET /rooms/"+room+"/initialSync", "")
		if got.Get("membership").Exists() || got.Get("messages.chunk.#(content.body==\"before\")").Exists() || !got.Get("messages.chunk.#(content.body==\"first\")").Exists() {
			t.Errorf("eve sees %s", got)
		}
		a.send(room, "second")
		got = a.ok("eve", "GET /events?room_id="+room+"&from="+got.Get("messages.end").Str, "")
		if got.Get("chunk.#.content.body").Raw != `["second"]` || got.Get("chunk.0.room_id").Str == "" {
			t.Errorf("eve gets %s", got)
		}
		a.refused(400, "M_INVALID_PARAM", "eve", "GET /events?room_id=x", "")
	})
}
