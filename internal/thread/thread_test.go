package thread

import (
	"fmt"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const alice, bob = id.UserID("@alice:a.example"), id.UserID("@bob:a.example")

func TestSubscriptions(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx, db := t.Context(), open()
		s, err := Open(ctx, db)
		must(t, err)
		last := func() sqldb.Pos {
			pos, err := db.Last(ctx)
			must(t, err)
			return pos
		}
		at := Thread{Room: 1, Root: "$root"}
		is := func(subscribed, automatic bool) {
			t.Helper()
			sub, auto, err := s.Of(ctx, alice, at)
			must(t, err)
			if sub != subscribed || auto != automatic {
				t.Errorf("subscribed: %v, automatic: %v", sub, auto)
			}
		}
		// later is an event that comes after everything so far.
		later := func() *graph.Event { return &graph.Event{Ord: int64(last()) + 1} }

		is(false, false)
		before := last()
		must(t, s.Unsubscribe(ctx, alice, at))
		if last() != before {
			t.Error("ending what isn't there is told of")
		}
		old := later()
		must(t, s.Subscribe(ctx, alice, at, old))
		is(true, true)
		must(t, s.Subscribe(ctx, alice, at, nil))
		is(true, false)
		before = last()
		must(t, s.Subscribe(ctx, alice, at, later())) // does not make automatic what was wished for
		must(t, s.Subscribe(ctx, alice, at, nil))
		is(true, false)
		if last() != before {
			t.Error("what changes nothing is told of")
		}

		must(t, s.Unsubscribe(ctx, alice, at))
		is(false, false)
		if err := s.Subscribe(ctx, alice, at, old); !mxerr.Is(err, CodeConflict) {
			t.Errorf("subscribed on account of an event that was there when the user had enough: %v", err)
		}
		if err := s.Subscribe(ctx, alice, at, &graph.Event{Ord: -5}); !mxerr.Is(err, CodeConflict) {
			t.Errorf("subscribed on account of an event from long ago: %v", err)
		}
		is(false, false)
		must(t, s.Subscribe(ctx, alice, at, later()))
		is(true, true)

		must(t, s.Subscribe(ctx, bob, at, nil))
		must(t, s.Subscribe(ctx, bob, Thread{Room: 2, Root: "$root"}, nil))
		users, err := s.Followers(ctx, at)
		must(t, err)
		if _, a := users[alice]; len(users) != 2 || !a {
			t.Errorf("the thread is followed by %v", users)
		}
		must(t, s.Unsubscribe(ctx, alice, at))
		if users, err = s.Followers(ctx, at); err != nil || len(users) != 1 {
			t.Errorf("the thread is followed by %v, %v", users, err)
		}
	})
}

// A thread stands among the changes once, with the last word on it, and pages miss none.
func TestChanges(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx, db := t.Context(), open()
		s, err := Open(ctx, db)
		must(t, err)
		root := func(n int) id.EventID { return id.EventID(fmt.Sprintf("$%d", n)) }
		for n := range 5 {
			must(t, s.Subscribe(ctx, alice, Thread{Room: graph.RoomNID(1 + n%2), Root: root(n)}, nil))
			must(t, s.Subscribe(ctx, bob, Thread{Room: 1, Root: root(n)}, nil))
		}
		middle, err := db.Last(ctx)
		must(t, err)
		must(t, s.Unsubscribe(ctx, alice, Thread{Room: 1, Root: root(0)}))
		end, err := db.Last(ctx)
		must(t, err)
		if early, err := s.Changes(ctx, alice, 0, middle, 10); err != nil || len(early) != 4 {
			t.Errorf("up to the middle there are %v, %v", early, err)
		}
		var seen []id.EventID
		for to := end; ; {
			page, err := s.Changes(ctx, alice, 0, to, 2)
			must(t, err)
			for _, c := range page {
				seen = append(seen, c.Root)
				if c.Subscribed == (c.Root == root(0)) {
					t.Errorf("the last word on %s is %v", c.Root, c.Subscribed)
				}
				to = c.Pos - 1
			}
			if len(page) < 2 {
				break
			}
		}
		if want := []id.EventID{root(0), root(4), root(3), root(2), root(1)}; fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("the changes are %v, want %v", seen, want)
		}
		changes, err := s.Changes(ctx, alice, 0, end, 10)
		must(t, err)
		list, err := NewList(changes, func(r graph.RoomNID) (id.RoomID, error) {
			return map[graph.RoomNID]id.RoomID{1: "!one:a.example"}[r], nil // the other room is none of the user's any more
		})
		must(t, err)
		if len(list.Subscribed) != 1 || len(list.Subscribed["!one:a.example"]) != 2 || len(list.Unsubscribed["!one:a.example"]) != 1 {
			t.Errorf("the list is %+v", list)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"th5", "5", "c12_3_4_5", "th", "th-1", "c", "th5x", "99999999999999999999", "cth5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if !mxerr.Is(err, mxerr.CodeInvalidParam) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if again, err := ParseToken(token.String()); token < 0 || err != nil || again != token {
			t.Errorf("%q is %d, which becomes %d, %v", s, token, again, err)
		}
	})
}
