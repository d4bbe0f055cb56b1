package servertest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"myelin/internal/config"
	"myelin/internal/spectest"
	"myelin/internal/sqldb"
	"myelin/spec"
)

// TestSpecification asks every operation of the client-server API in every way that its document tells: with all that it takes, with the
// least, with each part missing or of another type, with a body that is none, without a token, with a mistaken one, and as somebody
// whom it does not concern. Answers are compared with the document's schemas as everywhere.
//
// Spec: cs Standard error response
func TestSpecification(t *testing.T) {
	operations, err := spectest.Operations(spec.ClientServer)
	if err != nil {
		if spectest.Missing() != nil {
			t.Skipf("the specification's documents are missing: %v", err)
		}
		t.Fatal(err)
	}
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			s := Start(t, d, everything)
			p := people{alice: s.Register(t, "alice"), bob: s.Register(t, "bob"), stranger: s.Register(t, "stranger"), admin: s.Admin(t, "secret")}
			for _, op := range operations {
				t.Run(op.ID, func(t *testing.T) { asked(t, op, p) })
			}
		})
	}
}

// everything configures a server so that as much as possible can be answered with a success.
func everything(c *config.Config) {
	c.Federation.Enabled = false
	c.RegistrationSharedSecret = "secret"
	c.Identity.Servers = []string{"id.trusted.example"}
	c.Turn.URIs, c.Turn.Username, c.Turn.Password = []string{turnURI}, "calls", "salt"
}

// people are who asks, and who is asked about.
type people struct{ alice, bob, stranger, admin *Client }

// scene is what requests of one operation are made of.
type scene struct {
	op    spectest.Operation
	asks  *Client
	words map[string]any
}

// asked asks one operation in every way.
func asked(t *testing.T, op spectest.Operation, p people) {
	s := stage(t, op, p)
	if why, ok := unserved[op.ID]; ok {
		if a := s.send(s.asks, nil, nil); a.At("errcode").Str != "M_UNRECOGNIZED" {
			t.Errorf("%s is answered, though listed as not served (%s): %s", op.ID, why, clip(a.Body))
		}
		return
	}
	// Refusals first: whatever works changes what the others find.
	s.withoutToken(t)
	s.withoutParts(t)
	s.withWrongTypes(t)
	s.withoutJSON(t)
	s.asStranger(t, p.stranger.In(t))
	for what, all := range map[string]bool{"the least": false, "everything": true} {
		s := stage(t, op, p)
		a := s.send(s.asks, s.query(all), s.body(all))
		if a.Status >= 400 && !slices.Contains(refusedWhole[op.ID], a.At("errcode").Str) && !interactive(a) {
			t.Errorf("%s with %s: status %d %s", op.ID, what, a.Status, clip(a.Body))
		}
	}
}

// interactive tells that an answer asks for authentication first: as it should be.
func interactive(a *Answer) bool {
	return a.Status == http.StatusUnauthorized && a.At("flows").Exists()
}

// send asks the operation with a query and a body.
func (s *scene) send(as *Client, query url.Values, body any) *Answer {
	path := s.op.Path
	for strings.Contains(path, "{") {
		begin, end := strings.IndexByte(path, '{'), strings.IndexByte(path, '}')
		word, ok := s.words[path[begin+1:end]].(string)
		if !ok {
			s.asks.tb.Fatalf("nothing for %s", path[begin:end+1])
		}
		path = path[:begin] + url.PathEscape(word) + path[end+1:]
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return as.Do(s.op.Method, path, body)
}

// query is what the operation takes in its query, or must have.
func (s *scene) query(all bool) url.Values {
	q := make(url.Values)
	for _, p := range s.op.Query {
		if !all && !p.Required {
			continue
		}
		if v := s.value(p.Name, &p.Shape, all, 0); v != nil {
			q.Set(p.Name, text(v))
		}
	}
	return q
}

// text is a value as a query has it.
func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	raw, _ := json.Marshal(v)
	return string(raw)
}

// body is what the operation takes as its body; nil for none.
func (s *scene) body(all bool) any {
	if s.op.Body == nil {
		return nil
	}
	if v, ok := s.words["body"]; ok {
		return v
	}
	return s.object(s.op.Body, all, 0)
}

func (s *scene) object(shape *spectest.Shape, all bool, depth int) M {
	m := M{}
	for name, p := range shape.Properties {
		if !all && !slices.Contains(shape.Required, name) || name == "auth" && depth == 0 {
			continue
		}
		if v := s.value(name, p, all, depth+1); v != nil {
			m[name] = v
		}
	}
	return m
}

// value finds something for a name: what the scene has, an example of the document, or something of the type. nil leaves it out.
func (s *scene) value(name string, shape *spectest.Shape, all bool, depth int) any {
	if v, ok := s.words[name]; ok {
		return v
	}
	switch {
	case len(shape.Properties) > 0 && depth < 6:
		return s.object(shape, all, depth)
	case len(shape.Examples) > 0:
		return shape.Examples[0]
	case len(shape.Types) == 0:
		return nil
	}
	switch shape.Types[0] {
	case "string":
		return "text"
	case "integer", "number":
		return 1
	case "boolean":
		return false
	case "array":
		return []any{}
	}
	return M{}
}

// withoutToken: who must say who they are and don't is told so.
//
// Spec: cs Client authentication
func (s *scene) withoutToken(t *testing.T) {
	if !s.op.Secured {
		return
	}
	nobody := s.asks.As("")
	if a := s.send(nobody, s.query(false), s.body(false)); a.Status != 401 || a.At("errcode").Str != "M_MISSING_TOKEN" {
		t.Errorf("%s without a token: status %d %s", s.op.ID, a.Status, clip(a.Body))
	}
	if a := s.send(nobody.As("mistaken"), s.query(false), s.body(false)); a.Status != 401 || a.At("errcode").Str != "M_UNKNOWN_TOKEN" {
		t.Errorf("%s with a mistaken token: status %d %s", s.op.ID, a.Status, clip(a.Body))
	}
}

// withoutParts leaves out what is required, one at a time.
func (s *scene) withoutParts(t *testing.T) {
	for _, p := range s.op.Query {
		if !p.Required || mayLack[s.op.ID+" "+p.Name] {
			continue
		}
		q := s.query(true)
		q.Del(p.Name)
		s.wrong(t, "without "+p.Name, s.send(s.asks, q, s.body(true)))
	}
	if s.op.Body == nil || s.words["body"] != nil {
		return
	}
	for _, name := range s.op.Body.Required {
		if mayLack[s.op.ID+" "+name] {
			continue
		}
		body := s.object(s.op.Body, true, 0)
		delete(body, name)
		s.wrong(t, "without "+name, s.send(s.asks, s.query(true), body))
	}
}

// withWrongTypes gives each part of the body a value of another type, those within objects as well.
func (s *scene) withWrongTypes(t *testing.T) {
	if s.op.Body == nil || s.words["body"] != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.op.Body.Properties)) {
		shape := s.op.Body.Properties[name]
		if name == "auth" || len(shape.Types) != 1 {
			continue
		}
		body := s.object(s.op.Body, true, 0)
		body[name] = shape.Misfit()
		s.wrong(t, fmt.Sprintf("with %s %v", name, body[name]), s.send(s.asks, s.query(true), body))
	}
}

// wrong checks that an answer refuses a request for its form.
func (s *scene) wrong(t *testing.T, how string, a *Answer) {
	t.Helper()
	if a.Status != http.StatusBadRequest && !slices.Contains(refusedWhole[s.op.ID], a.At("errcode").Str) && !interactive(a) {
		t.Errorf("%s %s: status %d %s", s.op.ID, how, a.Status, clip(a.Body))
	}
}

// withoutJSON sends bodies that are no JSON, or no object.
func (s *scene) withoutJSON(t *testing.T) {
	if s.op.Body == nil {
		return
	}
	for body, code := range map[string]string{"{": "M_NOT_JSON", "\xff": "M_NOT_JSON", "[]": "M_BAD_JSON", `"text"`: "M_BAD_JSON"} {
		a := s.send(s.asks, s.query(true), Raw(body))
		if got := a.At("errcode").Str; (a.Status != 400 || got != code) && !slices.Contains(refusedWhole[s.op.ID], got) {
			t.Errorf("%s with the body %q: status %d %s, want %s", s.op.ID, body, a.Status, clip(a.Body), code)
		}
	}
}

// asStranger asks about a room that the stranger is not in, or another user's own.
func (s *scene) asStranger(t *testing.T, stranger *Client) {
	if !s.op.Secured || endsSession[s.op.ID] {
		return
	}
	a := s.send(stranger, s.query(false), s.body(false))
	inside := strings.Contains(s.op.Path, "/rooms/{roomId}/") && !openToStrangers[s.op.ID]
	own := strings.Contains(s.op.Path, "/user/{userId}/") || strings.Contains(s.op.Path, "/admin/")
	if (inside || own) && a.Status != http.StatusForbidden && a.Status != http.StatusNotFound {
		t.Errorf("%s by a stranger: status %d %s", s.op.ID, a.Status, clip(a.Body))
	}
}
