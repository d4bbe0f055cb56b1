package room_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// household is a room engine with accounts and a bus.
type household struct {
	*node
	db       *sqldb.DB
	bus      *bus.Bus
	accounts *account.Accounts
}

func settle(t *testing.T, open sqldbtest.Open) *household {
	t.Helper()
	h := &household{bus: bus.New(bus.Config{})}
	h.db = open(func(c *sqldb.Config) { c.Committed = h.bus.Committed })
	h.node = start(t, h.db)
	var err error
	h.accounts, err = account.Open(t.Context(), account.Config{
		DB: h.db, Ours: h.ours, Bus: h.bus, Guests: true, Password: account.PasswordPolicy{Memory: 64, Passes: 1},
	})
	must(t, err)
	version, _ := roomver.Get(roomver.Default)
	h.Rooms = room.New(room.Config{
		Graph: h.graph, Ours: h.ours, DefaultVersion: version,
		Profile: func(ctx context.Context, u id.UserID) (room.Profile, error) {
			name, avatar, err := h.accounts.NameAndAvatar(ctx, u)
			return room.Profile{DisplayName: name, AvatarURL: avatar}, err
		},
		Alias: func(context.Context, id.RoomAlias) (id.RoomID, bool, error) { return "", false, nil },
		IsGuest: func(ctx context.Context, u id.UserID) (bool, error) {
			caller, err := h.accounts.Caller(ctx, u)
			return caller.Guest, err
		},
		Succeeded: h.accounts.Succeed,
	})
	for _, u := range []id.UserID{alice, bob} {
		must(t, h.accounts.Create(t.Context(), account.NewUser{ID: u}))
	}
	return h
}

// follow runs the followers over the whole stream.
func (h *household) follow() {
	h.t.Helper()
	last, err := h.db.Last(h.ctx)
	must(h.t, err)
	for _, f := range h.Followers(h.accounts) {
		for from := sqldb.Pos(0); from < last; {
			to, effect, err := f.Batch(h.ctx, from, last)
			must(h.t, err)
			if to <= from || to > last || effect != nil {
				h.t.Fatalf("%s came from %d to %d", f.Name, from, to)
			}
			from = to
		}
	}
}

func TestProfilesReachRooms(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		h := settle(t, open)
		first, second := h.create(room.Creation{Preset: room.PublicChat}), h.create(room.Creation{})
		left := h.create(room.Creation{})
		_, err := h.Leave(h.ctx, room.Membership{Room: left, Sender: alice})
		must(t, err)
		_, err = h.Join(h.ctx, room.Join{Membership: room.Membership{Room: first, Sender: bob}})
		must(t, err)

		must(t, h.accounts.SetProfileField(h.ctx, alice, "displayname", []byte(`{"displayname":"Ali"}`)))
		must(t, h.accounts.SetProfileField(h.ctx, alice, "avatar_url", []byte(`{"avatar_url":"mxc://x/y"}`)))
		must(t, h.accounts.SetProfileField(h.ctx, alice, "m.tz", []byte(`{"m.tz":"Europe/Rome"}`)))
		h.follow()
		want := `{"avatar_url":"mxc://x/y","displayname":"Ali","membership":"join"}`
		for _, r := range []id.RoomID{first, second} {
			if got := h.state(r, "m.room.member", string(alice)); got != want {
				t.Errorf("in %s alice is %s", r, got)
			}
		}
		if got := h.state(left, "m.room.member", string(alice)); strings.Contains(got, "Ali") {
			t.Errorf("where she is not, alice is %s", got)
		}
		if got := h.state(first, "m.room.member", string(bob)); got != `{"membership":"join"}` {
			t.Errorf("bob is %s", got)
		}
		// To run over it again, as after a crash, changes nothing.
		before := h.stateID(first, "m.room.member", string(alice))
		h.follow()
		if after := h.stateID(first, "m.room.member", string(alice)); after != before {
			t.Error("an event that shows the profile was replaced")
		}
		must(t, h.accounts.DeleteProfileField(h.ctx, alice, "displayname"))
		h.follow()
		if got := h.state(first, "m.room.member", string(alice)); got != `{"avatar_url":"mxc://x/y","membership":"join"}` {
			t.Errorf("without a name alice is %s", got)
		}
	})
}

func TestDeactivatedUsersLeave(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		h := settle(t, open)
		joined := h.create(room.Creation{Preset: room.PublicChat})
		invited := h.create(room.Creation{Invite: []id.UserID{bob}})
		_, err := h.Join(h.ctx, room.Join{Membership: room.Membership{Room: joined, Sender: bob}})
		must(t, err)
		must(t, h.accounts.SetProfileField(h.ctx, bob, "displayname", []byte(`{"displayname":"Bob"}`)))
		must(t, h.accounts.Deactivate(h.ctx, bob, true))
		h.follow()
		h.follow()
		for _, r := range []id.RoomID{joined, invited} {
			if got := h.state(r, "m.room.member", string(bob)); got != `{"membership":"leave"}` {
				t.Errorf("in %s bob is %s", r, got)
			}
		}
		if got := h.state(joined, "m.room.member", string(alice)); got != `{"membership":"join"}` {
			t.Errorf("alice is %s", got)
		}
	})
}

// Guests leave a room that closes its doors while the watch is on, and one that did before.
func TestGuestsAreExpelled(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		h := settle(t, open)
		login, err := h.accounts.RegisterGuest(h.ctx, "")
		must(t, err)
		guest := login.UserID
		var rooms []id.RoomID
		for range 3 {
			r := h.create(room.Creation{Preset: room.PublicChat, InitialState: []room.StateEntry{
				{Type: "m.room.guest_access", Content: []byte(`{"guest_access":"can_join"}`)},
			}})
			for _, u := range []id.UserID{guest, bob} {
				_, err := h.Join(h.ctx, room.Join{Membership: room.Membership{Room: r, Sender: u}})
				must(t, err)
			}
			rooms = append(rooms, r)
		}
		// away gets the rooms that the guest leaves.
		away := make(chan id.RoomID, 10)
		_, cancel := h.bus.Subscribe(func(r bus.Range) {
			for _, entry := range r.Entries {
				if e, ok := entry.Data.(*graph.Event); ok && e.Change != nil && e.Change.User == guest && e.Change.New == graph.Leave {
					away <- e.PDU.RoomID()
				}
			}
		})
		defer cancel()
		_, err = h.setState(rooms[0], alice, "m.room.guest_access", "", `{"guest_access":"forbidden"}`)
		must(t, err)

		ctx, stop := context.WithCancel(h.ctx)
		done := make(chan error, 1)
		go func() { done <- h.ExpelGuests(ctx, h.bus, h.accounts) }()
		if r := <-away; r != rooms[0] {
			t.Errorf("the guest left %s", r)
		}
		_, err = h.setState(rooms[1], alice, "m.room.guest_access", "", `{}`)
		must(t, err)
		if r := <-away; r != rooms[1] {
			t.Errorf("the guest left %s", r)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := h.state(rooms[2], "m.room.member", string(guest)); got != `{"membership":"join"}` {
			t.Errorf("in the open room the guest is %s", got)
		}
		if got := h.state(rooms[0], "m.room.member", string(bob)); got != `{"membership":"join"}` {
			t.Errorf("in the closed room bob is %s", got)
		}
	})
}

// Who follows an upgrade finds the tags of the old room on the new one.
func TestSuccession(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		h := settle(t, open)
		old := h.create(room.Creation{Preset: room.PublicChat})
		_, err := h.Join(h.ctx, room.Join{Membership: room.Membership{Room: old, Sender: bob}})
		must(t, err)
		for _, u := range []id.UserID{alice, bob} {
			must(t, h.accounts.SetTag(h.ctx, u, old, "m.favourite", nil))
		}
		version, _ := roomver.Get("11")
		replacement, err := h.Upgrade(h.ctx, room.Upgrade{Room: old, Sender: alice, Version: version})
		must(t, err)
		tags := func(u id.UserID) string {
			raw, err := h.accounts.Tags(h.ctx, u, replacement)
			must(t, err)
			return string(raw)
		}
		if got := tags(alice); got != `{"tags":{"m.favourite":{}}}` {
			t.Errorf("who upgraded has %s", got)
		}
		if got := tags(bob); got != `{"tags":{}}` {
			t.Errorf("who has not joined has %s", got)
		}
		_, err = h.Join(h.ctx, room.Join{Membership: room.Membership{Room: replacement, Sender: bob}})
		must(t, err)
		if got := tags(bob); got != `{"tags":{"m.favourite":{}}}` {
			t.Errorf("who joined has %s", got)
		}
	})
}
