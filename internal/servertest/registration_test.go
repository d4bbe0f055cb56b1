package servertest

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"

	"myelin/internal/config"
)

// Spec: cs register; cs checkUsernameAvailability
func TestRegistration(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		c := s.Anonymous(t)
		alice := s.Register(t, "alice")
		name := strings.Split(strings.TrimPrefix(alice.User, "@"), ":")[0]

		if !c.OK("GET", "register/available"+Query("username", "nobody-yet"), nil).At("available").Bool() {
			t.Error("a free name is not available")
		}
		c.Fails(400, "M_USER_IN_USE", "GET", "register/available"+Query("username", name), nil)
		c.Fails(400, "M_INVALID_USERNAME", "GET", "register/available"+Query("username", "Ünlaut"), nil)

		c.Fails(400, "M_USER_IN_USE", "POST", "register", M{"username": name, "password": Password})
		c.Fails(400, "M_INVALID_USERNAME", "POST", "register", M{"username": "no spaces", "password": Password})
		c.Fails(400, "M_INVALID_USERNAME", "POST", "register", M{"username": strings.Repeat("a", 255), "password": Password})
		c.Fails(400, "M_WEAK_PASSWORD", "POST", "register", M{"username": "weak", "password": "123"})

		// A wrong stage, an unknown session, and a session of somebody else's request.
		first := c.Do("POST", "register", M{"username": "carol", "password": Password})
		session := first.Text("session")
		if first.Status != 401 || first.At("errcode").Exists() {
			t.Errorf("the first answer: %d %s", first.Status, first.Body)
		}
		if a := c.Do("POST", "register", M{"username": "carol", "password": Password, "auth": M{"type": "m.login.password", "session": session}}); a.Status != 401 {
			t.Errorf("a stage that is not asked for: %d %s", a.Status, a.Body)
		}
		if a := c.Do("POST", "register", M{"username": "carol", "password": Password, "auth": M{"type": "m.login.dummy", "session": "made-up"}}); a.Status < 400 {
			t.Errorf("an unknown session: %d %s", a.Status, a.Body)
		}
		done := c.OK("POST", "register", M{"username": "carol", "password": Password, "inhibit_login": true, "auth": M{"type": "m.login.dummy", "session": session}})
		if done.Text("user_id") != "@carol:localhost" || done.At("access_token").Exists() {
			t.Errorf("a registration that does not sign in: %s", done.Body)
		}
		c.Fails(400, "M_USER_IN_USE", "POST", "register", M{"username": "carol", "password": Password})

		// Without a name the server makes one up; a device ID can be chosen.
		body := M{"password": Password, "device_id": "CHOSEN", "refresh_token": true}
		body["auth"] = M{"type": "m.login.dummy", "session": c.Do("POST", "register", body).Text("session")}
		if a := c.OK("POST", "register", body); a.Text("device_id") != "CHOSEN" || a.Text("refresh_token") == "" || a.At("expires_in_ms").Int() <= 0 {
			t.Errorf("a registration with a device: %s", a.Body)
		}
	})
}

// Spec: cs Token-authenticated registration
func TestRegistrationTokens(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		c := s.Anonymous(t)
		first := c.Do("POST", "register", M{"username": "dave", "password": Password})
		if !strings.Contains(string(first.Body), "m.login.registration_token") {
			t.Errorf("flows: %s", first.Body)
		}
		const valid = "/_matrix/client/v1/register/m.login.registration_token/validity"
		if c.OK("GET", valid+Query("token", "made-up"), nil).At("valid").Bool() {
			t.Error("a made-up token is valid")
		}
		a := c.Do("POST", "register", M{"username": "dave", "password": Password, "auth": M{
			"type": "m.login.registration_token", "token": "made-up", "session": first.Text("session"),
		}})
		if a.Status != 401 {
			t.Errorf("a made-up token: %d %s", a.Status, a.Body)
		}
	}, func(c *config.Config) { c.Registration = "token" })
}

// Spec: cs register
func TestClosedRegistration(t *testing.T) {
	const secret = "pepper"
	Each(t, func(t *testing.T, s *Server) {
		c := s.Anonymous(t)
		c.Fails(403, "M_FORBIDDEN", "POST", "register", M{"username": "eve", "password": Password})
		c.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "POST", "register?kind=guest", M{})
		c.Fails(400, "M_INVALID_PARAM", "POST", "register?kind=robot", M{})

		// The shared secret lets programs in.
		const path = "/_synapse/admin/v1/register"
		nonce := c.OK("GET", path, nil).Text("nonce")
		sign := func(nonce string) string {
			mac := hmac.New(sha1.New, []byte(secret))
			mac.Write([]byte(nonce + "\x00eve\x00" + Password + "\x00notadmin"))
			return hex.EncodeToString(mac.Sum(nil))
		}
		body := M{"nonce": nonce, "username": "eve", "password": Password, "admin": false, "mac": sign("other")}
		if a := c.Do("POST", path, body); a.Status != 403 {
			t.Errorf("a wrong signature: %d %s", a.Status, a.Body)
		}
		body["nonce"] = c.OK("GET", path, nil).Text("nonce")
		body["mac"] = sign(body["nonce"].(string))
		if a := c.OK("POST", path, body); a.Text("user_id") != "@eve:localhost" {
			t.Errorf("by secret: %s", a.Body)
		}
		if a := c.Do("POST", path, body); a.Status < 400 {
			t.Errorf("a nonce can be used twice: %s", a.Body)
		}
	}, func(c *config.Config) {
		c.Registration, c.RegistrationSharedSecret, c.AllowGuests = "closed", secret, false
	})
}

// Spec: cs Guest Access
func TestGuests(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, guest := s.Register(t, "alice"), s.Guest(t)
		if !guest.OK("GET", "account/whoami", nil).At("is_guest").Bool() {
			t.Error("whoami does not say that this is a guest")
		}
		closed := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{{"type": "m.room.guest_access", "content": M{"guest_access": "forbidden"}}}})
		open := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{{"type": "m.room.guest_access", "content": M{"guest_access": "can_join"}}}})
		guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "POST", Path("join", closed), M{})
		guest.Join(open)
		hello := guest.Say(open, "hello")
		if !HasEvent(alice.OK("GET", Path("rooms", open, "messages")+Query("dir", "b"), nil).At("chunk"), hello) {
			t.Error("the guest's message is not seen")
		}
		guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "POST", "createRoom", M{})
		guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "POST", Path("rooms", open, "invite"), M{"user_id": alice.User})

		// Guests go when they are no longer welcome.
		alice.SetState(open, "m.room.guest_access", "", M{"guest_access": "forbidden"})
		alice.Until("", "the guest's leaving", func(*Sync) bool { return alice.Membership(open, guest) == "leave" })
	})
}
