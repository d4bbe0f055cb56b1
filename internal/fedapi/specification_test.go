package fedapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"myelin/internal/spectest"
	"myelin/spec"
)

// TestSpecification asks every operation of the server-server API in every way that its document tells: with all that it takes, with the
// least, with each part missing or of another type, with a body that is none, unsigned, with a forged signature, of rooms that don't exist, and
// as a server that isn't in the room. Answers are compared with the document's schemas as everywhere.
//
// Spec: ss Request Authentication
// Spec: cs Standard error response
func TestSpecification(t *testing.T) {
	operations, err := spectest.Operations(spec.ServerServer)
	if err != nil {
		if spectest.Missing() != nil {
			t.Skipf("the specification's documents are missing: %v", err)
		}
		t.Fatal(err)
	}
	each(t, func(t *testing.T, n *node) {
		n.user(alice)
		n.user(bob)
		p, stranger := n.peer("there.example"), n.peer("stranger.example")
		for _, op := range operations {
			t.Run(op.ID, func(t *testing.T) {
				if why, ok := unserved[op.ID]; ok {
					if a := stage(t, op, p).send(p, nil, "{}"); a.status != 404 || a.get("errcode").Str != "M_UNRECOGNIZED" {
						t.Errorf("answered, though listed as not served (%s): %d %s", why, a.status, a.body)
					}
					return
				}
				// Refusals first: whatever works changes what the others find.
				s := stage(t, op, p)
				s.unsigned(t)
				s.withoutParts(t)
				s.withWrongTypes(t)
				s.withoutJSON(t)
				s.elsewhere(t)
				s.asStranger(t, stranger)
				for what, all := range map[string]bool{"the least": false, "everything": true} {
					s := stage(t, op, p)
					if a := s.send(p, s.takes(all), s.text(all, nil)); a.status != 200 && a.get("errcode").Str != refused[op.ID] {
						t.Errorf("with %s: %d %s", what, a.status, a.body)
					}
				}
			})
		}
	})
}

// unserved are operations that the server says it does not know, and why.
var unserved = map[string]string{"askPolicyServerToSign": "this is no policy server"}

// refused are operations that refuse a good request as well: nobody has defined further types of queries.
var refused = map[string]string{"queryInfo": "M_UNRECOGNIZED"}

// mayLack are parts that the document requires and that are answered without: rooms have events without an origin since version 2, an
// event's own form decides in the first version of invites.
var mayLack = map[string]bool{
	"sendJoinV2 origin": true, "sendLeaveV2 origin": true, "sendKnock origin": true,
	"sendTransaction pdus": true, "sendTransaction origin": true, "sendTransaction origin_server_ts": true,
	"onBindThirdPartyIdentifier medium": true, "onBindThirdPartyIdentifier address": true,
}

// unread are parts of a body whose type nobody looks at: they are of no use to the server.
var unread = map[string]bool{
	"sendTransaction origin_server_ts": true, "onBindThirdPartyIdentifier medium": true, "onBindThirdPartyIdentifier address": true,
	"sendJoinV2 origin": true, "sendLeaveV2 origin": true, "sendKnock origin": true,
}

// openToStrangers are operations about rooms that servers may ask which are not in them.
var openToStrangers = map[string]bool{"getSpaceHierarchy": true}

// scene is what requests of one operation are made of.
type scene struct {
	*peer
	op    spectest.Operation
	host  string // the name that is asked; empty for the usual one
	path  map[string]string
	query url.Values
	body  object // nil for none
}

// send asks the operation, signed where it must be.
func (s *scene) send(as *peer, query url.Values, body string) *answer {
	r := s.unsent(query, body)
	if s.op.Secured {
		r.Header.Set("Authorization", as.signature(r, body).header(s.t))
	}
	return s.node.send(r)
}

func (s *scene) unsent(query url.Values, body string) *http.Request {
	path := s.op.Path
	for strings.Contains(path, "{") {
		begin, end := strings.IndexByte(path, '{'), strings.IndexByte(path, '}')
		word, ok := s.path[path[begin+1:end]]
		if !ok {
			s.t.Fatalf("nothing for %s", path[begin:end+1])
		}
		path = path[:begin] + url.PathEscape(word) + path[end+1:]
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	r := s.request(s.op.Method+" "+path, body)
	if s.host != "" {
		r.Host = s.host
	}
	return r
}

// takes is what the operation takes in its query, or must have.
func (s *scene) takes(all bool) url.Values {
	q := make(url.Values)
	for _, p := range s.op.Query {
		if v, ok := s.query[p.Name]; ok && (all || p.Required) {
			q[p.Name] = v
		}
	}
	return q
}

// text is the body, with changes: nil takes a part away.
func (s *scene) text(all bool, changes object) string {
	if s.body == nil {
		return ""
	}
	body := object{}
	for name, v := range s.body {
		if all || len(s.op.Body.Required) == 0 || slices.Contains(s.op.Body.Required, name) || isEvent(s.body) {
			body[name] = v
		}
	}
	for name, v := range changes {
		if v == nil {
			delete(body, name)
		} else {
			body[name] = v
		}
	}
	raw, err := json.Marshal(body)
	must(s.t, err)
	return string(raw)
}

// isEvent tells a body that is a signed event, of which nothing may be left out.
func isEvent(body object) bool { return body["signatures"] != nil }

// unsigned: who must sign and doesn't, or signs wrongly, is told so.
func (s *scene) unsigned(t *testing.T) {
	if !s.op.Secured {
		return
	}
	query, body := s.takes(false), s.text(false, nil)
	if a := s.node.send(s.unsent(query, body)); a.status != 401 || a.get("errcode").Str != "M_UNAUTHORIZED" {
		t.Errorf("unsigned: %d %s", a.status, a.body)
	}
	for what, forge := range map[string]func(*signature){
		"of another path":   func(g *signature) { g.uri += "x" },
		"of another method": func(g *signature) { g.method = "PATCH" },
		"for another":       func(g *signature) { g.destination = "elsewhere.example" },
		"in another's name": func(g *signature) { g.origin = "stranger.example" },
		"of another body":   func(g *signature) { g.content = `{"forged":true}` },
	} {
		r := s.unsent(query, body)
		g := s.signature(r, body)
		forge(&g)
		r.Header.Set("Authorization", g.header(t))
		if a := s.node.send(r); a.status != 401 || a.get("errcode").Str != "M_UNAUTHORIZED" {
			t.Errorf("with a signature %s: %d %s", what, a.status, a.body)
		}
	}
}

// withoutParts leaves out what is required, one at a time.
func (s *scene) withoutParts(t *testing.T) {
	for _, p := range s.op.Query {
		if p.Required && !mayLack[s.op.ID+" "+p.Name] {
			q := s.takes(true)
			q.Del(p.Name)
			s.wrong(t, "without "+p.Name, s.send(s.peer, q, s.text(true, nil)))
		}
	}
	if s.body == nil {
		return
	}
	for _, name := range s.op.Body.Required {
		if !mayLack[s.op.ID+" "+name] {
			s.wrong(t, "without "+name, s.send(s.peer, s.takes(true), s.text(true, object{name: nil})))
		}
	}
}

// withWrongTypes gives each part of the query and the body a value of another type.
func (s *scene) withWrongTypes(t *testing.T) {
	for _, p := range s.op.Query {
		if len(p.Shape.Types) == 1 && slices.Contains([]string{"integer", "boolean"}, p.Shape.Types[0]) {
			q := s.takes(true)
			q.Set(p.Name, "text")
			s.wrong(t, "with the text "+p.Name, s.send(s.peer, q, s.text(true, nil)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.path)) {
		if strings.Contains(s.op.Path, "{"+name+"}") && slices.Contains([]string{"roomId", "userId", "eventId"}, name) {
			other := *s
			other.path = maps.Clone(s.path)
			other.path[name] = "none"
			s.wrong(t, "with a "+name+" that is none", other.send(s.peer, s.takes(true), s.text(true, nil)))
		}
	}
	if s.body == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.op.Body.Properties)) {
		shape := s.op.Body.Properties[name]
		if len(shape.Types) != 1 || unread[s.op.ID+" "+name] {
			continue
		}
		value := shape.Misfit()
		s.wrong(t, fmt.Sprintf("with %s %v", name, value), s.send(s.peer, s.takes(true), s.text(true, object{name: value})))
	}
}

// wrong checks that an answer refuses a request for its form. An event whose parts were changed is no longer signed as well.
func (s *scene) wrong(t *testing.T, how string, a *answer) {
	t.Helper()
	unproven := s.op.ID == "exchangeOpenIdToken" && a.status == 401
	if a.status != 400 && (a.status != 403 || !isEvent(s.body)) && refused[s.op.ID] == "" && !unproven {
		t.Errorf("%s: %d %s", how, a.status, a.body)
	}
}

// withoutJSON sends bodies that are no JSON, or no object. What isn't JSON can't be part of what is signed.
func (s *scene) withoutJSON(t *testing.T) {
	if s.body == nil {
		return
	}
	for body, code := range map[string]string{"[]": "M_BAD_JSON", `"text"`: "M_BAD_JSON", "7": "M_BAD_JSON"} {
		if a := s.send(s.peer, s.takes(true), body); a.status != 400 || a.get("errcode").Str != code {
			t.Errorf("with the body %q: %d %s, want %s", body, a.status, a.body, code)
		}
	}
	for _, body := range []string{"{", "\xff"} {
		r := s.unsent(s.takes(true), body)
		if s.op.Secured {
			r.Header.Set("Authorization", s.signature(r, "{}").header(t))
		}
		if a := s.node.send(r); a.status != 400 && a.status != 401 {
			t.Errorf("with the body %q: %d %s", body, a.status, a.body)
		}
	}
}

// elsewhere asks about a room that nobody here knows.
func (s *scene) elsewhere(t *testing.T) {
	if !strings.Contains(s.op.Path, "{roomId}") || strings.HasPrefix(s.op.ID, "sendInvite") {
		return
	}
	other := *s
	other.path = maps.Clone(s.path)
	other.path["roomId"] = "!nowhere:here.example"
	if a := other.send(s.peer, s.takes(true), s.text(true, nil)); a.status != 404 && a.status != 403 && (a.status != 400 || s.body == nil) {
		t.Errorf("of an unknown room: %d %s", a.status, a.body)
	}
}

// asStranger asks as a server that is not in the room, and whose event it is not.
func (s *scene) asStranger(t *testing.T, stranger *peer) {
	if !s.op.Secured || !strings.Contains(s.op.Path, "{roomId}") && s.op.ID != "getEvent" || openToStrangers[s.op.ID] {
		return
	}
	a := s.send(stranger, s.takes(true), s.text(true, nil))
	anothers := s.body != nil && a.status == 400 // the event is another server's
	if a.status != 403 && a.status != 404 && !anothers {
		t.Errorf("as a stranger: %d %s", a.status, a.body)
	}
}

// eventBody is an event as a body.
func eventBody(t testing.TB, raw []byte) object {
	t.Helper()
	var body object
	must(t, json.Unmarshal(raw, &body))
	return body
}
