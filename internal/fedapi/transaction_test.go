package fedapi_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// pushed is a transaction of these events.
func (p *peer) pushed(pdus ...*event.PDU) object {
	raws := []json.RawMessage{}
	for _, pdu := range pdus {
		raws = append(raws, pdu.Raw())
	}
	return object{"origin": p.name, "origin_server_ts": 1, "pdus": raws}
}

func (p *peer) message(r id.RoomID, text string) *event.PDU {
	p.t.Helper()
	return p.draft(r, p.user, "m.room.message", nil, `{"msgtype":"m.text","body":"`+text+`"}`)
}

// flags returns how an event is stored, and false where it isn't.
func (n *node) flags(e id.EventID) (graph.Flags, bool) {
	n.t.Helper()
	found, ok, err := n.graph.Event(n.ctx, e)
	must(n.t, err)
	if !ok {
		return 0, false
	}
	return found.Flags, true
}

// Spec: ss sendTransaction
func TestTransactions(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		r := n.create(room.Creation{})
		p.joins(r)
		good := p.message(r, "good")
		forged := p.message(r, "forged")
		forged = resigned(t, forged, p)
		power := p.draft(r, p.user, "m.room.name", new(string), `{"name":"not theirs to say"}`)
		elsewhere, err := event.Parse(good.Version(), canon.With(nil, good.Raw(), "room_id", []byte(`"!none:there.example"`)))
		must(t, err)

		a := p.ok("PUT v1/send/1", p.pushed(good, forged, power, elsewhere))
		results := a.get("pdus").Map()
		for e, failed := range map[id.EventID]bool{good.ID(): false, forged.ID(): true, power.ID(): false} {
			got, ok := results[string(e)]
			if !ok || got.Get("error").Exists() != failed || len(results) > 4 {
				t.Errorf("%s: %s in %s", e, got.Raw, a.body)
			}
		}
		if f, ok := n.flags(good.ID()); !ok || f&(graph.Rejected|graph.SoftFailed|graph.Outlier) != 0 {
			t.Errorf("the good event has flags %b, stored: %v", f, ok)
		}
		if f, ok := n.flags(power.ID()); !ok || f&graph.Rejected == 0 {
			t.Errorf("the event that the rules forbid has flags %b, stored: %v", f, ok)
		}
		if _, ok := n.flags(forged.ID()); ok {
			t.Error("an event without a valid signature is stored")
		}

		// The same again, under the same ID and under another: the answer is the same, and nothing is there twice.
		for _, what := range []string{"PUT v1/send/1", "PUT v1/send/2"} {
			before := n.head(r).Rev
			if again := p.ok(what, p.pushed(good)); again.get("pdus").Get(canonKey(good.ID())).Get("error").Exists() {
				t.Errorf("again: %s", again.body)
			}
			if n.head(r).Rev != before {
				t.Error("a repeated transaction changed the room")
			}
		}
		// Under an ID that was used, with other contents: what is new in it is taken.
		other := p.message(r, "another")
		if got := p.ok("PUT v1/send/1", p.pushed(good, other)); got.get("pdus").Get(canonKey(other.ID())).Get("error").Exists() {
			t.Errorf("other contents: %s", got.body)
		}
		if f, ok := n.flags(other.ID()); !ok || f&(graph.Rejected|graph.SoftFailed|graph.Outlier) != 0 {
			t.Errorf("an event of a transaction whose ID was used before has flags %b, stored: %v", f, ok)
		}
	})
}

// canonKey is an event ID as a path of gjson.
func canonKey(e id.EventID) string { return strings.ReplaceAll(string(e), ".", `\.`) }

// resigned replaces the signature of an event by one of another key under the same name.
func resigned(t *testing.T, pdu *event.PDU, p *peer) *event.PDU {
	t.Helper()
	other := p.key
	other.Private = slices.Clone(other.Private)
	other.Private[0] ^= 1
	out, err := pdu.Signed(p.name, other)
	must(t, err)
	return out
}

func TestTransactionsAreBounded(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		many := func(n int, what string) string {
			return "[" + strings.TrimSuffix(strings.Repeat(what+",", n), ",") + "]"
		}
		p.ok("PUT v1/send/1", `{"pdus":[],"edus":`+many(100, `{"edu_type":"x","content":{}}`)+`}`)
		p.ok("PUT v1/send/2", `{"origin":"there.example","origin_server_ts":1,"pdus":`+many(50, `{}`)+`}`)
		p.refused(400, "M_INVALID_PARAM", "PUT v1/send/3", `{"pdus":`+many(51, `{}`)+`}`)
		p.refused(400, "M_INVALID_PARAM", "PUT v1/send/4", `{"pdus":[],"edus":`+many(101, `{"edu_type":"x","content":{}}`)+`}`)
		p.refused(400, "M_INVALID_PARAM", "PUT v1/send/5", `{"pdus":[],"origin":"other.example"}`)
		p.refused(400, "M_MISSING_PARAM", "PUT v1/send/6", `{}`)
		p.refused(400, "M_BAD_JSON", "PUT v1/send/7", `{"pdus":{}}`)
		p.refused(400, "M_BAD_JSON", "PUT v1/send/8", `{"pdus":[`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`]}`)
		p.ok("PUT v1/send/9", `{"pdus":[7,"x",null,[],{"room_id":7},{"room_id":"!x"}]}`)

		// What is too large isn't even looked at, so its signature doesn't matter.
		r := n.request("PUT /_matrix/federation/v1/send/10", `{"pdus":["`+strings.Repeat("x", 10<<20)+`"]}`)
		r.Header.Set("Authorization", `X-Matrix origin="there.example",destination="here.example",key="ed25519:p1",sig="x"`)
		n.send(r).want(413, "M_TOO_LARGE")
	})
}

// edus makes a transaction of EDUs.
func edus(all ...object) object { return object{"pdus": []any{}, "edus": all} }

func typing(r id.RoomID, user id.UserID, is bool) object {
	return object{"edu_type": "m.typing", "content": object{"room_id": r, "user_id": user, "typing": is}}
}

func receipts(r id.RoomID, of map[id.UserID]id.EventID) object {
	users := object{}
	for user, e := range of {
		users[string(user)] = object{"event_ids": []id.EventID{e}, "data": object{"ts": 5}}
	}
	return object{"edu_type": "m.receipt", "content": object{string(r): object{"m.read": users}}}
}

// shown returns what is known of who types and who has read in a room.
func (n *node) shown(r id.RoomID) (typists []id.UserID, read map[id.UserID]id.EventID) {
	n.t.Helper()
	read = make(map[id.UserID]id.EventID)
	rooms := []graph.RoomNID{n.head(r).Room}
	must(n.t, n.db.Read(n.ctx, func(tx *sqldb.Tx) error {
		last, err := tx.Last()
		if err != nil {
			return err
		}
		typing, err := ephemeral.TypingIn(tx, rooms, 0, last)
		if err != nil {
			return err
		}
		receipts, err := ephemeral.Receipts(tx, rooms, 0, last, alice)
		for _, x := range typing {
			typists = x.Users
		}
		for _, x := range receipts {
			read[x.User] = x.Event
		}
		return err
	}))
	return typists, read
}

// Spec: ss EDUs; ss Typing Notifications; ss Receipts; ss Presence
func TestEDUs(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, other := n.peer("there.example"), n.peer("other.example")
		r, shut := n.create(room.Creation{}), n.create(room.Creation{})
		for _, name := range []id.RoomID{r, shut} {
			p.joins(name)
			other.joins(name)
		}
		n.set(shut, "m.room.server_acl", "", `{"allow":["*"],"deny":["there.example"]}`)
		said, inShut := n.say(r, "hello"), n.say(shut, "hello")
		presence := func(user id.UserID) object {
			return object{"edu_type": "m.presence", "content": object{"push": []object{{"user_id": user, "presence": "online", "last_active_ago": 5, "currently_active": true}}}}
		}
		p.ok("PUT v1/send/1", edus(
			typing(r, p.user, true), typing(r, other.user, true), typing(r, alice, true), typing(shut, p.user, true), typing("!none:here.example", p.user, true),
			receipts(r, map[id.UserID]id.EventID{p.user: said, other.user: said, alice: said, "@stranger:there.example": said}),
			receipts(shut, map[id.UserID]id.EventID{p.user: inShut}),
			presence(p.user), presence(other.user), presence(alice),
			object{"edu_type": "m.device_list_update", "content": object{}}, object{"edu_type": "com.example.new", "content": object{"x": 1}},
			object{"edu_type": "m.typing", "content": 7}, object{"edu_type": "m.receipt", "content": object{"x": 7}},
			object{"edu_type": "m.receipt", "content": object{string(r): object{"m.read": object{string(p.user): 7}}}},
			object{"edu_type": "m.presence", "content": object{"push": []any{object{"user_id": p.user, "presence": "asleep"}}}},
		))
		typists, read := n.shown(r)
		if !slices.Equal(typists, []id.UserID{p.user}) {
			t.Errorf("in the room type %v", typists)
		}
		if len(read) != 1 || read[p.user] != said {
			t.Errorf("in the room have read %v", read)
		}
		if typists, read = n.shown(shut); len(typists)+len(read) != 0 {
			t.Errorf("where the server is shut out: %v, %v", typists, read)
		}
		for user, want := range map[id.UserID]ephemeral.State{p.user: ephemeral.Online, other.user: ephemeral.Offline} {
			got, err := n.ephemeral.Presence(n.ctx, alice, user)
			must(t, err)
			if got.State != want {
				t.Errorf("%s is %s", user, got.State)
			}
		}
		p.ok("PUT v1/send/2", edus(typing(r, p.user, false)))
		if typists, _ = n.shown(r); len(typists) != 0 {
			t.Errorf("in the room still type %v", typists)
		}
	})
}

// However many rooms a receipt names, few are looked at.
func TestReceiptsOfManyRooms(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for name, types := range map[string]object{"unknown rooms": {"m.read": object{"@x:there.example": 7}}, "no receipts": {}} {
			content := object{}
			for i := range 3000 {
				content[fmt.Sprintf("!r%d:nowhere.example", i)] = types
			}
			raw, err := json.Marshal(content)
			must(t, err)
			if rooms, err := n.api.ReceiptRooms(n.ctx, "there.example", raw); err != nil || rooms > 500 {
				t.Errorf("%s: %d rooms were looked at, %v", name, rooms, err)
			}
		}
	})
}

// TestTransactionsOfOneServer come one after another, and those of too many at once are sent back.
func TestTransactionsOfOneServer(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		r := n.create(room.Creation{})
		p.joins(r)
		var wait sync.WaitGroup
		statuses := make(chan int, 40)
		for i := range cap(statuses) {
			body := p.pushed(p.message(r, fmt.Sprint(i)))
			wait.Go(func() { statuses <- p.call(fmt.Sprintf("PUT v1/send/%d", i), body).status })
		}
		wait.Wait()
		close(statuses)
		done := 0
		for s := range statuses {
			switch s {
			case 200:
				done++
			case 429:
			default:
				t.Errorf("status %d", s)
			}
		}
		if done < 17 {
			t.Errorf("only %d were handled", done)
		}
	})
}
