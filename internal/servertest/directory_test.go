package servertest

import "testing"

// Spec: cs Room aliases
func TestAliases(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, nobody := s.Register(t, "alice"), s.Register(t, "bob"), s.Anonymous(t)
		room := alice.CreateRoom(M{"preset": "public_chat"})
		alias := "#" + Unique("here-") + ":localhost"
		path := Path("directory", "room", alias)
		alice.OK("PUT", path, M{"room_id": room})
		alice.Fails(409, "M_ROOM_IN_USE", "PUT", path, M{"room_id": room})
		if got := nobody.OK("GET", path, nil); got.Text("room_id") != room || got.At("servers").Array()[0].Str != "localhost" {
			t.Errorf("alias: %s", got.Body)
		}
		if got := alice.OK("GET", Path("rooms", room, "aliases"), nil).At("aliases").Array(); len(got) != 1 || got[0].Str != alias {
			t.Errorf("aliases: %v", got)
		}
		bob.Fails(403, "M_FORBIDDEN", "GET", Path("rooms", room, "aliases"), nil)
		if got := bob.OK("POST", Path("join", alias), M{}).Text("room_id"); got != room {
			t.Errorf("joined %s", got)
		}
		alice.SetState(room, "m.room.canonical_alias", "", M{"alias": alias})
		bob.Fails(403, "M_FORBIDDEN", "DELETE", path, nil)
		alice.OK("DELETE", path, nil)
		nobody.Fails(404, "M_NOT_FOUND", "GET", path, nil)
		alice.Fails(404, "M_NOT_FOUND", "DELETE", path, nil)
		alice.Fails(404, "M_NOT_FOUND", "POST", Path("join", alias), M{})
		alice.Fails(400, "M_INVALID_PARAM", "PUT", Path("directory", "room", "nonsense"), M{"room_id": room})
		alice.Fails(400, "M_INVALID_PARAM", "PUT", Path("directory", "room", "#x:elsewhere.org"), M{"room_id": room})
	})
}

// Spec: cs Published room directory
func TestPublicRooms(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, nobody := s.Register(t, "alice"), s.Register(t, "bob"), s.Anonymous(t)
		mark := Unique("tearoom")
		one := alice.CreateRoom(M{"visibility": "public", "name": mark + " one", "topic": "green"})
		two := alice.CreateRoom(M{"visibility": "public", "name": mark + " two", "topic": "black"})
		space := alice.CreateRoom(M{"visibility": "public", "name": mark + " space", "creation_content": M{"type": "m.space"}})
		hidden := alice.CreateRoom(M{"preset": "public_chat", "name": mark + " hidden"})
		bob.Join(two)
		search := func(filter M, more ...any) []string {
			t.Helper()
			filter["generic_search_term"] = mark
			body := M{"filter": filter}
			for i := 0; i < len(more); i += 2 {
				body[more[i].(string)] = more[i+1]
			}
			var ids []string
			for _, r := range alice.OK("POST", "publicRooms", body).At("chunk").Array() {
				ids = append(ids, r.Get("room_id").Str)
			}
			return ids
		}
		if got := search(M{}); len(got) != 3 || got[0] != two {
			t.Errorf("found %v", got)
		}
		if got := search(M{"room_types": []any{"m.space"}}); len(got) != 1 || got[0] != space {
			t.Errorf("spaces: %v", got)
		}
		if got := search(M{"room_types": []any{nil}}); len(got) != 2 {
			t.Errorf("rooms: %v", got)
		}
		page := alice.OK("POST", "publicRooms", M{"limit": 2, "filter": M{"generic_search_term": mark}})
		rest := alice.OK("POST", "publicRooms", M{"limit": 2, "filter": M{"generic_search_term": mark}, "since": page.Text("next_batch")})
		if len(page.At("chunk").Array()) != 2 || len(rest.At("chunk").Array()) != 1 || rest.At("next_batch").Exists() || !rest.At("prev_batch").Exists() {
			t.Errorf("pages: %s %s", page.Body, rest.Body)
		}
		first := page.At("chunk").Array()[0]
		if first.Get("num_joined_members").Int() != 2 || first.Get("topic").Str != "black" || first.Get("join_rule").Str != "public" {
			t.Errorf("entry: %s", first.Raw)
		}
		if n := len(nobody.OK("GET", "publicRooms?limit=1", nil).At("chunk").Array()); n != 1 {
			t.Errorf("%d rooms with limit 1", n)
		}
		if nobody.OK("GET", Path("directory", "list", "room", one), nil).Text("visibility") != "public" ||
			nobody.OK("GET", Path("directory", "list", "room", hidden), nil).Text("visibility") != "private" {
			t.Error("visibility")
		}
		bob.Fails(403, "M_FORBIDDEN", "PUT", Path("directory", "list", "room", one), M{"visibility": "private"})
		alice.OK("PUT", Path("directory", "list", "room", one), M{"visibility": "private"})
		if got := search(M{}); len(got) != 2 {
			t.Errorf("after hiding one: %v", got)
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("directory", "list", "room", "!unknown:localhost"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "POST", "publicRooms", M{"since": "nonsense"})
	})
}
