package e2ee

import (
	"fmt"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

const erin = id.UserID("@erin:there.example")

// meet puts users into a room, without events.
func (n *node) meet(room id.RoomID, who ...id.UserID) {
	n.t.Helper()
	version, _ := roomver.Get(roomver.Default)
	nid, err := n.cfg.Graph.NameRoom(n.ctx, room, version)
	n.ok(err)
	for _, user := range who {
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			pos, err := tx.Pos()
			if err != nil {
				return err
			}
			_, err = tx.Exec(stmtMeet, user, nid, graph.Join, pos)
			tx.Emit(bus.Entry{Pos: pos, Kind: bus.Membership, User: user})
			return err
		}))
	}
}

var stmtMeet = sqldb.SQL(`INSERT INTO memberships (user_id, room_nid, membership, event_nid, pos, since, prev, forgotten, stripped)
	VALUES ($1, $2, $3, 1, $4, $4, '', 0, NULL)`)

// kept returns what is kept of erin's devices, and whether it is current.
func (n *node) kept() (string, bool) {
	n.t.Helper()
	v, err := n.look(n.ctx, alice, []id.UserID{erin})
	n.ok(err)
	text := ""
	for _, d := range v.kept[erin] {
		text += fmt.Sprintf("%s=%s ", d.id, d.name)
	}
	return text, v.current[erin]
}

func TestRemoteUpdates(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		device := func(name id.DeviceID) []byte { return newPhone(t, erin, name, 1).keys(t) }
		update := func(stream int64, prev []int64, name id.DeviceID, called string) {
			t.Helper()
			n.ok(n.RemoteUpdate(n.ctx, Update{User: erin, Device: name, Name: called, StreamID: stream, PrevID: prev, Keys: device(name)}))
		}
		keep := func(stream int64, name id.DeviceID) {
			t.Helper()
			v, err := n.look(n.ctx, alice, []id.UserID{erin})
			n.ok(err)
			l := &remoteList{user: erin, stream: stream}
			l.add(name, "", device(name))
			n.ok(n.keep(n.ctx, alice, v, []*remoteList{l}))
		}
		is := func(want string, current bool) {
			t.Helper()
			if got, c := n.kept(); got != want || c != current {
				t.Errorf("kept %q, current %v; want %q, %v", got, c, want, current)
			}
		}
		// Nobody here knows erin.
		update(1, nil, "A", "")
		keep(1, "A")
		is("", false)
		if news := n.took(bus.DeviceListRemote); len(news) != 0 {
			t.Errorf("told of a stranger: %v", news)
		}

		n.meet("!r:here.example", alice, erin)
		n.took(0)
		update(2, nil, "A", "")
		if news := n.took(bus.DeviceListRemote); len(news) != 1 || news[0].User != erin || len(news[0].Data.(ListChange).Rooms) != 1 {
			t.Errorf("the bus told %+v", news)
		}
		keep(2, "A")
		is("A= ", true)
		update(3, []int64{2}, "B", "bee")
		is("A= B=bee ", true)
		update(5, []int64{3}, "A", "aye")
		is("A=aye B=bee ", true)
		n.took(0)
		update(5, []int64{3}, "A", "aye") // repeated
		is("A=aye B=bee ", true)
		if news := n.took(bus.DeviceListRemote); len(news) != 0 {
			t.Errorf("an update that is known is told: %v", news)
		}
		n.ok(n.RemoteUpdate(n.ctx, Update{User: erin, Device: "B", StreamID: 6, PrevID: []int64{5}, Deleted: true}))
		n.took(0)
		n.ok(n.RemoteUpdate(n.ctx, Update{User: erin, Device: "Z", StreamID: 7, PrevID: []int64{6}}))
		if news := n.took(bus.DeviceListRemote); len(news) != 0 {
			t.Errorf("a device without keys is told: %v", news)
		}
		is("A=aye ", true)

		// One got lost.
		update(9, []int64{8}, "C", "")
		is("A=aye ", false)
		keep(9, "C")
		is("C= ", true)
		// One that contradicts what is kept.
		update(4, nil, "D", "")
		is("C= ", false)
		// Asked for together with others, an answer doesn't say which updates it has.
		keep(0, "C")
		is("C= ", true)
		update(10, []int64{9}, "C", "sea")
		is("C= ", false)

		// Erin left and came back: who knows what was missed.
		keep(10, "C")
		is("C= ", true)
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			pos, err := tx.Pos()
			tx.Queue(stmtReturn, erin, pos)
			return err
		}))
		is("C= ", false)
		// An update that came while the server was asked may not be in the answer.
		v, err := n.look(n.ctx, alice, []id.UserID{erin})
		n.ok(err)
		update(11, []int64{10}, "E", "")
		n.ok(n.keep(n.ctx, alice, v, []*remoteList{{user: erin, stream: 10}}))
		is("", false)

		n.refused(mxerr.CodeForbidden, n.RemoteUpdate(n.ctx, Update{User: alice, Device: "A"}))
		n.refused(mxerr.CodeInvalidParam, n.RemoteUpdate(n.ctx, Update{User: erin, Device: "A\x00"}))
		n.refused(mxerr.CodeInvalidParam, n.RemoteUpdate(n.ctx, Update{User: erin, Device: "A", Keys: device("B")}))
		n.ok(n.ForgetLists(n.ctx))
	})
}

var stmtReturn = sqldb.SQL(`UPDATE memberships SET since = $2 WHERE user_id = $1`)

// TestLetters looks at what a server is told of a user's devices, once and after it was away.
func TestLetters(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		r := Route{"here.example", "there.example"}
		post := func() {
			t.Helper()
			n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
				pos, err := tx.Pos()
				PostList(tx, pos, alice, []id.ServerName{r.Server})
				return err
			}))
		}
		deliver := func(edus int) (out []string, more bool) {
			t.Helper()
			letters, more, err := n.Letters(n.ctx, r, edus, 1<<20)
			n.ok(err)
			for _, l := range letters {
				for _, edu := range l.EDUs {
					out = append(out, string(edu))
				}
			}
			n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error { Sent(tx, r, letters); return nil }))
			return out, more
		}
		a := n.device(alice, "A")
		_, err := n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: a.keys(t)})
		n.ok(err)
		first := n.cfg.Bus.Last()
		post()
		post()
		want := fmt.Sprintf(`{"edu_type":"m.device_list_update","content":{"user_id":"@alice:here.example","device_id":"A","stream_id":%d,"prev_id":[],"keys":%s}}`, first, a.keys(t))
		if got, more := deliver(10); len(got) != 1 || got[0] != want || more {
			t.Errorf("told %v\nwant %s", got, want)
		}
		post() // nothing is new
		if got, _ := deliver(10); len(got) != 0 {
			t.Errorf("told again: %v", got)
		}
		n.device(alice, "B")
		second := n.cfg.Bus.Last()
		n.happens(alice, "A", 2, "")
		third := n.cfg.Bus.Last()
		post()
		got, more := deliver(1)
		want = fmt.Sprintf(`{"edu_type":"m.device_list_update","content":{"user_id":"@alice:here.example","device_id":"B","stream_id":%d,"prev_id":[%d]}}`, second, first)
		if len(got) != 1 || got[0] != want || !more {
			t.Errorf("told %v, more %v\nwant %s", got, more, want)
		}
		want = fmt.Sprintf(`{"edu_type":"m.device_list_update","content":{"user_id":"@alice:here.example","device_id":"A","stream_id":%d,"prev_id":[%d],"deleted":true}}`, third, second)
		if got, more := deliver(1); len(got) != 1 || got[0] != want || more {
			t.Errorf("told %v, more %v\nwant %s", got, more, want)
		}
		if list, err := n.ListOf(n.ctx, alice); err != nil || list.StreamID != third || len(list.Devices) != 0 {
			t.Errorf("the list is %+v, %v", list, err)
		}
		n.ok(n.ForgetOutbox(n.ctx))
	})
}
