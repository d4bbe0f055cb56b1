package fedapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// FuzzTransaction: whatever a server signs and sends is answered, and what is wrong with it is never our fault.
func FuzzTransaction(f *testing.F) {
	n := serve(f, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(f, c...) })
	p := n.peer("there.example")
	r := n.create(room.Creation{})
	p.joins(r)
	said := n.say(r, "hello")
	event := string(p.message(r, "x").Raw())
	for _, seed := range []string{
		`{"origin":"there.example","origin_server_ts":1,"pdus":[` + event + `]}`,
		`{"pdus":[` + strings.Replace(event, string(r), "!other:here.example", 1) + `,{"room_id":"` + string(r) + `"}]}`,
		`{"pdus":[],"edus":[{"edu_type":"m.typing","content":{"room_id":"` + string(r) + `","user_id":"@erin:there.example","typing":true}}]}`,
		`{"edus":[{"edu_type":"m.receipt","content":{"` + string(r) + `":{"m.read":{"@erin:there.example":{"event_ids":["` + string(said) + `"],"data":{"ts":1,"thread_id":"main"}}}}}}]}`,
		`{"edus":[{"edu_type":"m.presence","content":{"push":[{"user_id":"@erin:there.example","presence":"online","status_msg":"\u0000","last_active_ago":-1}]}}]}`,
		`{"pdus":[null,7,[],{}],"edus":[null,7]}`,
		`{"pdus":[{"depth":1e400}],"origin":7}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		here := *n
		here.t = t
		there := *p
		there.node = &here
		req := here.request("PUT /_matrix/federation/v1/send/1", body)
		s := there.signature(req, body)
		if raw, err := json.Marshal(object{"content": json.RawMessage(body)}); err != nil || !signable(p, raw) {
			s.content = "" // nobody can sign this
		}
		req.Header.Set("Authorization", s.header(t))
		a := here.send(req)
		switch a.status {
		case 200, 400, 401, 413:
		default:
			t.Errorf("%q: %d %s", body, a.status, a.body)
		}
		if n.log.Len() > 0 {
			t.Error(fmt.Sprint("the server logged ", n.log))
			n.log.Reset()
		}
	})
}

func signable(p *peer, raw []byte) bool {
	_, err := p.key.Signature(raw)
	return err == nil
}
