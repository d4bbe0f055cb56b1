package fedsend_test

import (
	"testing"
	"time"

	"myelin/internal/account"
	"myelin/internal/e2ee"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// However many rooms a user shares with servers, each of these is told once that a device of the user changed.
func TestOneUpdatePerServer(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, b, out := w.server("a"), w.server("b"), w.server("out")
		n := w.node(open).start()
		for range 30 {
			n.join(n.create(), a, b)
		}
		changed := func(device id.DeviceID, event account.DeviceEvent) {
			t.Helper()
			ok(t, n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
				pos, err := tx.Pos()
				if err != nil {
					return err
				}
				return e2ee.DevicesChanged(tx, pos, []account.DeviceChange{{User: alice, Device: device, Event: event}})
			}))
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Minute)
		changed("PHONE", account.DeviceAdded)
		for _, s := range []*remote{a, b} {
			if got := s.seen().kinds("m.device_list_update"); len(got) != 1 || field(got[0], "device_id") != `"PHONE"` {
				t.Errorf("told %q", got)
			}
		}
		changed("PHONE", account.DeviceDeleted)
		for _, s := range []*remote{a, b} {
			if got := s.seen().kinds("m.device_list_update"); len(got) != 2 || field(got[1], "deleted") != "true" {
				t.Errorf("told %q", got)
			}
		}
		if len(out.seen().edus) != 0 {
			t.Errorf("a server that shares no room got %q", out.seen().edus)
		}
	})
}
