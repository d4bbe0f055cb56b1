package event

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// plainEvent is a valid state event of the version, written by hand.
func plainEvent(v *roomver.Version) []byte {
	raw := `{"auth_events":["$a"],"content":{"membership":"join"},"depth":3,"hashes":{"sha256":"x"},"origin_server_ts":-4,"prev_events":["$p"],` +
		`"room_id":"!r:example.org","sender":"@s:example.org","signatures":{},"state_key":"@s:example.org","type":"m.room.member"}`
	if v.EventIDs == roomver.EventIDDomain {
		raw = strings.NewReplacer(`"$a"`, `["$a:b",{"sha256":"x"}]`, `"$p"`, `["$p:b",{}]`, `"hashes"`, `"event_id":"$e:b","hashes"`).Replace(raw)
	}
	return []byte(raw)
}

// TestParseFields changes one field of a valid event at a time.
func TestParseFields(t *testing.T) {
	const accept = mxerr.Code("")
	const bad, large = mxerr.CodeBadJSON, mxerr.CodeTooLarge
	text := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	for _, c := range []struct {
		versions   string // "first-last"
		key, value string // an empty value removes the key
		want       mxerr.Code
	}{
		{"1-12", "unknown", `{"x":[]}`, accept},
		{"1-12", "unsigned", `7`, accept},
		{"1-12", "type", ``, bad},
		{"1-12", "type", `7`, bad},
		{"1-12", "type", `""`, accept},
		{"1-12", "type", text(255), accept},
		{"1-12", "type", text(256), large},
		{"1-10", "type", `"` + strings.Repeat("é", 255) + `"`, accept},
		{"1-10", "type", `"` + strings.Repeat("é", 256) + `"`, large},
		{"11-12", "type", `"` + strings.Repeat("é", 128) + `"`, large},
		{"1-10", "state_key", `"` + strings.Repeat("💥", 255) + `"`, accept},
		{"11-12", "state_key", `"` + strings.Repeat("💥", 64) + `"`, large},
		{"1-12", "type", `"a\u0000"`, bad},
		{"1-12", "state_key", ``, accept},
		{"1-12", "state_key", `null`, bad},
		{"1-12", "state_key", `{}`, bad},
		{"1-12", "state_key", text(255), accept},
		{"1-12", "state_key", text(256), large},
		{"1-12", "state_key", `"` + strings.Repeat(`\n`, 255) + `"`, accept},
		{"1-12", "state_key", `"\u0000"`, bad},
		{"1-12", "sender", ``, bad},
		{"1-12", "sender", `null`, bad},
		{"1-12", "sender", `"s:example.org"`, bad},
		{"1-12", "sender", `"@s"`, bad},
		{"1-12", "sender", `"@ Ünusual:example.org"`, accept},
		{"1-12", "sender", `"@:example.org"`, accept},
		{"1-12", "sender", `"@` + strings.Repeat("x", 242) + `:example.org"`, accept},
		{"1-12", "sender", `"@` + strings.Repeat("x", 243) + `:example.org"`, large},
		{"1-12", "room_id", ``, bad},
		{"1-12", "room_id", `"#r:example.org"`, bad},
		{"1-12", "room_id", `"!` + strings.Repeat("x", 255) + `"`, large},
		{"1-12", "content", ``, bad},
		{"1-12", "content", `null`, bad},
		{"1-12", "content", `[]`, bad},
		{"1-12", "hashes", ``, bad},
		{"1-12", "hashes", `[]`, bad},
		{"1-12", "hashes", `{"sha256":1}`, bad},
		{"1-12", "hashes", `{"md5":"x"}`, bad},
		{"1-12", "signatures", ``, bad},
		{"1-12", "signatures", `""`, bad},
		{"1-12", "depth", ``, bad},
		{"1-12", "depth", `-1`, bad},
		{"1-12", "depth", `"3"`, bad},
		{"1-12", "depth", `3.0`, bad},
		{"1-12", "depth", `0`, accept},
		{"1-12", "depth", `9007199254740991`, accept},
		{"1-5", "depth", `9223372036854775807`, accept},
		{"1-5", "depth", `9223372036854775808`, bad},
		{"6-12", "depth", `9007199254740992`, bad},
		{"1-12", "origin_server_ts", ``, bad},
		{"1-12", "origin_server_ts", `null`, bad},
		{"1-12", "origin_server_ts", `1e3`, bad},
		{"1-12", "auth_events", ``, bad},
		{"1-12", "auth_events", `{}`, bad},
		{"1-12", "auth_events", `[]`, accept},
		{"1-12", "auth_events", `[null]`, bad},
		{"1-12", "prev_events", ``, bad},
		{"1-12", "prev_events", `"$a:b"`, bad},
		{"1-2", "prev_events", `["$a:b"]`, bad},
		{"1-2", "prev_events", `[["$a:b"]]`, bad},
		{"1-2", "prev_events", `[["$a:b","x"]]`, bad},
		{"1-2", "prev_events", `[["$a:b",{},{}]]`, bad},
		{"1-2", "prev_events", `[[]]`, bad},
		{"1-2", "prev_events", `[[{},"$a:b"]]`, bad},
		{"1-2", "prev_events", `[["a:b",{}]]`, bad},
		{"3-12", "prev_events", `[["$a:b",{}]]`, bad},
		{"3-12", "prev_events", `["a"]`, bad},
		{"3-12", "prev_events", `["$` + strings.Repeat("x", 255) + `"]`, bad},
		{"3-12", "prev_events", edges(20), accept},
		{"3-12", "prev_events", edges(21), bad},
		{"3-12", "auth_events", edges(10), accept},
		{"3-12", "auth_events", edges(11), bad},
		{"3-12", "auth_events", edges(500), bad},
		{"1-2", "event_id", ``, bad},
		{"1-2", "event_id", `"$x"`, bad},
		{"1-2", "event_id", `"x:y"`, bad},
		{"1-2", "event_id", `"$x:y z"`, bad},
		{"1-2", "event_id", `"$` + strings.Repeat("x", 255) + `"`, large},
		{"3-12", "event_id", `7`, accept},
		{"1-5", "float", `1.5`, accept},
		{"6-12", "float", `1.5`, bad},
		{"6-12", "float", `-0`, bad},
		{"1-12", "redacts", `7`, accept},
	} {
		var first, last int
		if _, err := fmt.Sscanf(c.versions, "%d-%d", &first, &last); err != nil {
			t.Fatal(err)
		}
		for _, v := range roomver.All()[first-1 : last] {
			raw := canon.Without(nil, plainEvent(v), c.key)
			if c.value != "" {
				raw = canon.With(nil, raw, c.key, []byte(c.value))
			}
			p, err := Parse(v, raw)
			got := accept
			if e, ok := mxerr.Of(err); ok {
				got = e.Code
			}
			if (err == nil) != (p != nil) || (err != nil) != (got != accept) {
				t.Fatalf("version %s, %s=%s: %v, %v", v, c.key, c.value, p, err)
			}
			if got != c.want {
				t.Errorf("version %s, %s=%.80s: %v, want %q", v, c.key, c.value, err, c.want)
			}
		}
	}
}

func edges(n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat(`"$e",`, n), ",") + "]"
}

func TestParseDetails(t *testing.T) {
	v := version(t, "10")
	p, err := Parse(v, plainEvent(v))
	if err != nil {
		t.Fatal(err)
	}
	if p.OriginServerTS() != -4 || p.Membership() != "join" || p.Key() != (Key{"m.room.member", "@s:example.org"}) {
		t.Error(describe(p))
	}
	escaped, err := Parse(v, bytes.Replace(plainEvent(v), []byte(`"state_key":"@s`), []byte(`"state_key":"\u0040s\"\n`), 1))
	if err != nil {
		t.Fatal(err)
	}
	if key, _ := escaped.StateKey(); key != "@s\"\n:example.org" {
		t.Errorf("state key %q", key)
	}
	for _, raw := range []string{``, `x`, `[]`, `"x"`, `{}`, `{"type":`, "{\"type\":\"\xff\"}", `{"type":"\ud800"}`} {
		if p, err := Parse(v, []byte(raw)); err == nil {
			t.Errorf("%q became %v", raw, p)
		}
	}
	for _, raw := range []string{``, `x`, `[]`, `{}`, `{"type":"x"}`} {
		if p, err := Trusted(v, "$x", []byte(raw)); err == nil {
			t.Errorf("%q became %v", raw, p)
		}
	}
}

func TestRequiredSigners(t *testing.T) {
	for _, c := range []struct{ version, event, want string }{
		{"1", `{"type":"m","sender":"@u:s","event_id":"$e:s","content":{}}`, "[s]"},
		{"2", `{"type":"m","sender":"@u:s","event_id":"$e:other","content":{}}`, "[s other]"},
		{"3", `{"type":"m","sender":"@u:s","content":{}}`, "[s]"},
		{"3", `{"type":"m.room.member","sender":"@u:s","content":{"membership":"invite","third_party_invite":{}}}`, "[]"},
		{"2", `{"type":"m.room.member","sender":"@u:s","event_id":"$e:o","content":{"membership":"invite","third_party_invite":{}}}`, "[o]"},
		{"3", `{"type":"m.room.member","sender":"@u:s","content":{"membership":"join","third_party_invite":{}}}`, "[s]"},
		{"7", `{"type":"m.room.member","sender":"@u:s","content":{"membership":"join","join_authorised_via_users_server":"@a:b"}}`, "[s]"},
		{"8", `{"type":"m.room.member","sender":"@u:s","content":{"membership":"join","join_authorised_via_users_server":"@a:b"}}`, "[s b]"},
		{"12", `{"type":"m.room.member","sender":"@u:s","content":{"membership":"join","join_authorised_via_users_server":"@a:s"}}`, "[s]"},
		{"12", `{"type":"m.room.member","sender":"@u:s","content":{"membership":"join","join_authorised_via_users_server":7}}`, "[s ]"},
		{"12", `{"type":"m","sender":"@u:s","content":{"membership":"join","join_authorised_via_users_server":"@a:b"}}`, "[s]"},
	} {
		v := version(t, c.version)
		eventID, _ := canon.GetText([]byte(c.event), "event_id")
		raw, err := canon.Canonicalize(nil, []byte(c.event), v.Canon)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Trusted(v, id.EventID(eventID), raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.RequiredSigners()); got != c.want {
			t.Errorf("version %s, %s: %s, want %s", c.version, c.event, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range roomver.All() {
		f.Add(v.ID, plainEvent(v))
		f.Add(v.ID, build(f, v, sample(v)).Raw())
	}
	f.Add("12", []byte(`{"type":"m.room.create","content":{},"unsigned":{"a":1},"depth":1e3}`))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		v, ok := roomver.Get(name)
		if !ok {
			return
		}
		p, err := Parse(v, raw)
		if err != nil {
			if _, ok := mxerr.Of(err); !ok {
				t.Fatalf("%v is not an mxerr", err)
			}
			// The database may hold anything.
			if p, err := Trusted(v, "$x", raw); err == nil {
				describe(p)
			}
			return
		}
		q, err := Parse(v, p.Raw())
		if err != nil || describe(q) != describe(p) {
			t.Fatalf("%s reads back as %v, %v", p.Raw(), q, err)
		}
		trusted, err := Trusted(v, p.ID(), p.Raw())
		if err != nil || describe(trusted) != describe(p) {
			t.Fatalf("%s is trusted as %v, %v", p.Raw(), trusted, err)
		}
		red, err := p.Redacted()
		if err != nil || red.ID() != p.ID() || red.ReferenceHash() != p.ReferenceHash() {
			t.Fatalf("%s is redacted to %v, %v", p.Raw(), red, err)
		}
		twice, err := red.Redacted()
		if err != nil || !bytes.Equal(twice.Raw(), red.Raw()) {
			t.Fatalf("%s is redacted to %v, %v", red.Raw(), twice, err)
		}
		for _, out := range [][]byte{p.AppendClient(nil, ClientFormat{}), p.AppendStripped(nil)} {
			if again, err := canon.Canonicalize(nil, out, v.Canon); err != nil || !bytes.Equal(again, out) {
				t.Fatalf("clients get %s, %v", out, err)
			}
		}
		p.RequiredSigners()
		Unsigned(raw)
	})
}
