package e2ee

import (
	"fmt"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

var stmtPostedBy = sqldb.SQL(`SELECT COUNT(*) FROM key_outbox WHERE server = $1 AND sender = $2`)

// Messages that wait for a server that is away are bounded in number. Who floods it loses the oldest of his own, nobody else anything, and what is
// to be told of devices stays.
func TestOutboxIsBounded(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.mostPosted = 600
		n.device(alice, "A")
		n.device(bob, "B")
		route := Route{"here.example", "there.example"}
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			pos, err := tx.Pos()
			if err != nil {
				return err
			}
			PostList(tx, pos, alice, []id.ServerName{route.Server})
			return nil
		}))
		n.ok(n.Send(n.ctx, alice, "A", "m.test", "precious", Messages{erin: {"E": body("precious")}}))
		for part := range 30 {
			n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
				for i := range 100 {
					edu := &directEDU{Sender: bob, Type: "m.test", ID: fmt.Sprint(part, " ", i), Messages: Messages{erin: {"E": body("flood")}}}
					if err := n.postLetter(tx, route, bob, edu); err != nil {
						return err
					}
				}
				return nil
			}))
			if got := n.count(stmtPostedBy, route.Server, bob); got > n.mostPosted+countEvery {
				t.Fatalf("%d messages wait", got)
			}
		}
		if got := n.count(stmtPostedBy, route.Server, bob); got < n.mostPosted/2 {
			t.Errorf("only %d of the newest messages are left", got)
		}
		if got := n.count(stmtPostedBy, route.Server, alice); got != 1 {
			t.Errorf("alice's message is lost")
		}
		letters, _, err := n.Letters(n.ctx, route, 10, 1<<20)
		if n.ok(err); len(letters) == 0 || letters[0].subject != string(alice) {
			t.Errorf("what is to be told of alice's devices is lost")
		}
	})
}
