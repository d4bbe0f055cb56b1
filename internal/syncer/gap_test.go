package syncer_test

import (
	"slices"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/syncer"
	"myelin/matrix/id"
)

// A timeline never goes across a gap in the room's history, whoever asks and whatever the filter leaves of it.
func TestTimelineBeginsBehindAGap(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s := start(t, open)
		const zoe = id.UserID("@zoe:there.test")
		r := s.create(room.Creation{})
		key := string(zoe)
		line := s.timeline(r)
		_, _, err := s.foreign(r, zoe, "m.room.member", &key, `{"membership":"join"}`, line[len(line)-1])
		must(t, err)
		since := s.sync(alice, "").next
		before := s.did(s.say(r, alice, "before"))
		line = s.timeline(r)
		last := line[len(line)-1]
		missing := s.foreignPDU(r, zoe, "m.room.message", nil, `{"body":"missing"}`, last, last.PDU.ID())
		behind := s.foreignPDU(r, zoe, "m.room.message", nil, `{"body":"behind"}`, last, missing.ID())
		state, err := s.graph.StateAfter(s.ctx, last)
		must(t, err)
		var nids []graph.EventNID
		for _, nid := range state.All() {
			nids = append(nids, nid)
		}
		events, err := s.graph.Events(s.ctx, s.head(r).Room, nids)
		must(t, err)
		var names []id.EventID
		for _, e := range events {
			names = append(names, e.PDU.ID())
		}
		if verdict, why, err := s.rooms.Graft(s.ctx, behind, names); err != nil || verdict != room.Accepted {
			t.Fatalf("%v %v %v", verdict, why, err)
		}
		between := s.sync(alice, since).next
		after := s.did(s.say(r, alice, "after"))

		for name, on := range map[string]*syncer.Syncer{"who was there": s.syncer, "who knows nothing yet": s.newSyncer()} {
			for _, tt := range []struct {
				since, filter string
				want          []id.EventID
				limited       bool
			}{
				{since, `{}`, []id.EventID{behind.ID(), after}, true},
				{"", `{}`, []id.EventID{behind.ID(), after}, true},
				{since, `{"room":{"timeline":{"limit":1}}}`, []id.EventID{after}, true},
				{since, `{"room":{"timeline":{"not_senders":["@zoe:there.test"]}}}`, []id.EventID{after}, true},
				{between, `{}`, []id.EventID{after}, false},
			} {
				old := s.syncer
				s.syncer = on
				timeline := s.sync(alice, tt.since, tt.filter).room("join", r).Get("timeline")
				s.syncer = old
				if got := ids(timeline.Get("events")); !slices.Equal(got, tt.want) || timeline.Get("limited").Bool() != tt.limited {
					t.Errorf("%s, since %q with %s: limited %v, %d events, with the one before %v",
						name, tt.since, tt.filter, timeline.Get("limited").Raw, len(got), slices.Contains(got, before))
				}
			}
		}
	})
}
