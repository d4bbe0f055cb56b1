//go:build goolm

package clienttest

import (
	"context"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"myelin/internal/sqldb"
)

const (
	secretly = 40 // encrypted messages each way
	puppets  = 3  // users of the other network, each with a device
	// rotateAfter is after how many messages a device sends everybody a new key.
	rotateAfter = 6
)

// puppet is a user of an application service with a device. All that comes for the device comes in transactions.
type puppet struct {
	*mautrix.Client
	helper *cryptohelper.CryptoHelper

	mu     sync.Mutex
	read   map[id.EventID]string // what it decrypted; guarded by mu
	twice  []string              // guarded by mu
	failed []string              // guarded by mu
}

// animate registers a user of the application service, and makes them a device with keys.
func animate(ctx context.Context, t *testing.T, as *appservice.AppService, events *appservice.EventProcessor, user id.UserID) *puppet {
	t.Helper()
	must(t, as.Intent(user).EnsureRegistered(ctx))
	p := &puppet{Client: as.NewMautrixClient(user), read: make(map[id.EventID]string)}
	must(t, p.CreateDeviceMSC4190(ctx, id.DeviceID(strings.ToUpper(user.Localpart())), "puppet"))
	var err error
	p.helper, err = cryptohelper.NewCryptoHelper(p.Client, []byte("pickled"), crypto.NewMemoryStore(nil))
	must(t, err)
	p.helper.ASEventProcessor = events
	p.helper.DecryptErrorCallback = func(e *event.Event, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.failed = append(p.failed, fmt.Sprintf("%s of %s: %v", e.ID, e.Sender, err))
	}
	p.helper.CustomPostDecrypt = p.decrypted
	must(t, p.helper.Init(ctx))
	p.Crypto = p.helper
	return p
}

func (p *puppet) decrypted(_ context.Context, e *event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body := e.Content.AsMessage().Body
	if _, again := p.read[e.ID]; again {
		p.twice = append(p.twice, body)
	}
	p.read[e.ID] = body
}

// texts are what the puppet read of others, sorted.
func (p *puppet) texts(prefix string) (texts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, body := range p.read {
		if strings.HasPrefix(body, prefix) {
			texts = append(texts, body)
		}
	}
	slices.Sort(texts)
	return texts
}

// says sends a message until the server has it.
func says(ctx context.Context, c *mautrix.Client, room id.RoomID, body string) error {
	return persist(ctx, func() error {
		_, err := c.SendMessageEvent(ctx, room, event.EventMessage, text(body), mautrix.ReqSendEvent{TransactionID: strings.ReplaceAll(body, " ", "-")})
		return err
	})
}

// TestEncryptedBridge runs a bridge in an encrypted room, whose bot and users have devices of their own and get keys and device lists in transactions,
// against a server that is killed in the middle: all read all, and nothing is lost or comes twice, either way.
func TestEncryptedBridge(t *testing.T) {
	binary := build(t)
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) { encryptedBridgeAcrossCrashes(t, d, binary) })
	}
}

func encryptedBridgeAcrossCrashes(t *testing.T, d sqldb.Dialect, binary string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	as := appservice.Create()
	front := httptest.NewServer(as.Router)
	t.Cleanup(front.Close)
	as.Registration = appservice.CreateRegistration()
	as.Registration.ID, as.Registration.URL, as.Registration.SenderLocalpart = "secret", front.URL, "_secretbot"
	as.Registration.EphemeralEvents, as.Registration.SoruEphemeralEvents, as.Registration.MSC3202, as.Registration.MSC4190 = true, true, true, true
	as.Registration.Namespaces.UserIDs = appservice.NamespaceList{{Regex: `@_secret.*:localhost`, Exclusive: true}}
	as.HomeserverDomain = "localhost"
	file := filepath.Join(t.TempDir(), "secret.yaml")
	must(t, as.Registration.Save(file))
	s, url := startMortal(t, d, binary, file)
	must(t, as.SetHomeserverURL(url))
	events := appservice.NewEventProcessor(as)
	events.ExecMode = appservice.Sync

	bot := animate(ctx, t, as, events, as.BotMXID())
	all := []*puppet{bot}
	for i := range puppets {
		all = append(all, animate(ctx, t, as, events, id.NewUserID(fmt.Sprint("_secret_", i), "localhost")))
	}
	events.Start(ctx)
	t.Cleanup(events.Stop)
	someone(t, url)
	alice := loginGo(t, &homeserver{t: t, url: url}, "alice")
	room := meetPuppets(ctx, t, as, all, alice)

	var busy sync.WaitGroup
	progress := make(chan struct{}, 2*secretly)
	busy.Go(func() {
		for i := range secretly {
			_ = says(ctx, alice.Client, room, fmt.Sprintf("out %02d", i))
			progress <- struct{}{}
		}
	})
	busy.Go(func() {
		for i := range secretly {
			_ = says(ctx, all[i%len(all)].Client, room, fmt.Sprintf("in %02d", i))
			progress <- struct{}{}
		}
	})
	for n := range 2 * secretly {
		select {
		case <-progress:
		case <-ctx.Done():
			t.Fatalf("only %d messages were sent", n)
		}
		if n == secretly/2 || n == secretly {
			s.kill()
			s.start()
		}
	}
	busy.Wait()
	checkSecrets(ctx, t, room, all, alice)
}

// meetPuppets makes an encrypted room in which all have joined, and know it.
func meetPuppets(ctx context.Context, t *testing.T, as *appservice.AppService, all []*puppet, alice *goDevice) id.RoomID {
	t.Helper()
	invite, users := []id.UserID{alice.UserID}, []id.UserID{alice.UserID}
	for _, p := range all {
		if users = append(users, p.UserID); p != all[0] {
			invite = append(invite, p.UserID)
		}
	}
	made, err := all[0].CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Invite: invite,
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{
			Algorithm: id.AlgorithmMegolmV1, RotationPeriodMessages: rotateAfter,
		}}}},
	})
	must(t, err)
	for _, p := range all[1:] {
		_, err := p.JoinRoomByID(ctx, made.RoomID)
		must(t, err)
	}
	must(t, alice.join(made.RoomID))
	must(t, alice.members(made.RoomID, users))
	must(t, persist(ctx, func() error { // until the transactions have come
		for _, u := range users {
			if !as.StateStore.IsInRoom(ctx, made.RoomID, u) {
				return fmt.Errorf("%s has not joined", u)
			}
		}
		if secret, err := as.StateStore.IsEncrypted(ctx, made.RoomID); err != nil || !secret {
			return fmt.Errorf("the room is encrypted: %v %w", secret, err)
		}
		return nil
	}))
	return made.RoomID
}

// checkSecrets waits until everybody has read everything, and looks for what came twice.
func checkSecrets(ctx context.Context, t *testing.T, room id.RoomID, all []*puppet, alice *goDevice) {
	t.Helper()
	var out, both []string
	for i := range secretly {
		out = append(out, fmt.Sprintf("out %02d", i))
		both = append(both, fmt.Sprintf("in %02d", i), fmt.Sprintf("out %02d", i))
	}
	slices.Sort(both)
	late, stop := context.WithTimeout(ctx, encryptedPatience)
	defer stop()
	for _, p := range all {
		err := persist(late, func() error {
			if got := p.texts("out"); !slices.Equal(got, out) {
				return fmt.Errorf("%s read %d messages: %q", p.UserID, len(got), got)
			}
			return nil
		})
		p.mu.Lock()
		if err != nil || len(p.failed) > 0 || len(p.twice) > 0 {
			t.Errorf("%v; failed: %q, twice: %q", err, p.failed, p.twice)
		}
		p.mu.Unlock()
	}
	err := persist(late, func() error {
		texts, err := alice.history(room)
		if err != nil {
			return err
		}
		slices.Sort(texts)
		if !slices.Equal(texts, both) {
			return fmt.Errorf("alice reads %d messages: %q", len(texts), texts)
		}
		return nil
	})
	must(t, err)
}
