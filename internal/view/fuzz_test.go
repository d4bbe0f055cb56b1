package view

import (
	"encoding/json"
	"myelin/matrix/id"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/matrix/mxerr"
)

func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"room":{"timeline":{"limit":5,"types":["m.*"]},"rooms":["!a:b.c"]},"event_fields":["content.body"],"event_format":"federation"}`,
		`{"presence":{"senders":["@a:b.c"],"not_senders":[]}}`, `[]`, `null`, `{"room":{"state":{"limit":-1}}}`, ` {"room":null}`, `{"event_fields":null}`,
	} {
		f.Add([]byte(seed), "m.room.message")
	}
	f.Fuzz(func(t *testing.T, raw []byte, typ string) {
		filter, err := ParseFilter(raw)
		if err != nil {
			if !mxerr.Is(err, mxerr.CodeBadJSON) && !mxerr.Is(err, mxerr.CodeNotJSON) {
				t.Fatalf("%s: %v", raw, err)
			}
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("accepted %q", raw)
		}
		line := &filter.Room.Timeline
		if n := line.LimitOr(10, 100); n < 0 || n > 100 {
			t.Fatalf("limit %d", n)
		}
		// Whatever a list excludes is not selected, whatever another one says.
		if slices.Contains(line.NotTypes, typ) && line.MatchType(typ) {
			t.Fatalf("%s selects %q", raw, typ)
		}
		if line.SelectsAll() && !line.Match(typ, "@a:b.c") {
			t.Fatalf("%s selects all but %q", raw, typ)
		}
	})
}

func FuzzParseRoomEventFilter(f *testing.F) {
	f.Add([]byte(`{"limit":3,"contains_url":true,"lazy_load_members":true}`))
	f.Add([]byte(``))
	f.Add([]byte(`{"rooms":["x"]}`))
	f.Add([]byte(`{"related_by_senders":["@a:b"],"related_by_rel_types":["m.thread","\u0000"],"org.matrix.msc3874.rel_types":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if filter, err := ParseRoomEventFilter(raw); (filter == nil) != (err != nil) {
			t.Fatalf("%s: %v, %v", raw, filter, err)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("m.*", "m.room.message")
	f.Add("*a*b*", "xaxbx")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if got, want := id.MatchStars(pattern, s), slowGlob(pattern, s); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, s, got, want)
		}
	})
}

// slowGlob tells what a pattern matches by a table of prefixes.
func slowGlob(pattern, s string) bool {
	reach := make([]bool, len(s)+1)
	reach[0] = true
	for i := range len(pattern) {
		next := make([]bool, len(s)+1)
		for j, ok := range reach {
			switch {
			case !ok:
			case pattern[i] == '*':
				for k := j; k <= len(s); k++ {
					next[k] = true
				}
			case j < len(s) && s[j] == pattern[i]:
				next[j+1] = true
			}
		}
		reach = next
	}
	return reach[len(s)]
}

func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{"t1", "t-1", "s5_3", "s0", "", "t", "t9223372036854775807", "s1_"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if !mxerr.Is(err, mxerr.CodeInvalidParam) {
				t.Fatal(err)
			}
			return
		}
		if s[0] == 't' && token.String() != s {
			t.Fatalf("%q is read as %s", s, token)
		}
		again, err := ParseToken(token.String())
		if err != nil || again != token {
			t.Fatalf("%q is read as %s, which is read as %s, %v", s, token, again, err)
		}
		w, err := Page{From: s, To: s, Backward: true}.window()
		if err != nil || w.Before != w.After+1 {
			t.Fatalf("%q: %+v, %v", s, w, err)
		}
	})
}

func FuzzKeepFields(f *testing.F) {
	f.Add([]byte(`{"content":{"body":"x","a.b":{"c":1}},"type":"t"}`), "content.body", `content.a\.b.c`)
	f.Add([]byte(`{"a":{"b":1},"a":2}`), "a", "a.b")
	f.Add([]byte(`{}`), ".", `\`)
	f.Fuzz(func(t *testing.T, object []byte, one, two string) {
		if !json.Valid(object) || !gjson.ParseBytes(object).IsObject() {
			return
		}
		both := keepFields(object, []string{one, two})
		if !json.Valid(both) {
			t.Fatalf("%q and %q of %s: %s", one, two, object, both)
		}
		if other := keepFields(object, []string{two, one}); string(other) != string(both) {
			t.Fatalf("the order of paths matters: %s, %s", both, other)
		}
		if again := keepFields(both, []string{one, two}); string(again) != string(both) {
			t.Fatalf("picked from %s once more: %s", both, again)
		}
	})
}

func TestKeepFields(t *testing.T) {
	const event = `{"content":{"body":"x","m.relates_to":{"rel_type":"t"},"url":"u"},"type":"t","sender":"s","age":1}`
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{nil, `{"content":{},"type":"t","sender":"s"}`},
		{[]string{"type"}, `{"content":{},"type":"t","sender":"s"}`},
		{[]string{"content.body", "sender"}, `{"content":{"body":"x"},"type":"t","sender":"s"}`},
		{[]string{"age"}, `{"content":{},"type":"t","sender":"s","age":1}`},
		{[]string{"content.body", "content"}, `{"content":{"body":"x","m.relates_to":{"rel_type":"t"},"url":"u"},"type":"t","sender":"s"}`},
		{[]string{`content.m\.relates_to.rel_type`}, `{"content":{"m.relates_to":{"rel_type":"t"}},"type":"t","sender":"s"}`},
		{[]string{"type.x", "none"}, `{"content":{},"type":"t","sender":"s"}`},
	} {
		if got := string(keepFields([]byte(event), c.paths)); got != c.want {
			t.Errorf("%q: %s, want %s", c.paths, got, c.want)
		}
	}
}
