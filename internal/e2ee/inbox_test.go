package e2ee

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func (n *node) count(s *sqldb.Stmt, args ...any) (count int) {
	n.t.Helper()
	n.ok(n.db.Read(n.ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(s, args, &count)
		return err
	}))
	return count
}

var (
	stmtCountInbox   = sqldb.SQL(`SELECT COUNT(*) FROM device_inbox WHERE user_id = $1 AND device_id = $2`)
	stmtCountWaiting = sqldb.SQL(`SELECT waiting FROM crypto_devices WHERE user_id = $1 AND device_id = $2`)
)

func body(text string) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"body":%q}`, text)) }

// bodies returns what messages for a device say, and up to where.
func (n *node) bodies(user id.UserID, device id.DeviceID, from, to sqldb.Pos) (string, sqldb.Pos) {
	n.t.Helper()
	events, upTo, err := n.Inbox(n.ctx, user, device, from, to)
	n.ok(err)
	var out []string
	for _, e := range gjson.ParseBytes(events).Array() {
		out = append(out, e.Get("content.body").Str)
	}
	return strings.Join(out, " "), upTo
}

func TestInbox(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.device(alice, "A")
		n.device(bob, "B1")
		n.device(bob, "B2")
		send := func(txn string, to Messages) {
			t.Helper()
			n.ok(n.Send(n.ctx, alice, "A", "m.test", txn, to))
		}
		begin := n.cfg.Bus.Last()
		send("1", Messages{bob: {"B1": body("one"), "NONE": body("x")}, "@nobody:here.example": {"*": body("x")}})
		send("1", Messages{bob: {"B1": body("again")}})
		send("2", Messages{bob: {"*": body("all"), "B2": body("two")}})
		end := n.cfg.Bus.Last()
		events, upTo, err := n.Inbox(n.ctx, bob, "B1", begin, end)
		n.ok(err)
		want := `[{"content":{"body":"one"},"sender":"@alice:here.example","type":"m.test"},{"content":{"body":"all"},"sender":"@alice:here.example","type":"m.test"}]`
		if string(events) != want || upTo != end {
			t.Errorf("B1 gets %s", events)
		}
		if got, _ := n.bodies(bob, "B2", begin, end); got != "two" {
			t.Errorf("B2 gets %q", got)
		}
		if got, _ := n.bodies(alice, "A", 0, end); got != "" {
			t.Errorf("A gets %q", got)
		}
		// A message is there until the device proves that it has it.
		if got, _ := n.bodies(bob, "B1", begin, end); got != "one all" {
			t.Errorf("B1 gets %q the second time", got)
		}
		if got, _ := n.bodies(bob, "B1", end, end); got != "" {
			t.Errorf("B1 gets %q from the end", got)
		}
		n.ok(n.db.Write(n.ctx, func(*sqldb.Tx) error { return nil })) // after the deletion
		if left, waiting := n.count(stmtCountInbox, bob, "B1"), n.count(stmtCountWaiting, bob, "B1"); left != 0 || waiting != 0 {
			t.Errorf("%d messages are left, %d are counted", left, waiting)
		}
		if left := n.count(stmtCountInbox, bob, "B2"); left != 1 {
			t.Errorf("B2 has %d", left)
		}
		n.happens(bob, "B2", account.DeviceDeleted, "")
		if left := n.count(stmtCountInbox, bob, "B2"); left != 0 {
			t.Errorf("a device that is gone has %d", left)
		}

		n.refused(mxerr.CodeBadJSON, n.Send(n.ctx, alice, "A", "m.test", "3", Messages{bob: {"B1": json.RawMessage(`[]`)}}))
		n.refused(mxerr.CodeTooLarge, n.Send(n.ctx, alice, "A", "m.test", "3", Messages{bob: {"B1": body(strings.Repeat("x", maxMessage))}}))
		n.refused(mxerr.CodeInvalidParam, n.Send(n.ctx, alice, "A", "m.test", "3", Messages{"bob": {"B1": body("x")}}))
		n.refused(mxerr.CodeInvalidParam, n.Send(n.ctx, alice, "A", "m.te\x00st", "3", Messages{}))
		n.ok(n.ForgetMessages(n.ctx))
	})
}

// TestLongInbox takes a long inbox in pieces.
func TestLongInbox(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.device(bob, "B")
		var want []string
		for i := range maxAnswer*2 + 5 {
			text := fmt.Sprint(i)
			want = append(want, text)
			n.ok(n.Receive(n.ctx, erin, "m.test", text, Messages{bob: {"B": body(text)}}))
			n.ok(n.Receive(n.ctx, erin, "m.test", text, Messages{bob: {"B": body("repeated")}}))
		}
		n.took(0)
		end := n.cfg.Bus.Last()
		var got []string
		for from, tries := sqldb.Pos(0), 0; from < end; tries++ {
			text, upTo := n.bodies(bob, "B", from, end)
			if tries > 3 || len(strings.Fields(text)) > maxAnswer {
				t.Fatalf("answer %d has %q", tries, text)
			}
			got = append(got, strings.Fields(text)...)
			from = upTo
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("got %v", got)
		}
		n.refused(mxerr.CodeInvalidParam, n.Receive(n.ctx, erin, "m.test", "", Messages{}))
	})
}

// TestFlood fills an inbox: the one who floods it loses messages, nobody else.
func TestFlood(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.device(bob, "B")
		n.ok(n.Receive(n.ctx, "@kind:there.example", "m.test", "first", Messages{bob: {"B": body("precious")}}))
		var flood []parcel
		for i := range maxInbox {
			flood = append(flood, parcel{bob, "B", body(fmt.Sprint(i))})
		}
		m := &message{sender: erin, typ: "m.test"}
		for part := range slices.Chunk(flood, 1000) {
			n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error { return m.put(tx, part...) }))
		}
		if got := n.count(stmtCountInbox, bob, "B"); got != maxInbox+1-evicted || got != n.count(stmtCountWaiting, bob, "B") {
			t.Errorf("%d messages wait", got)
		}
		if text, _ := n.bodies(bob, "B", 0, n.cfg.Bus.Last()); !strings.HasPrefix(text, fmt.Sprintf("precious %d ", evicted)) {
			t.Errorf("bob gets %.100s", text)
		}
	})
}

func TestOutgoingMessages(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.device(alice, "A")
		n.took(0)
		n.ok(n.Send(n.ctx, alice, "A", "m.test", "1", Messages{erin: {"E": body("hello"), "*": body("all")}, "@ed:there.example": {"X": body("hi")}}))
		n.ok(n.Send(n.ctx, alice, "A", "m.test", "1", Messages{erin: {"E": body("again")}}))
		if news := n.took(bus.Outbox); len(news) != 1 || news[0].Data.(Posted)[0] != (Route{"here.example", "there.example"}) {
			t.Errorf("the bus told %+v", news)
		}
		letters, more, err := n.Letters(n.ctx, Route{"here.example", "there.example"}, 10, 1000)
		n.ok(err)
		if len(letters) != 1 || len(letters[0].EDUs) != 1 || more {
			t.Fatalf("letters %v", letters)
		}
		edu := gjson.ParseBytes(letters[0].EDUs[0])
		c := edu.Get("content")
		if edu.Get("edu_type").Str != "m.direct_to_device" || c.Get("sender").Str != string(alice) || c.Get("type").Str != "m.test" || c.Get("message_id").Str == "" ||
			c.Get(`messages.@erin:there\.example.E.body`).Str != "hello" || c.Get(`messages.@ed:there\.example.X.body`).Str != "hi" {
			t.Errorf("the EDU is %s", edu.Raw)
		}
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			Sent(tx, Route{"here.example", "there.example"}, letters)
			return nil
		}))
		if letters, _, err := n.Letters(n.ctx, Route{"here.example", "there.example"}, 10, 1000); err != nil || len(letters) != 0 {
			t.Errorf("it is sent again: %v, %v", letters, err)
		}
	})
}
