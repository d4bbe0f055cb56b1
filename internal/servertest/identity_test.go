package servertest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/config"
	"myelin/internal/nettest"
	"myelin/internal/server"
	"myelin/matrix/sign"
)

// identityServer is one on a network in memory: it knows whose some addresses are, keeps invites, and tells servers of new owners.
type identityServer struct {
	*Net
	tb     testing.TB
	name   string
	key    sign.Key
	client *http.Client

	mu      sync.Mutex
	owners  map[string]string // of hashed addresses
	stored  []gjson.Result
	unbound []*http.Request
	revoked bool
	refuses bool          // to withdraw addresses
	silent  chan struct{} // closed when the test ends: until then some requests hang
}

const pepper = "pepper"

func (n *Net) identityServer(tb testing.TB, name string) *identityServer {
	tb.Helper()
	key, err := sign.Generate(rand.Reader, "0")
	if err == nil {
		err = n.authority.Certify(name, n.path(name+".crt"), n.path(name+".key"))
	}
	if err != nil {
		tb.Fatal(err)
	}
	s := &identityServer{Net: n, tb: tb, name: name, key: key, owners: make(map[string]string), silent: make(chan struct{})}
	pair, err := tls.LoadX509KeyPair(n.path(name+".crt"), n.path(name+".key"))
	if err != nil {
		tb.Fatal(err)
	}
	host := n.Host(name)
	l, err := host.Listen("tcp", ":443")
	if err != nil {
		tb.Fatal(err)
	}
	server := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, Handler: s, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
	// It doesn't check the certificates of those whom it tells.
	s.client = &http.Client{Transport: &http.Transport{
		DialContext: host.Dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, //nolint:gosec
	}}
	tb.Cleanup(func() { close(s.silent); server.Close(); <-done })
	return s
}

// knows has it know whose an address is.
func (s *identityServer) knows(address string, owner *Client) {
	sum := sha256.Sum256([]byte(address + " email " + pepper))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[base64.RawURLEncoding.EncodeToString(sum[:])] = owner.User
}

func (s *identityServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	in := gjson.ParseBytes(body)
	path := strings.TrimPrefix(r.URL.Path, "/_matrix/identity/v2")
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch token := r.Header.Get("Authorization"); {
	case path == "/pubkey/isvalid":
		answer(200, M{"valid": !s.revoked && r.URL.Query().Get("public_key") == sign.EncodeBase64(s.key.Public())})
	case path == "/3pid/unbind" && s.refuses:
		answer(403, M{"errcode": "M_FORBIDDEN", "error": "Not now."})
	case path == "/3pid/unbind":
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.unbound = append(s.unbound, r)
		answer(200, M{})
	case token == "Bearer silent":
		s.mu.Unlock()
		<-s.silent
		s.mu.Lock()
	case token == "Bearer unsigned":
		answer(403, M{"errcode": "M_TERMS_NOT_SIGNED", "error": "There are new terms."})
	case token == "Bearer nonsense":
		fmt.Fprint(w, strings.Repeat("x", 100<<10))
	case token != "Bearer good":
		answer(401, M{"errcode": "M_UNAUTHORIZED", "error": "Who are you?"})
	case path == "/hash_details":
		answer(200, M{"lookup_pepper": pepper, "algorithms": []string{"none", "sha256"}})
	case path == "/lookup":
		found := M{}
		for _, hash := range in.Get("addresses").Array() {
			if owner, ok := s.owners[hash.Str]; ok {
				found[hash.Str] = owner
			}
		}
		answer(200, M{"mappings": found})
	case path == "/store-invite":
		s.stored = append(s.stored, in)
		key := M{"public_key": sign.EncodeBase64(s.key.Public()), "key_validity_url": "https://" + s.name + "/_matrix/identity/v2/pubkey/isvalid"}
		answer(200, M{"token": fmt.Sprint("token", len(s.stored)), "public_keys": []M{key, key}, "display_name": "n...@x..."})
	case path == "/3pid/bind":
		answer(200, M{"medium": "email", "address": "Alice@X.example", "mxid": in.Get("mxid").Str, "not_before": 1, "not_after": 2, "ts": 1, "signatures": M{}})
	default:
		answer(404, M{"errcode": "M_UNRECOGNIZED", "error": "no"})
	}
}

// invite is the last invite that it keeps.
func (s *identityServer) invite() gjson.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stored) == 0 {
		s.tb.Fatal("the identity server has no invite")
	}
	return s.stored[len(s.stored)-1]
}

// bound tells a user's server that the user has proved to own the address that was invited last.
func (s *identityServer) bound(owner *Client) {
	s.tb.Helper()
	in := s.invite()
	s.mu.Lock()
	token := fmt.Sprint("token", len(s.stored))
	s.mu.Unlock()
	proof, err := json.Marshal(M{"mxid": owner.User, "token": token})
	if err == nil {
		proof, err = s.key.Sign(proof, s.name)
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	invite := M{"medium": "email", "address": in.Get("address").Str, "mxid": owner.User, "room_id": in.Get("room_id").Str, "sender": in.Get("sender").Str, "signed": json.RawMessage(proof)}
	raw, err := json.Marshal(M{"medium": "email", "address": in.Get("address").Str, "mxid": owner.User, "invites": []M{invite}})
	if err != nil {
		s.tb.Fatal(err)
	}
	r, err := http.NewRequestWithContext(s.tb.Context(), "PUT", "https://"+owner.Server.Name()+":8448/_matrix/federation/v1/3pid/onbind", bytes.NewReader(raw))
	if err != nil {
		s.tb.Fatal(err)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		s.tb.Fatalf("onbind: %d %s", resp.StatusCode, text)
	}
}

// Spec: cs inviteBy3PID; cs Third-party invites; ss onBindThirdPartyIdentifier; ss exchangeThirdPartyInvite
// Spec: is lookupUsersV2; is getHashDetails; is storeInviteV2; is isPubKeyValidV2
func TestInvitesOfAddresses(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		reach := func(c *config.Config) { c.Identity.AllowNetworks = []string{nettest.Prefix.String()} }
		a, b := n.Start("a.test", reach), n.Start("b.test")
		is := n.identityServer(t, "id.test")
		alice, bob, carol := a.Register(t, "alice"), b.Register(t, "bob"), b.Register(t, "carol")
		is.knows("bob@x.example", bob)
		room := alice.CreateRoom(M{"preset": "private_chat", "name": "Secret"})
		invite := func(address, token string) M {
			return M{"id_server": "id.test", "id_access_token": token, "medium": "email", "address": address}
		}
		at := Path("rooms", room, "invite")
		alice.OK("POST", at, invite("Bob@X.example", "good"))
		bob.Until("", "an invite", func(s *Sync) bool { return s.Invited(room).Exists() })

		alice.OK("POST", at, invite("new@x.example", "good"))
		state := alice.State(room, "m.room.third_party_invite", "token1")
		if state.Get("display_name").Str != "n...@x..." || state.Get("public_keys.#").Int() != 2 || strings.Contains(state.Raw, "new@") {
			t.Errorf("the room says %s", state.Raw)
		}
		if in := is.invite(); in.Get("room_name").Str != "Secret" || in.Get("sender").Str != alice.User || in.Get("address").Str != "new@x.example" || in.Get("room_join_rules").Str != "invite" {
			t.Errorf("the identity server was told %s", in.Raw)
		}
		is.bound(carol)
		s := carol.Until("", "an invite", func(s *Sync) bool { return s.Invited(room).Exists() })
		if own := Find(s.Invited(room).Get("invite_state.events"), "m.room.member"); !own.Exists() {
			t.Errorf("the invite: %s", s.Invited(room).Raw)
		}
		carol.OK("POST", Path("join", room)+Query("via", "a.test"), M{})
		if signed := alice.State(room, "m.room.third_party_invite", "token1"); !signed.Exists() {
			t.Error("the invite of the address is gone")
		}

		// A key that the identity server has taken back proves nothing.
		dave := b.Register(t, "dave")
		other := alice.OK("POST", "createRoom", M{"invite_3pid": []M{invite("dave@x.example", "good")}}).Text("room_id")
		is.mu.Lock()
		is.revoked = true
		is.mu.Unlock()
		is.bound(dave)
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("rooms", other, "state", "m.room.member", dave.User), nil)

		for _, wrong := range []struct {
			status int
			code   string
			body   M
		}{
			{400, "M_MISSING_PARAM", M{"medium": "email", "address": "x@y.example"}},
			{400, "M_INVALID_PARAM", M{"medium": "pigeon", "address": "x", "id_server": "id.test", "id_access_token": "good"}},
			{400, "M_INVALID_PARAM", M{"medium": "email", "address": "x@y.example", "id_server": "id.test/path", "id_access_token": "good"}},
			{400, "M_UNAUTHORIZED", invite("x@y.example", "bad")},
			{403, "M_TERMS_NOT_SIGNED", invite("x@y.example", "unsigned")},
			{400, "M_UNKNOWN", invite("x@y.example", "nonsense")},
			{400, "M_CONNECTION_FAILED", M{"medium": "email", "address": "x@y.example", "id_server": "nowhere.test", "id_access_token": "good"}},
		} {
			alice.Fails(wrong.status, wrong.code, "POST", at, wrong.body)
		}
		alice.Fails(400, "M_MISSING_PARAM", "POST", "createRoom", M{"invite_3pid": []M{{"medium": "email"}}})
		alice.Fails(400, "M_BAD_JSON", "POST", "createRoom", M{"invite_3pid": []any{5}})
		begin := time.Now()
		alice.Fails(400, "M_CONNECTION_FAILED", "POST", at, invite("x@y.example", "silent"))
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("an identity server that hangs costs %s", took)
		}
		// The server of bob may reach no private address.
		theirs := bob.CreateRoom(M{})
		bob.Fails(400, "M_CONNECTION_FAILED", "POST", Path("rooms", theirs, "invite"), invite("x@y.example", "good"))
		bob.Fails(403, "M_FORBIDDEN", "POST", at, invite("x@y.example", "good"))
	})
}

// Spec: cs bind3PID; cs unbind3pidFromAccount; cs delete3pidFromAccount; cs deactivateAccount
// Spec: is bindV2; is unbindV2
func TestPublishedAddresses(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a := n.Start("a.test", func(c *config.Config) { c.Identity.AllowNetworks = []string{nettest.Prefix.String()} })
		is := n.identityServer(t, "id.test")
		alice := a.Register(t, "alice")
		bind := M{"sid": "1", "client_secret": "s", "id_server": "id.test", "id_access_token": "good"}
		address := M{"medium": "email", "address": "alice@x.example"}
		result := func(a *Answer) string { return a.Text("id_server_unbind_result") }
		if got := result(alice.OK("POST", "account/3pid/unbind", address)); got != "no-support" {
			t.Errorf("withdrawing what was not published: %s", got)
		}
		alice.OK("POST", "account/3pid/bind", bind)
		if got := result(alice.OK("POST", "account/3pid/unbind", address)); got != "success" {
			t.Errorf("withdrawing: %s", got)
		}
		is.mu.Lock()
		asked := is.unbound
		is.mu.Unlock()
		if len(asked) != 1 {
			t.Fatalf("%d requests to withdraw", len(asked))
		}
		body, _ := io.ReadAll(asked[0].Body)
		if in := gjson.ParseBytes(body); in.Get("mxid").Str != alice.User || in.Get("threepid.address").Str != "alice@x.example" {
			t.Errorf("the identity server was asked %s", body)
		}
		if header := asked[0].Header.Get("Authorization"); !strings.HasPrefix(header, `X-Matrix origin="a.test",destination="id.test",key="ed25519:`) {
			t.Errorf("the request is signed by %s", header)
		}
		if got := result(alice.OK("POST", "account/3pid/delete", address)); got != "no-support" {
			t.Errorf("withdrawing again: %s", got)
		}
		alice.OK("POST", "account/3pid/bind", bind)
		bind["id_access_token"] = "unsigned"
		alice.Fails(403, "M_TERMS_NOT_SIGNED", "POST", "account/3pid/bind", bind)
		session := alice.Do("POST", "account/deactivate", M{}).Text("session")
		over := alice.OK("POST", "account/deactivate", M{"auth": M{"type": "m.login.password", "session": session, "identifier": M{"type": "m.id.user", "user": alice.User}, "password": alice.Password}})
		is.mu.Lock()
		defer is.mu.Unlock()
		if result(over) != "success" || len(is.unbound) != 2 {
			t.Errorf("at the end: %s, %d requests", over.Body, len(is.unbound))
		}
	})
}

// TestCommandWithdraws: an administrator who ends an account has identity servers forget its addresses, and is told where one did not.
func TestCommandWithdraws(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		n.commands = true
		a := n.Start("a.test", func(c *config.Config) { c.Identity.AllowNetworks = []string{nettest.Prefix.String()} })
		is := n.identityServer(t, "id.test")
		alice := a.Register(t, "alice")
		alice.OK("POST", "account/3pid/bind", M{"sid": "1", "client_secret": "s", "id_server": "id.test", "id_access_token": "good"})
		commands, err := server.OpenCommands(t.Context(), a.Config, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer commands.Close()
		for _, step := range []struct{ refuses, published bool }{{true, true}, {false, false}, {false, false}} {
			is.mu.Lock()
			is.refuses = step.refuses
			is.mu.Unlock()
			var ended server.Deactivated
			if err := commands.Do(t.Context(), "POST", "/users/"+url.PathEscape(alice.User)+"/deactivate", server.Deactivation{}, &ended); err != nil || ended.Published != step.published {
				t.Errorf("%+v: %+v %v", step, ended, err)
			}
		}
		is.mu.Lock()
		defer is.mu.Unlock()
		if len(is.unbound) != 1 {
			t.Errorf("%d addresses were withdrawn", len(is.unbound))
		}
	})
}
