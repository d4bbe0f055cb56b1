package clienttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"myelin/internal/servertest"
)

// patience is how long something may take to be seen before the test gives up.
const patience = 20 * time.Second

// person is a user of mautrix-go that remembers every event its syncs brought.
type person struct {
	*mautrix.Client
	t *testing.T

	mu      sync.Mutex
	seen    []*event.Event // guarded by mu
	changed chan struct{}  // guarded by mu; closed when seen grows
}

// arrive registers a user, signs in with its password and starts to sync.
func arrive(t *testing.T, s *servertest.Server, name string) *person {
	t.Helper()
	ctx := t.Context()
	name = servertest.Unique(name)
	c, err := mautrix.NewClient(s.URL, "", "")
	must(t, err)
	if ok, err := c.RegisterAvailable(ctx, name); err != nil || !ok.Available {
		t.Fatalf("is %s available: %v", name, err)
	}
	_, err = c.RegisterDummy(ctx, &mautrix.ReqRegister[any]{Username: name, Password: servertest.Password, InhibitLogin: true})
	must(t, err)
	flows, err := c.GetLoginFlows(ctx)
	must(t, err)
	if !flows.HasFlow(mautrix.AuthTypePassword) {
		t.Fatalf("no login by password: %+v", flows)
	}
	_, err = c.Login(ctx, &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
		Password:         servertest.Password,
		StoreCredentials: true,
	})
	must(t, err)
	p := &person{Client: c, t: t, changed: make(chan struct{})}
	p.sync()
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sync syncs until the test ends.
func (p *person) sync() {
	ctx, cancel := context.WithCancel(p.t.Context())
	syncer := p.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEvent(func(_ context.Context, e *event.Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen = append(p.seen, e)
		close(p.changed)
		p.changed = make(chan struct{})
	})
	syncer.ParseErrorHandler = func(e *event.Event, err error) bool {
		if !errors.Is(err, event.ErrUnsupportedContentType) {
			p.t.Errorf("%s cannot read %s: %v", p.UserID, e.Type.Type, err)
		}
		return true
	}
	done := make(chan error, 1)
	go func() { done <- p.SyncWithContext(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			p.t.Errorf("sync of %s: %v", p.UserID, err)
		}
	})
}

// sees waits for an event.
func (p *person) sees(what string, is func(*event.Event) bool) *event.Event {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	looked := 0
	for {
		p.mu.Lock()
		seen, changed := p.seen, p.changed
		p.mu.Unlock()
		for ; looked < len(seen); looked++ {
			if is(seen[looked]) {
				return seen[looked]
			}
		}
		select {
		case <-changed:
		case <-late.C:
			p.t.Fatalf("%s does not see %s", p.UserID, what)
		}
	}
}

// seesEvent waits for an event by its ID.
func (p *person) seesEvent(e id.EventID) *event.Event {
	p.t.Helper()
	return p.sees("event "+string(e), func(seen *event.Event) bool { return seen.ID == e })
}

// seesMember waits until a user is a member in this way.
func (p *person) seesMember(room id.RoomID, user id.UserID, m event.Membership) *event.Event {
	p.t.Helper()
	return p.sees(fmt.Sprintf("%s of %s", m, user), func(e *event.Event) bool {
		return e.RoomID == room && e.Type == event.StateMember && e.GetStateKey() == string(user) && e.Content.AsMember().Membership == m
	})
}

// say sends a text.
func (p *person) say(room id.RoomID, text string) id.EventID {
	p.t.Helper()
	sent, err := p.SendText(p.t.Context(), room, text)
	must(p.t, err)
	return sent.EventID
}

func TestMautrix(t *testing.T) {
	servertest.Each(t, func(t *testing.T, s *servertest.Server) {
		alice, bob := arrive(t, s, "alice"), arrive(t, s, "bob")
		room := meet(t, alice, bob)
		edited := chat(t, alice, bob, room)
		typeAndRead(t, alice, bob, room, edited)
		scrollBack(t, alice, bob, room)
		part(t, alice, bob, room)
	})
}

// meet makes a room, invites and joins.
func meet(t *testing.T, alice, bob *person) id.RoomID {
	ctx := t.Context()
	must(t, alice.SetDisplayName(ctx, "Alice"))
	made, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Name: "Tea", Topic: "Everything else"})
	must(t, err)
	room := made.RoomID
	if name := alice.seesMember(room, alice.UserID, event.MembershipJoin).Content.AsMember().Displayname; name != "Alice" {
		t.Errorf("the creator's name is %q", name)
	}
	_, err = alice.InviteUser(ctx, room, &mautrix.ReqInviteUser{UserID: bob.UserID})
	must(t, err)
	bob.seesMember(room, bob.UserID, event.MembershipInvite)
	bob.sees("the name in the invite", func(e *event.Event) bool {
		return e.RoomID == room && e.Type == event.StateRoomName && e.Content.AsRoomName().Name == "Tea"
	})
	_, err = bob.JoinRoomByID(ctx, room)
	must(t, err)
	alice.seesMember(room, bob.UserID, event.MembershipJoin)
	bob.seesMember(room, bob.UserID, event.MembershipJoin)
	members, err := bob.JoinedMembers(ctx, room)
	must(t, err)
	if len(members.Joined) != 2 || members.Joined[alice.UserID].DisplayName != "Alice" {
		t.Errorf("joined members: %+v", members.Joined)
	}
	return room
}

// chat sends both ways, edits, reacts and redacts. It returns a message that is still there.
func chat(t *testing.T, alice, bob *person, room id.RoomID) id.EventID {
	ctx := t.Context()
	hello := alice.say(room, "hello Bob")
	if e := bob.seesEvent(hello); e.Content.AsMessage().Body != "hello Bob" || e.Sender != alice.UserID {
		t.Errorf("Bob sees %+v", e)
	}
	if e := alice.seesEvent(hello); e.Unsigned.TransactionID == "" {
		t.Error("the sender's own event has no transaction ID")
	}
	reply := bob.say(room, "hello Alcie")
	alice.seesEvent(reply)

	edit := &event.MessageEventContent{MsgType: event.MsgText, Body: "hello Alice"}
	edit.SetEdit(reply)
	sent, err := bob.SendMessageEvent(ctx, room, event.EventMessage, edit)
	must(t, err)
	if e := alice.seesEvent(sent.EventID).Content.AsMessage(); e.RelatesTo.GetReplaceID() != reply || e.NewContent.Body != "hello Alice" {
		t.Errorf("the edit: %+v", e)
	}

	reaction, err := alice.SendReaction(ctx, room, reply, "🍵")
	must(t, err)
	if e := bob.seesEvent(reaction.EventID).Content.AsReaction(); e.RelatesTo.EventID != reply || e.RelatesTo.Key != "🍵" {
		t.Errorf("the reaction: %+v", e)
	}

	redaction, err := alice.RedactEvent(ctx, room, hello, mautrix.ReqRedact{Reason: "a slip"})
	must(t, err)
	if e := bob.seesEvent(redaction.EventID); e.Redacts != hello && e.Content.AsRedaction().Redacts != hello {
		t.Errorf("the redaction: %+v", e)
	}
	gone, err := bob.GetEvent(ctx, room, hello)
	must(t, err)
	if gone.Unsigned.RedactedBecause == nil || len(gone.Content.Raw) != 0 {
		t.Errorf("a redacted event: %+v", gone)
	}
	return reply
}

// typeAndRead shows typing, receipts and read markers.
func typeAndRead(t *testing.T, alice, bob *person, room id.RoomID, read id.EventID) {
	ctx := t.Context()
	typing := func(want int) func(*event.Event) bool {
		return func(e *event.Event) bool {
			if e.RoomID != room || e.Type != event.EphemeralEventTyping {
				return false
			}
			users := e.Content.AsTyping().UserIDs
			return len(users) == want && (want == 0 || users[0] == bob.UserID)
		}
	}
	_, err := bob.UserTyping(ctx, room, true, 30*time.Second)
	must(t, err)
	alice.sees("Bob typing", typing(1))
	_, err = bob.UserTyping(ctx, room, false, 0)
	must(t, err)
	alice.sees("Bob no longer typing", typing(0))

	must(t, alice.MarkRead(ctx, room, read))
	bob.sees("Alice's receipt", func(e *event.Event) bool {
		if e.RoomID != room || e.Type != event.EphemeralEventReceipt {
			return false
		}
		_, ok := (*e.Content.AsReceipt())[read][event.ReceiptTypeRead][alice.UserID]
		return ok
	})
	must(t, alice.SetReadMarkers(ctx, room, map[string]any{"m.fully_read": read}))
	alice.sees("the read marker", func(e *event.Event) bool {
		return e.RoomID == room && e.Type == event.AccountDataFullyRead
	})
	must(t, alice.AddTag(ctx, room, event.RoomTagFavourite, 0.5))
	alice.sees("the tag", func(e *event.Event) bool { return e.RoomID == room && e.Type == event.AccountDataRoomTags })
}

// scrollBack reads the history in pages, backward to the room's beginning.
func scrollBack(t *testing.T, alice, bob *person, room id.RoomID) {
	ctx := t.Context()
	var said []id.EventID
	for i := range 25 {
		said = append(said, alice.say(room, fmt.Sprintf("message %d", i)))
	}
	bob.seesEvent(said[len(said)-1])
	var found []id.EventID
	from, beginning := "", false
	for pages := 0; ; pages++ {
		page, err := bob.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 7)
		must(t, err)
		for _, e := range page.Chunk {
			if e.Type.Type == event.EventMessage.Type {
				found = append(found, e.ID)
			}
			beginning = beginning || e.Type.Type == event.StateCreate.Type
		}
		if page.End == "" {
			break
		}
		if from = page.End; pages > 50 {
			t.Fatal("the history has no end")
		}
	}
	if !beginning {
		t.Error("the history does not reach the room's creation")
	}
	for i, want := range said {
		if got := found[len(said)-1-i]; got != want {
			t.Fatalf("message %d in the history is %s, want %s", i, got, want)
		}
	}
}

// part leaves the room and signs out.
func part(t *testing.T, alice, bob *person, room id.RoomID) {
	ctx := t.Context()
	_, err := bob.LeaveRoom(ctx, room)
	must(t, err)
	alice.seesMember(room, bob.UserID, event.MembershipLeave)
	if _, err := bob.SendText(ctx, room, "am I still here?"); !errors.Is(err, mautrix.MForbidden) {
		t.Errorf("a message after leaving: %v", err)
	}
	bob.StopSync()
	_, err = bob.Logout(ctx)
	must(t, err)
	if _, err := bob.Whoami(ctx); !errors.Is(err, mautrix.MUnknownToken) {
		t.Errorf("whoami after logout: %v", err)
	}
}
