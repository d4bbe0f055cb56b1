package servertest

import (
	"strings"
	"testing"

	"myelin/internal/config"
)

// Spec: cs login; cs getLoginFlows; cs logout; cs logout_all
func TestLogin(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, c := s.Register(t, "alice"), s.Anonymous(t)
		local := strings.Split(strings.TrimPrefix(alice.User, "@"), ":")[0]
		if !strings.Contains(string(c.OK("GET", "login", nil).Body), `"m.login.password"`) {
			t.Error("no login by password")
		}
		login := func(user, password string) M {
			return M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": user}, "password": password}
		}
		for _, user := range []string{local, alice.User} {
			if a := c.OK("POST", "login", login(user, Password)); a.Text("user_id") != alice.User || a.At("refresh_token").Exists() {
				t.Errorf("login of %s: %s", user, a.Body)
			}
		}
		c.OK("POST", "login", M{"type": "m.login.password", "user": local, "password": Password}) // deprecated form
		c.Fails(403, "M_FORBIDDEN", "POST", "login", login(local, "wrong"))
		c.Fails(403, "M_FORBIDDEN", "POST", "login", login("nobody", Password))
		c.Fails(403, "M_FORBIDDEN", "POST", "login", login("@"+local+":elsewhere.org", Password))
		if a := c.Do("POST", "login", M{"type": "m.login.nonsense"}); a.Status != 400 {
			t.Errorf("an unknown type: %d %s", a.Status, a.Body)
		}
		if a := c.Do("POST", "login", M{}); a.Status != 400 {
			t.Errorf("no type: %d %s", a.Status, a.Body)
		}

		// A device ID that is known takes the device over, and its old token ends.
		phone := alice.Login()
		body := login(local, Password)
		body["device_id"] = phone.Device
		again := c.OK("POST", "login", body)
		if again.Text("device_id") != phone.Device {
			t.Errorf("device %s", again.Body)
		}
		phone.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)

		tablet := alice.Login()
		tablet.OK("POST", "logout", nil)
		tablet.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		alice.OK("GET", "account/whoami", nil)
		laptop := alice.Login()
		alice.OK("POST", "logout/all", nil)
		alice.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		laptop.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		alice.Login()
	})
}

// Spec: cs refresh; cs Soft logout
func TestRefresh(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, c := s.Register(t, "alice"), s.Anonymous(t)
		c.signedIn(c.OK("POST", "login", M{
			"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": alice.User}, "password": Password, "refresh_token": true,
		}))
		nobody := s.Anonymous(t)
		a := nobody.OK("POST", "refresh", M{"refresh_token": c.Refresh})
		if a.Text("access_token") == c.Token || a.At("expires_in_ms").Int() <= 0 {
			t.Errorf("refreshed: %s", a.Body)
		}
		fresh := c.As(a.Text("access_token"))
		if who := fresh.OK("GET", "account/whoami", nil); who.Text("device_id") != c.Device {
			t.Errorf("whoami: %s", who.Body)
		}
		c.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		nobody.Fails(401, "M_UNKNOWN_TOKEN", "POST", "refresh", M{"refresh_token": "made-up"})
		if a := nobody.Do("POST", "refresh", M{}); a.Status != 400 {
			t.Errorf("no refresh token: %d %s", a.Status, a.Body)
		}
	})
}

// Spec: cs generateLoginToken
func TestLoginToken(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		token := alice.Authenticated("POST", "/_matrix/client/v1/login/get_token", M{}).Text("login_token")
		c := s.Anonymous(t)
		body := M{"type": "m.login.token", "token": token}
		if got := c.OK("POST", "login", body).Text("user_id"); got != alice.User {
			t.Errorf("signed in as %s", got)
		}
		c.Fails(403, "M_FORBIDDEN", "POST", "login", body)
	})
}

// Spec: cs changePassword; cs deactivateAccount
func TestPasswordAndDeactivation(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		phone := alice.Login()
		path := "account/password"
		first := alice.Do("POST", path, M{"new_password": "battery staple"})
		wrong := M{"new_password": "battery staple", "auth": M{"type": "m.login.password", "session": first.Text("session"), "password": "wrong", "identifier": M{"type": "m.id.user", "user": alice.User}}}
		if a := alice.Do("POST", path, wrong); a.Status != 401 || a.At("errcode").Str != "M_FORBIDDEN" || !a.At("flows").Exists() {
			t.Errorf("a wrong password: %d %s", a.Status, a.Body)
		}
		alice.Authenticated("POST", path, M{"new_password": "battery staple", "logout_devices": false})
		alice.Password = "battery staple"
		phone.OK("GET", "account/whoami", nil)
		alice.Authenticated("POST", path, M{"new_password": "staple battery"})
		alice.Password = "staple battery"
		phone.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		alice.OK("GET", "account/whoami", nil)

		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		alice.Authenticated("POST", "account/deactivate", M{})
		alice.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		a := s.Anonymous(t).Do("POST", "login", M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": alice.User}, "password": alice.Password})
		if a.Status != 403 {
			t.Errorf("login after deactivation: %d %s", a.Status, a.Body)
		}
		bob.Until("", "the deactivated user leaving", func(*Sync) bool { return bob.Membership(room, alice) == "leave" })
	})
}

// Spec: cs getDevices; cs updateDevice; cs deleteDevice; cs deleteDevices
func TestDevices(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		phone, tablet, laptop := alice.Login(), alice.Login(), alice.Login()
		if n := len(alice.OK("GET", "devices", nil).At("devices").Array()); n != 4 {
			t.Errorf("%d devices", n)
		}
		alice.OK("PUT", Path("devices", phone.Device), M{"display_name": "Phone"})
		if got := alice.OK("GET", Path("devices", phone.Device), nil).Text("display_name"); got != "Phone" {
			t.Errorf("name %q", got)
		}
		bob.Fails(404, "M_NOT_FOUND", "GET", Path("devices", phone.Device), nil)
		bob.Fails(404, "M_NOT_FOUND", "PUT", Path("devices", phone.Device), M{"display_name": "Mine"})
		alice.Authenticated("DELETE", Path("devices", phone.Device), M{})
		phone.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		alice.Authenticated("POST", "delete_devices", M{"devices": []string{tablet.Device, laptop.Device, "UNKNOWN"}})
		laptop.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
		if n := len(alice.OK("GET", "devices", nil).At("devices").Array()); n != 1 {
			t.Errorf("%d devices are left", n)
		}
	})
}

// Spec: cs getAdminLockUser; cs setAdminSuspendUser; cs getWhoIs
func TestModeration(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		const secret = "pepper"
		admin := s.Admin(t, secret)
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		admin.Join(room)
		own, hers := alice.Say(room, "own"), admin.Say(room, "hers")
		lock, suspend := Path("/_matrix/client/v1/admin/lock", alice.User), Path("/_matrix/client/v1/admin/suspend", alice.User)
		alice.Fails(403, "M_FORBIDDEN", "GET", lock, nil)
		alice.Fails(403, "M_FORBIDDEN", "PUT", suspend, M{"suspended": false})
		if !admin.OK("PUT", lock, M{"locked": true}).At("locked").Bool() || !admin.OK("GET", lock, nil).At("locked").Bool() {
			t.Error("the account is not locked")
		}
		if a := alice.Fails(401, "M_USER_LOCKED", "GET", "account/whoami", nil); !a.At("soft_logout").Bool() {
			t.Errorf("a locked account: %s", a.Body)
		}
		admin.OK("PUT", lock, M{"locked": false})
		alice.Say(room, "free")
		admin.OK("PUT", suspend, M{"suspended": true})
		alice.Fails(403, "M_USER_SUSPENDED", "PUT", Path("rooms", room, "send", "m.room.message", "x"), M{"msgtype": "m.text", "body": "x"})
		alice.Fails(403, "M_USER_SUSPENDED", "POST", "createRoom", M{})
		alice.Fails(403, "M_USER_SUSPENDED", "POST", Path("rooms", room, "kick"), M{"user_id": admin.User})
		alice.Fails(403, "M_USER_SUSPENDED", "PUT", Path("rooms", room, "redact", hers, "r"), M{})
		alice.Redact(room, own)
		alice.OK("GET", "account/whoami", nil)
		if !admin.OK("GET", suspend, nil).At("suspended").Bool() {
			t.Error("the account is not suspended")
		}
		admin.OK("PUT", suspend, M{"suspended": false})
		alice.Say(room, "free again")
		admin.Fails(404, "M_NOT_FOUND", "GET", Path("/_matrix/client/v1/admin/lock", "@nobody:localhost"), nil)
		if got := alice.OK("GET", Path("admin", "whois", alice.User), nil).Text("user_id"); got != alice.User {
			t.Errorf("whois: %s", got)
		}
		admin.OK("GET", Path("admin", "whois", alice.User), nil)
		alice.Fails(403, "M_FORBIDDEN", "GET", Path("admin", "whois", admin.User), nil)
	}, func(c *config.Config) { c.RegistrationSharedSecret = "pepper" })
}
