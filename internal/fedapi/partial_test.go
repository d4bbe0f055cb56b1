package fedapi_test

import (
	"crypto/rand"
	"slices"
	"testing"

	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// founded makes a public room of the peer's user that alice joined without being told its members.
func (p *peer) founded() (id.RoomID, *event.PDU) {
	p.t.Helper()
	const r = id.RoomID("!theirs:there.example")
	version, _ := roomver.Get("11")
	var auth []id.EventID
	var all []*event.PDU
	add := func(origin *peer, sender id.UserID, typ, key, content string) *event.PDU {
		d := event.Draft{RoomID: r, Type: typ, StateKey: &key, Sender: sender, Content: []byte(content), OriginServerTS: 1, Depth: int64(len(all) + 1), AuthEvents: auth}
		if len(all) > 0 {
			d.PrevEvents = []id.EventID{all[len(all)-1].ID()}
		}
		signer, name := p.key, p.name
		if origin == nil {
			signer, _ = p.ours.Key(here)
			name = here
		}
		pdu, err := d.Build(version, name, signer, rand.Text)
		must(p.t, err)
		all, auth = append(all, pdu), append(auth, pdu.ID())
		return pdu
	}
	create := add(p, p.user, "m.room.create", "", `{"room_version":"11"}`)
	member := add(p, p.user, "m.room.member", string(p.user), `{"membership":"join"}`)
	power := add(p, p.user, "m.room.power_levels", "", `{"users":{"`+string(p.user)+`":100}}`)
	rules := add(p, p.user, "m.room.join_rules", "", `{"join_rule":"public"}`)
	auth = []id.EventID{create.ID(), power.ID(), rules.ID()}
	join := add(nil, alice, "m.room.member", string(alice), `{"membership":"join"}`)
	must(p.t, p.rooms.Outliers(p.ctx, r, version, []*event.PDU{create, member, power, rules}))
	must(p.t, p.rooms.Adopt(p.ctx, room.Adoption{
		Room: r, Version: version, Join: join, State: []id.EventID{create.ID(), power.ID(), rules.ID()}, Partial: true, Servers: []id.ServerName{p.name},
	}))
	return r, join
}

// TestRoomsKnownInPart: of a room whose members are not all known yet this server tells history, and no state; and it lets nobody in.
func TestRoomsKnownInPart(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, other := n.peer("there.example"), n.peer("other.example")
		r, join := p.founded()
		p.ok("GET v1/backfill/"+esc(r)+"?limit=5&v="+esc(join.ID()), nil)
		p.ok("GET v1/event/"+esc(join.ID()), nil)
		other.refused(403, "M_FORBIDDEN", "GET v1/event/"+esc(join.ID()), nil)
		for _, op := range []string{"state", "state_ids"} {
			p.refused(404, "M_NOT_FOUND", "GET v1/"+op+"/"+esc(r)+"?event_id="+esc(join.ID()), nil)
			other.refused(403, "M_FORBIDDEN", "GET v1/"+op+"/"+esc(r)+"?event_id="+esc(join.ID()), nil)
		}
		other.refused(404, "M_NOT_FOUND", "GET v1/make_join/"+esc(r)+"/"+esc(other.user)+"?ver=11", nil)
		// Whom the join did not tell of may be there, if the server is.
		p.ok("PUT v1/send/1", edus(typing(r, "@unknown:there.example", true), receipts(r, map[id.UserID]id.EventID{"@unknown:there.example": join.ID()})))
		other.ok("PUT v1/send/1", edus(typing(r, other.user, true)))
		typists, read := n.shown(r)
		if !slices.Equal(typists, []id.UserID{"@unknown:there.example"}) || read["@unknown:there.example"] != join.ID() {
			t.Errorf("in the room type %v and have read %v", typists, read)
		}
		late := other.member(r, other.user, "join")
		other.refused(404, "M_NOT_FOUND", "PUT v2/send_join/"+esc(r)+"/"+esc(late.ID()), late.Raw())
	})
}
