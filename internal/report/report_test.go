package report

import (
	"strings"
	"testing"

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

func TestReports(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		s, err := Open(ctx, open(), nil)
		must(t, err)
		const room = id.RoomID("!r:a.example")
		must(t, s.Add(ctx, Report{Reporter: alice, Room: room, Event: "$e", Reason: "spam"}))
		must(t, s.Add(ctx, Report{Reporter: alice, Room: room}))
		must(t, s.Add(ctx, Report{Reporter: alice, User: bob, Reason: "nul \x00 and \xff"}))
		must(t, s.Add(ctx, Report{Reporter: bob, Room: room, Event: "$e"}))
		// Who reports the same thing again has another word for it, not another report.
		must(t, s.Add(ctx, Report{Reporter: alice, Room: room, Event: "$e", Reason: "worse"}))
		all, err := s.List(ctx, 0, 10)
		must(t, err)
		if len(all) != 4 || all[0].Reason != "worse" || all[2].Reason != "nul \x00 and \xff" || all[3].Reporter != bob {
			t.Fatalf("the reports are %+v", all)
		}
		page, err := s.List(ctx, all[0].ID, 2)
		must(t, err)
		if len(page) != 2 || page[0].ID != all[1].ID || page[1].ID != all[2].ID {
			t.Errorf("the second page is %+v", page)
		}
		must(t, s.Delete(ctx, all[1].ID))
		if err := s.Delete(ctx, all[1].ID); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if left, err := s.List(ctx, 0, 10); err != nil || len(left) != 3 {
			t.Errorf("%d reports are left, %v", len(left), err)
		}
		if err := s.Add(ctx, Report{Reporter: alice, Room: "!x:a.example", Reason: strings.Repeat("x", MaxReason+1)}); !mxerr.Is(err, mxerr.CodeTooLarge) {
			t.Errorf("a long reason: %v", err)
		}
	})
}

// A user can't fill the table; dealing with reports makes place, and others are not affected.
func TestTooManyReports(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		s, err := Open(ctx, open(), nil)
		must(t, err)
		name := func(n int) id.RoomID { return id.RoomID("!" + strings.Repeat("x", n+1) + ":a.example") }
		for n := range maxPerUser {
			must(t, s.Add(ctx, Report{Reporter: alice, Room: name(n % 200), Event: id.EventID(name(n / 200))}))
		}
		more := Report{Reporter: alice, Room: "!more:a.example"}
		if err := s.Add(ctx, more); !mxerr.Is(err, mxerr.CodeLimitExceeded) {
			t.Errorf("one too many: %v", err)
		}
		must(t, s.Add(ctx, Report{Reporter: bob, Room: "!more:a.example"}))
		first, err := s.List(ctx, 0, 1)
		must(t, err)
		must(t, s.Delete(ctx, first[0].ID))
		must(t, s.Add(ctx, more))
	})
}

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := open()
		must(t, db.Migrate(t.Context(), Migrations...))
		sqldbtest.PrepareAll(t, db)
	})
}
