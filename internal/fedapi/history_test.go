package fedapi_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/directory"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

var actor = directory.Actor{User: alice}

// parsed reads an array of events, as the version of a room has them.
func (n *node) parsed(r id.RoomID, array gjson.Result) (pdus []*event.PDU) {
	n.t.Helper()
	version := n.head(r).Version
	for _, raw := range array.Array() {
		p, err := event.Parse(version, []byte(raw.Raw))
		must(n.t, err)
		pdus = append(pdus, p)
	}
	return pdus
}

func ids(pdus []*event.PDU) (names []string) {
	for _, p := range pdus {
		names = append(names, string(p.ID()))
	}
	return names
}

// Spec: ss backfillRoom; ss getMissingPreviousEvents; ss getEvent; ss getEventByTimestamp
func TestHistory(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, stranger := n.peer("there.example"), n.peer("stranger.example")
		r := n.create(room.Creation{})
		n.set(r, "m.room.history_visibility", "", `{"history_visibility":"joined"}`)
		hidden := n.say(r, "hidden")
		join := p.joins(r)
		first, last := n.say(r, "first"), n.say(r, "last")
		at := esc(r)

		a := p.ok("GET v1/backfill/"+at+"?limit=4&v="+esc(last), nil)
		got := n.parsed(r, a.get("pdus"))
		if want := []string{string(last), string(first), string(join.ID()), string(hidden)}; !slices.Equal(ids(got), want) || a.get("origin").Str != string(here) {
			t.Errorf("backfill: %v, want %v", ids(got), want)
		}
		if strings.Contains(string(a.body), `"hidden"`) {
			t.Error("backfill tells what the server may not see")
		}
		p.refused(400, "M_MISSING_PARAM", "GET v1/backfill/"+at+"?limit=4", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/backfill/"+at+"?limit=0&v="+esc(last), nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/backfill/"+at+"?limit=1&v=x", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/backfill/"+at+"?limit=1"+strings.Repeat("&v=$x", 101), nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/backfill/"+at+"?limit=1&v=$none", nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/backfill/!none:here.example?limit=1&v=$none", nil)
		stranger.refused(403, "M_FORBIDDEN", "GET v1/backfill/"+at+"?limit=4&v="+esc(last), nil)

		a = p.ok("POST v1/get_missing_events/"+at, object{"latest_events": []id.EventID{last}, "earliest_events": []id.EventID{join.ID()}})
		if got := ids(n.parsed(r, a.get("events"))); !slices.Equal(got, []string{string(first)}) {
			t.Errorf("missing: %v", got)
		}
		many := slices.Repeat([]string{"$x"}, 1001)
		p.refused(400, "M_INVALID_PARAM", "POST v1/get_missing_events/"+at, object{"latest_events": many, "earliest_events": []string{}})
		p.refused(400, "M_BAD_JSON", "POST v1/get_missing_events/"+at, `{"latest_events":7}`)
		stranger.refused(403, "M_FORBIDDEN", "POST v1/get_missing_events/"+at, object{"latest_events": []id.EventID{last}, "earliest_events": []string{}})

		if a := p.ok("GET v1/event/"+esc(first), nil); n.parsed(r, a.get("pdus"))[0].ID() != first || !strings.Contains(string(a.body), `"first"`) {
			t.Errorf("event: %s", a.body)
		}
		if a := p.ok("GET v1/event/"+esc(hidden), nil); strings.Contains(string(a.body), `"hidden"`) {
			t.Errorf("a hidden event: %s", a.body)
		}
		stranger.refused(403, "M_FORBIDDEN", "GET v1/event/"+esc(first), nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/event/$none", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/event/none", nil)

		if a := p.ok("GET v1/timestamp_to_event/"+at+"?ts=99999999999999&dir=b", nil); a.get("event_id").Str != string(last) {
			t.Errorf("by time: %s", a.body)
		}
		p.refused(404, "M_NOT_FOUND", "GET v1/timestamp_to_event/"+at+"?ts=1&dir=b", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/timestamp_to_event/"+at+"?ts=1&dir=x", nil)
		p.refused(400, "M_MISSING_PARAM", "GET v1/timestamp_to_event/"+at+"?dir=f", nil)
		stranger.refused(403, "M_FORBIDDEN", "GET v1/timestamp_to_event/"+at+"?ts=1&dir=f", nil)
	})
}

// Spec: ss getRoomState; ss getRoomStateIds; ss getEventAuth
func TestState(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, stranger := n.peer("there.example"), n.peer("stranger.example")
		r := n.create(room.Creation{Name: new("N")})
		p.joins(r)
		last := n.say(r, "last")
		at := esc(r) + "?event_id=" + esc(last)

		whole := p.ok("GET v1/state/"+at, nil)
		state, auth := n.parsed(r, whole.get("pdus")), n.parsed(r, whole.get("auth_chain"))
		if len(state) != n.head(r).State.Len() || len(auth) == 0 {
			t.Errorf("%d events of state, %d that authorise them", len(state), len(auth))
		}
		names := p.ok("GET v1/state_ids/"+at, nil)
		if !slices.Equal(names.list("pdu_ids"), ids(state)) || !slices.Equal(names.list("auth_chain_ids"), ids(auth)) {
			t.Errorf("IDs differ from events: %s", names.body)
		}
		a := p.ok("GET v1/event_auth/"+esc(r)+"/"+esc(last), nil)
		chain := ids(n.parsed(r, a.get("auth_chain")))
		if slices.Contains(chain, string(last)) || len(chain) == 0 {
			t.Errorf("auth chain: %v", chain)
		}
		for _, op := range []string{"state/" + at, "state_ids/" + at, "event_auth/" + esc(r) + "/" + esc(last)} {
			stranger.refused(403, "M_FORBIDDEN", "GET v1/"+op, nil)
			p.refused(404, "M_NOT_FOUND", "GET v1/"+strings.Replace(op, esc(last), "$none", 1), nil)
			p.refused(404, "M_NOT_FOUND", "GET v1/"+strings.Replace(op, esc(r), "!none:here.example", 1), nil)
		}
		p.refused(400, "M_MISSING_PARAM", "GET v1/state/"+esc(r), nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/state_ids/"+esc(r)+"?event_id=x", nil)
	})
}

// TestShutOut: a room's access control list holds for every operation on the room, whatever the case of the name.
//
// Spec: ss Server Access Control Lists (ACLs)
func TestShutOut(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		r := n.create(room.Creation{})
		join := p.joins(r)
		last := n.set(r, "m.room.server_acl", "", `{"allow":["*"],"deny":["THERE.example"]}`)
		at, name := esc(r), esc(last)
		for _, what := range []string{
			"GET v1/make_join/" + at + "/" + esc(p.user) + "?ver=11", "GET v1/make_leave/" + at + "/" + esc(p.user), "GET v1/make_knock/" + at + "/" + esc(p.user) + "?ver=11",
			"GET v1/state/" + at + "?event_id=" + name, "GET v1/state_ids/" + at + "?event_id=" + name, "GET v1/event_auth/" + at + "/" + name,
			"GET v1/backfill/" + at + "?limit=1&v=" + name, "GET v1/event/" + name, "GET v1/timestamp_to_event/" + at + "?ts=1&dir=f", "GET v1/hierarchy/" + at,
		} {
			p.refused(403, "M_FORBIDDEN", what, nil)
		}
		p.refused(403, "M_FORBIDDEN", "POST v1/get_missing_events/"+at, object{"latest_events": []id.EventID{last}, "earliest_events": []string{}})
		for _, what := range []string{"v2/send_join/", "v2/send_leave/", "v1/send_knock/", "v1/invite/", "v2/invite/"} {
			p.refused(403, "M_FORBIDDEN", "PUT "+what+at+"/"+esc(join.ID()), `{"room_version":"11","event":{}}`)
		}
		p.refused(403, "M_FORBIDDEN", "PUT v1/exchange_third_party_invite/"+at, object{})
	})
}
