package event

import (
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

func related(t testing.TB, content string) (Relation, bool) {
	t.Helper()
	v, _ := roomver.Get("10")
	object, err := canon.Canonicalize(nil, []byte(content), v.Canon)
	if err != nil {
		t.Skip()
	}
	raw := append(append([]byte(`{"auth_events":[],"content":`), object...),
		`,"depth":1,"hashes":{},"origin_server_ts":1,"prev_events":[],"room_id":"!r:hs","sender":"@a:hs","signatures":{},"type":"m.x"}`...)
	p, err := Trusted(v, "$self", raw)
	if err != nil {
		t.Skip()
	}
	return p.Relation()
}

func TestRelation(t *testing.T) {
	for content, want := range map[string]Relation{
		`{"m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}`:                                              {InThread, "$a", ""},
		`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"👍"}}`:                                {Annotates, "$a", "👍"},
		`{"m.relates_to":{"rel_type":"m.replace","event_id":"$a","key":"x"}}`:                                   {Replaces, "$a", ""},
		`{"m.relates_to":{"rel_type":"org.x","event_id":"$a:hs","m.in_reply_to":{"event_id":"$b"}},"body":"x"}`: {"org.x", "$a:hs", ""},
		`{"m.relates_to":{"m.in_reply_to":{"event_id":"$b"}}}`:                                                  {},
		`{"m.relates_to":{"rel_type":"m.thread"}}`:                                                              {},
		`{"m.relates_to":{"rel_type":"m.thread","event_id":"a"}}`:                                               {},
		`{"m.relates_to":{"rel_type":["m.thread"],"event_id":"$a"}}`:                                            {},
		`{"m.relates_to":{"rel_type":"a\u0000b","event_id":"$a"}}`:                                              {},
		`{"m.relates_to":{"rel_type":"m.thread","event_id":"$a\u0000"}}`:                                        {},
		`{"m.relates_to":"m.thread"}`:                                                                           {},
		`{"m.relates_to":null}`:                                                                                 {},
		`{"body":"\"m.relates_to\""}`:                                                                           {},
		`{"x":{"m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}}`:                                        {},
		`{"m.relates_to":[{"rel_type":"m.thread","event_id":"$a"}],"body":""}`:                                  {},
	} {
		if got, ok := related(t, content); got != want || ok != (want.Type != "") {
			t.Errorf("%s: %+v, %v", content, got, ok)
		}
	}
}

func FuzzRelation(f *testing.F) {
	f.Add(`{"m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}`)
	f.Add(`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"\u0000"}}`)
	f.Fuzz(func(t *testing.T, content string) {
		r, ok := related(t, content)
		if !ok {
			if r != (Relation{}) {
				t.Errorf("no relation, and yet %+v", r)
			}
			return
		}
		if _, err := id.ParseEventID(string(r.Parent)); err != nil || r.Type == "" || len(r.Type) > maxRelType || containsNUL(r.Type) {
			t.Errorf("%+v", r)
		}
	})
}
