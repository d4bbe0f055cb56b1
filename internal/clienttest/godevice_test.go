//go:build goolm

package clienttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/crypto/verificationhelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"myelin/internal/servertest"
)

const (
	// encryptedPatience is how long a key, a message or a server may be waited for.
	encryptedPatience = 60 * time.Second
	// retryEvery is how soon a request is tried again that failed while the server was down.
	retryEvery = 200 * time.Millisecond
)

// goDevice is a device of mautrix-go with its crypto in Go.
type goDevice struct {
	*mautrix.Client
	t      *testing.T
	helper *cryptohelper.CryptoHelper
	verify *verificationhelper.VerificationHelper

	mu      sync.Mutex
	texts   map[id.EventID]string                        // guarded by mu; what was decrypted
	joined  map[id.RoomID]map[id.UserID]event.Membership // guarded by mu
	failed  []string                                     // guarded by mu; what wasn't
	ready   bool                                         // guarded by mu; a verification was accepted
	numbers string                                       // guarded by mu; to be compared
	done    bool                                         // guarded by mu; a verification is done
	changed chan struct{}                                // guarded by mu; closed when one of these changes
}

// persistent syncs again soon after a failure.
type persistent struct{ *mautrix.DefaultSyncer }

func (persistent) OnFailedSync(_ *mautrix.RespSync, err error) (time.Duration, error) {
	if errors.Is(err, mautrix.MUnknownToken) {
		return 0, err
	}
	return retryEvery, nil
}

// loginGo signs a user in on a new device and syncs until the test ends.
func loginGo(t *testing.T, h *homeserver, user string) *goDevice {
	t.Helper()
	ctx := t.Context()
	c, err := mautrix.NewClient(h.url, "", "")
	must(t, err)
	_, err = c.Login(ctx, &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: user},
		Password: servertest.Password, StoreCredentials: true,
	})
	must(t, err)
	d := &goDevice{
		Client: c, t: t, texts: make(map[id.EventID]string), joined: make(map[id.RoomID]map[id.UserID]event.Membership), changed: make(chan struct{}),
	}
	syncer := persistent{mautrix.NewDefaultSyncer()}
	c.Syncer, c.StateStore = syncer, mautrix.NewMemoryStateStore()
	syncer.OnEvent(c.StateStoreSyncHandler)
	syncer.OnEvent(d.note)
	d.helper, err = cryptohelper.NewCryptoHelper(c, []byte("pickled"), crypto.NewMemoryStore(nil))
	must(t, err)
	d.helper.DecryptErrorCallback = func(e *event.Event, err error) {
		d.change(func() { d.failed = append(d.failed, fmt.Sprintf("%s: %v", e.ID, err)) })
	}
	must(t, d.helper.Init(ctx))
	c.Crypto = d.helper
	d.verify = verificationhelper.NewVerificationHelper(c, d.helper.Machine(), nil, d, false, false, true)
	must(t, d.verify.Init(ctx))
	d.follow()
	return d
}

func (d *goDevice) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.SyncWithContext(ctx) }()
	d.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			d.t.Errorf("sync of %s: %v", d.UserID, err)
		}
	})
}

// change changes what waiters look at.
func (d *goDevice) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
}

// until waits for a condition, which is looked at with the lock held.
func (d *goDevice) until(what string, holds func() bool) error {
	late := time.NewTimer(encryptedPatience)
	defer late.Stop()
	for {
		d.mu.Lock()
		good, changed, failed := holds(), d.changed, slices.Clone(d.failed)
		d.mu.Unlock()
		if good {
			return nil
		}
		select {
		case <-changed:
		case <-late.C:
			return fmt.Errorf("%s waits in vain for %s; not decrypted: %q", d.UserID, what, failed)
		}
	}
}

// note remembers an event: decrypted ones come as what they are.
func (d *goDevice) note(_ context.Context, e *event.Event) {
	switch e.Type {
	case event.EventMessage:
		if e.Mautrix.EventSource&event.SourceDecrypted != 0 {
			d.change(func() { d.texts[e.ID] = e.Content.AsMessage().Body })
		}
	case event.StateMember:
		d.change(func() {
			if d.joined[e.RoomID] == nil {
				d.joined[e.RoomID] = make(map[id.UserID]event.Membership)
			}
			d.joined[e.RoomID][id.UserID(e.GetStateKey())] = e.Content.AsMember().Membership
		})
	}
}

func (d *goDevice) who() id.UserID { return d.UserID }

func (d *goDevice) join(room id.RoomID) error {
	if err := d.until("an invite", func() bool { return d.joined[room][d.UserID] == event.MembershipInvite }); err != nil {
		return err
	}
	_, err := d.JoinRoomByID(d.t.Context(), room)
	return err
}

func (d *goDevice) members(room id.RoomID, users []id.UserID) error {
	return d.until("members", func() bool {
		return !slices.ContainsFunc(users, func(u id.UserID) bool { return d.joined[room][u] != event.MembershipJoin })
	})
}

// say sends a text, again and again while the server is down.
func (d *goDevice) say(room id.RoomID, text string) (id.EventID, error) {
	late := time.NewTimer(encryptedPatience)
	defer late.Stop()
	again := time.NewTicker(retryEvery)
	defer again.Stop()
	for {
		sent, err := d.SendText(d.t.Context(), room, text)
		var answered mautrix.HTTPError
		if err == nil {
			return sent.EventID, nil
		} else if errors.As(err, &answered) && answered.RespError != nil {
			return "", err
		}
		select {
		case <-again.C:
		case <-late.C:
			return "", err
		}
	}
}

func (d *goDevice) read(_ id.RoomID, e id.EventID) (text string, err error) {
	err = d.until(string(e), func() (ok bool) {
		text, ok = d.texts[e]
		return ok
	})
	return text, err
}

// history reads the texts of a room from its beginning, each of which must be readable.
func (d *goDevice) history(room id.RoomID) (texts []string, err error) {
	ctx, from := d.t.Context(), ""
	for pages := 0; pages == 0 || from != ""; pages++ {
		page, err := d.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 30)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Chunk {
			if e.Type != event.EventEncrypted {
				continue
			}
			if err := e.Content.ParseRaw(e.Type); err != nil {
				return nil, err
			}
			clear, err := d.helper.Decrypt(ctx, e)
			if err != nil {
				return nil, fmt.Errorf("decrypt %s of %s: %w", e.ID, e.Sender, err)
			}
			if m := clear.Content.AsMessage(); m.MsgType == event.MsgText {
				texts = append(texts, m.Body)
			}
		}
		from = page.End
	}
	slices.Reverse(texts)
	return texts, nil
}

func (d *goDevice) rotate(room id.RoomID) error {
	return d.helper.Machine().CryptoStore.RemoveOutboundGroupSession(d.t.Context(), room)
}

func (d *goDevice) wake() error { return nil }

// bootstrap makes cross-signing keys, keeps them in secret storage, and signs the device.
func (d *goDevice) bootstrap() {
	d.t.Helper()
	ctx, m := d.t.Context(), d.helper.Machine()
	_, _, err := m.GenerateAndUploadCrossSigningKeysWithPassword(ctx, servertest.Password, "")
	must(d.t, err)
	must(d.t, m.SignOwnDevice(ctx, m.OwnIdentity()))
	must(d.t, m.SignOwnMasterKey(ctx))
}

// restore is what a new device does with the recovery key.
func (d *goDevice) restore(recoveryKey string) {
	d.t.Helper()
	ctx, m := d.t.Context(), d.helper.Machine()
	must(d.t, m.VerifyWithRecoveryKey(ctx, recoveryKey))
	name, data, err := m.SSSS.GetDefaultKeyData(ctx)
	must(d.t, err)
	key, err := data.VerifyRecoveryKey(name, recoveryKey)
	must(d.t, err)
	secret, err := m.SSSS.GetDecryptedAccountData(ctx, event.AccountDataMegolmBackupKey, key)
	must(d.t, err)
	opens, err := backup.MegolmBackupKeyFromBytes(secret)
	must(d.t, err)
	_, err = m.DownloadAndStoreLatestKeyBackup(ctx, opens)
	must(d.t, err)
}

// VerificationRequested accepts.
func (d *goDevice) VerificationRequested(ctx context.Context, txn id.VerificationTransactionID, _ id.UserID, _ id.DeviceID) {
	if err := d.verify.AcceptVerification(ctx, txn); err != nil {
		d.t.Errorf("accept a verification: %v", err)
	}
}

// VerificationReady is called when both have accepted.
func (d *goDevice) VerificationReady(context.Context, id.VerificationTransactionID, id.DeviceID, bool, bool, *verificationhelper.QRCode) {
	d.change(func() { d.ready = true })
}

// VerificationCancelled is called when the verification came to nothing.
func (d *goDevice) VerificationCancelled(_ context.Context, _ id.VerificationTransactionID, code event.VerificationCancelCode, reason string) {
	d.t.Errorf("the verification of %s is cancelled: %s %s", d.UserID, code, reason)
}

// VerificationDone is called when the other user is verified.
func (d *goDevice) VerificationDone(context.Context, id.VerificationTransactionID, event.VerificationMethod) {
	d.change(func() { d.done = true })
}

// ShowSAS is called with what is to be compared.
func (d *goDevice) ShowSAS(_ context.Context, _ id.VerificationTransactionID, _ []rune, _ []string, decimals []int) {
	d.change(func() { d.numbers = strings.Trim(fmt.Sprint(decimals), "[]") })
}
