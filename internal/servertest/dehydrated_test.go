package servertest

import (
	"fmt"
	"net/url"
	"testing"
)

// MSC3814: dehydrated devices with SSSS
func TestDehydratedDevice(t *testing.T) {
	const path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		alice.encrypts(1)
		if !alice.OK("GET", "/_matrix/client/versions", nil).At("unstable_features", "org.matrix.msc3814").Bool() {
			t.Error("dehydrated devices are not announced")
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", path, nil)
		alice.Fails(404, "M_NOT_FOUND", "DELETE", path, nil)
		alice.Fails(404, "M_NOT_FOUND", "POST", path+"/DRY/events", M{})

		// What a device needs to be talked to while its user is away.
		dry := func(device string) (*keyring, M) {
			c := *alice
			c.Device = device
			k := c.keyring()
			return k, M{
				"device_id": device, "device_data": M{"algorithm": "org.matrix.msc3814.v2", "device_pickle": device}, "initial_device_display_name": "Dry",
				"device_keys": k.identity(M{"dehydrated": true}), "one_time_keys": k.oneTime(0, 1), "fallback_keys": M{"signed_curve25519:f": k.signed(k.key, M{"key": "f", "fallback": true})},
			}
		}
		k, body := dry("DRY")
		with := func(key string, value any) M {
			_, changed := dry("DRY")
			if changed[key] = value; value == nil {
				delete(changed, key)
			}
			return changed
		}
		alice.Fails(400, "M_MISSING_PARAM", "PUT", path, with("device_id", nil))
		alice.Fails(400, "M_MISSING_PARAM", "PUT", path, with("device_keys", nil))
		alice.Fails(400, "M_INVALID_PARAM", "PUT", path, with("device_data", nil))
		alice.Fails(400, "M_INVALID_PARAM", "PUT", path, with("device_id", "OTHER")) // its keys name another device
		_, own := dry(alice.Device)
		alice.Fails(400, "M_INVALID_PARAM", "PUT", path, own) // this would end the session
		alice.Fails(404, "M_NOT_FOUND", "GET", path, nil)
		if id := alice.OK("PUT", path, body).Text("device_id"); id != "DRY" {
			t.Errorf("the device is %q", id)
		}
		if got := alice.OK("GET", path, nil); got.Text("device_id") != "DRY" || got.At("device_data", "device_pickle").Str != "DRY" {
			t.Errorf("got %s", got.Body)
		}
		if got := bob.devicesOf(alice.User).Get("DRY"); !got.Get("signatures").Exists() || !got.Get("dehydrated").Bool() {
			t.Errorf("bob sees %s", got.Raw)
		}
		for _, d := range alice.OK("GET", "devices", nil).At("devices").Array() {
			name := d.Get("device_id").Str
			if one := alice.OK("GET", Path("devices", name), nil); d.Get("dehydrated").Bool() != (name == "DRY") || one.At("dehydrated").Bool() != (name == "DRY") {
				t.Errorf("alice's device is %s, then %s", d.Raw, one.Body)
			}
		}
		if bob.claims(k.Client) != "signed_curve25519:0" || bob.claims(k.Client) != "signed_curve25519:f" {
			t.Error("the keys can't be claimed")
		}

		// Messages stay until the device goes.
		const messages = 130
		for i := range messages {
			bob.toDevice(fmt.Sprint(i), M{alice.User: M{"DRY": M{"n": i}}})
		}
		s.Restart()
		for range 2 {
			next, n := "", 0
			for {
				page := alice.OK("POST", path+"/DRY/events", M{"next_batch": next})
				list := page.At("events").Array()
				if len(list) == 0 {
					break
				}
				for _, e := range list {
					if e.Get("content.n").Int() != int64(n) || e.Get("sender").Str != bob.User {
						t.Fatalf("message %d is %s", n, e.Raw)
					}
					n++
				}
				if next = page.Text("next_batch"); len(alice.OK("GET", path+"/DRY/events"+Query("from", next), nil).At("events").Array()) > messages-n {
					t.Fatal("a message comes twice")
				}
			}
			if n != messages {
				t.Fatalf("%d messages", n)
			}
		}
		alice.Fails(400, "M_INVALID_PARAM", "POST", path+"/DRY/events", M{"next_batch": "x"})
		alice.Fails(403, "M_FORBIDDEN", "POST", path+"/OTHER/events", M{})
		bob.Fails(404, "M_NOT_FOUND", "POST", path+"/DRY/events", M{})

		// Another one takes its place, and so does one of the same name; then it goes.
		_, second := dry("DRIER")
		alice.OK("PUT", path, second)
		if sees := bob.devicesOf(alice.User); sees.Get("DRY").Exists() || !sees.Get("DRIER").Exists() {
			t.Errorf("bob sees %s", sees.Raw)
		}
		alice.OK("PUT", path, second)
		if n := len(alice.OK("GET", "devices", nil).At("devices").Array()); n != 2 {
			t.Errorf("there are %d devices", n)
		}
		if id := alice.OK("DELETE", path, nil).Text("device_id"); id != "DRIER" {
			t.Errorf("%q is deleted", id)
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", path, nil)
		if sees := bob.devicesOf(alice.User); sees.Get("DRIER").Exists() || !sees.Get(alice.Device).Exists() {
			t.Errorf("bob sees %s", sees.Raw)
		}

		// The device is named by its key in Base64, and goes in all ways in which devices go.
		const key = "wjLpTLRqbqBzLs63aYaEv2Boi6cFEbbM/sSRQ2oAK+k"
		_, named := dry(key)
		alice.OK("PUT", path, named)
		bob.toDevice("base64", M{alice.User: M{key: M{"n": 1}}})
		if n := len(alice.OK("POST", path+"/"+url.PathEscape(key)+"/events", M{}).At("events").Array()); n != 1 {
			t.Errorf("%d messages", n)
		}
		alice.Authenticated("DELETE", Path("devices", key), M{})
		alice.Fails(404, "M_NOT_FOUND", "GET", path, nil)
		alice.OK("PUT", path, named)
		alice.OK("POST", "logout/all", M{})
		again := alice.Login()
		again.Fails(404, "M_NOT_FOUND", "GET", path, nil)
		if list := again.OK("GET", "devices", nil).At("devices").Array(); len(list) != 1 || list[0].Get("dehydrated").Exists() {
			t.Errorf("the devices are %v", list)
		}
	})
}
