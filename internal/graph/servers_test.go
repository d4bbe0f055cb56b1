package graph

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

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
