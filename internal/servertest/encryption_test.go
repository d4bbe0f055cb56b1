package servertest

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
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
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, c.Device+c.User)
	key, err := sign.FromSeed("ed25519:x", seed)
	if err != nil {
		c.tb.Fatal(err)
	}
	key.ID = sign.KeyID("ed25519:" + c.Device)
	k := &keyring{c, key}
	k.OK("POST", "keys/upload", M{"device_keys": k.identity(), "one_time_keys": k.oneTime(0, oneTimeKeys)})
	return k
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

func (k *keyring) identity() json.RawMessage {
	return k.signed(k.key, M{
		"user_id": k.User, "device_id": k.Device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": M{string(k.key.ID): sign.EncodeBase64(k.key.Public()), "curve25519:" + k.Device: "curve"},
	})
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
