package room

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// guestsPage is how many guests are looked at in one query.
const guestsPage = 1000

// ExpelGuests takes guests out of rooms that close their doors to them, until ctx ends. It begins with all rooms
// that guests are in, so that what happened while nobody watched is made up for.
//
// Spec: cs Guest Access
func (r *Rooms) ExpelGuests(ctx context.Context, b *bus.Bus, accounts *account.Accounts) error {
	doors := newDoors()
	_, cancel := b.Subscribe(doors.hear)
	defer cancel()
	if err := r.findDoors(ctx, doors, accounts); err != nil {
		return fmt.Errorf("look for rooms with guests: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-doors.moved:
		}
		for _, room := range doors.take() {
			if err := r.expel(ctx, room, accounts); err != nil {
				return fmt.Errorf("expel guests: %w", err)
			}
		}
	}
}

// doors collects rooms that may have closed their doors to guests.
type doors struct {
	moved chan struct{} // holds one

	mu    sync.Mutex // guards rooms
	rooms map[graph.RoomNID]bool
}

func newDoors() *doors {
	return &doors{moved: make(chan struct{}, 1), rooms: make(map[graph.RoomNID]bool)}
}

func (d *doors) hear(r bus.Range) {
	for _, entry := range r.Entries {
		if e, ok := entry.Data.(*graph.Event); ok && entry.Kind == bus.RoomEvent && e.PDU.Type() == "m.room.guest_access" {
			d.add(graph.RoomNID(entry.Room))
		}
	}
}

func (d *doors) add(room graph.RoomNID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rooms[room] = true
	select {
	case d.moved <- struct{}{}:
	default:
	}
}

func (d *doors) take() []graph.RoomNID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []graph.RoomNID
	for room := range d.rooms {
		list = append(list, room)
	}
	clear(d.rooms)
	return list
}

// eachGuest calls fn for every guest account.
func eachGuest(ctx context.Context, accounts *account.Accounts, fn func(id.UserID) error) error {
	for after := id.UserID(""); ; {
		guests, err := accounts.Guests(ctx, after, guestsPage)
		if err != nil {
			return err
		}
		for _, g := range guests {
			after = g.ID
			if err := fn(g.ID); err != nil {
				return err
			}
		}
		if len(guests) < guestsPage {
			return nil
		}
	}
}

// findDoors adds every room that a guest is in.
func (r *Rooms) findDoors(ctx context.Context, d *doors, accounts *account.Accounts) error {
	return eachGuest(ctx, accounts, func(guest id.UserID) error {
		rows, err := r.cfg.Graph.MembershipsOf(ctx, guest, graph.Join)
		for _, row := range rows {
			d.add(row.Room)
		}
		return err
	})
}

// expel takes the guests out of a room that does not want them.
func (r *Rooms) expel(ctx context.Context, room graph.RoomNID, accounts *account.Accounts) error {
	head, err := r.cfg.Graph.HeadOf(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	access, err := r.current(ctx, room, head.State, "m.room.guest_access", "")
	if err != nil {
		return err
	}
	if access != nil && gjson.GetBytes(access.Content(), "guest_access").Str == "can_join" {
		return nil
	}
	return eachGuest(ctx, accounts, func(guest id.UserID) error {
		if head.State.Membership(guest) != graph.Join {
			return nil
		}
		_, err := r.Leave(ctx, Membership{Room: head.ID, Sender: guest, Reason: "this room does not admit guests any more"})
		if _, refused := mxerr.Of(err); refused {
			return nil
		}
		return err
	})
}
