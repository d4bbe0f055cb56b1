package servertest

import (
	"log/slog"
	"testing"

	"myelin/internal/config"
	"myelin/internal/server"
)

// Spec: cs Server Notices
func TestServerNotices(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		commands, err := server.OpenCommands(t.Context(), s.Config, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer commands.Close()
		tell := func(text string) error {
			return commands.Do(t.Context(), "POST", "/notices", server.NewNotice{User: alice.User, Text: text}, nil)
		}
		if err := tell("The server moves tonight."); err != nil {
			t.Fatal(err)
		}
		invites := alice.Sync("").At("rooms", "invite").Map()
		if len(invites) != 1 {
			t.Fatalf("invites: %v", invites)
		}
		room := ""
		for room = range invites {
		}
		if tags := alice.OK("GET", Path("user", alice.User, "rooms", room, "tags"), nil); !At(tags.At("tags"), "m.server_notice").Exists() {
			t.Errorf("tags: %s", tags.Body)
		}
		alice.Fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "POST", Path("rooms", room, "leave"), M{})
		alice.Fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "PUT", Path("rooms", room, "state", "m.room.member", alice.User), M{"membership": "leave"})
		alice.Join(room)
		says := func(text string) {
			t.Helper()
			latest := alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "filter", M{"types": []string{"m.room.message"}}), nil).At("chunk").Get("0.content")
			if latest.Get("body").Str != text || latest.Get("msgtype").Str != "m.server_notice" {
				t.Errorf("the latest notice is %s", latest.Raw)
			}
		}
		says("The server moves tonight.")
		alice.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "send", "m.room.message", "t"), M{"msgtype": "m.text", "body": "why?"})
		alice.Leave(room)
		if err := tell("It has moved."); err != nil {
			t.Fatal(err)
		}
		alice.Join(room)
		says("It has moved.")
		for _, user := range []string{"nobody", "@x:elsewhere.example"} {
			if err := commands.Do(t.Context(), "POST", "/notices", server.NewNotice{User: user, Text: "x"}, nil); err == nil {
				t.Errorf("%s was told something", user)
			}
		}
	})
}

// TestNoticesOfTools sends notices with the operation that operators' tools know.
//
// Spec: cs Server Notices
func TestNoticesOfTools(t *testing.T) {
	const path = "/_synapse/admin/v1/send_server_notice"
	Each(t, func(t *testing.T, s *Server) {
		alice, admin := s.Register(t, "alice"), s.Admin(t, "pepper")
		notice := func(text string) M { return M{"user_id": alice.User, "content": M{"msgtype": "m.text", "body": text}} }
		alice.Fails(403, "M_FORBIDDEN", "POST", path, notice("I am the server"))
		s.Anonymous(t).Fails(401, "M_MISSING_TOKEN", "POST", path, notice("I am the server"))
		s.Anonymous(t).Fails(400, "M_EXCLUSIVE", "POST", "register", M{"username": "_server", "password": Password, "auth": M{"type": "m.login.dummy"}})
		first := admin.OK("PUT", path+"/t1", notice("Hello")).Text("event_id")
		room := ""
		for room = range alice.Sync("").At("rooms", "invite").Map() {
		}
		alice.Join(room)
		if e := alice.OK("GET", Path("rooms", room, "event", first), nil); e.Text("sender") != "@_server:localhost" || e.Text("content", "body") != "Hello" {
			t.Errorf("the notice is %s", e.Body)
		}
		alice.Leave(room)
		if again := admin.OK("PUT", path+"/t1", notice("Hello")).Text("event_id"); again != first {
			t.Errorf("repeated, the notice is %s, not %s", again, first)
		}
		if invites := alice.Sync("").At("rooms", "invite").Map(); len(invites) != 0 {
			t.Errorf("a repeated notice invites: %v", invites)
		}
		pinned := notice("Read this")
		pinned["type"], pinned["state_key"] = "org.example.banner", "top"
		admin.OK("POST", path, pinned)
		alice.Join(room)
		if a := alice.OK("GET", Path("rooms", room, "state", "org.example.banner", "top"), nil); a.Text("body") != "Read this" {
			t.Errorf("the state is %s", a.Body)
		}
		if other := admin.OK("POST", path, notice("Hello")).Text("event_id"); other == first {
			t.Error("without a transaction ID nothing new was sent")
		}

		admin.Fails(400, "M_MISSING_PARAM", "POST", path, M{"content": M{}})
		admin.Fails(400, "M_MISSING_PARAM", "POST", path, M{"user_id": alice.User})
		admin.Fails(400, "M_BAD_JSON", "POST", path, M{"user_id": alice.User, "content": "x"})
		admin.Fails(400, "M_INVALID_PARAM", "POST", path, M{"user_id": "alice", "content": M{}})
		admin.Fails(400, "M_INVALID_PARAM", "POST", path, M{"user_id": "@alice:elsewhere.example", "content": M{}})
		admin.Fails(404, "M_NOT_FOUND", "POST", path, M{"user_id": "@nobody:localhost", "content": M{}})
		admin.Fails(400, "M_INVALID_PARAM", "POST", path, M{"user_id": alice.User, "content": M{"membership": "ban"}, "type": "m.room.member", "state_key": alice.User})

		// Another speaker makes rooms of its own.
		s.Config.Notices.Localpart = "announcements"
		s.Restart()
		admin.OK("POST", path, notice("We have moved"))
		for other := range alice.Sync("").At("rooms", "invite").Map() {
			if alice.Join(other); other == room {
				t.Error("two speak in one room")
			}
			room = other
		}
		if tags := alice.OK("GET", Path("user", alice.User, "rooms", room, "tags"), nil); !At(tags.At("tags"), "m.server_notice").Exists() {
			t.Errorf("tags: %s", tags.Body)
		}
	}, func(c *config.Config) { c.RegistrationSharedSecret, c.Notices.Localpart = "pepper", "_server" })
}
