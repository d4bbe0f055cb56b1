package servertest

import (
	"testing"

	"github.com/tidwall/gjson"
)

// Spec: cs Typing Notifications
func TestTyping(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		since := alice.Sync("").Next
		typing := func(n int) func(*Sync) bool {
			return func(s *Sync) bool {
				e := Find(s.Joined(room).Get("ephemeral.events"), "m.typing")
				return e.Exists() && len(e.Get("content.user_ids").Array()) == n
			}
		}
		path := Path("rooms", room, "typing", bob.User)
		bob.OK("PUT", path, M{"typing": true, "timeout": 30000})
		since = alice.Until(since, "Bob typing", typing(1)).Next
		bob.OK("PUT", path, M{"typing": false})
		since = alice.Until(since, "Bob no longer typing", typing(0)).Next
		bob.OK("PUT", path, M{"typing": true, "timeout": 1})
		alice.Until(since, "Bob's typing expired", typing(0))
		alice.Fails(403, "M_FORBIDDEN", "PUT", path, M{"typing": true})
		outsider := s.Register(t, "outsider")
		outsider.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "typing", outsider.User), M{"typing": true})
	})
}

// Spec: cs Receipts; cs Fully read markers
func TestReceipts(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		first, second := alice.Say(room, "1"), alice.Say(room, "2")
		since, own := alice.Sync("").Next, bob.Sync("").Next
		receipt := func(typ, event string) string { return Path("rooms", room, "receipt", typ, event) }
		of := func(s *Sync) gjson.Result {
			return Find(s.Joined(room).Get("ephemeral.events"), "m.receipt").Get("content")
		}
		shows := func(event, typ string) func(*Sync) bool {
			return func(s *Sync) bool { return At(of(s), event, typ, bob.User).Exists() }
		}
		bob.OK("POST", receipt("m.read", second), M{"thread_id": "main"})
		got := alice.Until(since, "Bob's receipt", shows(second, "m.read"))
		if th := At(of(got), second, "m.read", bob.User, "thread_id").Str; th != "main" {
			t.Errorf("thread %q", th)
		}
		// A private one is seen by nobody else.
		bob.OK("POST", receipt("m.read.private", second), M{})
		bob.OK("POST", receipt("m.read", second), M{})
		next := alice.Until(got.Next, "the receipt without a thread", shows(second, "m.read"))
		if At(of(next), second, "m.read.private").Exists() {
			t.Errorf("Alice sees a private receipt: %s", next.Body)
		}
		bob.Until(own, "the private receipt", shows(second, "m.read.private"))
		// Receipts do not go backward.
		bob.OK("POST", receipt("m.read", first), M{})
		fresh := alice.Sync("")
		if At(of(fresh), first, "m.read", bob.User).Exists() || !At(of(fresh), second, "m.read", bob.User).Exists() {
			t.Errorf("receipts: %s", of(fresh).Raw)
		}
		bob.OK("POST", Path("rooms", room, "read_markers"), M{"m.fully_read": first, "m.read": second})
		marker := Path("user", bob.User, "rooms", room, "account_data", "m.fully_read")
		if got := bob.OK("GET", marker, nil).Text("event_id"); got != first {
			t.Errorf("fully read %s", got)
		}
		bob.OK("POST", receipt("m.fully_read", second), M{})
		if got := bob.OK("GET", marker, nil).Text("event_id"); got != second {
			t.Errorf("fully read %s", got)
		}
		bob.Fails(400, "M_INVALID_PARAM", "POST", receipt("nonsense", second), M{})
		bob.Fails(400, "M_INVALID_PARAM", "POST", receipt("m.read", second), M{"thread_id": ""})
		outsider := s.Register(t, "outsider")
		outsider.Fails(403, "M_FORBIDDEN", "POST", receipt("m.read", second), M{})
	})
}

// Spec: cs Presence
func TestPresence(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, outsider := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "outsider")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		since := alice.Sync("").Next
		path := Path("presence", bob.User, "status")
		bob.OK("PUT", path, M{"presence": "unavailable", "status_msg": "tea"})
		alice.Until(since, "Bob's presence", func(s *Sync) bool {
			for _, e := range s.At("presence", "events").Array() {
				if e.Get("sender").Str == bob.User && e.Get("content.status_msg").Str == "tea" {
					return true
				}
			}
			return false
		})
		if got := alice.OK("GET", path, nil); got.Text("presence") != "unavailable" || got.Text("status_msg") != "tea" {
			t.Errorf("presence: %s", got.Body)
		}
		alice.Fails(403, "M_FORBIDDEN", "PUT", path, M{"presence": "online"})
		if a := outsider.Do("GET", path, nil); a.Status != 403 && a.Status != 404 {
			t.Errorf("an outsider sees %d %s", a.Status, a.Body)
		}
		if a := bob.Do("PUT", path, M{"presence": "asleep"}); a.Status != 400 {
			t.Errorf("an unknown presence: %d %s", a.Status, a.Body)
		}
	})
}
