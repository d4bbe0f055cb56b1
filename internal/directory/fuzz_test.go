package directory

import (
	"encoding/json"
	"testing"

	"myelin/internal/fedclient"
)

// FuzzToken checks that whatever is taken for a token is one: written again it reads the same.
func FuzzToken(f *testing.F) {
	f.Add(token{place{3, "!room:here.example"}, true}.String())
	f.Add(token{place{0, "!x"}, false}.String())
	f.Add("f")
	f.Add("bMTIz")
	f.Fuzz(func(t *testing.T, s string) {
		read, err := parseToken(s)
		if err != nil {
			return
		}
		again, err := parseToken(read.String())
		if err != nil || again != read {
			t.Errorf("%q reads as %+v and then as %+v, %v", s, read, again, err)
		}
	})
}

// FuzzWithoutAlias checks that what is left is an object that doesn't name the alias, whatever a room says.
func FuzzWithoutAlias(f *testing.F) {
	f.Add(`{"alias":"#a:b","alt_aliases":["#a:b","#c:d",1,null,{}]}`)
	f.Add(`{"alt_aliases":{"x":"#a:b"}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, content string) {
		out, named := WithoutAlias([]byte(content), "#a:b")
		if !named {
			return
		}
		if again, still := WithoutAlias(out, "#a:b"); still {
			t.Errorf("%s became %s, and then %s", content, out, again)
		}
	})
}

// FuzzHeard checks that of whatever another server says only what makes sense is taken.
func FuzzHeard(f *testing.F) {
	f.Add(`{"room_id":"!r:x","room_type":"m.space","join_rule":"public","children_state":[{"type":"m.space.child","state_key":"!c:x","sender":"@u:x","origin_server_ts":1,"content":{"via":["x"],"order":"a"}}]}`,
		`{"room_id":"!c:x","num_joined_members":-1,"allowed_room_ids":["!a:x",7],"canonical_alias":"#a:x"}`)
	f.Add(`{"room_id":"!r:x","children_state":{"x":[]}}`, `7`)
	f.Fuzz(func(t *testing.T, room, child string) {
		if !json.Valid([]byte(room)) || !json.Valid([]byte(child)) {
			return // the client that fetches it sees to that
		}
		h := heard("!r:x", false, fedclient.Hierarchy{Room: json.RawMessage(room), Children: []json.RawMessage{json.RawMessage(child)}})
		if h == nil {
			return
		}
		if h.room.RoomID != "!r:x" || h.room.Joined < 0 || h.room.RoomType != spaceType && len(h.children) > 0 {
			t.Errorf("%+v", h)
		}
		for _, c := range h.children {
			if !json.Valid(c.stripped()) || c.room == "!r:x" {
				t.Errorf("a child: %s", c.stripped())
			}
		}
		for _, known := range h.known {
			if known.Joined < 0 || len(known.Name) > maxName {
				t.Errorf("%+v", known)
			}
		}
	})
}
