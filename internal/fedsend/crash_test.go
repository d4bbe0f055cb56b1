package fedsend_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
	"myelin/matrix/id"
)

// crash ends the node as a power failure would: nothing is written any more.
func (n *node) crash() {
	ok(n.tb, n.db.Close())
	n.stop()
}

// firsts drops repetitions.
func firsts(list []string) (out []string) {
	seen := make(map[string]bool)
	for _, s := range list {
		if !seen[s] {
			out = append(out, s)
		}
		seen[s] = true
	}
	return out
}

// Through crashes, restarts and failures nothing that was acknowledged is lost, and nothing arrives out of order.
func TestCrashes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { crashes(t, open, seed) })
		}
	})
}

func crashes(t *testing.T, open sqldbtest.Open, seed uint64) {
	w := newWorld(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	servers := []*remote{w.server("a"), w.server("b"), w.server("c")}
	n := w.node(open).start()
	rooms := []id.RoomID{n.create(), n.create()}
	for _, r := range rooms {
		n.join(r, servers...)
	}
	var sent [2][]string
	for step := range 60 {
		switch p := rnd.IntN(20); {
		case p == 0:
			n.crash()
			n = w.node(open).start()
		case p == 1:
			n.stop()
			n = w.node(open).start()
		case p < 5:
			servers[rnd.IntN(3)].set([]int{0, http.StatusBadGateway, http.StatusInternalServerError}[rnd.IntN(3)], nil)
		case p == 5:
			n.Heard(servers[rnd.IntN(3)].name)
		default:
			which := rnd.IntN(2)
			text := fmt.Sprintf("%d %d", which, step)
			n.say(rooms[which], text)
			sent[which] = append(sent[which], text)
		}
	}
	n.stop()
	for _, s := range servers {
		s.set(0, nil)
	}
	n = w.node(open).start()
	for which := range rooms {
		n.say(rooms[which], fmt.Sprint(which, " end"))
		sent[which] = append(sent[which], fmt.Sprint(which, " end"))
	}
	for _, s := range servers {
		n.Heard(s.name)
		s.until(t, "the last messages", func() bool { return slices.Contains(s.pdus, "0 end") && slices.Contains(s.pdus, "1 end") })
		got := firsts(s.texts())
		for which := range rooms {
			of := slices.DeleteFunc(slices.Clone(got), func(text string) bool { return text[0] != byte('0'+which) })
			if !slices.Equal(of, sent[which]) {
				t.Errorf("%s has %q of room %d, not %q", s.name, of, which, sent[which])
			}
		}
	}
	n.stop()
}

// What is on its way when the power fails is sent again.
func TestCrashWhileSending(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		hangs := make(chan struct{})
		a.set(0, hangs)
		for _, text := range numbered("m", 0, 5) {
			n.say(r, text)
		}
		n.crash()
		a.set(0, nil)
		n = w.node(open).start()
		a.has(t, "m 4")
		if got := firsts(a.texts()); !slices.Equal(got, numbered("m", 0, 5)) {
			t.Errorf("got %q", got)
		}
		close(hangs)
	})
}

// Two nodes of one database: one sends, also what the other's users say; if it ends, the other sends.
func TestTwoNodes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		one := w.node(open).start()
		r := one.create()
		one.join(r, a)
		one.say(r, "one")
		a.has(t, "one")
		two := w.node(open)
		two.work = work.New(work.Config{DB: two.db, Bus: two.bus, Node: "b", TTL: time.Second})
		two.Sender.Start(two.work)
		two.say(r, "two")
		one.say(r, "three") // tells of both
		a.has(t, "three")
		one.stop()
		two.say(r, "four")
		a.has(t, "four")
		same(t, a, []string{"one", "two", "three", "four"})
		two.stop()
	})
}
