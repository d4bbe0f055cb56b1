package graph

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// A roster that follows a room says what a look at all of its members says.
func TestRosterFollows(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		g := open(t, o)
		w := newRoom(t, g)
		r := rand.New(rand.NewPCG(7, 7))
		memberships := []Membership{Join, Invite, Leave, Ban}
		for range 60 {
			for range 1 + r.IntN(5) {
				user := id.UserID(fmt.Sprintf("@u%d:s%d.example", r.IntN(6), r.IntN(5)))
				w.member(user, memberships[r.IntN(len(memberships))])
			}
			w.commit()
			head, err := g.HeadOf(t.Context(), w.head.Room)
			if err != nil {
				t.Fatal(err)
			}
			joined, users := map[id.ServerName]bool{}, map[id.ServerName][]id.UserID{}
			for m := range head.State.Members() {
				users[m.User.Domain()] = append(users[m.User.Domain()], m.User)
				joined[m.User.Domain()] = joined[m.User.Domain()] || m.Membership == Join
			}
			var want []id.ServerName
			for server, in := range joined {
				if in {
					want = append(want, server)
				}
				if got, err := g.Joined(t.Context(), head, server, "nobody.example"); err != nil || got != in {
					t.Fatalf("%s is in the room: %v, %v", server, got, err)
				}
				all, err := g.UsersOf(t.Context(), head, server)
				slices.Sort(users[server])
				if err != nil || !slices.Equal(all, users[server]) {
					t.Fatalf("users of %s: %v instead of %v, %v", server, all, users[server], err)
				}
			}
			got, err := g.Servers(t.Context(), head.Room)
			if err != nil || !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
				t.Fatalf("servers %v instead of %v, %v", got, slices.Collect(maps.Keys(joined)), err)
			}
		}
		if none, err := g.UsersOf(t.Context(), w.head, "nobody.example"); err != nil || len(none) > 0 {
			t.Errorf("users of a stranger: %v, %v", none, err)
		}
	})
}

// However many servers ask about their users in turn, the members are walked once for each of them and not at each question.
func TestRosterListsManyServers(t *testing.T) {
	g := open(t, func(configure ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, configure...) })
	w := newRoom(t, g)
	const servers = 100
	name := func(i int) id.ServerName { return id.ServerName(fmt.Sprintf("s%d.example", i)) }
	for i := range servers {
		w.member(id.UserID("@u:"+name(i)), Join)
	}
	w.commit()
	head, err := g.HeadOf(t.Context(), w.head.Room)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i := range servers {
			if users, err := g.UsersOf(t.Context(), head, name(i)); err != nil || len(users) != 1 {
				t.Fatalf("users of %s: %v, %v", name(i), users, err)
			}
		}
	}
	r, _ := g.rosters.GetIfPresent(w.head.Room)
	if len(r.users) != servers || r.kept != 2*servers {
		t.Errorf("%d servers are listed, with %d entries", len(r.users), r.kept)
	}
	w.member("@v:"+id.UserID(name(7)), Invite)
	w.member("@u:"+id.UserID(name(8)), Leave)
	w.commit()
	if users, err := g.UsersOf(t.Context(), w.head, name(7)); err != nil || len(users) != 2 || r.kept != 2*servers+1 {
		t.Errorf("after an invite: %v, %d entries, %v", users, r.kept, err)
	}
}
