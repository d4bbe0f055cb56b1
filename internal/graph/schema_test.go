package graph

import (
	"fmt"
	"slices"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

var oldEvent = sqldb.SQL(`INSERT INTO events
	(room_nid, event_nid, event_id, ord, ts, flags, state_nid, head_state, replaces, redacted_by, txn, body)
	VALUES ($1, $2, $3, $4, 1, $5, 0, 0, 0, 0, $6, $7)`)

// What a database of an earlier step holds of events is all there after the newest.
func TestEventsOfEarlierSteps(t *testing.T) {
	// Two rooms whose events came in turns, with a backfilled one and an outlier, which has no place.
	rows := []struct {
		room RoomNID
		nid  EventNID
		ord  any
		txn  []byte
	}{
		{room: 1, nid: 7, ord: 1}, {room: 2, nid: 3, ord: 2, txn: []byte("D\x00t1")}, {room: 1, nid: 9, ord: 3},
		{room: 2, nid: 4}, {room: 1, nid: 2, ord: -1},
	}
	name := func(n EventNID) id.EventID { return id.EventID(fmt.Sprintf("$event%d", n)) }
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		db := o()
		if err := db.Migrate(t.Context(), Migrations[:2]...); err != nil {
			t.Fatal(err)
		}
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			for room := RoomNID(1); room <= 2; room++ {
				tx.Queue(insertRoom, room, fmt.Sprintf("!room%d:hs.test", room), "10")
			}
			for _, r := range rows {
				flags := Flags(0)
				if r.ord == nil {
					flags = Outlier
				}
				tx.Queue(oldEvent, r.room, r.nid, name(r.nid), r.ord, int64(flags), r.txn, []byte(`{"content":{},"sender":"@alice:hs.test","type":"m.test"}`))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		g, err := Open(t.Context(), Config{DB: db})
		if err != nil {
			t.Fatal(err)
		}
		timeline, err := g.Timeline(t.Context(), 1, Range{After: Beginning, Before: End, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var order []EventNID
		for _, e := range timeline {
			order = append(order, e.NID)
		}
		if !slices.Equal(order, []EventNID{2, 7, 9}) {
			t.Errorf("the timeline is %v", order)
		}
		for backward, first := range map[bool]EventNID{false: 2, true: 9} {
			near, err := g.EventsNearTime(t.Context(), 1, 1, backward, 10)
			if err != nil || len(near) != 3 || near[0].NID != first {
				t.Errorf("by time there are %d events, %v", len(near), err)
			}
		}
		for _, r := range rows {
			e, ok, err := g.Event(t.Context(), name(r.nid))
			if err != nil || !ok {
				t.Fatalf("%s: %v, %v", name(r.nid), ok, err)
			}
			if e.NID != r.nid || e.Room != r.room || (e.Flags&Outlier != 0) != (r.ord == nil) || (e.Txn.ID == "t1") != (r.txn != nil) {
				t.Errorf("%s became %+v", name(r.nid), e)
			}
		}
	})
}
