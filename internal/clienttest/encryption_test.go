//go:build goolm

package clienttest

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"myelin/internal/sqldb"
)

// device is what devices of both libraries do alike.
type device interface {
	who() id.UserID
	// join accepts an invite.
	join(room id.RoomID) error
	// members waits until the device knows that the users have joined.
	members(room id.RoomID, users []id.UserID) error
	// say returns when the server has the message, which may be down at first.
	say(room id.RoomID, text string) (id.EventID, error)
	// read waits for a message and its key.
	read(room id.RoomID, event id.EventID) (string, error)
	// history returns all texts of a room, and fails if one can't be decrypted.
	history(room id.RoomID) ([]string, error)
	// rotate has the next message encrypted with a new key.
	rotate(room id.RoomID) error
	// wake says that the server is back.
	wake() error
}

// talk is an encrypted room and what was said there.
type talk struct {
	t       *testing.T
	room    id.RoomID
	devices []device
	said    []string
}

// each lets all devices do something at once.
func (k *talk) each(what string, do func(i int, d device) error) error {
	var g errgroup.Group
	for i, d := range k.devices {
		g.Go(func() error {
			if err := do(i, d); err != nil {
				return fmt.Errorf("%s of %s: %w", what, d.who(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// say has each device say something.
func (k *talk) say(what string) (events []id.EventID, err error) {
	events = make([]id.EventID, len(k.devices))
	for i := range k.devices {
		k.said = append(k.said, fmt.Sprintf("%s %d", what, i))
	}
	return events, k.each("a message", func(i int, d device) (err error) {
		events[i], err = d.say(k.room, fmt.Sprintf("%s %d", what, i))
		return err
	})
}

// read has each device read what all said.
func (k *talk) read(what string, events []id.EventID) error {
	return k.each("reading", func(_ int, d device) error {
		for i, e := range events {
			text, err := d.read(k.room, e)
			if want := fmt.Sprintf("%s %d", what, i); err != nil || text != want {
				return fmt.Errorf("want %q, read %q: %w", want, text, err)
			}
		}
		return nil
	})
}

// round has each device say something, with a new key, and all devices read it. If there are servers to be killed, they are killed
// as soon as the last message is acknowledged, and the devices go on talking while the servers are down.
func (k *talk) round(name string, killed ...*homeserver) {
	k.t.Helper()
	must(k.t, k.each("a new key", func(_ int, d device) error { return d.rotate(k.room) }))
	before, err := k.say(name + " before")
	must(k.t, err)
	if len(killed) > 0 {
		for _, h := range killed {
			h.kill()
		}
		var g errgroup.Group
		var meanwhile []id.EventID
		g.Go(func() (err error) {
			meanwhile, err = k.say(name + " meanwhile")
			return err
		})
		for _, h := range killed {
			h.start()
		}
		must(k.t, k.each("waking", func(_ int, d device) error { return d.wake() }))
		must(k.t, g.Wait())
		must(k.t, k.read(name+" meanwhile", meanwhile))
	}
	must(k.t, k.read(name+" before", before))
}

// complete checks that a device reads all that was ever said, each message once.
func (k *talk) complete(d device) {
	k.t.Helper()
	texts, err := d.history(k.room)
	must(k.t, err)
	slices.Sort(texts)
	want := slices.Sorted(slices.Values(k.said))
	if !slices.Equal(texts, want) {
		k.t.Errorf("%s reads %q, want %q", d.who(), texts, want)
	}
}

// meetEncrypted makes an encrypted room in which all have joined and know it.
func meetEncrypted(t *testing.T, host *jsDevice, others ...device) *talk {
	t.Helper()
	k := &talk{t: t, devices: []device{host}}
	users, invite := []id.UserID{host.user}, []id.UserID{}
	for _, d := range others {
		users, invite = append(users, d.who()), append(invite, d.who())
	}
	host.do("create", map[string]any{"invite": invite}, &k.room)
	for _, d := range others {
		must(t, d.join(k.room))
		k.devices = append(k.devices, d)
	}
	must(t, k.each("members", func(_ int, d device) error { return d.members(k.room, users) }))
	return k
}

func TestEncryption(t *testing.T) {
	binary := build(t)
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			t.Run("one server", func(t *testing.T) {
				servers := federate(t, binary, d, 1)
				scenario(t, servers, servers[0], servers[0])
			})
			t.Run("two servers", func(t *testing.T) {
				servers := federate(t, binary, d, 2)
				scenario(t, servers, servers[0], servers[1])
			})
		})
	}
}

// scenario is Alice, of matrix-js-sdk, at home; Bob, of mautrix-go, and Carol, of matrix-js-sdk, live there too or elsewhere.
func scenario(t *testing.T, servers []*homeserver, home, away *homeserver) {
	js := startJS(t)
	aliceName := home.register("alice")
	alice := js.loginJS(home, aliceName, "Alice's")
	bob := loginGo(t, away, away.register("bob"))
	carol := js.loginJS(away, away.register("carol"), "Carol's")

	var recoveryKey string
	alice.do("bootstrap", nil, &recoveryKey)
	carol.do("bootstrap", nil, nil)
	bob.bootstrap()

	k := meetEncrypted(t, alice, bob, carol)
	k.round("hello")
	verifyJS(alice, carol, k.room)
	verifyGo(bob, alice)
	k.round("crash", servers...)
	alice.do("backedUp", nil, nil)

	tablet := js.loginJS(home, aliceName, "Alice's tablet")
	tablet.do("restore", map[string]any{"recoveryKey": recoveryKey}, nil)
	laptop := loginGo(t, home, aliceName)
	laptop.restore(recoveryKey)
	for _, d := range []device{alice, bob, carol, tablet, laptop} {
		k.complete(d)
	}
	for _, d := range []id.DeviceID{tablet.id, laptop.DeviceID} {
		carol.do("signedByOwner", map[string]any{"user": alice.user, "of": d}, nil)
	}
	carol.do("verified", map[string]any{"user": alice.user}, nil)

	k.devices = append(k.devices, tablet, laptop)
	users := []id.UserID{alice.user, bob.UserID, carol.user}
	must(t, k.each("members", func(_ int, d device) error { return d.members(k.room, users) }))
	k.round("all", servers...)
	for _, d := range k.devices {
		k.complete(d)
	}
	bob.mu.Lock()
	defer bob.mu.Unlock()
	if len(bob.failed) > 0 {
		t.Errorf("Bob could not decrypt %q", bob.failed)
	}
}

// verifyJS is a verification by numbers, with messages in the room.
func verifyJS(asks, asked *jsDevice, room id.RoomID) {
	t := asks.t
	t.Helper()
	asks.do("request", map[string]any{"room": room, "user": asked.user}, nil)
	asked.do("accept", map[string]any{"from": asks.user}, nil)
	asks.do("startSAS", nil, nil)
	var g errgroup.Group
	var one, other string
	g.Go(func() error { return asks.try("sas", nil, &one) })
	g.Go(func() error { return asked.try("sas", nil, &other) })
	must(t, g.Wait())
	if one != other || one == "" {
		t.Fatalf("the numbers are %q and %q", one, other)
	}
	g.Go(func() error { return asks.try("confirm", nil, nil) })
	g.Go(func() error { return asked.try("confirm", nil, nil) })
	must(t, g.Wait())
	asks.do("verified", map[string]any{"user": asked.user}, nil)
	asked.do("verified", map[string]any{"user": asks.user}, nil)
}

// verifyGo is a verification by numbers between the two libraries, with messages to devices: what mautrix-go says in
// a room, others don't understand. It confirms first, because it compares the wrong keys where it is the second.
func verifyGo(asks *goDevice, asked *jsDevice) {
	t := asks.t
	t.Helper()
	ctx := t.Context()
	txn, err := asks.verify.StartVerification(ctx, asked.user)
	must(t, err)
	asked.do("accept", map[string]any{"from": asks.UserID}, nil)
	must(t, asks.until("an accepted request", func() bool { return asks.ready }))
	must(t, asks.verify.StartSAS(ctx, txn))
	var other string
	asked.do("sas", nil, &other)
	must(t, asks.until("numbers to compare", func() bool { return asks.numbers != "" }))
	if asks.numbers != other {
		t.Fatalf("the numbers are %q and %q", asks.numbers, other)
	}
	must(t, asks.verify.ConfirmSAS(ctx, txn))
	asked.do("confirm", nil, nil)
	must(t, asks.until("the end of the verification", func() bool { return asks.done }))
	asked.do("verified", map[string]any{"user": asks.UserID}, nil)
	if trusted, err := asks.helper.Machine().IsUserTrusted(ctx, asked.user); err != nil || !trusted {
		t.Errorf("%s is trusted: %t, %v", asked.user, trusted, err)
	}
}
