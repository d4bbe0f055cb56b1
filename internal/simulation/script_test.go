package simulation

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing/synctest"
	"time"

	"myelin/internal/nettest"
	"myelin/internal/servertest"
)

// play lets things happen until the script is at its end.
func (w *world) play() {
	for range 2 + w.rng.IntN(3) {
		w.weather()
		for range 8 + w.rng.IntN(22) {
			w.pause()
			w.step()
		}
	}
}

// pause lets time pass: hardly any, or seconds, or now and then hours.
func (w *world) pause() {
	switch n := w.rng.IntN(60); {
	case n < 20:
		time.Sleep(100*time.Microsecond + time.Duration(w.rng.IntN(400))*time.Microsecond)
	case n < 58:
		time.Sleep(time.Duration(w.rng.IntN(4_000)) * time.Millisecond)
	case n < 59:
		time.Sleep(time.Duration(w.rng.IntN(300)) * time.Second)
	default:
		time.Sleep(time.Duration(w.rng.IntN(120)) * time.Minute)
	}
	// What happens to a machine happens between two moments, so that it is the same each time.
	synctest.Wait()
}

// weather changes what befalls connections.
func (w *world) weather() {
	f := nettest.Faults{Min: time.Millisecond, Max: time.Duration(10+w.rng.IntN(400)) * time.Millisecond}
	if w.rng.IntN(3) > 0 {
		f.Loss, f.Refuse = float64(w.rng.IntN(12))/100, float64(w.rng.IntN(20))/100
	}
	w.note("network: up to %s, %.0f%% lost, %.0f%% refused", f.Max, 100*f.Loss, 100*f.Refuse)
	w.net.SetFaults(f)
	if w.rng.IntN(3) > 0 {
		w.part()
	}
}

// part divides the servers into two or three groups.
func (w *world) part() {
	groups := make([][]string, 2+w.rng.IntN(2))
	for _, s := range w.towns {
		g := w.rng.IntN(len(groups))
		groups[g] = append(groups[g], s.name)
	}
	w.note("partition: %q", groups)
	w.cut = true
	w.net.Partition(groups...)
}

// step is the next thing that happens.
func (w *world) step() {
	s := w.towns[w.rng.IntN(len(w.towns))]
	switch n := w.rng.IntN(100); {
	case n < 5 && s.up:
		w.note("%s loses power", s.name)
		w.down(s, s.server.Crash)
	case n < 8 && s.up:
		w.note("%s stops", s.name)
		w.down(s, s.server.Stop)
	case n < 30 && !s.up:
		w.up(s)
	case n < 11:
		w.part()
	case n < 15 && w.cut:
		w.note("the partition ends")
		w.cut = false
		w.net.Heal()
	default:
		w.act(s.users[[]int{0, 0, 1, 1, 2}[w.rng.IntN(5)]])
	}
}

// down ends a server. How long that takes is not the same each time, so the script goes on only when it is certain to be over.
func (w *world) down(s *town, end func()) {
	over := time.After(20 * time.Second)
	end()
	s.up = false
	<-over
}

// act lets a user do something.
func (w *world) act(u *user) {
	if u.anchor && !u.town.anchored {
		u = u.town.users[1]
	}
	w.actions++
	n := w.actions
	mark := func(m servertest.M) servertest.M { m["n"] = n; return m }
	target := w.target()
	about := servertest.M{"user_id": target.id, "reason": fmt.Sprint("n", n)}
	set := func(typ string, content servertest.M) {
		w.do(u, n, "sets "+typ, http.MethodPut, w.path("state", typ, ""), mark(content))
	}
	switch k := w.rng.IntN(26); {
	case k < 9:
		w.send(u, n)
	case k < 12:
		set("m.room.topic", servertest.M{"topic": fmt.Sprint(n)})
	case k < 13:
		set("m.room.name", servertest.M{"name": fmt.Sprint(n)})
	case k < 16:
		set("m.room.power_levels", w.levels())
	case k < 17:
		set("m.room.join_rules", servertest.M{"join_rule": []string{"public", "public", "invite"}[w.rng.IntN(3)]})
	case k < 18:
		w.do(u, n, "bans "+target.id, http.MethodPost, w.path("ban"), about)
	case k < 19:
		w.do(u, n, "kicks "+target.id, http.MethodPost, w.path("kick"), about)
	case k < 20:
		w.do(u, n, "unbans "+target.id, http.MethodPost, w.path("unban"), about)
	case k < 21:
		w.do(u, n, "invites "+target.id, http.MethodPost, w.path("invite"), about)
	case k < 22 && !u.anchor:
		w.do(u, n, "leaves", http.MethodPost, w.path("leave"), servertest.M{"reason": about["reason"]})
	default:
		path := servertest.Path("join", w.room)
		var via []any
		for _, i := range w.rng.Perm(len(w.towns))[:2] {
			via = append(via, "via", w.towns[i].name)
		}
		w.do(u, n, "joins", http.MethodPost, path+servertest.Query(via...), servertest.M{"reason": about["reason"]})
	}
}

// target is somebody who may be banned.
func (w *world) target() *user {
	return w.towns[w.rng.IntN(len(w.towns))].users[1+w.rng.IntN(len(people)-1)]
}

func (w *world) levels() servertest.M {
	level := func(rng *rand.Rand) int { return []int{0, 50, 60, 90}[rng.IntN(4)] }
	m := levels(w.version, func(string, string) int { return level(w.rng) })
	for _, of := range []string{"ban", "kick", "invite"} {
		m[of] = []int{0, 50, 60}[w.rng.IntN(3)]
	}
	return m
}

func (w *world) begin(u *user, n int, what string) *deed {
	d := &deed{n: n, by: u, what: what}
	w.note("%d: %s %s", n, u.id, what)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deeds = append(w.deeds, d)
	return d
}

// told notes an answer, or that there was none.
func (w *world) told(d *deed, a answer, err error) {
	w.mu.Lock()
	if err != nil || a.status >= 500 {
		d.errors++
		w.mu.Unlock()
		w.note("%d: no answer: %v %d %s", d.n, trouble(err), a.status, a.body)
		return
	}
	d.status, d.event = a.status, a.get("event_id")
	w.mu.Unlock()
	w.note("%d: %d %s%s", d.n, a.status, d.event, a.get("errcode"))
}

// trouble is an error without what differs from run to run.
func trouble(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	return text[strings.LastIndex(text, ":")+1:]
}

// do has a user make a request, once.
func (w *world) do(u *user, n int, what, method, path string, body any) {
	d := w.begin(u, n, what)
	u.todo <- func() {
		a, err := w.call(u, method, path, body)
		w.told(d, a, err)
	}
}

// send has a user send a message, again and again until there is an answer.
func (w *world) send(u *user, n int) *deed {
	d := w.begin(u, n, "speaks")
	path := w.path("send", "m.room.message", fmt.Sprint("t", n))
	u.todo <- func() {
		for range 500 {
			a, err := w.call(u, http.MethodPut, path, servertest.M{"msgtype": "m.text", "body": fmt.Sprint("message ", n), "n": n})
			if w.told(d, a, err); d.status != 0 {
				return
			}
			time.Sleep(time.Second + time.Duration(d.errors)*500*time.Millisecond)
		}
	}
	return d
}
