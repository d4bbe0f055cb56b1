package clientapi_test

import (
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

func TestAliases(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"preset":"public_chat","room_alias_name":"lounge"}`, "bob")
		const path = "/directory/room/%23lounge:here.example"
		got := a.ok("", "GET "+path, "")
		if "!"+got.Get("room_id").Str[1:] != "!"+room[3:] || got.Get("servers.0").Str != "here.example" {
			t.Errorf("the alias leads to %s", got)
		}
		body := `{"room_id":"` + got.Get("room_id").Str + `"}`
		a.refused(400, "M_ROOM_IN_USE", "alice", "POST /createRoom", `{"room_alias_name":"lounge"}`)
		a.refused(409, "M_ROOM_IN_USE", "alice", "PUT "+path, body)
		a.refused(400, "M_INVALID_PARAM", "alice", "PUT /directory/room/lounge", body)
		a.refused(400, "M_INVALID_PARAM", "alice", "PUT /directory/room/%23x:elsewhere.example", body)
		a.refused(400, "M_INVALID_PARAM", "alice", "PUT /directory/room/%23x:here.example", `{"room_id":"x"}`)
		a.refused(400, "M_MISSING_PARAM", "alice", "PUT /directory/room/%23x:here.example", `{}`)
		a.refused(400, "M_BAD_JSON", "alice", "PUT /directory/room/%23x:here.example", `{"room_id":1}`)
		a.refused(404, "M_NOT_FOUND", "", "GET /directory/room/%23x:here.example", "")
		a.refused(404, "M_NOT_FOUND", "", "GET /directory/room/%23x:elsewhere.example", "")
		a.refused(401, "M_MISSING_TOKEN", "", "PUT "+path, body)
		a.refused(403, "M_FORBIDDEN", "eve", "GET /rooms/"+room+"/aliases", "")

		a.ok("bob", "PUT /directory/room/%23bobs:here.example", body)
		if got := a.ok("bob", "GET /rooms/"+room+"/aliases", "").Get("aliases").Raw; got != `["#lounge:here.example","#bobs:here.example"]` {
			t.Errorf("aliases are %s", got)
		}
		a.ok("alice", "PUT /rooms/"+room+"/state/m.room.canonical_alias", `{"alias":"#lounge:here.example","alt_aliases":["#bobs:here.example"]}`)

		// Bob may delete his alias, though not tell the room; alice may do both.
		a.refused(403, "M_FORBIDDEN", "bob", "DELETE "+path, "")
		a.ok("bob", "DELETE /directory/room/%23bobs:here.example", "")
		a.refused(404, "M_NOT_FOUND", "bob", "DELETE /directory/room/%23bobs:here.example", "")
		a.ok("alice", "DELETE "+path, "")
		if got := a.ok("alice", "GET /rooms/"+room+"/state/m.room.canonical_alias", "").Raw; got != `{"alt_aliases":["#bobs:here.example"]}` {
			t.Errorf("the room says %s", got)
		}
	})
}

func TestPublicRooms(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"visibility":"public","name":"One"}`, "bob")
		other := a.room(`{"preset":"public_chat","name":"Two","creation_content":{"type":"m.space"}}`)
		if got := a.ok("", "GET /publicRooms", "").Get("chunk.#.name").Raw; got != `["One"]` {
			t.Errorf("the list shows %s", got)
		}
		const list = "/directory/list/room/"
		if got := a.ok("", "GET "+list+other, "").Get("visibility").Str; got != "private" {
			t.Errorf("the other room is %s", got)
		}
		a.refused(403, "M_FORBIDDEN", "bob", "PUT "+list+room, `{"visibility":"private"}`)
		a.refused(400, "M_INVALID_PARAM", "alice", "PUT "+list+other, `{"visibility":"secret"}`)
		a.refused(404, "M_NOT_FOUND", "alice", "PUT "+list+"!nowhere", `{}`)
		a.refused(404, "M_NOT_FOUND", "", "GET "+list+"!nowhere", "")
		a.ok("alice", "PUT "+list+other, `{}`)

		first := a.ok("", "GET /publicRooms?limit=1", "")
		second := a.ok("", "GET /publicRooms?limit=1&since="+first.Get("next_batch").Str, "")
		if first.Get("chunk.0.name").Str != "One" || second.Get("chunk.0.name").Str != "Two" || second.Get("next_batch").Exists() {
			t.Errorf("pages are %s and %s", first, second)
		}
		for body, want := range map[string]string{
			`{}`:                                      `["One","Two"]`,
			`{"filter":{"room_types":["m.space"]}}`:   `["Two"]`,
			`{"filter":{"room_types":[null]}}`:        `["One"]`,
			`{"filter":{"generic_search_term":"TW"}}`: `["Two"]`,
			`{"third_party_instance_id":"irc"}`:       `[]`,
			`{"include_all_networks":true,"limit":9}`: `["One","Two"]`,
		} {
			if got := a.ok("bob", "POST /publicRooms", body).Get("chunk.#.name").Raw; got != want {
				t.Errorf("%s finds %s, want %s", body, got, want)
			}
		}
		a.refused(400, "M_INVALID_PARAM", "bob", "POST /publicRooms", `{"third_party_instance_id":"irc","include_all_networks":true}`)
		a.refused(400, "M_INVALID_PARAM", "bob", "POST /publicRooms", `{"since":"x"}`)
		a.refused(400, "M_BAD_JSON", "bob", "POST /publicRooms", `{"limit":"x"}`)
		a.refused(400, "M_INVALID_PARAM", "", "GET /publicRooms?limit=-1", "")
		a.refused(400, "M_INVALID_PARAM", "", "GET /publicRooms?server=-%20-", "")
		a.refused(403, "M_FORBIDDEN", "", "GET /publicRooms?server=elsewhere.example", "")
		a.ok("", "GET /publicRooms?server=here.example", "")
		a.refused(401, "M_MISSING_TOKEN", "", "POST /publicRooms", `{}`)
		a.ok("alice", "PUT "+list+room, `{"visibility":"private"}`)
		if got := a.ok("", "GET "+list+room, "").Get("visibility").Str; got != "private" {
			t.Errorf("the room is %s", got)
		}
	})
}
