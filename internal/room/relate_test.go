package room_test

import (
	"fmt"
	"sync"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func (n *node) relate(r id.RoomID, u id.UserID, relType string, parent id.EventID, key, txn string) (id.EventID, error) {
	m := room.Message{Room: r, Proposal: room.Proposal{
		Sender: u, Type: "m.x", Content: fmt.Appendf(nil, `{"m.relates_to":{"event_id":%q,"key":%q,"rel_type":%q}}`, parent, key, relType),
	}}
	if txn != "" {
		m.Txn = graph.TxnRef{User: u, Device: "D", Scope: "send", ID: txn}
	}
	return n.Send(n.ctx, m)
}

func TestAnnotateOnce(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		must(t, n.join(r, bob))
		parent, err := n.say(r, alice, "hello")
		must(t, err)
		first, err := n.relate(r, alice, event.Annotates, parent, "👍", "1")
		must(t, err)
		if again, err := n.relate(r, alice, event.Annotates, parent, "👍", "1"); err != nil || again != first {
			t.Errorf("the same request made %s, %v", again, err)
		}
		_, err = n.relate(r, alice, event.Annotates, parent, "👍", "2")
		want(t, mxerr.CodeDuplicateAnnotation, err)
		_, err = n.relate(r, alice, event.Annotates, parent, "👎", "3")
		must(t, err)
		_, err = n.relate(r, bob, event.Annotates, parent, "👍", "")
		must(t, err)
		_, err = n.relate(r, carol, event.Annotates, parent, "👍", "")
		want(t, mxerr.CodeForbidden, err)
		_, err = n.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: first})
		must(t, err)
		_, err = n.relate(r, alice, event.Annotates, parent, "👍", "4")
		must(t, err)

		// Of many at once one is sent, and what others send meanwhile is sent as well.
		var wg sync.WaitGroup
		var mu sync.Mutex
		sent := 0
		for i := range 20 {
			wg.Go(func() {
				if _, err := n.relate(r, bob, event.Annotates, parent, "🎉", fmt.Sprint("many", i)); err == nil {
					mu.Lock()
					sent++
					mu.Unlock()
				} else if !mxerr.Is(err, mxerr.CodeDuplicateAnnotation) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := n.say(r, alice, "meanwhile"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if sent != 1 {
			t.Errorf("%d equal annotations were sent", sent)
		}
	})
}

func TestThreadsDontNest(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		parent, err := n.say(r, alice, "hello")
		must(t, err)
		child, err := n.relate(r, alice, event.InThread, parent, "", "")
		must(t, err)
		_, err = n.relate(r, alice, event.InThread, child, "", "")
		want(t, mxerr.CodeUnknown, err)
		_, err = n.relate(r, bob, event.InThread, child, "", "")
		want(t, mxerr.CodeForbidden, err)
		_, err = n.relate(r, alice, event.InThread, "$unknown", "", "")
		must(t, err)
	})
}
