package simulation

import (
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/servertest"
)

const (
	// patience is how long the servers may take to agree once all is well.
	patience = 3 * time.Hour
	// glance is after what time they are looked at again, the first time.
	glance = 10 * time.Second
)

// heal ends all trouble.
func (w *world) heal(finish func()) {
	w.note("all is well again")
	w.net.SetFaults(calm)
	w.net.Heal()
	for _, s := range w.towns {
		if !s.up {
			w.up(s)
		}
	}
	finish()
	w.note("everybody has done what they wanted")
	w.pauseUntilMinute()
	// Servers hear of each other. Whoever waits to try again need not wait any longer.
	for range 2 {
		for _, s := range w.towns {
			for _, other := range w.towns {
				if s != other {
					_, _ = w.call(s.users[0], http.MethodGet, servertest.Path("profile", other.users[0].id), nil)
				}
			}
		}
		w.pauseUntilMinute()
	}
}

// pauseUntilMinute waits for the second minute that begins, so that what comes doesn't depend on how long something took.
func (w *world) pauseUntilMinute() {
	now := time.Now()
	time.Sleep(now.Truncate(time.Minute).Add(2 * time.Minute).Sub(now))
}

// conclude has everybody say something, and then one anchor the last word. It returns that event.
func (w *world) conclude() string {
	var said []string
	for _, s := range w.towns {
		if u := w.member(s); u != nil {
			e := w.say(u)
			if s.anchored {
				said = append(said, e) // a visitor may not know yet that the others don't want to hear it
			}
		}
	}
	w.await("what everybody said", func() string { return w.apart(said, false) })
	var anchors []*user
	for _, s := range w.towns {
		if s.anchored {
			anchors = append(anchors, s.users[0])
		}
	}
	last := w.say(anchors[w.rng.IntN(len(anchors))])
	w.note("the last word is %s", last)
	w.await("the last word", func() string { return w.apart([]string{last}, true) })
	time.Sleep(time.Minute)
	return last
}

// member is a user of the server who is in the room, as far as the server knows.
func (w *world) member(s *town) *user {
	for _, u := range s.users {
		a := w.must(u, http.MethodGet, servertest.Path("joined_rooms"), nil)
		for _, room := range gjson.GetBytes(a.body, "joined_rooms").Array() {
			if room.Str == w.room {
				return u
			}
		}
	}
	if s.anchored {
		w.t.Errorf("%s does not know any more that its anchor is in the room", s.name)
	}
	return nil
}

// say sends a message that must be taken, but for what the server has just learned.
func (w *world) say(u *user) string {
	w.actions++
	n := w.actions
	d := w.begin(u, n, "speaks")
	a, err := w.call(u, http.MethodPut, w.path("send", "m.room.message", fmt.Sprint("t", n)), servertest.M{"msgtype": "m.text", "body": "at last", "n": n})
	w.told(d, a, err)
	if d.status != http.StatusOK {
		w.t.Errorf("%s can't speak in the end: %d %s %v", u.id, a.status, a.body, err)
	}
	return d.event
}

func (w *world) await(what string, differs func() string) {
	began := time.Now()
	for wait := glance; ; wait = min(2*wait, 10*time.Minute) {
		why := differs()
		if why == "" {
			w.note("%s: yes", what)
			return
		}
		if time.Since(began) > patience {
			w.t.Errorf("waited %s for %s: %s", patience, what, why)
			return
		}
		time.Sleep(wait)
	}
}

// apart says in what residents differ as their clients see it, "" if in nothing. Those with an anchor must have heard all that was said; of
// visitors others may not have known when they said it.
func (w *world) apart(said []string, visitors bool) string {
	var first map[string]string
	for _, s := range w.towns {
		u := w.member(s)
		if u == nil {
			continue
		}
		state := w.state(u)
		if first == nil {
			first = state
		}
		if !s.anchored && !inside(first, s.name) {
			continue
		}
		if !maps.Equal(first, state) {
			return fmt.Sprintf("the states of %s and %s differ", names[0], s.name)
		}
		for _, e := range said {
			if !s.anchored && !visitors {
				continue
			}
			if a, err := w.call(u, http.MethodGet, w.path("event", e), nil); err != nil || a.status != http.StatusOK {
				return fmt.Sprintf("%s lacks %s: %d %s %v", s.name, e, a.status, a.body, err)
			}
		}
	}
	return ""
}

// state reads the room's state: event IDs, and memberships behind "member ".
func (w *world) state(u *user) map[string]string {
	m := make(map[string]string)
	a := w.must(u, http.MethodGet, w.path("state"), nil)
	gjson.ParseBytes(a.body).ForEach(func(_, e gjson.Result) bool {
		m[e.Get("type").Str+" "+e.Get("state_key").Str] = e.Get("event_id").Str
		if e.Get("type").Str == "m.room.member" {
			m["member "+e.Get("state_key").Str] = e.Get("content.membership").Str
		}
		return true
	})
	return m
}

// inside reports whether a state has a joined user of the server.
func inside(state map[string]string, server string) bool {
	for _, who := range people {
		if state["member @"+who+":"+server] == "join" {
			return true
		}
	}
	return false
}

// serving checks that a server does its work for its users.
func (w *world) serving(s *town) {
	w.must(s.users[1], http.MethodGet, servertest.Path("sync"), nil)
	w.must(s.users[0], http.MethodPut, servertest.Path("rooms", w.tmpl.Homes[s.name], "send", "m.room.message", "home"), servertest.M{"msgtype": "m.text", "body": "at home"})
}
