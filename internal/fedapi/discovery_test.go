package fedapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"myelin/internal/fedapi"
	"myelin/internal/room"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/sign"
	"myelin/spec"
)

// TestRoutesAreTheSpecifications: each route is an operation with the authentication that it asks for.
func TestRoutesAreTheSpecifications(t *testing.T) {
	operations := make(map[string]spec.Operation)
	for _, op := range spec.Of(spec.ServerServer) {
		operations[op.ID] = op
	}
	// What servers of the first years ask for.
	for _, op := range []string{"sendJoinV1", "sendLeaveV1"} {
		operations[op] = operations[op[:len(op)-1]+"2"]
	}
	served := make(map[string]bool)
	for _, r := range new(fedapi.API).Routes() {
		op, ok := operations[r.Op]
		if !ok {
			t.Errorf("%s is no operation of the specification", r.Op)
		}
		if signed := op.Auth == "server signature"; signed != (r.Auth == web.Server) || !signed && r.Auth != web.None {
			t.Errorf("%s: the specification wants %q", r.Op, op.Auth)
		}
		served[r.Op] = true
	}
	// What is not served has no data behind it.
	refused := strings.Fields("askPolicyServerToSign")
	for _, op := range refused {
		if served[op] {
			t.Errorf("%s is served", op)
		}
		served[op] = true
	}
	for op := range operations {
		if !served[op] {
			t.Errorf("%s is not served", op)
		}
	}
}

// Spec: ss getWellKnown; ss getVersion
func TestDiscovery(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		n.open("GET /.well-known/matrix/server", "").want(404, "M_NOT_FOUND")
		r := n.request("GET /.well-known/matrix/server", "")
		r.Host = string(alias)
		if a := n.send(r); a.status != 200 || a.get("m\\.server").Str != "federation.alias.example:443" {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := n.open("GET /_matrix/federation/v1/version", ""); a.get("server.name").Str != "Myelin" || a.get("server.version").Str != "test" {
			t.Errorf("%s", a.body)
		}
	})
}

// Spec: ss getServerKey
func TestOwnKeys(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for host, name := range map[string]id.ServerName{string(here): here, string(alias): alias, "proxy.internal": here} {
			r := n.request("GET /_matrix/key/v2/server", "")
			r.Host = host
			a := n.send(r)
			a.want(200, "")
			if a.get("server_name").Str != string(name) || a.get("valid_until_ts").Int() < time.Now().Add(time.Hour).UnixMilli() {
				t.Errorf("as %s: %s", host, a.body)
			}
			key, _ := n.ours.Key(name)
			must(t, sign.Verify(a.body, string(name), key.ID, key.Public()))
		}
		n.open("GET /_matrix/key/v2/server/ed25519:any", "").want(200, "")
	})
}

// Spec: ss perspectivesKeyQuery; ss bulkPerspectivesKeyQuery
func TestNotary(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		erin := n.peer("there.example")
		notary, _ := n.ours.Key(here)
		signed := func(a *answer, wanted ...string) {
			t.Helper()
			a.want(200, "")
			got := a.get("server_keys").Array()
			if len(got) != len(wanted) {
				t.Fatalf("%d servers: %s", len(got), a.body)
			}
			for _, keys := range got {
				must(t, sign.Verify([]byte(keys.Raw), string(here), notary.ID, notary.Public()))
				name := keys.Get("server_name").Str
				if !strings.Contains(strings.Join(wanted, " "), name) {
					t.Errorf("the keys of %s were not asked for", name)
				}
				if name == string(erin.name) {
					must(t, sign.Verify([]byte(keys.Raw), name, erin.key.ID, erin.key.Public()))
				}
			}
		}
		signed(n.open("GET /_matrix/key/v2/query/there.example", ""), "there.example")
		signed(n.open("GET /_matrix/key/v2/query/there.example?minimum_valid_until_ts=5", ""), "there.example")
		signed(n.open("GET /_matrix/key/v2/query/here.example", ""), "here.example")
		signed(n.open("GET /_matrix/key/v2/query/down.example", ""))
		signed(n.open("GET /_matrix/key/v2/query/denied.example", ""))
		n.open("GET /_matrix/key/v2/query/no%20name", "").want(400, "M_INVALID_PARAM")

		signed(n.open("POST /_matrix/key/v2/query", `{"server_keys":{}}`))
		signed(n.open("POST /_matrix/key/v2/query", `{"server_keys":{"there.example":{},"alias.example":{"ed25519:x":{"minimum_valid_until_ts":1}},"down.example":{}}}`),
			"there.example", "alias.example")
		n.open("POST /_matrix/key/v2/query", `{}`).want(400, "M_MISSING_PARAM")
		n.open("POST /_matrix/key/v2/query", `{"server_keys":7}`).want(400, "M_BAD_JSON")
		n.open("POST /_matrix/key/v2/query", `{"server_keys":{"a b":{}}}`).want(400, "M_INVALID_PARAM")
		many := map[string]object{}
		for range 101 {
			many[string(rune('a'+len(many)/26))+string(rune('a'+len(many)%26))+".example"] = object{}
		}
		raw, _ := json.Marshal(object{"server_keys": many})
		n.open("POST /_matrix/key/v2/query", string(raw)).want(400, "M_INVALID_PARAM")
	})
}

// Spec: ss Unsupported endpoints
func TestUnsupported(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, what := range []string{
			"POST /_matrix/policy/v1/sign", "GET /_matrix/federation/v1/nothing",
			"PUT /_matrix/federation/v3/send_join/!r/$e",
		} {
			n.open(what, "{}").want(404, "M_UNRECOGNIZED")
		}
		n.open("GET /_matrix/federation/v1/send/1", "").want(405, "M_UNRECOGNIZED")
		n.open("DELETE /_matrix/key/v2/server", "").want(405, "M_UNRECOGNIZED")
	})
}

// Spec: ss Request Authentication
func TestForgedRequests(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, other := n.peer("there.example"), n.peer("other.example")
		const body = `{"origin_server_ts":1,"origin":"there.example","pdus":[]}`
		try := func(what string, status int, change func(r *http.Request, s *signature)) {
			t.Helper()
			r := n.request("PUT /_matrix/federation/v1/send/1", body)
			s := p.signature(r, body)
			change(r, &s)
			if r.Header.Get("Authorization") == "" {
				r.Header.Set("Authorization", s.header(t))
			}
			code := ""
			if status != 200 {
				code = "M_UNAUTHORIZED"
			}
			if a := n.send(r); a.status != status || a.get("errcode").Str != code {
				t.Errorf("%s: %d %s", what, a.status, a.body)
			}
		}
		try("as it should be", 200, func(*http.Request, *signature) {})
		try("to another name of ours", 200, func(_ *http.Request, s *signature) { s.destination = alias })
		try("another body", 401, func(_ *http.Request, s *signature) { s.content = `{"pdus":[{}]}` })
		try("another path", 401, func(_ *http.Request, s *signature) { s.uri = "/_matrix/federation/v1/send/2" })
		try("a query that isn't signed", 401, func(r *http.Request, _ *signature) { r.URL.RawQuery = "x=1"; r.RequestURI += "?x=1" })
		try("another method", 401, func(_ *http.Request, s *signature) { s.method = "GET" })
		try("for another server", 401, func(_ *http.Request, s *signature) { s.destination = "elsewhere.example" })
		try("another server's key", 401, func(_ *http.Request, s *signature) { s.key = other.key })
		try("in another server's name", 401, func(_ *http.Request, s *signature) { s.origin = other.name })
		try("in our name", 401, func(_ *http.Request, s *signature) { s.origin = here; s.key, _ = n.ours.Key(here) })
		try("from nobody", 401, func(_ *http.Request, s *signature) { s.origin = "nobody.example" })
		try("a header that is none", 401, func(r *http.Request, _ *signature) { r.Header.Set("Authorization", "X-Matrix ,,=") })
		try("no signature", 401, func(r *http.Request, s *signature) {
			r.Header.Set("Authorization", `X-Matrix origin="there.example",destination="here.example",key="ed25519:p1"`)
		})
		try("an access token", 401, func(r *http.Request, _ *signature) { r.Header.Set("Authorization", "Bearer x") })

		denied := n.peer("denied.example")
		denied.refused(403, "M_FORBIDDEN", "PUT v1/send/1", object{"pdus": []any{}})

		// A signature for one request is none for the next.
		r := n.request("GET /_matrix/federation/v1/query/profile?user_id=@alice:here.example", "")
		once := p.signature(r, "").header(t)
		for what, status := range map[string]int{"@alice:here.example": 404, "@bob:here.example": 401} {
			r := n.request("GET /_matrix/federation/v1/query/profile?user_id="+what, "")
			r.Header.Set("Authorization", once)
			if a := n.send(r); a.status != status {
				t.Errorf("%s: %d %s", what, a.status, a.body)
			}
		}
	})
}

// Spec: ss queryRoomDirectory; ss queryProfile; ss queryInfo; ss exchangeOpenIdToken
func TestQueries(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		n.user(alice)
		r := n.create(room.Creation{})
		p.joins(r)
		must(t, n.directory.Create(n.ctx, "#a:here.example", r, actor))
		a := p.ok("GET v1/query/directory?room_alias=%23a:here.example", nil)
		if a.get("room_id").Str != string(r) || strings.Join(a.list("servers"), " ") != "here.example there.example" {
			t.Errorf("%s", a.body)
		}
		p.refused(404, "M_NOT_FOUND", "GET v1/query/directory?room_alias=%23b:here.example", nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/query/directory?room_alias=%23a:there.example", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/query/directory?room_alias=a", nil)

		if a := p.ok("GET v1/query/profile?user_id=@alice:here.example", nil); a.get("displayname").Str != "Name of alice" {
			t.Errorf("%s", a.body)
		}
		if a := p.ok("GET v1/query/profile?user_id=@alice:here.example&field=displayname", nil); string(a.body) != `{"displayname":"Name of alice"}` {
			t.Errorf("%s", a.body)
		}
		p.refused(404, "M_NOT_FOUND", "GET v1/query/profile?user_id=@alice:here.example&field=avatar_url", nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/query/profile?user_id=@bob:here.example", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/query/profile?user_id=@erin:there.example", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/query/profile", nil)
		p.refused(404, "M_UNRECOGNIZED", "GET v1/query/weather", nil)

		token, err := n.accounts.NewOpenIDToken(n.ctx, alice)
		must(t, err)
		if a := n.open("GET /_matrix/federation/v1/openid/userinfo?access_token="+token.AccessToken, ""); a.get("sub").Str != string(alice) {
			t.Errorf("%s", a.body)
		}
		n.open("GET /_matrix/federation/v1/openid/userinfo?access_token=x", "").want(401, "M_UNKNOWN_TOKEN")
		n.open("GET /_matrix/federation/v1/openid/userinfo", "").want(401, "M_MISSING_TOKEN")
	})
}

// Spec: ss getPublicRooms; ss queryPublicRooms; ss getSpaceHierarchy
func TestListings(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		garden, cellar := n.create(room.Creation{Name: new("Garden")}), n.create(room.Creation{Name: new("Cellar")})
		for _, r := range []id.RoomID{garden, cellar} {
			must(t, n.directory.SetPublished(n.ctx, r, true, actor))
		}
		if a := p.ok("GET v1/publicRooms", nil); len(a.get("chunk").Array()) != 2 || a.get("total_room_count_estimate").Int() != 2 {
			t.Errorf("%s", a.body)
		}
		first := p.ok("GET v1/publicRooms?limit=1", nil)
		second := p.ok("GET v1/publicRooms?limit=1&since="+first.get("next_batch").Str, nil)
		if one, two := first.get("chunk.0.room_id").Str, second.get("chunk.0.room_id").Str; one == two || two == "" {
			t.Errorf("pages %s and %s", first.body, second.body)
		}
		if a := p.ok("POST v1/publicRooms", object{"filter": object{"generic_search_term": "gard"}}); len(a.get("chunk").Array()) != 1 || a.get("chunk.0.room_id").Str != string(garden) {
			t.Errorf("%s", a.body)
		}
		if a := p.ok("GET v1/publicRooms?third_party_instance_id=irc", nil); len(a.get("chunk").Array()) != 0 {
			t.Errorf("%s", a.body)
		}
		p.refused(400, "M_INVALID_PARAM", "GET v1/publicRooms?third_party_instance_id=irc&include_all_networks=true", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/publicRooms?limit=x", nil)
		p.refused(400, "M_BAD_JSON", "POST v1/publicRooms", object{"limit": "x"})

		space := n.create(room.Creation{Content: map[string]any{"type": "m.space"}})
		n.set(space, "m.space.child", string(garden), `{"via":["here.example"]}`)
		if a := p.ok("GET v1/hierarchy/"+esc(space), nil); a.get("children.0.room_id").Str != string(garden) || a.get("room.room_id").Str != string(space) {
			t.Errorf("%s", a.body)
		}
		n.set(space, "m.room.server_acl", "", `{"allow":["*"],"deny":["there.*"]}`)
		p.refused(403, "M_FORBIDDEN", "GET v1/hierarchy/"+esc(space), nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/hierarchy/!none:here.example", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/hierarchy/none", nil)
	})
}
