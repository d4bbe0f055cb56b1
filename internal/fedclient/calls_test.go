package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const template = `{"room_version":"10","event":{"type":"m.room.member","room_id":"!r:hs.example","sender":"@al:us.example","state_key":"@al:us.example","content":{"membership":"%s"}}}`

// Each operation: what goes out, and what is made of the answer.
func TestCalls(t *testing.T) {
	const room, event, user = id.RoomID("!r:hs.example"), id.EventID("$e/1"), id.UserID("@al:us.example")
	body := []byte(`{"b":1,"a":2}`)
	for _, s := range []struct {
		op      string
		call    func(context.Context, *Client) (any, error)
		request string // method, target and body
		answer  string
		want    string // in JSON
	}{
		{"getVersion", func(ctx context.Context, c *Client) (any, error) { return c.Version(ctx, to("hs.example")) },
			"GET /_matrix/federation/v1/version ", `{"server":{"name":"N","version":"V"}}`, `{"name":"N","version":"V"}`},
		{"sendTransaction", func(ctx context.Context, c *Client) (any, error) {
			return c.SendTransaction(ctx, to("hs.example"), "t 1", Transaction{OriginServerTS: 7, PDUs: raws(`{"a":1}`, `{"b":2}`)})
		}, `PUT /_matrix/federation/v1/send/t%201 {"edus":[],"origin":"us.example","origin_server_ts":7,"pdus":[{"a":1},{"b":2}]}`,
			`{"pdus":{"$a":{},"$b":{"error":"no"}}}`, `{"$b":"no"}`},
		{"makeJoin", func(ctx context.Context, c *Client) (any, error) {
			return c.MakeJoin(ctx, to("hs.example"), room, user, []string{"1", "10"})
		}, "GET /_matrix/federation/v1/make_join/%21r:hs.example/@al:us.example?ver=1&ver=10 ", fmt.Sprintf(template, "join"),
			`{"RoomVersion":"10","Event":{"type":"m.room.member","room_id":"!r:hs.example","sender":"@al:us.example","state_key":"@al:us.example","content":{"membership":"join"}}}`},
		{"makeLeave", func(ctx context.Context, c *Client) (any, error) {
			return c.MakeLeave(ctx, to("hs.example"), room, user)
		},
			"GET /_matrix/federation/v1/make_leave/%21r:hs.example/@al:us.example ", strings.Replace(fmt.Sprintf(template, "leave"), `"room_version":"10",`, "", 1),
			`{"RoomVersion":"1","Event":{"type":"m.room.member","room_id":"!r:hs.example","sender":"@al:us.example","state_key":"@al:us.example","content":{"membership":"leave"}}}`},
		{"makeKnock", func(ctx context.Context, c *Client) (any, error) {
			return c.MakeKnock(ctx, to("hs.example"), room, user, []string{"7"})
		}, "GET /_matrix/federation/v1/make_knock/%21r:hs.example/@al:us.example?ver=7 ", fmt.Sprintf(template, "knock"),
			`{"RoomVersion":"10","Event":{"type":"m.room.member","room_id":"!r:hs.example","sender":"@al:us.example","state_key":"@al:us.example","content":{"membership":"knock"}}}`},
		{"sendJoinV2", func(ctx context.Context, c *Client) (any, error) {
			var state, chain []json.RawMessage
			joined, err := c.SendJoin(ctx, to("hs.example"), room, event, body, true, Events{
				State:     func(raw json.RawMessage) error { state = append(state, raw); return nil },
				AuthChain: func(raw json.RawMessage) error { chain = append(chain, raw); return nil },
			})
			return []any{joined, state, chain}, err
		}, `PUT /_matrix/federation/v2/send_join/%21r:hs.example/$e%2F1?omit_members=true {"a":2,"b":1}`,
			`{"state":[{"s":1}],"auth_chain":[{"c":1},{"c":2}],"event":{"e":1},"members_omitted":true,"servers_in_room":["hs.example"]}`,
			`[{"Event":{"e":1},"MembersOmitted":true,"Servers":["hs.example"]},[{"s":1}],[{"c":1},{"c":2}]]`},
		{"sendLeaveV2", func(ctx context.Context, c *Client) (any, error) {
			return nil, c.SendLeave(ctx, to("hs.example"), room, event, body)
		}, `PUT /_matrix/federation/v2/send_leave/%21r:hs.example/$e%2F1 {"a":2,"b":1}`, `{}`, `null`},
		{"sendKnock", func(ctx context.Context, c *Client) (any, error) {
			return c.SendKnock(ctx, to("hs.example"), room, event, body)
		}, `PUT /_matrix/federation/v1/send_knock/%21r:hs.example/$e%2F1 {"a":2,"b":1}`, `{"knock_room_state":[{"x":1}]}`, `[{"x":1}]`},
		{"sendInviteV2", func(ctx context.Context, c *Client) (any, error) {
			return c.Invite(ctx, to("hs.example"), room, event, Invitation{RoomVersion: "10", Event: body})
		}, `PUT /_matrix/federation/v2/invite/%21r:hs.example/$e%2F1 {"event":{"a":2,"b":1},"invite_room_state":[],"room_version":"10"}`, `{"event":{"y":1}}`, `{"y":1}`},
		{"exchangeThirdPartyInvite", func(ctx context.Context, c *Client) (any, error) {
			return nil, c.ExchangeThirdPartyInvite(ctx, to("hs.example"), room, body)
		}, `PUT /_matrix/federation/v1/exchange_third_party_invite/%21r:hs.example {"a":2,"b":1}`, `{}`, `null`},
		{"backfillRoom", func(ctx context.Context, c *Client) (any, error) {
			return c.Backfill(ctx, to("hs.example"), room, []id.EventID{"$a", "$b"}, 2)
		}, "GET /_matrix/federation/v1/backfill/%21r:hs.example?limit=2&v=%24a&v=%24b ", `{"pdus":[{"a":1},{"b":1},{"c":1}]}`, `[{"a":1},{"b":1}]`},
		{"getMissingPreviousEvents", func(ctx context.Context, c *Client) (any, error) {
			return c.MissingEvents(ctx, to("hs.example"), room, Missing{Latest: []id.EventID{"$b"}, Limit: 1, MinDepth: 3})
		}, `POST /_matrix/federation/v1/get_missing_events/%21r:hs.example {"earliest_events":[],"latest_events":["$b"],"limit":1,"min_depth":3}`, `{"events":[{"a":1},{"b":1}]}`, `[{"a":1}]`},
		{"getRoomState", func(ctx context.Context, c *Client) (any, error) {
			var got []json.RawMessage
			take := func(raw json.RawMessage) error { got = append(got, raw); return nil }
			return &got, c.State(ctx, to("hs.example"), room, event, Events{take, take})
		}, "GET /_matrix/federation/v1/state/%21r:hs.example?event_id=%24e%2F1 ", `{"pdus":[{"a":1}],"auth_chain":[{"b":1}]}`, `[{"a":1},{"b":1}]`},
		{"getRoomStateIds", func(ctx context.Context, c *Client) (any, error) {
			return c.StateIDs(ctx, to("hs.example"), room, event)
		}, "GET /_matrix/federation/v1/state_ids/%21r:hs.example?event_id=%24e%2F1 ", `{"pdu_ids":["$a"],"auth_chain_ids":["$b","$c"]}`, `{"State":["$a"],"AuthChain":["$b","$c"]}`},
		{"getEvent", func(ctx context.Context, c *Client) (any, error) { return c.Event(ctx, to("hs.example"), event) },
			"GET /_matrix/federation/v1/event/$e%2F1 ", `{"origin":"x","pdus":[{"a":1},{"b":1}]}`, `{"a":1}`},
		{"getEventAuth", func(ctx context.Context, c *Client) (any, error) {
			return c.EventAuth(ctx, to("hs.example"), room, event)
		},
			"GET /_matrix/federation/v1/event_auth/%21r:hs.example/$e%2F1 ", `{"auth_chain":[{"a":1}]}`, `[{"a":1}]`},
		{"getEventByTimestamp", func(ctx context.Context, c *Client) (any, error) {
			e, ts, err := c.TimestampToEvent(ctx, to("hs.example"), room, 5, true)
			return []any{e, ts}, err
		}, "GET /_matrix/federation/v1/timestamp_to_event/%21r:hs.example?dir=f&ts=5 ", `{"event_id":"$x","origin_server_ts":6}`, `["$x",6]`},
		{"queryPublicRooms", func(ctx context.Context, c *Client) (any, error) {
			return c.PublicRooms(ctx, to("hs.example"), PublicRoomsQuery{Limit: 3, Filter: json.RawMessage(`{"generic_search_term":"x"}`)})
		}, `POST /_matrix/federation/v1/publicRooms {"filter":{"generic_search_term":"x"},"limit":3}`, `{"chunk":[{"a":1}],"next_batch":"n","total_room_count_estimate":9}`,
			`{"chunk":[{"a":1}],"next_batch":"n","prev_batch":"","total_room_count_estimate":9}`},
		{"getSpaceHierarchy", func(ctx context.Context, c *Client) (any, error) {
			return c.Hierarchy(ctx, to("hs.example"), room, true)
		}, "GET /_matrix/federation/v1/hierarchy/%21r:hs.example?suggested_only=true ", `{"room":{"a":1},"children":[{"b":1}],"inaccessible_children":["!x:y"]}`,
			`{"room":{"a":1},"children":[{"b":1}],"inaccessible_children":["!x:y"]}`},
		{"queryRoomDirectory", func(ctx context.Context, c *Client) (any, error) {
			r, s, err := c.QueryDirectory(ctx, to("hs.example"), "#a&b:hs.example")
			return []any{r, s}, err
		}, "GET /_matrix/federation/v1/query/directory?room_alias=%23a%26b%3Ahs.example ", `{"room_id":"!x:y","servers":["a","b c","d:1"]}`, `["!x:y",["a","d:1"]]`},
		{"queryProfile", func(ctx context.Context, c *Client) (any, error) {
			return c.QueryProfile(ctx, to("hs.example"), "@b:hs.example", "displayname")
		}, "GET /_matrix/federation/v1/query/profile?field=displayname&user_id=%40b%3Ahs.example ", `{"displayname":null,"x":{"y":1}}`, `{"displayname":null,"x":{"y":1}}`},
		{"getUserDevices", func(ctx context.Context, c *Client) (any, error) {
			return c.UserDevices(ctx, to("hs.example"), "@b:hs.example")
		}, "GET /_matrix/federation/v1/user/devices/@b:hs.example ", `{"user_id":"@b:hs.example","stream_id":5,"devices":[{"d":1}],"master_key":{"m":1}}`,
			`{"user_id":"@b:hs.example","stream_id":5,"devices":[{"d":1}],"master_key":{"m":1},"self_signing_key":null}`},
		{"claimUserEncryptionKeys", func(ctx context.Context, c *Client) (any, error) {
			return c.ClaimKeys(ctx, to("hs.example"), map[id.UserID]map[id.DeviceID]string{"@b:hs.example": {"D": "signed_curve25519"}})
		}, `POST /_matrix/federation/v1/user/keys/claim {"one_time_keys":{"@b:hs.example":{"D":"signed_curve25519"}}}`,
			`{"one_time_keys":{"@b:hs.example":{"D":{"signed_curve25519:A":{"key":"x"}}},"@c:hs.example":{"E":{"f":1}}}}`, `{"@b:hs.example":{"D":{"signed_curve25519:A":{"key":"x"}}}}`},
		{"queryUserEncryptionKeys", func(ctx context.Context, c *Client) (any, error) {
			return c.QueryKeys(ctx, to("hs.example"), map[id.UserID][]id.DeviceID{"@b:hs.example": nil})
		}, `POST /_matrix/federation/v1/user/keys/query {"device_keys":{"@b:hs.example":[]}}`, `{"device_keys":{"@b:hs.example":{"D":{"x":1}},"@c:hs.example":{}},"master_keys":{"@c:hs.example":{}}}`,
			`{"device_keys":{"@b:hs.example":{"D":{"x":1}}},"master_keys":{},"self_signing_keys":null}`},
		{"askPolicyServerToSign", func(ctx context.Context, c *Client) (any, error) { return c.PolicySign(ctx, to("hs.example"), body) },
			`POST /_matrix/policy/v1/sign {"a":2,"b":1}`, `{"hs.example":{"ed25519:policy_server":"sig"},"x":{"ed25519:y":"z"}}`, `{"ed25519:policy_server":"sig"}`},
	} {
		t.Run(s.op, func(t *testing.T) {
			n := newNetwork(t)
			r := n.remote("hs.example", "8.8.8.1")
			status, answer := 200, s.answer
			r.mux.HandleFunc("/_matrix/", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, answer)
			})
			c := n.sqlite()
			got, err := s.call(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if seen := r.last(); seen.method+" "+seen.uri+" "+seen.body != s.request {
				t.Errorf("sent\n%s %s %s\nwant\n%s", seen.method, seen.uri, seen.body, s.request)
			}
			unsigned := s.op == "getVersion"
			if signed := strings.HasPrefix(r.last().authorization, `X-Matrix origin="us.example",destination="hs.example",key="ed25519:`); signed == unsigned {
				t.Errorf("the Authorization header is %q", r.last().authorization)
			}
			if raw, err := canon.Marshal(got); err != nil || string(raw) != string(canonical(t, s.want)) {
				t.Errorf("got  %s, %v\nwant %s", raw, err, s.want)
			}
			// An answer of another form, and a refusal.
			answer = `[1]`
			if _, err := s.call(t.Context(), c); err == nil && s.want != "null" {
				t.Error("an array was understood")
			}
			status, answer = 403, `{"errcode":"M_FORBIDDEN","error":"no"}`
			if _, err := s.call(t.Context(), c); !mxerr.Is(err, mxerr.CodeForbidden) {
				t.Errorf("a refusal came as %v", err)
			}
		})
	}
}

func canonical(t *testing.T, text string) []byte {
	t.Helper()
	out, err := canon.Canonicalize(nil, []byte(text), canon.Strict)
	check(t, err)
	return out
}

// Answers that have the right form and say what can't be.
func TestAnswersOfTheWrongThing(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	answer := ""
	r.mux.HandleFunc("/_matrix/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
	c := n.sqlite()
	ctx, call := t.Context(), to("hs.example")
	join := func() error {
		_, err := c.MakeJoin(ctx, call, "!r:hs.example", "@al:us.example", []string{"10"})
		return err
	}
	good := fmt.Sprintf(template, "join")
	for name, s := range map[string]struct {
		answer string
		call   func() error
	}{
		"a template for another user":   {strings.Replace(good, `"sender":"@al:`, `"sender":"@bo:`, 1), join},
		"a template for another member": {strings.Replace(good, `"state_key":"@al:`, `"state_key":"@bo:`, 1), join},
		"a template for another room":   {strings.Replace(good, `"!r:`, `"!s:`, 1), join},
		"a template of another type":    {strings.Replace(good, `m.room.member`, `m.room.create`, 1), join},
		"a template for a ban":          {fmt.Sprintf(template, "ban"), join},
		"no template":                   {`{"room_version":"10"}`, join},
		"a template without content":    {strings.Replace(good, `"content"`, `"x"`, 1), join},
		"a template that is an array":   {`{"event":[]}`, join},
		"devices of another user":       {`{"user_id":"@c:hs.example"}`, func() error { _, err := c.UserDevices(ctx, call, "@b:hs.example"); return err }},
		"no event":                      {`{"pdus":[]}`, func() error { _, err := c.Event(ctx, call, "$e"); return err }},
		"an event ID that is none":      {`{"pdu_ids":["x"],"auth_chain_ids":[]}`, func() error { _, err := c.StateIDs(ctx, call, "!r:x", "$e"); return err }},
		"a room ID that is none":        {`{"room_id":"x","servers":[]}`, func() error { _, _, err := c.QueryDirectory(ctx, call, "#a:hs.example"); return err }},
		"no invite": {`{}`, func() error {
			_, err := c.Invite(ctx, call, "!r:x", "$e", Invitation{RoomVersion: "10", Event: json.RawMessage(`{}`)})
			return err
		}},
	} {
		answer = s.answer
		var u *Unreachable
		if err := s.call(); !errors.As(err, &u) || !u.Asked {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.SendTransaction(ctx, call, "t", Transaction{PDUs: make([]json.RawMessage, maxPDUs+1)}); err == nil {
		t.Error("a transaction of 51 PDUs went out")
	}
}

// A transaction that has arrived is not sent again because of what the other server says of its events.
//
// Spec: ss sendTransaction
func TestRemarksOnEvents(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	c := n.sqlite()
	answer := ""
	r.mux.HandleFunc("PUT /_matrix/federation/v1/send/{txn}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
	for body, want := range map[string]string{
		`{}`: "null", `{"pdus":null}`: "null", `{"pdus":[]}`: "null", `{"pdus":{"$a":null,"$b":[],"$c":{"error":""}}}`: "null",
		`{"pdus":{"$a":{"error":null},"$b":{"error":"no"},"$c":{}}}`:    `{"$b":"no"}`,
		`{"pdus":{"$a":{"error":{"errcode":"M_FORBIDDEN"}},"$b":"ok"}}`: `{"$a":"{\"errcode\":\"M_FORBIDDEN\"}"}`,
	} {
		answer = body
		refused, err := c.SendTransaction(t.Context(), to("hs.example"), "t", Transaction{PDUs: raws(`{}`)})
		if got, _ := json.Marshal(refused); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", body, got, err, want)
		}
	}
	answer = "<html>"
	if _, err := c.SendTransaction(t.Context(), to("hs.example"), "t", Transaction{}); err == nil {
		t.Error("what a proxy says counts as the server's answer")
	}
}

// Servers from before the second versions.
//
// Spec: ss sendInviteV1
func TestOlderServers(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	r.answer("PUT /_matrix/federation/v1/invite/{room}/{event}", 200, `[200,{"event":{"y":1}}]`)
	r.answer("PUT /_matrix/federation/v1/send_leave/{room}/{event}", 200, `[200,{}]`)
	c := n.sqlite()
	invitation := Invitation{RoomVersion: "1", Event: json.RawMessage(`{"a":1}`), State: raws(`{"s":1}`)}
	got, err := c.Invite(t.Context(), to("hs.example"), "!r:x", "$e", invitation)
	if err != nil || string(got) != `{"y":1}` {
		t.Errorf("%s, %v", got, err)
	}
	if s := r.last(); s.body != `{"a":1,"unsigned":{"invite_room_state":[{"s":1}]}}` {
		t.Errorf("sent %s", s.body)
	}
	invitation.RoomVersion = "10"
	if _, err := c.Invite(t.Context(), to("hs.example"), "!r:x", "$e", invitation); err == nil {
		t.Error("an invite of version 10 went out by the first operation")
	}
	check(t, c.SendLeave(t.Context(), to("hs.example"), "!r:x", "$e", []byte(`{}`)))
}

func TestTakersEndAJoin(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	r.mux.HandleFunc("/_matrix/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"auth_chain":[],"state":[`)
		flood(w, []byte(`{"a":1},`))
	})
	seen := 0
	enough := errors.New("enough")
	_, err := n.sqlite().SendJoin(t.Context(), to("hs.example"), "!r:x", "$e", []byte(`{}`), false, Events{State: func(json.RawMessage) error {
		if seen++; seen == 1000 {
			return enough
		}
		return nil
	}})
	if !errors.Is(err, enough) || seen != 1000 {
		t.Errorf("%v after %d events", err, seen)
	}
}

func part(contentType, disposition, body string) string {
	return "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: " + contentType + "\r\nContent-Disposition: " + disposition + "\r\n\r\n" + body + "\r\n--b--\r\n"
}

// Spec: ss getContent
// Spec: ss getContentThumbnail
func TestMedia(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	content, kind := "", "multipart/mixed; boundary=b"
	r.mux.HandleFunc("GET /_matrix/federation/v1/media/", func(w http.ResponseWriter, rq *http.Request) {
		if strings.HasSuffix(rq.URL.Path, "/old") {
			w.WriteHeader(404)
			fmt.Fprint(w, `{"errcode":"M_UNRECOGNIZED"}`)
			return
		}
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, content)
	})
	r.mux.HandleFunc("GET /_matrix/media/v3/download/hs.example/old", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "old bytes")
	})
	n.web("cdn.example", "8.8.8.2", func(w http.ResponseWriter, rq *http.Request) {
		if rq.Header.Get("Authorization") != "" {
			t.Error("the signature went elsewhere")
		}
		w.Header().Set("Content-Type", "image/webp")
		fmt.Fprint(w, "from elsewhere")
	})
	n.host("inside.example", "10.0.0.1")
	c := n.sqlite()
	get := func(m *Media, err error) (string, string, error) {
		if err != nil {
			return "", "", err
		}
		defer m.Body.Close()
		raw, err := io.ReadAll(m.Body)
		return string(raw), m.ContentType + " " + m.Disposition, err
	}
	content = part("image/png", "inline", "bytes")
	if body, head, err := get(c.Download(t.Context(), to("hs.example"), "x/y", 0, 5)); err != nil || body != "bytes" || head != "image/png inline" {
		t.Errorf("%q %q %v", body, head, err)
	}
	if s := r.last(); s.uri != "/_matrix/federation/v1/media/download/x%2Fy" || s.authorization == "" {
		t.Errorf("%+v", s)
	}
	animated := true
	if body, _, err := get(c.Thumbnail(t.Context(), to("hs.example"), "x", Thumbnail{64, 32, "crop", &animated}, 5e9, 5)); err != nil || body != "bytes" {
		t.Errorf("%q %v", body, err)
	}
	if s := r.last(); s.uri != "/_matrix/federation/v1/media/thumbnail/x?animated=true&height=32&method=crop&timeout_ms=5000&width=64" {
		t.Errorf("%+v", s)
	}
	if _, _, err := get(c.Download(t.Context(), to("hs.example"), "x", 0, 4)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
	if body, head, err := get(c.Download(t.Context(), to("hs.example"), "old", 0, 100)); err != nil || body != "old bytes" || head != "text/plain " {
		t.Errorf("%q %q %v", body, head, err)
	}
	if s := r.last(); s.uri != "/_matrix/media/v3/download/hs.example/old?allow_remote=false" || s.authorization != "" {
		t.Errorf("%+v", s)
	}
	redirect := func(to string) string {
		return "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nLocation: " + to + "\r\n\r\n\r\n--b--\r\n"
	}
	content = redirect("https://cdn.example/x")
	if body, head, err := get(c.Download(t.Context(), to("hs.example"), "x", 0, 100)); err != nil || body != "from elsewhere" || head != "image/webp " {
		t.Errorf("%q %q %v", body, head, err)
	}
	if _, _, err := get(c.Download(t.Context(), to("hs.example"), "x", 0, 3)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many bytes from elsewhere: %v", err)
	}
	call := to("hs.example")
	for _, elsewhere := range []string{"https://127.0.0.1/", "https://inside.example/", "http://cdn.example/x", "/x", "file:///etc/passwd"} {
		content = redirect(elsewhere)
		if body, _, err := get(c.Download(t.Context(), call, "x", 0, 100)); err == nil {
			t.Errorf("%s gave %q", elsewhere, body)
		}
	}
	for name, s := range map[string][2]string{
		"no multipart":   {"image/png", "bytes"},
		"no boundary":    {"multipart/mixed", "bytes"},
		"one part":       {"multipart/mixed; boundary=b", "--b\r\n\r\n{}\r\n--b--"},
		"cut off":        {"multipart/mixed; boundary=b", "--b\r\nContent-"},
		"endless header": {"multipart/mixed; boundary=b", "--b\r\nX: " + strings.Repeat("x", 1<<20)},
	} {
		kind, content = s[0], s[1]
		if _, _, err := get(c.Download(t.Context(), to("hs.example"), "x", 0, 1<<20)); err == nil {
			t.Errorf("%s was understood", name)
		}
	}
}
