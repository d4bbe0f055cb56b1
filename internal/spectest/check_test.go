package spectest

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

func needSpec(t *testing.T) *checker {
	t.Helper()
	c, err := loadChecker()
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return c
}

// TestSchemasCompile: every response the specification describes can be checked.
func TestSchemasCompile(t *testing.T) {
	c := needSpec(t)
	n := 0
	var walk func(*pathNode)
	walk = func(at *pathNode) {
		if at.op != nil {
			for status, r := range at.op.Responses {
				for kind, content := range r.Content {
					if kind != "application/json" || len(content.Schema) == 0 {
						continue
					}
					n++
					if _, err := c.schema(at.op.API+" "+at.op.ID+"/"+status, content.Schema); err != nil {
						t.Error(err)
					}
				}
			}
		}
		for _, next := range at.next {
			walk(next)
		}
	}
	for _, root := range c.roots {
		walk(root)
	}
	if n < 350 {
		t.Errorf("%d schemas", n)
	}
}

// TestCheckRefuses: the check sees what it is there for.
func TestCheckRefuses(t *testing.T) {
	c := needSpec(t)
	for _, row := range []struct {
		method, path string
		status       int
		body         string
		problem      string // "" if there is none
	}{
		{"GET", "/_matrix/client/versions", 200, `{"versions":["v1.1"]}`, ""},
		{"GET", "/_matrix/client/versions", 200, `{}`, "versions"},
		{"GET", "/_matrix/client/v3/account/whoami", 200, `{"user_id":"@a:b.org"}`, ""},
		{"GET", "/_matrix/client/r0/account/whoami", 200, `{"user_id":"nobody"}`, "nobody"},
		{"POST", "/_matrix/client/v3/createRoom", 200, `{"room_id":"!abc"}`, ""},
		{"POST", "/_matrix/client/v3/createRoom?x", 201, `{"room_id":"!abc"}`, "no such status"},
		{"PUT", "/_matrix/client/v3/rooms/!a%2Fb/send/m.room.message/1", 200, `{"event_id":5}`, "event_id"},
		{"GET", "/_matrix/client/v3/sync", 200, `{"next_batch":"s","presence":{"events":[{"type":"m.presence","sender":"@a:b.org","content":{"presence":"online"}}]}}`, ""},
		{"GET", "/_matrix/client/v3/sync", 200, `{"next_batch":"s","presence":{"events":[{"type":"m.presence","sender":"@a:b.org","content":{"presence":"asleep"}}]}}`, "presence"},
		{"GET", "/_matrix/client/v3/nothing", 200, `7`, ""},
		{"GET", "/_matrix/federation/v1/state_ids/!r?event_id=$e", 200, `{"pdu_ids":["$a"],"auth_chain_ids":[]}`, ""},
		{"GET", "/_matrix/federation/v1/state_ids/!r?event_id=$e", 200, `{"pdu_ids":["$a"]}`, "auth_chain_ids"},
		{"PUT", "/_matrix/federation/v1/send/1", 200, `{"pdus":{"$a":{"error":7}}}`, "error"},
	} {
		a := Answer{Status: row.status, Body: []byte(row.body), Header: http.Header{"Content-Type": {"application/json"}}}
		err := c.check(row.method, row.path, a)
		if row.problem == "" && err != nil || row.problem != "" && (err == nil || !strings.Contains(err.Error(), row.problem)) {
			t.Errorf("%s %s %s: %v", row.method, row.path, strconv.Quote(row.body), err)
		}
	}
}
