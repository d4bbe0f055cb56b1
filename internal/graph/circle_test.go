package graph

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// What is remembered of who shares rooms is what the database says, whatever happens meanwhile: on this node, on another one, and out of sight.
func TestCirclesFollow(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		b := bus.New(bus.Config{})
		g := open(t, o, func(c *sqldb.Config) { c.Committed = b.Committed })
		c := OpenCircles(g, b)
		t.Cleanup(c.Close)
		r := rand.New(rand.NewPCG(3, 9))
		var rooms []*writer
		for range 4 {
			rooms = append(rooms, newRoom(t, g))
		}
		users := []id.UserID{alice}
		for i := range 9 {
			users = append(users, id.UserID(fmt.Sprintf("@u%d:hs.test", i)))
		}
		for step := range 150 {
			w := rooms[r.IntN(len(rooms))]
			for range 1 + r.IntN(2) {
				w.member(users[1+r.IntN(len(users)-1)], []Membership{Join, Leave, Invite}[r.IntN(3)])
			}
			w.commit()
			if r.IntN(20) == 0 { // another node was the one who wrote
				last, err := g.db.Last(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				c.hear(bus.Range{From: last, To: last, Foreign: true})
			}
			for range 40 {
				one, other := users[r.IntN(4)], users[r.IntN(len(users))]
				got, err := c.Share(t.Context(), one, other)
				if want := shares(t, g, one, other); err != nil || got != want {
					t.Fatalf("step %d: %s and %s share a room: %v, %v, want %v", step, one, other, got, err, want)
				}
			}
		}
	})
}

func shares(t *testing.T, g *Graph, a, b id.UserID) (yes bool) {
	t.Helper()
	if a == b {
		return true
	}
	err := g.db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
		yes, err = ShareSince(tx, a, b, everAfter)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// Many who ask about one user cost a few looks at the database, and one who moves costs another few, not many.
func TestCirclesSpareTheDatabase(t *testing.T) {
	b := bus.New(bus.Config{})
	g := open(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, func(c *sqldb.Config) { c.Committed = b.Committed })
	c := OpenCircles(g, b)
	t.Cleanup(c.Close)
	w := newRoom(t, g)
	other := func(i int) id.UserID { return id.UserID(fmt.Sprintf("@u%d:hs.test", i)) }
	for i := range 300 {
		w.member(other(i), Join)
	}
	w.commit()
	ask := func(most uint64) {
		t.Helper()
		before := g.db.Stats().Reads
		for i := range 300 {
			if yes, err := c.Share(context.Background(), other(i), alice); err != nil || !yes {
				t.Fatal(other(i), yes, err)
			}
		}
		if reads := uint64(g.db.Stats().Reads - before); reads > most {
			t.Errorf("%d reads", reads)
		}
	}
	ask(10)
	ask(8)
	w.member(other(7), Leave)
	w.member(other(7), Join)
	w.commit()
	ask(2)
}
