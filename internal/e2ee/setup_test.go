package e2ee

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const (
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
)

// node is one server on a test database.
type node struct {
	*Encryption
	t    testing.TB
	ctx  context.Context
	news []bus.Entry
}

func start(t testing.TB, open sqldbtest.Open) *node {
	t.Helper()
	n := &node{t: t, ctx: t.Context()}
	b := bus.New(bus.Config{})
	db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
	names, err := ours.Open(n.ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	n.ok(err)
	accounts, err := account.Open(n.ctx, account.Config{DB: db, Ours: names, Bus: b, DevicesChanged: DevicesChanged})
	n.ok(err)
	t.Cleanup(func() { n.ok(accounts.Close(context.WithoutCancel(n.ctx))) })
	g, err := graph.Open(n.ctx, graph.Config{DB: db})
	n.ok(err)
	client, err := fedclient.Open(n.ctx, fedclient.Config{DB: db, Ours: names, Deny: []string{"denied.example"}})
	n.ok(err)
	t.Cleanup(client.Close)
	n.Encryption, err = Open(n.ctx, Config{DB: db, Bus: b, Ours: names, Graph: g, Circles: graph.OpenCircles(g, b), Client: client})
	n.ok(err)
	t.Cleanup(n.Close)
	b.Subscribe(func(r bus.Range) { n.news = append(n.news, r.Entries...) })
	return n
}

func (n *node) ok(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) refused(code mxerr.Code, err error) {
	n.t.Helper()
	if !mxerr.Is(err, code) {
		n.t.Errorf("got %v, want %s", err, code)
	}
}

// took returns what the bus told since the last call, of one kind.
func (n *node) took(kind bus.Kind) (found []bus.Entry) {
	for _, e := range n.news {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	n.news = nil
	return found
}

// happens has something happen to a device.
func (n *node) happens(user id.UserID, device id.DeviceID, event account.DeviceEvent, name string) {
	n.t.Helper()
	n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		c := account.DeviceChange{User: user, Device: device, Event: event, DisplayName: name}
		tx.Emit(bus.Entry{Pos: pos, Kind: bus.DeviceListLocal, User: user, Device: device, Data: c})
		return DevicesChanged(tx, pos, []account.DeviceChange{c})
	}))
}

// phone is a device with keys of its own.
type phone struct {
	user   id.UserID
	device id.DeviceID
	key    sign.Key
}

// device makes a device that has uploaded nothing.
func (n *node) device(user id.UserID, name id.DeviceID) *phone {
	n.t.Helper()
	n.happens(user, name, account.DeviceAdded, "")
	return newPhone(n.t, user, name, 1)
}

func newPhone(t testing.TB, user id.UserID, name id.DeviceID, seed byte) *phone {
	t.Helper()
	bytes := make([]byte, ed25519.SeedSize)
	copy(bytes, name)
	bytes[31] = seed
	key, err := sign.FromSeed("ed25519:x", bytes)
	if err != nil {
		t.Fatal(err)
	}
	key.ID = signingKeyID(name)
	return &phone{user, name, key}
}

// signed signs an object with the device's key.
func (p *phone) signed(t testing.TB, object string) json.RawMessage {
	t.Helper()
	raw, err := canon.Canonicalize(nil, []byte(object), canon.Strict)
	if err == nil {
		raw, err = p.key.Sign(raw, string(p.user))
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// keys are the identity keys.
func (p *phone) keys(t testing.TB) json.RawMessage {
	t.Helper()
	return p.signed(t, fmt.Sprintf(`{"algorithms":["m.olm.v1.curve25519-aes-sha2"],"device_id":%q,"keys":{"curve25519:%s":"c","%s":%q},"user_id":%q}`,
		p.device, p.device, p.key.ID, sign.EncodeBase64(p.key.Public()), p.user))
}

// pre is a one-time key.
func (p *phone) pre(t testing.TB, key string) json.RawMessage {
	t.Helper()
	return p.signed(t, fmt.Sprintf(`{"key":%q}`, key))
}

// upload uploads one-time keys with these IDs.
func (n *node) upload(p *phone, ids ...string) map[string]int64 {
	n.t.Helper()
	up := Upload{OneTimeKeys: make(map[string]json.RawMessage)}
	for _, keyID := range ids {
		up.OneTimeKeys["signed_curve25519:"+keyID] = p.pre(n.t, "key"+keyID)
	}
	counts, err := n.Upload(n.ctx, p.user, p.device, up)
	n.ok(err)
	return counts
}

// claim takes a key of a device and returns its name.
func (n *node) claim(p *phone) string {
	n.t.Helper()
	got, err := n.ClaimLocal(n.ctx, Claims{p.user: {p.device: "signed_curve25519"}})
	n.ok(err)
	for name := range got[p.user][p.device] {
		return name
	}
	return ""
}

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.ok(n.db.Migrate(n.ctx, work.Migrations()...))
		sqldbtest.PrepareAll(t, n.db)
	})
}
