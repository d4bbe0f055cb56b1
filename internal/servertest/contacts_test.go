package servertest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"myelin/internal/config"
)

// postbox is a little SMTP server, and the links in the mails that it took.
type postbox struct {
	address string
	links   chan string
}

// openPostbox serves until the test ends. A sullen one takes connections and says nothing.
func openPostbox(t *testing.T, sullen bool) *postbox {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &postbox{address: l.Addr().String(), links: make(chan string, 16)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !sullen {
				go p.serve(c)
			}
		}
	}()
	return p
}

var link = regexp.MustCompile(`http://[^\s]+/_myelin/client/email/confirm\?[^\s]+`)

func (p *postbox) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	fmt.Fprint(c, "220 post\r\n")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(strings.Fields(line + " x")[0]); verb {
		case "EHLO":
			fmt.Fprint(c, "250-post\r\n250 AUTH PLAIN\r\n")
		case "AUTH":
			fmt.Fprint(c, "235 welcome\r\n")
		case "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			var mail strings.Builder
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
				mail.WriteString(line)
			}
			_, body, _ := strings.Cut(mail.String(), "\r\n\r\n")
			text, _ := io.ReadAll(quotedprintable.NewReader(strings.NewReader(body)))
			if found := link.Find(text); found != nil {
				p.links <- string(found)
			}
			fmt.Fprint(c, "250 taken\r\n")
		case "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 fine\r\n")
		}
	}
}

// follow opens the link of the newest mail as a human does, and returns the answer to the page's form.
func (p *postbox) follow(t *testing.T, s *Server) *http.Response {
	t.Helper()
	at := <-p.links
	page, err := s.http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	page.Body.Close()
	u, _ := url.Parse(at)
	done, err := s.http.Post(s.URL+u.Path, "application/x-www-form-urlencoded", strings.NewReader(u.RawQuery))
	if err != nil {
		t.Fatal(err)
	}
	done.Body.Close()
	if page.StatusCode != 200 || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") || page.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("the page of %s: %d %v", at, page.StatusCode, page.Header)
	}
	return done
}

func token(secret, email string, attempt int) M {
	return M{"client_secret": secret, "email": email, "send_attempt": attempt}
}

// Spec: cs add3PID; cs getAccount3PIDs; cs delete3pidFromAccount; cs requestTokenTo3PIDEmail; cs changePassword; cs register
func TestEmail(t *testing.T) {
	box := openPostbox(t, false)
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, nobody := s.Register(t, "alice"), s.Register(t, "bob"), s.Anonymous(t)
		address := Unique("alice-") + "@Mail.example"
		plain := strings.ToLower(address)
		if !alice.OK("GET", "capabilities", nil).At("capabilities", "m.3pid_changes", "enabled").Bool() {
			t.Error("addresses can't be changed")
		}
		const ask = "account/3pid/email/requestToken"
		sid := alice.OK("POST", ask, token("s3cret", address, 1)).Text("sid")
		if again := alice.OK("POST", ask, token("s3cret", address, 1)).Text("sid"); again != sid || len(box.links) > 1 {
			t.Errorf("an attempt that is repeated: session %s after %s, %d mails", again, sid, len(box.links))
		}
		creds := M{"sid": sid, "client_secret": "s3cret"}
		add := func(c *Client, creds M) *Answer {
			t.Helper()
			body := M{"auth": M{
				"type": "m.login.password", "session": c.Do("POST", "account/3pid/add", creds).Text("session"), "password": c.Password,
				"identifier": M{"type": "m.id.user", "user": c.User},
			}}
			for k, v := range creds {
				body[k] = v
			}
			return c.Do("POST", "account/3pid/add", body)
		}
		if a := add(alice, creds); a.Status != 400 || a.At("errcode").Str != "M_THREEPID_AUTH_FAILED" {
			t.Errorf("an address that is not confirmed: %d %s", a.Status, a.Body)
		}
		if got := box.follow(t, s).StatusCode; got != 200 {
			t.Errorf("confirmed: %d", got)
		}
		if a := add(alice, M{"sid": sid, "client_secret": "other"}); a.At("errcode").Str != "M_THREEPID_AUTH_FAILED" {
			t.Errorf("with a wrong secret: %d %s", a.Status, a.Body)
		}
		if a := add(alice, creds); a.Status != 200 {
			t.Fatalf("added: %d %s", a.Status, a.Body)
		}
		if a := add(alice, creds); a.At("errcode").Str != "M_THREEPID_AUTH_FAILED" {
			t.Errorf("a validation serves twice: %d %s", a.Status, a.Body)
		}
		if a := alice.OK("GET", "account/3pid", nil); a.At("threepids").Get("0.address").Str != plain || a.At("threepids").Get("0.validated_at").Int() == 0 {
			t.Errorf("addresses: %s", a.Body)
		}
		bob.Fails(400, "M_THREEPID_IN_USE", "POST", ask, token("x", plain, 1))
		nobody.Fails(400, "M_THREEPID_IN_USE", "POST", "register/email/requestToken", token("x", plain, 1))

		// It signs in.
		a := nobody.OK("POST", "login", M{"type": "m.login.password", "identifier": M{"type": "m.id.thirdparty", "medium": "email", "address": address}, "password": Password})
		if a.Text("user_id") != alice.User {
			t.Errorf("signed in: %s", a.Body)
		}

		// It gets a new password for one that was forgotten.
		nobody.Fails(400, "M_THREEPID_NOT_FOUND", "POST", "account/password/email/requestToken", token("x", "nobody@mail.example", 1))
		sid = nobody.OK("POST", "account/password/email/requestToken", M{"client_secret": "r", "email": plain, "send_attempt": 1, "next_link": "https://client.example/on"}).Text("sid")
		if done := box.follow(t, s); done.StatusCode != 303 || done.Header.Get("Location") != "https://client.example/on" {
			t.Errorf("confirmed: %d %v", done.StatusCode, done.Header)
		}
		body := M{"new_password": "battery staple"}
		body["auth"] = M{"type": "m.login.email.identity", "session": nobody.Do("POST", "account/password", body).Text("session"), "threepid_creds": M{"sid": sid, "client_secret": "r"}}
		nobody.OK("POST", "account/password", body)
		alice.Password = "battery staple"
		alice = alice.Login()

		// It is gone when its user says so, and not before.
		gone := M{"medium": "email", "address": plain}
		bob.OK("POST", "account/3pid/delete", gone)
		if n := len(alice.OK("GET", "account/3pid", nil).At("threepids").Array()); n != 1 {
			t.Errorf("%d addresses after another user deleted it", n)
		}
		alice.OK("POST", "account/3pid/unbind", gone)
		alice.OK("POST", "account/3pid/delete", gone)
		if got := alice.OK("GET", "account/3pid", nil).At("threepids").Raw; got != "[]" {
			t.Errorf("addresses: %s", got)
		}

		// The deprecated form adds one as well.
		old := Unique("bob-") + "@mail.example"
		sid = bob.OK("POST", ask, token("old", old, 1)).Text("sid")
		if got := box.follow(t, s).StatusCode; got != 200 {
			t.Errorf("confirmed: %d", got)
		}
		bob.OK("POST", "account/3pid", M{"three_pid_creds": M{"sid": sid, "client_secret": "old"}})
		if a := bob.OK("GET", "account/3pid", nil); a.At("threepids").Get("0.address").Str != old {
			t.Errorf("addresses: %s", a.Body)
		}

		// A newcomer may confirm an address.
		mine := Unique("carol-") + "@mail.example"
		sid = nobody.OK("POST", "register/email/requestToken", token("c", mine, 1)).Text("sid")
		body = M{"username": Unique("carol-"), "password": Password}
		first := nobody.Do("POST", "register", body)
		if !strings.Contains(string(first.Body), `["m.login.dummy"]`) || !strings.Contains(string(first.Body), `["m.login.email.identity"]`) {
			t.Errorf("flows: %s", first.Body)
		}
		body["auth"] = M{"type": "m.login.email.identity", "session": first.Text("session"), "threepid_creds": M{"sid": sid, "client_secret": "c"}}
		if a := nobody.Do("POST", "register", body); a.Status != 401 || a.At("errcode").Str != "M_THREEPID_AUTH_FAILED" {
			t.Errorf("an address that is not confirmed: %d %s", a.Status, a.Body)
		}
		box.follow(t, s)
		carol := s.Anonymous(t)
		carol.signedIn(carol.OK("POST", "register", body))
		if a := carol.OK("GET", "account/3pid", nil); a.At("threepids").Get("0.address").Str != mine {
			t.Errorf("addresses: %s", a.Body)
		}
	}, func(c *config.Config) {
		c.Mail = config.Mail{Server: box.address, TLS: "none", From: "Test <server@mail.example>", Username: "u", Password: "p"}
	})
}

// Spec: cs requestTokenTo3PIDEmail; cs bind3PID; cs post3PIDs
func TestEmailOfWrongShape(t *testing.T) {
	box := openPostbox(t, false)
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		const ask = "account/3pid/email/requestToken"
		for _, wrong := range []struct {
			code string
			body M
		}{
			{"M_MISSING_PARAM", M{"email": "a@b.example", "send_attempt": 1}},
			{"M_MISSING_PARAM", M{"client_secret": "x", "send_attempt": 1}},
			{"M_MISSING_PARAM", M{"client_secret": "x", "email": "a@b.example"}},
			{"M_INVALID_PARAM", token("no spaces", "a@b.example", 1)},
			{"M_INVALID_PARAM", token("x", "not an address", 1)},
			{"M_INVALID_PARAM", token("x", "a@b.example\r\nBcc: c@d.example", 1)},
			{"M_INVALID_PARAM", token("x", "A <a@b.example>", 1)},
			{"M_INVALID_PARAM", M{"client_secret": "x", "email": "a@b.example", "send_attempt": 1, "next_link": "javascript:alert(1)"}},
			{"M_BAD_JSON", M{"client_secret": "x", "email": "a@b.example", "send_attempt": "1"}},
		} {
			alice.Fails(400, wrong.code, "POST", ask, wrong.body)
		}
		address := Unique("flood-") + "@mail.example"
		for i := range 5 {
			alice.OK("POST", ask, token("x", address, i+1))
			<-box.links
		}
		alice.Fails(429, "M_LIMIT_EXCEEDED", "POST", ask, token("x", address, 6))
		alice.Fails(429, "M_LIMIT_EXCEEDED", "POST", ask, token("another", address, 1))

		alice.Fails(403, "M_THREEPID_DENIED", "POST", "account/3pid/msisdn/requestToken", M{"client_secret": "x", "country": "GB", "phone_number": "1", "send_attempt": 1})
		alice.Fails(400, "M_MISSING_PARAM", "POST", "account/3pid/bind", M{})
		alice.Fails(400, "M_SERVER_NOT_TRUSTED", "POST", "account/3pid/bind", M{"sid": "a", "client_secret": "b", "id_server": "c.example", "id_access_token": "d"})
		alice.Fails(403, "M_SERVER_NOT_TRUSTED", "POST", "account/3pid", M{"three_pid_creds": M{"sid": "a", "client_secret": "b", "id_server": "c.example", "id_access_token": "d"}})
		alice.Fails(403, "M_THREEPID_AUTH_FAILED", "POST", "account/3pid", M{"three_pid_creds": M{"sid": "a", "client_secret": "b"}})
		alice.Fails(400, "M_MISSING_PARAM", "POST", "account/3pid", M{})
		alice.Fails(400, "M_MISSING_PARAM", "POST", "account/3pid/delete", M{"medium": "email"})
		alice.Fails(400, "M_INVALID_PARAM", "POST", "account/3pid/unbind", M{"medium": "pigeon", "address": "x"})
		s.Anonymous(t).Fails(401, "M_MISSING_TOKEN", "POST", "account/3pid/delete", M{})
		s.Anonymous(t).Fails(401, "M_MISSING_TOKEN", "GET", "account/3pid", nil)
	}, func(c *config.Config) {
		c.Mail = config.Mail{Server: box.address, TLS: "none", From: "server@mail.example"}
		c.Identity.Servers = []string{"id.example"}
	})
	Each(t, func(t *testing.T, s *Server) {
		s.Anonymous(t).Fails(403, "M_THREEPID_DENIED", "POST", "register/email/requestToken", token("x", "a@b.example", 1))
	})
}

// captchaService judges answers as a service of that protocol does: "human" passes.
func captchaService(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed := r.FormValue("secret") == "hidden" && r.FormValue("response") == "human"
		_ = json.NewEncoder(w).Encode(map[string]any{"success": passed})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Spec: cs Google ReCaptcha; cs Terms of service at registration; cs Fallback
func TestNewcomers(t *testing.T) {
	service := captchaService(t)
	Each(t, func(t *testing.T, s *Server) {
		c := s.Anonymous(t)
		body := M{"username": Unique("dave-"), "password": Password}
		first := c.Do("POST", "register", body)
		session := first.Text("session")
		if got := first.At("flows").Raw; got != `[{"stages":["m.login.recaptcha","m.login.terms"]}]` {
			t.Errorf("flows: %s", got)
		}
		if first.At("params", "m.login.recaptcha", "public_key").Str != "site" || first.At("params", "m.login.terms", "policies", "privacy", "de", "name").Str != "Datenschutz" ||
			first.At("params", "m.login.terms", "policies", "privacy", "version").Str != "1.0" {
			t.Errorf("params: %s", first.Body)
		}
		try := func(auth M) *Answer {
			t.Helper()
			auth["session"] = session
			body["auth"] = auth
			return c.Do("POST", "register", body)
		}
		if a := try(M{"type": "m.login.recaptcha"}); a.Status != 401 || a.At("errcode").Str != "M_CAPTCHA_NEEDED" {
			t.Errorf("without a response: %d %s", a.Status, a.Body)
		}
		if a := try(M{"type": "m.login.recaptcha", "response": "robot"}); a.Status != 401 || a.At("errcode").Str != "M_CAPTCHA_INVALID" {
			t.Errorf("a robot: %d %s", a.Status, a.Body)
		}

		// A client that knows no such stage leaves it to a page.
		at := s.URL + "/_matrix/client/v3/auth/m.login.recaptcha/fallback/web"
		get := func(at string) (int, string) {
			t.Helper()
			resp, err := s.http.Get(at)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(text)
		}
		post := func(at string, form url.Values) (int, string) {
			t.Helper()
			resp, err := s.http.PostForm(at, form)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(text)
		}
		if status, page := get(at + "?session=" + session); status != 200 || !strings.Contains(page, `data-sitekey="site"`) {
			t.Errorf("the page: %d %s", status, page)
		}
		if status, page := post(at, url.Values{"session": {session}, "g-recaptcha-response": {"robot"}}); status != 401 || strings.Contains(page, "onAuthDone") {
			t.Errorf("a robot: %d %s", status, page)
		}
		if status, page := post(at, url.Values{"session": {session}, "g-recaptcha-response": {"human"}}); status != 200 || !strings.Contains(page, "onAuthDone") {
			t.Errorf("a human: %d %s", status, page)
		}
		if a := try(M{}); a.Status != 401 || a.At("completed").Raw != `["m.login.recaptcha"]` {
			t.Errorf("after the page: %d %s", a.Status, a.Body)
		}
		terms := strings.ReplaceAll(at, "recaptcha", "terms")
		if status, page := get(terms + "?session=" + url.QueryEscape(`"><script>`)); status != 200 || !strings.Contains(page, "https://example.org/de") || strings.Contains(page, `"><script>`) {
			t.Errorf("the page: %d %s", status, page)
		}
		if status, _ := post(terms, url.Values{"session": {session}}); status != 200 {
			t.Errorf("terms: %d", status)
		}
		if a := try(M{}); a.Status != 200 {
			t.Errorf("registered: %d %s", a.Status, a.Body)
		}
		if status, _ := get(strings.ReplaceAll(at, "recaptcha", "nonsense") + "?session=x"); status != 404 {
			t.Errorf("a stage that isn't: %d", status)
		}
		if status, _ := post(terms, url.Values{"session": {"made-up"}}); status != 404 {
			t.Errorf("a session that isn't: %d", status)
		}
		if status, page := get(s.URL + "/_matrix/static/client/login/"); status != 200 || !strings.Contains(page, "matrixLogin.onLogin") {
			t.Errorf("the page to sign in: %d %s", status, page)
		}
	}, func(c *config.Config) {
		c.Captcha = config.Captcha{SiteKey: "site", Secret: "hidden", VerifyURL: service, ScriptURL: "https://captcha.example/api.js"}
		c.Terms.Documents = []string{"privacy 1.0 en https://example.org/en Privacy", "privacy 1.0 de https://example.org/de Datenschutz"}
	})
}

// Spec: cs redirectToSSO; cs redirectToIdP; cs getAuthMetadata; cs getWellknownPolicy
func TestNobodySignsInElsewhere(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		c := s.Anonymous(t)
		c.Fails(404, "M_UNRECOGNIZED", "GET", "login/sso/redirect"+Query("redirectUrl", "https://client.example"), nil)
		c.Fails(400, "M_MISSING_PARAM", "GET", "login/sso/redirect", nil)
		c.Fails(404, "M_NOT_FOUND", "GET", "login/sso/redirect/acme"+Query("redirectUrl", "https://client.example"), nil)
		c.Fails(404, "M_UNRECOGNIZED", "GET", "/_matrix/client/v1/auth_metadata", nil)
		c.Fails(404, "M_NOT_FOUND", "GET", "/.well-known/matrix/policy_server", nil)
	})
}
