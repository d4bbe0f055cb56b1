package servertest

import (
	"testing"

	"myelin/internal/sqldb"
)

const delayedEvents = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

// later sends a request whose answer is of the proposal's shape, which the specification doesn't know.
func (c *Client) later(path string, ms int, body any) *Answer {
	c.tb.Helper()
	a, err := c.Try("PUT", path+Query("org.matrix.msc4140.delay", ms), body)
	if err != nil {
		c.tb.Fatal(err)
	}
	return a
}

func (c *Client) delay(room string, ms int, state, value string) string {
	c.tb.Helper()
	return c.later(Path("rooms", room, "state", "com.example.test", state), ms, M{"value": value}).Text("delay_id")
}

func act(delay, action string) string { return Path(delayedEvents, delay, action) }

// MSC4140: events are scheduled, listed, sent, cancelled and restarted, by whoever knows their ID.
func TestDelayedEvents(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, nobody := s.Register(t, "alice"), s.Register(t, "bob"), s.Anonymous(t)
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		state := func(key string) string { return Path("rooms", room, "state", "com.example.test", key) }

		// A message whose time comes. The client may repeat its request without a body.
		path := Path("rooms", room, "send", "m.room.message", "t1")
		delay := alice.later(path, 300, M{"msgtype": "m.text", "body": "later"}).Text("delay_id")
		if again := alice.later(path, 300, nil).Text("delay_id"); again != delay {
			t.Errorf("a repeated request made %s after %s", again, delay)
		}
		var event string
		alice.Until("", "the delayed message", func(y *Sync) bool {
			for _, e := range y.Timeline(room).Array() {
				if At(e, "unsigned", "org.matrix.msc4140.delay_id").Str == delay {
					event = e.Get("event_id").Str
				}
			}
			return event != ""
		})
		if e := bob.OK("GET", Path("rooms", room, "event", event), nil); e.At("unsigned", "org.matrix.msc4140.delay_id").Exists() || e.Text("content", "body") != "later" {
			t.Errorf("others see %s", e.Body)
		}
		var found *Answer
		for found = alice.OK("GET", Path(delayedEvents, delay), nil); !found.At("finalised_ts").Exists(); {
			found = alice.OK("GET", Path(delayedEvents, delay), nil)
		}
		if found.Text("event_id") != event || found.Text("finalised", "event_id") != event || found.At("content").Raw != "{}" || found.At("delayed_since_ts").Int() == 0 {
			t.Errorf("what became of it: %s", found.Body)
		}
		nobody.OK("POST", act(delay, "send"), M{})
		nobody.Fails(409, "M_UNKNOWN", "POST", act(delay, "cancel"), M{})
		bob.Fails(404, "M_NOT_FOUND", "GET", Path(delayedEvents, delay), nil)

		// State that is sent early, or never.
		early, never := alice.delay(room, 3_600_000, "early", "x"), alice.delay(room, 3_600_001, "never", "y")
		list := alice.OK("GET", delayedEvents, nil).At("delayed_events").Array()
		if len(list) != 2 || list[0].Get("delay_id").Str != early || list[0].Get("delay_ms").Int() != 3_600_000 || list[0].Get("content.value").Str != "x" || list[0].Get("state_key").Str != "early" {
			t.Errorf("scheduled: %v", list)
		}
		if got := bob.OK("GET", delayedEvents, nil).At("delayed_events").Raw; got != "[]" {
			t.Errorf("bob has %s", got)
		}
		nobody.Fails(401, "M_MISSING_TOKEN", "GET", delayedEvents, nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", state("early"), nil)
		nobody.OK("POST", act(early, "restart"), nil)
		nobody.OK("POST", act(early, "send"), nil)
		alice.OK("GET", state("early"), nil)
		nobody.OK("POST", Path(delayedEvents, never), M{"action": "cancel"})
		nobody.OK("POST", act(never, "cancel"), M{})
		nobody.Fails(409, "M_UNKNOWN", "POST", act(never, "restart"), M{})
		nobody.Fails(409, "M_UNKNOWN", "POST", act(never, "send"), M{})

		// What may not be sent stays, and is refused when its time comes.
		mine := bob.delay(room, 3_600_000, "x", "no power")
		nobody.Fails(403, "M_FORBIDDEN", "POST", act(mine, "send"), M{})
		nobody.OK("POST", act(mine, "restart"), M{})
		soon := bob.delay(room, 1, "x", "no power")
		for a := bob.OK("GET", Path(delayedEvents, soon), nil); ; a = bob.OK("GET", Path(delayedEvents, soon), nil) {
			if a.At("finalised_ts").Exists() {
				if a.Text("error", "errcode") != "M_FORBIDDEN" || a.At("event_id").Exists() {
					t.Errorf("what became of it: %s", a.Body)
				}
				break
			}
		}
		nobody.OK("POST", act(mine, "cancel"), M{})

		// Of who goes for good nothing is left to be sent.
		last := bob.delay(room, 3_600_000, "x", "a last word")
		bob.Authenticated("POST", "account/deactivate", M{})
		nobody.Fails(404, "M_NOT_FOUND", "POST", act(last, "send"), M{})
	})
}

// MSC4140: the operation of its own, and what is refused.
func TestDelayedEventsOfWrongShape(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(nil)
		path := Path("/_matrix/client/unstable/org.matrix.msc4140/rooms", room, "delayed_event", "m.room.message", "t1")
		body := M{"delay_ms": 60_000, "content": M{"msgtype": "m.text", "body": "x"}}
		delay := alice.OK("PUT", path, body).Text("delay_id")
		if again := alice.OK("PUT", path, M{}).Text("delay_id"); again != delay {
			t.Errorf("a repeated request made %s after %s", again, delay)
		}
		fresh := func(c *Client, status int, code string, body any) {
			t.Helper()
			c.Fails(status, code, "PUT", Path("/_matrix/client/unstable/org.matrix.msc4140/rooms", room, "delayed_event", "m.room.message", Unique("t")), body)
		}
		fresh(alice, 400, "M_MISSING_PARAM", M{"content": M{}})
		fresh(alice, 400, "M_MISSING_PARAM", M{"delay_ms": 5})
		fresh(alice, 400, "M_INVALID_PARAM", M{"delay_ms": 0, "content": M{}})
		fresh(alice, 400, "M_INVALID_PARAM", M{"delay_ms": -4, "content": M{}})
		fresh(alice, 400, "M_UNKNOWN", M{"delay_ms": int64(1) << 52, "content": M{}})
		fresh(alice, 400, "M_BAD_JSON", M{"delay_ms": "5", "content": M{}})
		fresh(alice, 400, "M_BAD_JSON", M{"delay_ms": 5, "content": "x"})
		fresh(s.Anonymous(t), 401, "M_MISSING_TOKEN", body)
		alice.Fails(400, "M_INVALID_PARAM", "PUT", Path("rooms", room, "send", "m.room.message", "q")+Query("org.matrix.msc4140.delay", "soon"), M{})
		alice.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "state", "m.room.member", alice.User)+Query("org.matrix.msc4140.delay", 5), M{"membership": "join"})
		nobody := s.Anonymous(t)
		for _, action := range []string{"send", "cancel", "restart", "oops"} {
			nobody.Fails(404, "M_NOT_FOUND", "POST", act("abc", action), M{})
		}
		nobody.Fails(400, "M_MISSING_PARAM", "POST", Path(delayedEvents, "abc"), M{})
		nobody.Fails(400, "M_INVALID_PARAM", "POST", Path(delayedEvents, delay), M{"action": "oops"})

		// One user can't fill the server.
		for range 99 {
			alice.delay(room, 60_000, "x", "x")
		}
		if a := alice.later(Path("rooms", room, "state", "com.example.test", "x"), 5, M{}); a.Status != 429 || a.At("errcode").Str != "M_LIMIT_EXCEEDED" || a.Header.Get("Retry-After") == "" {
			t.Errorf("too many: %d %s", a.Status, a.Body)
		}
	})
}

// MSC4140: a restart loses nothing that was scheduled, and sends what became due meanwhile.
func TestDelayedEventsOutliveTheServer(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			s := Start(t, d)
			alice := s.Register(t, "alice")
			room := alice.CreateRoom(nil)
			alice.delay(room, 200, "missed", "x")
			alice.delay(room, 3_600_000, "later", "y")
			s.Stop()
			s.Up()
			alice.Until("", "the event that became due", func(*Sync) bool {
				return alice.Do("GET", Path("rooms", room, "state", "com.example.test", "missed"), nil).Status == 200 &&
					len(alice.OK("GET", delayedEvents, nil).At("delayed_events").Array()) == 1
			})
			if list := alice.OK("GET", delayedEvents, nil).At("delayed_events").Array(); list[0].Get("state_key").Str != "later" {
				t.Errorf("scheduled: %v", list)
			}
		})
	}
}
