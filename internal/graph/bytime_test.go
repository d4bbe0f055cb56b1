package graph

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
)

// Whatever the clocks of senders say, and however far the order by time lags behind, the events nearest to a time are found.
func TestEventsNearTime(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		g := open(t, o)
		rnd := rand.New(rand.NewPCG(7, 7))
		rooms := []*writer{newRoom(t, g), newRoom(t, g)}
		events := make(map[*writer][]*Event)
		for _, w := range rooms {
			events[w] = must(g.Timeline(ctx, w.head.Room, Range{After: Beginning, Limit: 10}))(t)
		}
		at := func(w *writer, ts int64, flags Flags) *Event {
			d := event.Draft{RoomID: w.head.ID, Type: "m.room.message", Sender: alice, Content: []byte("{}"), OriginServerTS: ts,
				Depth: rnd.Int64N(1 << 40), PrevEvents: w.build("m.x", nil, alice, "{}").PDU.PrevEvents()}
			return &Event{NID: must(g.NextNID(ctx))(t), PDU: must(d.Build(v10, "hs.test", testKey, nil))(t), Flags: flags}
		}
		near := func(w *writer, ts int64, backward bool, limit int) (want []*Event) {
			for _, e := range events[w] {
				if late := e.PDU.OriginServerTS() - ts; e.Flags&hidden == 0 && (late == 0 || late < 0 == backward) {
					want = append(want, e)
				}
			}
			slices.SortFunc(want, func(a, b *Event) int {
				c := cmp.Or(cmp.Compare(a.PDU.OriginServerTS(), b.PDU.OriginServerTS()), cmp.Compare(a.Ord, b.Ord))
				if backward {
					return -c
				}
				return c
			})
			return want[:min(limit, len(want))]
		}
		for range 150 {
			w := rooms[rnd.IntN(len(rooms))]
			ts := rnd.Int64N(60)
			switch rnd.IntN(8) {
			case 0: // the follower comes along
				last := must(g.db.Last(ctx))(t)
				to, effect, err := g.orderByTime(ctx, 0, last)
				if err != nil || to != last {
					t.Fatal(to, err)
				}
				if effect != nil {
					if err := g.db.Write(ctx, func(tx *sqldb.Tx) error { return effect(tx) }); err != nil {
						t.Fatal(err)
					}
				}
			case 1: // history comes
				e := at(w, ts, Backfilled)
				e.StateBefore = 1
				events[w] = append(events[w], w.push(e, Placement{}))
				w.commit()
			case 2:
				events[w] = append(events[w], w.push(at(w, ts, SoftFailed), Placement{}))
				w.commit()
			default:
				events[w] = append(events[w], w.push(at(w, ts, Local), Placement{}))
				w.commit()
			}
			ts, limit := rnd.Int64N(60), 1+rnd.IntN(4)
			backward := rnd.IntN(2) == 0
			got := must(g.EventsNearTime(ctx, w.head.Room, ts, backward, limit))(t)
			want := near(w, ts, backward, limit)
			if !slices.EqualFunc(got, want, func(a, b *Event) bool { return a.NID == b.NID }) {
				t.Fatalf("near %d, backward %t: %d events, want %d", ts, backward, len(got), len(want))
			}
		}
	})
}
