package servertest

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/matrix/sign"
)

// keyring is the private keys of a client's device.
type keyring struct {
	*Client
	key sign.Key
}

// encrypts gives a client's device keys, and uploads them with some one-time keys.
func (c *Client) encrypts(oneTimeKeys int) *keyring {
	c.tb.Helper()
	k := c.keyring()
	k.OK("POST", "keys/upload", M{"device_keys": k.identity(), "one_time_keys": k.oneTime(0, oneTimeKeys)})
	return k
}

// keyring makes the keys of a client's device.
func (c *Client) keyring() *keyring {
	c.tb.Helper()
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, c.Device+c.User)
	key, err := sign.FromSeed("ed25519:x", seed)
	if err != nil {
		c.tb.Fatal(err)
	}
	key.ID = sign.KeyID("ed25519:" + c.Device)
	return &keyring{c, key}
}

// signed signs an object as the client's user.
func (c *Client) signed(key sign.Key, object M) json.RawMessage {
	c.tb.Helper()
	raw, err := json.Marshal(object)
	if err == nil {
		raw, err = key.Sign(raw, c.User)
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	return raw
}

func (k *keyring) identity(more ...M) json.RawMessage {
	keys := M{
		"user_id": k.User, "device_id": k.Device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": M{string(k.key.ID): sign.EncodeBase64(k.key.Public()), "curve25519:" + k.Device: "curve"},
	}
	for _, m := range more {
		maps.Copy(keys, m)
	}
	return k.signed(k.key, keys)
}

// oneTime makes one-time keys with the numbers from one up to another.
func (k *keyring) oneTime(from, to int) M {
	keys := M{}
	for i := from; i < to; i++ {
		keys[fmt.Sprintf("signed_curve25519:%d", i)] = k.signed(k.key, M{"key": fmt.Sprintf("%s%d", k.Device, i)})
	}
	return keys
}

// devicesOf returns what a client is told of a user's devices.
func (c *Client) devicesOf(user string) gjson.Result {
	c.tb.Helper()
	return c.OK("POST", "keys/query", M{"device_keys": M{user: []string{}}}).At("device_keys", user)
}

// claims takes a key of somebody's device and returns its name, "" where there is none.
func (c *Client) claims(of *Client) (name string) {
	c.tb.Helper()
	a := c.OK("POST", "keys/claim", M{"one_time_keys": M{of.User: M{of.Device: "signed_curve25519"}}})
	a.At("one_time_keys", of.User, of.Device).ForEach(func(key, _ gjson.Result) bool {
		name = key.Str
		return true
	})
	return name
}

// Spec: cs uploadKeys
// Spec: cs queryKeys
// Spec: cs claimKeys
func TestKeys(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		if s := alice.Sync(""); s.At("device_one_time_keys_count", "signed_curve25519").Int() != 0 || !s.At("device_unused_fallback_key_types").IsArray() {
			t.Errorf("before any upload: %s", s.Body)
		}
		k := alice.encrypts(2)
		if got := bob.devicesOf(alice.User).Get(alice.Device); got.Get("signatures").Raw == "" || got.Get("user_id").Str != alice.User {
			t.Errorf("bob sees %s", got.Raw)
		}
		since := alice.Sync("").Next
		alice.OK("POST", "keys/upload", M{"fallback_keys": M{"signed_curve25519:f": k.signed(k.key, M{"key": "f", "fallback": true})}})
		for _, want := range []int64{1, 0} {
			if bob.claims(alice) == "" {
				t.Fatal("there was no key to claim")
			}
			// A claim ends the waiting of a sync.
			sync := alice.Until(since, "fewer keys", func(s *Sync) bool { return s.At("device_one_time_keys_count", "signed_curve25519").Int() == want })
			if since = sync.Next; sync.At("device_unused_fallback_key_types").Get("0").Str != "signed_curve25519" {
				t.Errorf("the fallback key is not told: %s", sync.Body)
			}
		}
		if name := bob.claims(alice); name != "signed_curve25519:f" {
			t.Errorf("claimed %q", name)
		}
		alice.Until(since, "a used fallback key", func(s *Sync) bool { return len(s.At("device_unused_fallback_key_types").Array()) == 0 })

		bob.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "POST", "keys/upload", M{"device_keys": k.identity()})
		bob.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "POST", "keys/query", M{})
		bob.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "POST", "keys/claim", M{})
		bob.Fails(http.StatusBadRequest, "M_BAD_JSON", "POST", "keys/query", M{"device_keys": M{alice.User: M{"X": true}}})

		alice.OK("PUT", Path("devices", alice.Device), M{"display_name": "Phone"})
		if name := bob.devicesOf(alice.User).Get(alice.Device + ".unsigned.device_display_name").Str; name != "Phone" {
			t.Errorf("the device is called %q", name)
		}
		alice.OK("POST", "logout", nil)
		if got := bob.devicesOf(alice.User); len(got.Map()) != 0 {
			t.Errorf("keys are left of a device that is gone: %s", got.Raw)
		}
		if name := bob.claims(alice); name != "" {
			t.Errorf("and %q", name)
		}
	})
}

// TestClaimedKeysStayClaimed restarts the server between claims.
func TestClaimedKeysStayClaimed(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		k := alice.encrypts(3)
		got := map[string]bool{bob.claims(alice): true}
		s.Restart()
		alice.OK("POST", "keys/upload", M{"one_time_keys": k.oneTime(0, 3)})
		for range 2 {
			got[bob.claims(alice)] = true
		}
		if last := bob.claims(alice); len(got) != 3 || last != "" {
			t.Errorf("claimed %v, then %q", got, last)
		}
	})
}

func TestFederatedKeys(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		x.alice.encrypts(1)
		if got := x.bob.devicesOf(x.alice.User).Get(x.alice.Device); got.Get("device_id").Str != x.alice.Device {
			t.Errorf("bob sees %s", got.Raw)
		}
		if name := x.bob.claims(x.alice); name != "signed_curve25519:0" {
			t.Errorf("bob claimed %q", name)
		}
		if name := x.bob.claims(x.alice); name != "" {
			t.Errorf("bob claimed %q as well", name)
		}
		x.a.Stop()
		a := x.bob.OK("POST", "keys/claim", M{"one_time_keys": M{x.alice.User: M{x.alice.Device: "signed_curve25519"}}})
		if !a.At("failures", x.a.Name()).IsObject() {
			t.Errorf("a server that is down is not a failure: %s", a.Body)
		}
	})
}

// has reports whether a list of strings holds one.
func has(list gjson.Result, text string) bool {
	for _, e := range list.Array() {
		if e.Str == text {
			return true
		}
	}
	return false
}

// untilChanged syncs until somebody's keys are said to have changed, and returns where that was.
func (c *Client) untilChanged(since string, who *Client) string {
	c.tb.Helper()
	return c.Until(since, "changed keys of "+who.User, func(s *Sync) bool { return has(s.At("device_lists", "changed"), who.User) }).Next
}

// Spec: cs Extensions to /sync
// Spec: cs getKeysChanges
func TestDeviceLists(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		first := alice.Sync("")
		if first.At("device_lists").Exists() {
			t.Errorf("a first sync has changes: %s", first.Body)
		}
		since := first.Next
		bob.Join(room)
		since = alice.untilChanged(since, bob)
		bob.encrypts(0)
		since = alice.untilChanged(since, bob)
		second := bob.Login()
		since = alice.untilChanged(since, bob)
		second.OK("POST", "logout", nil)
		since = alice.untilChanged(since, bob)
		carol.encrypts(0) // of no interest to alice
		alice.Say(room, "hello")
		if s := alice.Sync(since); s.At("device_lists").Exists() {
			t.Errorf("nothing changed: %s", s.Body)
		}
		changes := alice.OK("GET", "keys/changes"+Query("from", first.Next, "to", since), nil)
		if !has(changes.At("changed"), bob.User) || has(changes.At("changed"), carol.User) || len(changes.At("left").Array()) != 0 {
			t.Errorf("changes: %s", changes.Body)
		}
		alice.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "GET", "keys/changes"+Query("from", since), nil)
		alice.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", "keys/changes"+Query("from", "x", "to", since), nil)

		// Who enters a room learns of everybody there, and forgets whom they meet no more.
		since = carol.Sync("").Next
		carol.Join(room)
		entered := carol.Until(since, "the members", func(s *Sync) bool { return has(s.At("device_lists", "changed"), bob.User) })
		if !has(entered.At("device_lists", "changed"), alice.User) {
			t.Errorf("carol entered: %s", entered.Body)
		}
		left := func(c *Client, since string, who *Client) string {
			t.Helper()
			return c.Until(since, who.User+" left", func(s *Sync) bool { return has(s.At("device_lists", "left"), who.User) }).Next
		}
		since = carol.Sync(entered.Next).Next
		bob.Leave(room)
		since = left(carol, since, bob)
		bob.encrypts(0)
		s.Restart() // what memory has forgotten is in the database
		after := carol.OK("GET", "keys/changes"+Query("from", entered.Next, "to", since), nil)
		if !has(after.At("left"), bob.User) || has(after.At("changed"), bob.User) {
			t.Errorf("after a restart: %s", after.Body)
		}
		alice.OK("PUT", Path("devices", alice.Device), M{"display_name": "New"})
		since = carol.untilChanged(since, alice)
		carol.Leave(room)
		left(carol, since, alice)
	})
}

func TestFederatedDeviceLists(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		since := x.bob.Sync("").Next
		x.alice.encrypts(0)
		since = x.bob.untilChanged(since, x.alice)
		device := func(d *Client) gjson.Result { return x.bob.devicesOf(x.alice.User).Get(d.Device) }
		x.bob.eventually("alice's device has keys", func() bool { return device(x.alice).Exists() })

		// From now on bob's server follows.
		x.alice.OK("PUT", Path("devices", x.alice.Device), M{"display_name": "Phone"})
		since = x.bob.untilChanged(since, x.alice)
		x.bob.eventually("alice's device has a name", func() bool { return device(x.alice).Get("unsigned.device_display_name").Str == "Phone" })

		// A server that was away learns the latest state, also when the other one was restarted meanwhile.
		x.b.Stop()
		second := x.alice.Login()
		second.encrypts(0)
		third := x.alice.Login()
		third.encrypts(0)
		third.OK("POST", "logout", nil)
		x.a.Restart()
		x.b.Up()
		since = x.bob.untilChanged(since, x.alice)
		x.bob.eventually("alice has a second device and no third one", func() bool { return device(second).Exists() && !device(third).Exists() })

		// What happens while they share no room is told with the next query.
		x.bob.Leave(x.room)
		untilMember(x.alice, x.room, x.bob, "leave")
		second.OK("POST", "logout", nil)
		if device(second).Exists() {
			t.Error("a list is kept that nobody keeps current")
		}
		joinVia(x.bob, x.room, x.a)
		x.bob.untilChanged(since, x.alice)
		if device(second).Exists() || !device(x.alice).Exists() {
			t.Error("an old list came back")
		}
	})
}

// toDevice sends a message to devices.
func (c *Client) toDevice(txn string, to M) {
	c.tb.Helper()
	c.OK("PUT", Path("sendToDevice", "m.test", txn), M{"messages": to})
}

// got returns what the messages of an answer say, by their field n.
func got(s *Sync) (said []int64) {
	for _, e := range s.At("to_device", "events").Array() {
		said = append(said, e.Get("content.n").Int())
	}
	return said
}

// Spec: cs sendToDevice
// Spec: cs Send-to-Device messaging
func TestToDevice(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		since := bob.Sync("").Next
		alice.toDevice("1", M{bob.User: M{bob.Device: M{"n": 1}}})
		alice.toDevice("1", M{bob.User: M{bob.Device: M{"n": 9}}})
		alice.toDevice("2", M{bob.User: M{"*": M{"n": 2}}})
		alice.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "PUT", Path("sendToDevice", "m.test", "3"), M{})
		first := bob.Sync(since)
		if e := first.At("to_device", "events").Get("0"); e.Get("sender").Str != alice.User || e.Get("type").Str != "m.test" {
			t.Errorf("bob gets %s", first.Body)
		}
		s.Restart()
		// The answer may not have arrived: it is given again.
		again := bob.Sync(since)
		if fmt.Sprint(got(first), got(again)) != "[1 2] [1 2]" {
			t.Errorf("bob got %v, then %v", got(first), got(again))
		}
		if s := bob.Sync(again.Next); len(got(s)) != 0 {
			t.Errorf("messages come twice: %s", s.Body)
		}
		if s := bob.Sync(since); len(got(s)) != 0 {
			t.Errorf("messages that arrived are there: %s", s.Body)
		}

		// More than fit into one answer.
		since = bob.Sync("").Next
		const many = 230
		for i := range many {
			alice.toDevice(fmt.Sprint("many", i), M{bob.User: M{bob.Device: M{"n": i}}})
		}
		var all []int64
		for len(all) < many {
			s := bob.Sync(since)
			n := len(got(s))
			if n == 0 || n > 100 {
				t.Fatalf("an answer has %d messages", n)
			}
			if since = s.Next; n == 100 {
				bob.OK("GET", "keys/changes"+Query("from", since, "to", since), nil)
			}
			all = append(all, got(s)...)
		}
		for i, n := range all {
			if n != int64(i) {
				t.Fatalf("message %d is %d", i, n)
			}
		}
		if s := bob.Sync(since); len(got(s)) != 0 {
			t.Errorf("there is more: %s", s.Body)
		}
	})
}

func TestFederatedToDevice(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		since := bob.Sync("").Next
		alice.toDevice("1", M{bob.User: M{bob.Device: M{"n": 1}}})
		// What can't be sent now comes in its order later, also if this server was restarted.
		since = bob.Until(since, "the first message", func(s *Sync) bool { return fmt.Sprint(got(s)) == "[1]" }).Next
		b.Stop()
		for i := 2; i < 6; i++ {
			alice.toDevice(fmt.Sprint(i), M{bob.User: M{"*": M{"n": i}}})
		}
		a.Restart()
		b.Up()
		var said []int64
		bob.Until(since, "the other messages", func(s *Sync) bool {
			said = append(said, got(s)...)
			return len(said) >= 4
		})
		if fmt.Sprint(said) != "[2 3 4 5]" {
			t.Errorf("bob got %v", said)
		}
	})
}

// crossKey makes a cross-signing key and its description, signed by another key if there is one.
func (c *Client) crossKey(purpose string, seed byte, by *sign.Key) (sign.Key, json.RawMessage) {
	c.tb.Helper()
	bytes := make([]byte, ed25519.SeedSize)
	copy(bytes, c.User)
	bytes[31] = seed
	key, err := sign.FromSeed("ed25519:x", bytes)
	if err != nil {
		c.tb.Fatal(err)
	}
	public := sign.EncodeBase64(key.Public())
	key.ID = sign.KeyID("ed25519:" + public)
	object := M{"user_id": c.User, "usage": []string{purpose}, "keys": M{string(key.ID): public}}
	if by == nil {
		raw, err := json.Marshal(object)
		if err != nil {
			c.tb.Fatal(err)
		}
		return key, raw
	}
	return key, c.signed(*by, object)
}

// crossSigns publishes cross-signing keys.
func (c *Client) crossSigns() (master, self, user sign.Key, masterObject json.RawMessage) {
	c.tb.Helper()
	master, m := c.crossKey("master", 1, nil)
	self, s := c.crossKey("self_signing", 2, &master)
	user, u := c.crossKey("user_signing", 3, &master)
	c.OK("POST", "keys/device_signing/upload", M{"master_key": m, "self_signing_key": s, "user_signing_key": u})
	return master, self, user, m
}

// signs adds a signature of the client's user to an object that somebody published.
func (c *Client) signs(key sign.Key, object string) json.RawMessage {
	c.tb.Helper()
	var plain M
	if err := json.Unmarshal([]byte(object), &plain); err != nil {
		c.tb.Fatal(err)
	}
	delete(plain, "unsigned")
	return c.signed(key, plain)
}

// asks returns the answer of a query for a user's keys.
func (c *Client) asks(user string) *Answer {
	c.tb.Helper()
	return c.OK("POST", "keys/query", M{"device_keys": M{user: []string{}}})
}

// signedBy reports whether an object has a signature by a user's key.
func signedBy(object gjson.Result, user string, key sign.KeyID) bool {
	return At(object, "signatures", user, string(key)).Exists()
}

// Spec: cs uploadCrossSigningKeys
// Spec: cs uploadCrossSigningSignatures
func TestCrossSigning(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		carol.Join(room)
		ring := alice.encrypts(0)
		since := bob.Sync("").Next

		// The first keys need no password, nor does saying the same again; the rest does.
		_, orphan := alice.crossKey("self_signing", 2, &ring.key)
		alice.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "POST", "keys/device_signing/upload", M{"self_signing_key": orphan})
		_, m := alice.crossKey("master", 1, nil)
		alice.Fails(http.StatusBadRequest, "M_INVALID_SIGNATURE", "POST", "keys/device_signing/upload", M{"master_key": m, "self_signing_key": orphan})
		master, self, user, m := alice.crossSigns()
		alice.OK("POST", "keys/device_signing/upload", M{"master_key": m})
		since = bob.untilChanged(since, alice)
		_, other := alice.crossKey("master", 9, nil)
		if a := alice.Do("POST", "keys/device_signing/upload", M{"master_key": other}); a.Status != http.StatusUnauthorized || !a.At("flows").IsArray() {
			t.Errorf("a master key is replaced: %d %s", a.Status, a.Body)
		}
		if a := bob.asks(alice.User); !a.At("master_keys", alice.User).Exists() || !a.At("self_signing_keys", alice.User).Exists() || a.At("user_signing_keys", alice.User).Exists() {
			t.Errorf("bob sees %s", a.Body)
		}
		if a := alice.asks(alice.User); !a.At("user_signing_keys", alice.User).Exists() {
			t.Errorf("alice sees %s", a.Body)
		}

		// Alice signs her device, and the device her master key: everybody sees that.
		device := alice.asks(alice.User).At("device_keys", alice.User, alice.Device).Raw
		public := string(master.ID[len("ed25519:"):])
		a := alice.OK("POST", "keys/signatures/upload", M{alice.User: M{
			alice.Device: alice.signs(self, device), public: alice.signs(ring.key, string(m)), "NONE": alice.signs(self, device),
		}})
		if len(a.At("failures", alice.User).Map()) != 1 || a.At("failures", alice.User, "NONE", "errcode").Str != "M_NOT_FOUND" {
			t.Errorf("failures: %s", a.Body)
		}
		since = bob.untilChanged(since, alice)
		seen := bob.asks(alice.User)
		if !signedBy(seen.At("device_keys", alice.User, alice.Device), alice.User, self.ID) || !signedBy(seen.At("master_keys", alice.User), alice.User, ring.key.ID) {
			t.Errorf("bob sees %s", seen.Body)
		}
		a = alice.OK("POST", "keys/signatures/upload", M{alice.User: M{alice.Device: alice.signs(user, device)}})
		if a.At("failures", alice.User, alice.Device, "errcode").Str != "M_INVALID_SIGNATURE" {
			t.Errorf("a device signed by the wrong key: %s", a.Body)
		}

		// Alice vouches for bob: her devices see it, nobody else.
		bobs, _, _, object := bob.crossSigns()
		mine := alice.Sync("").Next
		a = alice.OK("POST", "keys/signatures/upload", M{bob.User: M{string(bobs.ID[len("ed25519:"):]): alice.signs(user, string(object))}})
		if len(a.At("failures").Map()) != 0 {
			t.Errorf("failures: %s", a.Body)
		}
		alice.untilChanged(mine, bob)
		if !signedBy(alice.asks(bob.User).At("master_keys", bob.User), alice.User, user.ID) {
			t.Error("alice doesn't see whom she verified")
		}
		for _, c := range []*Client{bob, carol} {
			if signedBy(c.asks(bob.User).At("master_keys", bob.User), alice.User, user.ID) {
				t.Errorf("%s sees whom alice verified", c.User)
			}
		}

		// With the password a new identity takes the place of the old one.
		alice.Authenticated("POST", "keys/device_signing/upload", M{"master_key": other})
		bob.untilChanged(since, alice)
		seen = bob.asks(alice.User)
		if seen.At("self_signing_keys", alice.User).Exists() || signedBy(seen.At("device_keys", alice.User, alice.Device), alice.User, self.ID) {
			t.Errorf("what the old key vouched for is there: %s", seen.Body)
		}
	})
}

func TestFederatedCrossSigning(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		ring := x.alice.encrypts(0)
		x.bob.eventually("alice's device is known", func() bool { return x.bob.devicesOf(x.alice.User).Get(x.alice.Device).Exists() })
		_, self, _, _ := x.alice.crossSigns()
		x.bob.eventually("alice has cross-signing keys", func() bool {
			a := x.bob.asks(x.alice.User)
			return a.At("master_keys", x.alice.User).Exists() && a.At("self_signing_keys", x.alice.User).Exists()
		})
		x.alice.OK("POST", "keys/signatures/upload", M{x.alice.User: M{x.alice.Device: x.alice.signs(self, string(ring.identity()))}})
		x.bob.eventually("alice's device is signed", func() bool {
			return signedBy(x.bob.asks(x.alice.User).At("device_keys", x.alice.User, x.alice.Device), x.alice.User, self.ID)
		})
		// Bob vouches for a user of another server.
		_, _, user, _ := x.bob.crossSigns()
		theirs := x.bob.asks(x.alice.User).At("master_keys", x.alice.User)
		public := ""
		theirs.Get("keys").ForEach(func(_, v gjson.Result) bool { public = v.Str; return false })
		a := x.bob.OK("POST", "keys/signatures/upload", M{x.alice.User: M{public: x.bob.signs(user, theirs.Raw)}})
		if len(a.At("failures").Map()) != 0 || !signedBy(x.bob.asks(x.alice.User).At("master_keys", x.alice.User), x.bob.User, user.ID) {
			t.Errorf("bob's signature is lost: %s", a.Body)
		}
		if signedBy(x.alice.asks(x.alice.User).At("master_keys", x.alice.User), x.bob.User, user.ID) {
			t.Error("alice sees that bob verified her")
		}
	})
}

// Spec: cs Server-side key backups
func TestKeyBackup(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		const algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"
		about := M{"algorithm": algorithm, "auth_data": M{"public_key": "key"}}
		alice.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", "room_keys/version", nil)
		alice.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "POST", "room_keys/version", M{"algorithm": algorithm})
		version := alice.OK("POST", "room_keys/version", about).Text("version")
		in := Query("version", version)
		keys := func(segments ...string) string {
			return Path(append([]string{"room_keys", "keys"}, segments...)...) + in
		}
		key := func(first int) M {
			return M{"first_message_index": first, "forwarded_count": 0, "is_verified": false, "session_data": M{"ciphertext": "x"}}
		}
		const room, other = "!room:example.org", "!other:example.org"
		a := alice.OK("PUT", keys(room, "s1"), key(3))
		if a.At("count").Int() != 1 {
			t.Errorf("one key: %s", a.Body)
		}
		etag := a.Text("etag")
		if a = alice.OK("PUT", keys(room, "s1"), key(4)); a.Text("etag") != etag {
			t.Errorf("a worse key changes the etag: %s", a.Body)
		}
		alice.OK("PUT", keys(room), M{"sessions": M{"s1": key(2), "s2": key(1)}})
		a = alice.OK("PUT", keys(), M{"rooms": M{other: M{"sessions": M{"s3": key(0)}}}})
		if a.At("count").Int() != 3 || a.Text("etag") == etag {
			t.Errorf("three keys: %s", a.Body)
		}
		s.Restart()
		if first := alice.OK("GET", keys(room, "s1"), nil).At("first_message_index").Int(); first != 2 {
			t.Errorf("the better key begins at %d", first)
		}
		if a = alice.OK("GET", keys(room), nil); len(a.At("sessions").Map()) != 2 {
			t.Errorf("the room has %s", a.Body)
		}
		if a = alice.OK("GET", keys(), nil); len(a.At("rooms").Map()) != 2 || !a.At("rooms", other, "sessions", "s3", "session_data").IsObject() {
			t.Errorf("the backup has %s", a.Body)
		}
		if a = alice.OK("GET", "room_keys/version", nil); a.At("count").Int() != 3 || a.Text("version") != version || !a.At("auth_data").IsObject() {
			t.Errorf("the backup is %s", a.Body)
		}
		alice.OK("PUT", Path("room_keys", "version", version), M{"algorithm": algorithm, "auth_data": M{"public_key": "new"}, "version": version})
		if a = alice.OK("GET", Path("room_keys", "version", version), nil); a.At("auth_data", "public_key").Str != "new" {
			t.Errorf("the backup is %s", a.Body)
		}
		bob.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", keys(), nil)
		alice.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", keys(room, "none"), nil)
		alice.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "GET", "room_keys/keys", nil)
		alice.Fails(http.StatusBadRequest, "M_BAD_JSON", "PUT", keys(room, "s9"), M{"session_data": M{}})

		if a = alice.OK("DELETE", keys(room, "s1"), nil); a.At("count").Int() != 2 {
			t.Errorf("after one: %s", a.Body)
		}
		if a = alice.OK("DELETE", keys(room), nil); a.At("count").Int() != 1 {
			t.Errorf("after a room: %s", a.Body)
		}
		second := alice.OK("POST", "room_keys/version", about).Text("version")
		if a = alice.Fails(http.StatusForbidden, "M_WRONG_ROOM_KEYS_VERSION", "PUT", keys(room, "s1"), key(0)); a.Text("current_version") != second {
			t.Errorf("the wrong version: %s", a.Body)
		}
		if a = alice.OK("DELETE", keys(), nil); a.At("count").Int() != 0 {
			t.Errorf("after all: %s", a.Body)
		}
		alice.OK("DELETE", Path("room_keys", "version", version), nil)
		alice.OK("DELETE", Path("room_keys", "version", version), nil)
		alice.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", keys(), nil)
	})
}
