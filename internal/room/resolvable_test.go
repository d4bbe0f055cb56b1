package room_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/roomver"
	"myelin/matrix/stateres"
)

// What would need more events than a resolution may load is not decided: it isn't stored, the room goes on, and a server that may load more takes it.
func TestForksThatAreTooLarge(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		v, _ := roomver.Get("11")
		fork := func() (beside *event.PDU) {
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			n.receive(n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r)))
			_, err := n.setState(r, alice, "m.room.power_levels", "", levels(v))
			must(t, err)
			base := n.newest(r)
			first := n.remote(r, erin, "org.example.x", key(""), `{"n":1}`, base)
			beside = n.remote(r, erin, "org.example.x", key(""), `{"n":2}`, base)
			if got := n.receive(first); got != room.Accepted {
				t.Fatalf("the first branch: %v", got)
			}
			return beside
		}
		beside := fork()
		n.BoundResolution(3, 1000)
		if _, _, err := n.Receive(n.ctx, beside); !errors.Is(err, stateres.ErrTooLarge) {
			t.Errorf("a fork that is too large: %v", err)
		}
		if _, ok, err := n.graph.Event(n.ctx, beside.ID()); ok || err != nil {
			t.Errorf("it is stored: %v", err)
		}
		if _, err := n.say(beside.RoomID(), alice, "the room goes on"); err != nil {
			t.Error(err)
		}
		n.BoundResolution(1000, 1000)
		if got := n.receive(beside); got != room.Accepted {
			t.Errorf("once more may be loaded: %v", got)
		}

		// Large resolutions wait for each other, and nobody else does.
		large, small := fork(), fork()
		letGo := n.HoldLargeResolutions()
		n.BoundResolution(1000, 2)
		ctx, cancel := context.WithTimeout(n.ctx, 50*time.Millisecond)
		defer cancel()
		if _, _, err := n.Receive(ctx, large); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a large fork that must wait: %v", err)
		}
		n.BoundResolution(1000, 900)
		if got := n.receive(small); got != room.Accepted {
			t.Errorf("a small fork: %v", got)
		}
		letGo()
		n.BoundResolution(1000, 2)
		if got := n.receive(large); got != room.Accepted {
			t.Errorf("the large fork in the end: %v", got)
		}
	})
}
