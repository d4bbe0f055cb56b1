package fedsend_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
)

// bubble runs a test whose clock jumps. The database is a file of its own each time open is called with another name.
func bubble(t *testing.T, run func(t *testing.T, open sqldbtest.Open)) {
	t.Helper()
	url := sqldbtest.URL(t, sqldb.SQLite)
	synctest.Test(t, func(t *testing.T) {
		run(t, func(configure ...func(*sqldb.Config)) *sqldb.DB {
			c := sqldb.Config{URL: url}
			for _, f := range configure {
				f(&c)
			}
			db, err := sqldb.Open(t.Context(), c)
			ok(t, err)
			return db
		})
	})
}

func TestBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		n.say(r, "zero")
		a.has(t, "zero")
		a.set(http.StatusServiceUnavailable, nil)
		a.forgetTries()
		began := time.Now()
		n.say(r, "one")
		time.Sleep(4 * 24 * time.Hour)
		tries := slices.Clone(a.seen().tries)
		if len(tries) < 20 || len(tries) > 60 || tries[0].Sub(began) > time.Second {
			t.Fatalf("%d attempts in four days, the first after %s", len(tries), tries[0].Sub(began))
		}
		for i := 1; i < len(tries); i++ {
			pause, failing := tries[i].Sub(tries[i-1]), tries[i-1].Sub(tries[0])
			want := min(5*time.Second<<min(i-1, 20), max(time.Hour, min(failing/8, 24*time.Hour)))
			if pause < want*7/10 || pause > want*13/10 {
				t.Errorf("attempt %d came after %s, not about %s", i, pause, want)
			}
		}
		if list := n.troubles(); len(list) != 1 || list[0].Since.Sub(began) > time.Minute || list[0].Failures != len(tries) {
			t.Errorf("troubles %+v after %d attempts", list, len(tries))
		}
		// Contact ends the pause, but not more often than every ten seconds.
		a.set(0, nil)
		back := time.Now()
		n.Heard(a.name)
		a.has(t, "one")
		if since := time.Since(back); since > time.Second {
			t.Errorf("sent %s after the server was heard of", since)
		}
	})
}

// A node that doesn't send passes on whom it heard of.
func TestHeardByAnotherNode(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		a.set(http.StatusBadGateway, nil)
		n.say(r, "one")
		time.Sleep(6 * time.Hour)
		other := w.node(open)
		other.work = work.New(work.Config{DB: other.db, Bus: other.bus, Node: "b", TTL: 24 * time.Hour})
		other.Sender.Start(other.work)
		time.Sleep(time.Second)
		a.set(0, nil)
		a.forgetTries()
		back := time.Now()
		other.Heard(a.name)
		a.has(t, "one")
		if took := time.Since(back); took > time.Minute {
			t.Errorf("it took %s", took)
		}
		n.stop()
		other.stop()
	})
}

// A server that is heard of while a transaction to it hangs is tried again soon after that failed, whatever pause came of the failures before.
func TestHeardDuringAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		hanging := make(chan struct{})
		a.set(0, hanging)
		n.say(r, "one")
		time.Sleep(24 * time.Hour)
		for begun := len(a.seen().tries); len(a.seen().tries) == begun; {
			time.Sleep(10 * time.Second)
		}
		n.Heard(a.name) // the attempt lasts for a minute
		a.set(0, nil)
		back := time.Now()
		time.Sleep(2 * time.Minute)
		if !slices.Contains(a.seen().pdus, "one") {
			t.Errorf("not sent %s after the server was heard of", time.Since(back))
		}
		// Who is heard of all the time, and never answers, is asked by one transaction after the other.
		a.set(0, hanging)
		a.forgetTries()
		n.say(r, "two")
		for range 3600 {
			time.Sleep(time.Second)
			n.Heard(a.name)
		}
		if tries := len(a.seen().tries); tries > 65 {
			t.Errorf("%d attempts in an hour", tries)
		}
	})
}

// A server that can send and not receive isn't asked with each of its requests.
func TestHeardOften(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		a.set(http.StatusInternalServerError, nil)
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		n.say(r, "one")
		for range 600 {
			time.Sleep(time.Second)
			n.Heard(a.name)
		}
		if len(a.seen().tries) < 40 || len(a.seen().tries) > 130 {
			t.Errorf("%d attempts in ten minutes", len(a.seen().tries))
		}
	})
}

// An outage of minutes loses nothing; after one of a day the newest events come first, a page of each room.
func TestOutages(t *testing.T) {
	for _, c := range []struct {
		outage time.Duration
		whole  bool
	}{{20 * time.Minute, true}, {24 * time.Hour, false}} {
		t.Run(c.outage.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, open sqldbtest.Open) {
				w := newWorld(t)
				a := w.server("a")
				n := w.node(open).start()
				old, busy := n.create(), n.create()
				n.join(old, a)
				n.join(busy, a)
				n.say(busy, "zero")
				a.has(t, "zero")
				time.Sleep(time.Second)
				a.set(http.StatusBadGateway, nil)
				for _, text := range numbered("old", 0, 10) {
					n.say(old, text)
				}
				for _, text := range numbered("busy", 0, 200) {
					n.say(busy, text)
				}
				time.Sleep(c.outage)
				n.say(busy, "last")
				time.Sleep(time.Second)
				a.set(0, nil)
				n.Heard(a.name)
				time.Sleep(time.Minute)
				var want []string
				if c.whole {
					want = slices.Concat([]string{"zero"}, numbered("old", 0, 10), numbered("busy", 0, 200), []string{"last"})
				} else {
					want = slices.Concat([]string{"zero"}, numbered("busy", 151, 200), []string{"last"}, numbered("old", 0, 10))
				}
				same(t, a, want)
				n.say(busy, "live")
				a.has(t, "live")
				if list := n.troubles(); len(list) != 0 {
					t.Errorf("troubles %+v", list)
				}
			})
		})
	}
}

// What was said while a server had nobody in the room is not told to it when it is caught up with.
func TestCatchUpKeepsSecrets(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		a.set(http.StatusBadGateway, nil)
		n.say(r, "in")
		n.member(r, a, a.user(1), "leave")
		n.say(r, "secret")
		n.member(r, a, a.user(1), "join")
		n.say(r, "again")
		time.Sleep(2 * time.Hour)
		a.set(0, nil)
		n.Heard(a.name)
		time.Sleep(time.Minute)
		same(t, a, []string{"in", "again"})
	})
}

// Servers that hang keep nobody waiting.
func TestHangingServers(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		var hanging, well []*remote
		for i := range 200 {
			r := w.server(fmt.Sprint("a", i))
			r.set(0, make(chan struct{}))
			hanging = append(hanging, r)
		}
		for i := range 10 {
			well = append(well, w.server(fmt.Sprint("z", i)))
		}
		n := w.node(open).start()
		r := n.create()
		n.join(r, hanging...)
		n.join(r, well...)
		for i, limit := range []time.Duration{3 * time.Second, 500 * time.Millisecond, 500 * time.Millisecond} {
			began := time.Now()
			n.say(r, fmt.Sprint("message ", i))
			for _, s := range well {
				s.has(t, fmt.Sprint("message ", i))
			}
			if took := time.Since(began); took > limit {
				t.Errorf("message %d took %s", i, took)
			}
			time.Sleep(5 * time.Second)
		}
		time.Sleep(10 * time.Minute)
		if list := n.troubles(); len(list) != 100 {
			t.Errorf("%d servers fail", len(list))
		}
		for _, s := range hanging {
			if s.seen().most != 1 {
				t.Errorf("%s had %d transactions at once", s.name, s.seen().most)
			}
		}
	})
}

// A transaction whose answer was lost is repeated with its ID.
func TestSameTransactionAgain(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		a.set(http.StatusBadGateway, nil)
		n.say(r, "one")
		time.Sleep(2 * time.Second)
		n.say(r, "two")
		// It takes the next one without an answer.
		a.set(0, make(chan struct{}))
		time.Sleep(2 * time.Minute)
		a.set(0, nil)
		n.Heard(a.name)
		a.has(t, "two")
		same(t, a, []string{"one", "two"})
		if len(a.seen().sizes) != 2 || a.seen().sizes[0][0] != 1 {
			t.Errorf("transactions of %v", a.seen().sizes)
		}
	})
}

// An event that a server can't stand doesn't keep the others from it.
func TestIndigestibleEvent(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		a.refuse("poison")
		for i := range 30 {
			n.say(r, fmt.Sprint("before ", i))
		}
		n.say(r, "poison")
		n.say(r, "after")
		time.Sleep(2 * time.Hour)
		n.Heard(a.name)
		time.Sleep(time.Hour)
		same(t, a, append(numbered("before", 0, 30), "after"))
	})
}
