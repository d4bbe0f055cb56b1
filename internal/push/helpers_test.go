package push

import (
	"encoding/json"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/sqldb/sqldbtest"
)

func raws(list ...string) []json.RawMessage {
	out := []json.RawMessage{}
	for _, s := range list {
		out = append(out, json.RawMessage(s))
	}
	return out
}

func text(s string) *string { return &s }

// Every statement is understood by both engines.
func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, nil)
		sqldbtest.PrepareAll(t, n.db)
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"rejected":["a"]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if keys, err := parseAnswer(raw); err != nil && keys != nil {
			t.Error("keys of what is no answer")
		}
	})
}

func FuzzReadOutside(f *testing.F) {
	f.Add([]byte(`[{"type":"m.room.member","state_key":"@bob:here.example","sender":"@erin:there.example","content":{"membership":"invite"}}]`))
	f.Add([]byte(`[{"type":"m.room.member","state_key":"@bob:here.example","sender":"erin","content":[]},5,{}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, ok := readOutside(graph.Outside{MemberRow: graph.MemberRow{User: bob, Stripped: raw}, ID: "$e"})
		if ok && json.Valid(raw) && !json.Valid(o.event()) {
			t.Errorf("an event that is not JSON: %s", o.event())
		}
	})
}

func FuzzPusherDraft(f *testing.F) {
	f.Add([]byte(`{"kind":"http","app_id":"a","pushkey":"b","app_display_name":"c","device_display_name":"d","lang":"en","data":{"url":"https://e/_matrix/push/v1/notify"}}`))
	f.Add([]byte(`{"kind":null,"app_id":"a","pushkey":"b"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var d PusherDraft
		if json.Unmarshal(raw, &d) != nil {
			return
		}
		k, host, err := d.check()
		if err == nil && k.Kind != "" && host == "" {
			t.Errorf("a pusher without a gateway: %+v", k)
		}
	})
}
