package servertest

import (
	"slices"
	"strings"
	"testing"
)

// MSC4306: thread subscriptions
func TestThreadSubscriptions(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(nil)
		root := alice.Say(room, "root")
		path := func(root string) string {
			return Path("/_matrix/client/unstable/io.element.msc4306", "rooms", room, "thread", root, "subscription")
		}
		reply := func() string { return alice.relate(room, "m.thread", root, "m.room.message", nil) }
		automatic := func(want bool) {
			t.Helper()
			if got := alice.OK("GET", path(root), nil).At("automatic"); got.Bool() != want {
				t.Errorf("automatic is %s", got.Raw)
			}
		}
		const notIn, conflict = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
		alice.Fails(404, "M_NOT_FOUND", "GET", path(root), nil)
		alice.OK("DELETE", path(root), nil)
		first := reply()
		alice.Fails(400, notIn, "PUT", path(root), M{"automatic": root})
		alice.Fails(400, notIn, "PUT", path(root), M{"automatic": alice.Say(room, "aside")})
		alice.Fails(400, notIn, "PUT", path(root), M{"automatic": "$unknown"})
		alice.Fails(400, "M_BAD_JSON", "PUT", path(root), M{"automatic": true})
		alice.OK("PUT", path(root), M{"automatic": first})
		automatic(true)
		alice.OK("PUT", path(root), M{})
		automatic(false)
		alice.OK("PUT", path(root), M{"automatic": first})
		automatic(false) // what was asked for by hand stands
		second := reply()
		alice.OK("DELETE", path(root), nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", path(root), nil)
		alice.Fails(409, conflict, "PUT", path(root), M{"automatic": first})
		alice.Fails(409, conflict, "PUT", path(root), M{"automatic": second})
		alice.OK("PUT", path(root), M{"automatic": reply()})
		automatic(true)
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			alice.Fails(404, "M_NOT_FOUND", method, path("$unknown"), M{})
			bob.Fails(404, "M_NOT_FOUND", method, path(root), M{})
		}

		// The changes, the newest first.
		other, third := alice.Say(room, "other"), alice.Say(room, "third")
		alice.OK("PUT", path(other), M{})
		alice.OK("PUT", path(third), M{})
		alice.OK("DELETE", path(third), nil)
		const all = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
		list := alice.OK("GET", all+Query("dir", "b"), nil)
		if n := len(list.At("subscribed", room).Map()); n != 2 || !list.At("subscribed", room, root, "automatic").Bool() ||
			!list.At("unsubscribed", room, third, "bump_stamp").Exists() || list.At("end").Exists() {
			t.Errorf("all: %s", list.Body)
		}
		var order []string
		for from := ""; ; {
			q := []any{"dir", "b", "limit", "1"}
			if from != "" {
				q = append(q, "from", from)
			}
			page := alice.OK("GET", all+Query(q...), nil)
			for _, kind := range []string{"subscribed", "unsubscribed"} {
				for root := range page.At(kind, room).Map() {
					order = append(order, root)
				}
			}
			if from = page.At("end").Str; from == "" || len(order) > 5 {
				break
			}
		}
		if !slices.Equal(order, []string{third, other, root}) {
			t.Errorf("one by one: %v", order)
		}
		if got := bob.OK("GET", all+Query("dir", "b"), nil); len(got.At().Map()) != 0 {
			t.Errorf("bob follows %s", got.Body)
		}
		alice.Fails(400, "M_INVALID_PARAM", "GET", all, nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", all+Query("dir", "b", "from", "x"), nil)
	})
}

// Spec: cs getMutualRooms
func TestMutualRooms(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		shared, left := alice.CreateRoom(M{"preset": "public_chat"}), alice.CreateRoom(M{"preset": "public_chat"})
		alice.CreateRoom(nil)
		bob.Join(shared)
		bob.Join(left)
		bob.Leave(left)
		for _, path := range []string{"/_matrix/client/v1/mutual_rooms", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"} {
			got := alice.OK("GET", path+Query("user_id", bob.User), nil)
			if rooms := got.At("joined").Array(); len(rooms) != 1 || rooms[0].Str != shared || got.At("count").Int() != 1 || got.At("next_batch").Exists() {
				t.Errorf("%s: %s", path, got.Body)
			}
			if got := alice.OK("GET", path+Query("user_id", "@nobody:elsewhere.example"), nil); got.At("count").Int() != 0 {
				t.Errorf("with a stranger: %s", got.Body)
			}
			alice.Fails(400, "M_MISSING_PARAM", "GET", path, nil)
			alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("user_id", "bob"), nil)
			alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("user_id", alice.User), nil)
			alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("user_id", "@Bob Ö:localhost"), nil)
			alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("user_id", bob.User, "from", "x"), nil)
		}
	})
}

// Spec: cs reportEvent; cs reportRoom; cs reportUser
func TestReports(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(nil)
		e := alice.Say(room, "rude")
		event := Path("rooms", room, "report", e)
		alice.OK("POST", event, M{"reason": "rude", "score": -100})
		alice.OK("POST", event, M{})
		alice.Fails(404, "M_NOT_FOUND", "POST", Path("rooms", room, "report", "$unknown"), M{"reason": "x"})
		bob.Fails(404, "M_NOT_FOUND", "POST", event, M{"reason": "x"})
		bob.OK("POST", Path("rooms", room, "report"), M{"reason": "a rude room"})
		bob.OK("POST", Path("rooms", "!unknown:localhost", "report"), M{"reason": "?"})
		bob.OK("POST", Path("users", alice.User, "report"), M{"reason": "a rude user\x00"})
		bob.OK("POST", Path("users", "@rude:elsewhere.example", "report"), M{"reason": ""})
		bob.Fails(404, "M_NOT_FOUND", "POST", Path("users", "@nobody:localhost", "report"), M{"reason": "x"})
		bob.Fails(400, "M_MISSING_PARAM", "POST", Path("rooms", room, "report"), M{})
		bob.Fails(400, "M_MISSING_PARAM", "POST", Path("users", alice.User, "report"), M{})
		bob.Fails(400, "M_BAD_JSON", "POST", Path("users", alice.User, "report"), M{"reason": 5})
		bob.Fails(413, "M_TOO_LARGE", "POST", Path("users", alice.User, "report"), M{"reason": strings.Repeat("x", 5000)})
		bob.Fails(413, "M_TOO_LARGE", "POST", Path("rooms", room, "report"), M{"reason": strings.Repeat("x", 5000)})
	})
}
