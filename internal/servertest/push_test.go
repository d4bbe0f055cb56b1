package servertest

import (
	"testing"

	"github.com/tidwall/gjson"
)

// unread is what a sync says of a room: notifications and highlights.
func unread(s *Sync, room string) [2]int64 {
	n := s.Joined(room).Get("unread_notifications")
	return [2]int64{n.Get("notification_count").Int(), n.Get("highlight_count").Int()}
}

// Spec: cs Receiving notifications
func TestUnread(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		since := bob.Sync("").Next
		root := alice.Say(room, "1")
		got := bob.UntilEvent(since, room, root)
		if n := unread(got, room); n != [2]int64{1, 0} {
			t.Errorf("after a message: %v", n)
		}
		last := alice.Send(room, "m.room.message", M{"msgtype": "m.text", "body": "2", "m.mentions": M{"user_ids": []string{bob.User}},
			"m.relates_to": M{"rel_type": "m.thread", "event_id": root}})
		got = bob.UntilEvent(got.Next, room, last)
		if n := unread(got, room); n != [2]int64{2, 1} {
			t.Errorf("after a mention in a thread: %v", n)
		}
		const threads = `{"room":{"timeline":{"unread_thread_notifications":true}}}`
		apart := bob.Sync("", "filter", threads)
		if n := unread(apart, room); n != [2]int64{1, 0} {
			t.Errorf("the main timeline: %v", n)
		}
		if n := At(apart.Joined(room), "unread_thread_notifications", root); n.Get("notification_count").Int() != 1 || n.Get("highlight_count").Int() != 1 {
			t.Errorf("the thread: %s", n.Raw)
		}
		// The user's own receipt wakes, also a private one, and also where nothing else is to be told.
		bob.OK("POST", Path("rooms", room, "receipt", "m.read.private", root), M{"thread_id": "main"})
		const quiet = `{"room":{"ephemeral":{"not_types":["*"]}}}`
		got = bob.Until(got.Next, "the lower count", func(s *Sync) bool { return s.Joined(room).Exists() }, "filter", quiet)
		if n := unread(got, room); n != [2]int64{1, 1} {
			t.Errorf("after a receipt: %v", n)
		}
		list := bob.OK("GET", "notifications?only=highlight", nil).At("notifications").Array()
		if len(list) != 1 || list[0].Get("event.event_id").Str != last || list[0].Get("read").Bool() {
			t.Errorf("notifications: %v", list)
		}
		s.Restart()
		alice.Redact(room, last)
		got = bob.Until(got.Next, "the redaction", func(s *Sync) bool { return s.Joined(room).Exists() })
		if n := unread(got, room); n != [2]int64{0, 0} {
			t.Errorf("after a redaction: %v", n)
		}
	})
}

// An invite from another server is among the notifications, of a room that this server knows nothing of.
//
// Spec: cs getNotifications
func TestFederatedInviteNotifies(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		room := alice.CreateRoom(M{"name": "Far away"})
		alice.Invite(room, bob)
		bob.eventually("a notification", func() bool {
			list := bob.OK("GET", "notifications", nil).At("notifications").Array()
			return len(list) == 1 && list[0].Get("room_id").Str == room && list[0].Get("event.content.membership").Str == "invite"
		})
		b.Restart()
		event := bob.OK("GET", "notifications", nil).At("notifications").Array()[0].Get("event.event_id").Str
		joinVia(bob, room, a)
		if list := bob.OK("GET", "notifications", nil).At("notifications").Array(); len(list) != 0 {
			t.Errorf("after the join: %v", list)
		}
		alice.OK("GET", Path("rooms", room, "event", event), nil) // it is that event
	})
}

// Spec: cs postPusher; cs getPushers
func TestPushers(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		pusher := M{"kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
			"data": M{"url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only"}}
		phone := alice.Login()
		phone.OK("POST", "pushers/set", pusher)
		if list := alice.OK("GET", "pushers", nil).At("pushers").Array(); len(list) != 1 || list[0].Get("data.format").Str != "event_id_only" {
			t.Errorf("pushers: %v", list)
		}
		alice.Fails(400, "M_MISSING_PARAM", "POST", "pushers/set", M{"kind": "http", "app_id": "app", "pushkey": "key"})
		s.Restart()
		phone.OK("POST", "logout", M{})
		if list := alice.OK("GET", "pushers", nil).At("pushers").Array(); len(list) != 0 {
			t.Errorf("pushers of a device that is gone: %v", list)
		}
		alice.OK("POST", "pushers/set", pusher)
		alice.OK("POST", "pushers/set", M{"kind": gjson.Result{}.Value(), "app_id": "app", "pushkey": "key"})
		if list := alice.OK("GET", "pushers", nil).At("pushers").Array(); len(list) != 0 {
			t.Errorf("pushers after deletion: %v", list)
		}
	})
}
