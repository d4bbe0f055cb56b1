package servertest

import "testing"

// TestFrame: the frame's own ways work, and a server keeps what it acknowledged over a restart.
func TestFrame(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(M{"name": "Here"})
		event := alice.Say(room, "hello")
		before := s.URL
		s.Restart()
		if s.URL == before {
			t.Log("the same port twice")
		}
		if name := alice.State(room, "m.room.name", "").Get("name").Str; name != "Here" {
			t.Errorf("name %q", name)
		}
		if id := alice.OK("GET", Path("rooms", room, "event", event), nil).Text("event_id"); id != event {
			t.Errorf("event %q", id)
		}
		phone := alice.Login()
		if who := phone.OK("GET", "account/whoami", nil); who.Text("user_id") != alice.User || who.Text("device_id") != phone.Device {
			t.Errorf("whoami: %s", who.Body)
		}
	})
}
