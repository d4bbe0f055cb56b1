package e2ee

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func backedUp(verified bool, first, forwarded int64, data string) BackedUp {
	return BackedUp{FirstIndex: &first, Forwarded: &forwarded, Verified: &verified, Data: json.RawMessage(data)}
}

// TestReplaces compares all pairs of some keys: those that stand first are the better ones.
func TestReplaces(t *testing.T) {
	order := []BackedUp{
		backedUp(true, 1, 1, `{}`), backedUp(true, 1, 2, `{}`), backedUp(true, 2, 0, `{}`),
		backedUp(false, 0, 0, `{}`), backedUp(false, 0, 1, `{}`), backedUp(false, 1, 0, `{}`),
	}
	for i := range order {
		for j := range order {
			if got := order[i].replaces(&order[j]); got != (i < j) {
				t.Errorf("key %d replaces key %d: %v", i, j, got)
			}
		}
	}
}

var stmtCountKeys = sqldb.SQL(`SELECT COUNT(*) FROM backup_keys WHERE user_id = $1`)

func TestBackups(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		_, err := n.Backup(n.ctx, alice, "")
		n.refused(mxerr.CodeNotFound, err)
		create := func() string {
			t.Helper()
			version, err := n.CreateBackup(n.ctx, alice, Backup{Algorithm: "m.a", AuthData: json.RawMessage(`{"k":1}`)})
			n.ok(err)
			return version
		}
		one := create()
		const rooms, sessions = 3, 400 // more than a page
		keys := make(BackupKeys)
		for i := range rooms {
			room := RoomBackup{Sessions: make(map[string]BackedUp)}
			for j := range sessions {
				room.Sessions[fmt.Sprintf("s%d", j)] = backedUp(false, 5, 5, fmt.Sprintf(`{"n":%d}`, i))
			}
			keys[id.RoomID(fmt.Sprintf("!r%d:here.example", i))] = room
		}
		stored, err := n.PutRoomKeys(n.ctx, alice, one, keys)
		n.ok(err)
		if stored.Count != rooms*sessions {
			t.Errorf("stored %+v", stored)
		}
		again, err := n.PutRoomKeys(n.ctx, alice, one, keys)
		n.ok(err)
		if again != stored {
			t.Errorf("the same keys again: %+v", again)
		}
		all := func(version string, room id.RoomID) gjson.Result {
			t.Helper()
			write, err := n.RoomKeys(n.ctx, alice, version, room)
			n.ok(err)
			var b bytes.Buffer
			n.ok(write(&b))
			if !json.Valid(b.Bytes()) {
				t.Fatalf("the keys are no JSON: %.300s", b.Bytes())
			}
			return gjson.ParseBytes(b.Bytes())
		}
		got := all(one, "").Get("rooms").Map()
		if len(got) != rooms {
			t.Errorf("%d rooms", len(got))
		}
		for name, room := range got {
			if l := len(room.Get("sessions").Map()); l != sessions {
				t.Errorf("%s has %d sessions", name, l)
			}
		}
		if l := len(all(one, "!r1:here.example").Get("sessions").Map()); l != sessions {
			t.Errorf("the room alone has %d sessions", l)
		}
		if got := all(one, "!none:here.example").Raw; got != `{"sessions":{}}` {
			t.Errorf("of no room: %s", got)
		}

		two := create()
		if got := all(two, "").Raw; got != `{"rooms":{}}` {
			t.Errorf("the new one has %s", got)
		}
		_, err = n.PutRoomKeys(n.ctx, alice, one, keys)
		n.refused(mxerr.CodeWrongRoomKeysVersion, err)
		if e, _ := mxerr.Of(err); e == nil || e.Extra["current_version"] != two {
			t.Errorf("got %v", err)
		}
		n.ok(n.DeleteBackup(n.ctx, alice, one))
		n.ok(n.DeleteBackup(n.ctx, alice, one))
		n.refused(mxerr.CodeNotFound, n.DeleteBackup(n.ctx, alice, "9"))
		_, err = n.Backup(n.ctx, alice, one)
		n.refused(mxerr.CodeNotFound, err)
		n.ok(n.SweepBackups(n.ctx))
		if left := n.count(stmtCountKeys, alice); left != 0 {
			t.Errorf("%d keys are left", left)
		}
		n.refused(mxerr.CodeInvalidParam, n.UpdateBackup(n.ctx, alice, two, Backup{Algorithm: "m.b", AuthData: json.RawMessage(`{}`)}))
		bad := backedUp(false, 1, 1, `[]`)
		_, err = n.PutRoomKeys(n.ctx, alice, two, BackupKeys{"!r:x": {Sessions: map[string]BackedUp{"s": bad}}})
		n.refused(mxerr.CodeBadJSON, err)
	})
}
