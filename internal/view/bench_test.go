package view_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/tidwall/gjson"

	"golang.org/x/sync/errgroup"

	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/matrix/id"
)

// BenchmarkRelated times pages of related events, of threads, and of messages with what relates to them, in rooms of different lengths. The room has 200
// threads of two events each, and one of 200, all at its beginning.
func BenchmarkRelated(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := start(b, open())
		for _, length := range []int{1000, 20000} {
			r := n.create()
			root := n.crowd(b, r, length)
			b.Run("relations/"+strconv.Itoa(length), func(b *testing.B) {
				for b.Loop() {
					raw, err := n.Relations(b.Context(), view.Relations{
						Audience: view.Audience{User: alice}, Room: r, Event: root, RelType: "m.thread", Backward: true, Limit: 50,
					})
					if err != nil || len(gjson.GetBytes(raw, "chunk").Array()) != 50 {
						b.Fatal(err, string(raw))
					}
				}
			})
			b.Run("threads/"+strconv.Itoa(length), func(b *testing.B) {
				for b.Loop() {
					raw, err := n.Threads(b.Context(), view.Threads{Audience: view.Audience{User: alice}, Room: r, Limit: 20})
					if err != nil || len(gjson.GetBytes(raw, "chunk").Array()) != 20 {
						b.Fatal(err, string(raw))
					}
				}
			})
			for _, dir := range []bool{true, false} {
				name := map[bool]string{true: "messages without/", false: "messages with/"}[dir]
				b.Run(name+strconv.Itoa(length), func(b *testing.B) {
					for b.Loop() {
						if _, err := n.Messages(b.Context(), view.Page{Audience: view.Audience{User: alice}, Room: r, Backward: dir, Limit: 50}); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	})
}

// crowd fills a room and returns the root of its long thread.
func (n *node) crowd(b *testing.B, r id.RoomID, length int) id.EventID {
	send := func(content string) id.EventID {
		e, err := n.rooms.Send(b.Context(), room.Message{Room: r, Proposal: room.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(content)}})
		if err != nil {
			b.Error(err)
		}
		return e
	}
	reply := func(root id.EventID) {
		send(fmt.Sprintf(`{"body":"reply","m.relates_to":{"event_id":%q,"rel_type":"m.thread"},"msgtype":"m.text"}`, root))
	}
	root := send(`{"body":"root","msgtype":"m.text"}`)
	var group errgroup.Group
	group.SetLimit(64)
	for range 200 {
		group.Go(func() error {
			reply(root)
			other := send(`{"body":"other","msgtype":"m.text"}`)
			reply(other)
			reply(other)
			return nil
		})
	}
	_ = group.Wait()
	for i := range length {
		group.Go(func() error { send(fmt.Sprintf(`{"body":"message %d","msgtype":"m.text"}`, i)); return nil })
	}
	_ = group.Wait()
	return root
}
