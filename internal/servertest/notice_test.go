package servertest

import (
	"log/slog"
	"testing"

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
