package clientapi_test

import (
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

func TestReceipts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"preset":"public_chat"}`, "bob")
		event := a.send(room, "x")
		path := "POST /rooms/" + room + "/receipt/"
		a.ok("bob", path+"m.read/"+event, `{}`)
		a.ok("bob", path+"m.read/"+event, "")
		a.ok("bob", path+"m.read/"+event, `{"thread_id":"main"}`)
		a.ok("bob", path+"m.read.private/"+event, `{}`)
		a.ok("bob", path+"m.fully_read/"+event, `{}`)
		for _, thread := range []string{`""`, `7`, `null`, `"x"`, `{}`} {
			if thread == "null" {
				continue // the same as none
			}
			a.refused(400, "M_INVALID_PARAM", "bob", path+"m.read/"+event, `{"thread_id":`+thread+`}`)
		}
		a.refused(400, "M_INVALID_PARAM", "bob", path+"m.fully_read/"+event, `{"thread_id":"main"}`)
		a.refused(400, "M_INVALID_PARAM", "bob", path+"m.read/"+event, `{"thread_id":"$other"}`)
		a.refused(400, "M_INVALID_PARAM", "bob", path+"m.seen/"+event, `{}`)
		a.refused(400, "M_INVALID_PARAM", "bob", path+"m.read/x", `{}`)
		a.refused(404, "M_NOT_FOUND", "bob", path+"m.read/$x", `{}`)
		a.refused(403, "M_FORBIDDEN", "eve", path+"m.read/"+event, `{}`)

		markers := "POST /rooms/" + room + "/read_markers"
		next := a.send(room, "y")
		a.ok("bob", markers, `{}`)
		a.ok("bob", markers, `{"m.fully_read":"`+next+`","m.read":"`+event+`","m.read.private":"`+next+`"}`)
		a.refused(400, "M_INVALID_PARAM", "bob", markers, `{"m.read":"x"}`)
		a.refused(400, "M_BAD_JSON", "bob", markers, `{"m.read":1}`)
		a.refused(404, "M_NOT_FOUND", "bob", markers, `{"m.fully_read":"$x"}`)
		if got := a.ok("bob", "GET /user/@bob:here.example/rooms/"+room+"/account_data/m.fully_read", "").Get("event_id").Str; got != next {
			t.Errorf("the marker is at %s", got)
		}
	})
}

func TestTyping(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		room := a.room(`{"preset":"public_chat"}`)
		path := "PUT /rooms/" + room + "/typing/@alice:here.example"
		a.ok("alice", path, `{"typing":true,"timeout":9223372036854775807}`)
		a.ok("alice", path, `{"typing":true,"timeout":-1}`)
		a.ok("alice", path, `{"typing":true}`)
		a.ok("alice", path, `{"typing":false}`)
		a.refused(400, "M_MISSING_PARAM", "alice", path, `{}`)
		a.refused(400, "M_BAD_JSON", "alice", path, `{"typing":"yes"}`)
		a.refused(400, "M_BAD_JSON", "alice", path, `{"typing":true,"timeout":1.5}`)
		a.refused(403, "M_FORBIDDEN", "bob", path, `{"typing":true}`)
		a.refused(403, "M_FORBIDDEN", "bob", "PUT /rooms/"+room+"/typing/@bob:here.example", `{"typing":true}`)
	})
}

func TestPresence(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a := serve(t, open)
		a.room(`{"preset":"public_chat"}`, "bob")
		const path = "/presence/@alice:here.example/status"
		if got := a.ok("alice", "GET "+path, "").Raw; got != `{"presence":"offline"}` {
			t.Errorf("at first alice is %s", got)
		}
		a.ok("alice", "PUT "+path, `{"presence":"online","status_msg":"here"}`)
		got := a.ok("bob", "GET "+path, "")
		if got.Get("presence").Str != "online" || got.Get("status_msg").Str != "here" || !got.Get("currently_active").Bool() || !got.Get("last_active_ago").Exists() {
			t.Errorf("bob sees %s", got)
		}
		a.refused(403, "M_FORBIDDEN", "eve", "GET "+path, "")
		a.refused(403, "M_FORBIDDEN", "bob", "PUT "+path, `{"presence":"offline"}`)
		a.refused(400, "M_MISSING_PARAM", "alice", "PUT "+path, `{}`)
		a.refused(400, "M_INVALID_PARAM", "alice", "PUT "+path, `{"presence":"away"}`)
		a.refused(400, "M_INVALID_PARAM", "alice", "GET /presence/alice/status", "")
	})
}
