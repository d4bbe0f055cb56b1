package eventauth

import (
	"strings"
	"testing"
	"unicode/utf8"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/roomver"
)

// FuzzParseLevel checks that a level is within its bounds, that versions accept less and less, and that what
// two of them accept means the same.
func FuzzParseLevel(f *testing.F) {
	for _, s := range []string{`50`, `-1`, `"50"`, `" +050 "`, `50.57`, `5.1e4`, `1e400`, `null`, `"٥"`, `[`, `"\u0031"`} {
		f.Add([]byte(s))
	}
	versions := []string{"1", "6", "10"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var levels []Power
		for i, name := range versions {
			n, ok := parseLevel(version(t, name), raw)
			if n < least || n > greatest {
				t.Fatalf("%q is %d", raw, n)
			}
			if ok && len(levels) < i {
				t.Fatalf("version %s reads %q, which an older one does not", name, raw)
			}
			if ok {
				levels = append(levels, n)
			}
			if len(levels) > 0 && ok && levels[0] != n {
				t.Fatalf("%q means %v", raw, levels)
			}
		}
	})
}

// FuzzCheck judges events with arbitrary content by a state with arbitrary content.
func FuzzCheck(f *testing.F) {
	types := []string{typeCreate, typeMember, typeJoinRules, typePowerLevels, typeThirdPartyInvite, typeAliases, typeRedaction, "m.room.message"}
	files := []string{"testdata/powerlevels.txt", "testdata/invite.txt", "testdata/join.txt", "testdata/create.txt"}
	for _, file := range files {
		for i, j := range readScenarios(f, file) {
			levels := j.state[event.Key{Type: typePowerLevels}].content
			for k, typ := range types {
				if typ == j.event.typ {
					f.Add(byte(i), byte(k), []byte(j.event.content), []byte(levels), []byte(`{"join_rule":"public"}`))
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, number, kind byte, content, levels, other []byte) {
		v := roomver.All()[int(number)%last]
		typ := types[int(kind)%len(types)]
		var texts [3]string
		for i, raw := range [][]byte{content, levels, other} {
			c, err := canon.Canonicalize(nil, raw, v.Canon)
			if err != nil || !isObject(c) {
				c = []byte("{}")
			}
			texts[i] = string(c)
		}
		p := plan{typ: typ, isState: kind&64 == 0, key: "@bob:b", sender: "@bob:b", content: texts[0], prev: "message"}.make(t, v, "event")
		old := stateEvent(t, v, typePowerLevels, "", "@ann:a", texts[1])
		state := stateOf(
			stateEvent(t, v, typeCreate, "", "@ann:a", texts[2]), old,
			stateEvent(t, v, typeMember, "@bob:b", "@bob:b", `{"membership":"join"}`),
			stateEvent(t, v, typeJoinRules, "", "@ann:a", texts[2]),
			stateEvent(t, v, typeThirdPartyInvite, "tok", "@bob:b", texts[2]))
		err := Check(p, state)
		if r, ok := err.(*Rejection); err != nil && (!ok || !strings.HasPrefix(r.Rule, "v"+v.ID+" ") || len(r.Rule) < 4 || r.Text == "") {
			t.Fatalf("rejection without a rule: %+v", err)
		}
		if again := Check(p, state); (again == nil) != (err == nil) {
			t.Fatalf("first %v, then %v", err, again)
		}
		_ = CheckAuthEvents(p, []*event.PDU{old})
		_ = Needed(v, p)
		l := PowerLevels(v, state(typeCreate, ""), p)
		_, _, _ = l.User("@bob:b"), l.Event("x", true), l.Notification("room")
		_ = Creators(state(typeCreate, ""))
	})
}

// FuzzFind checks that searching for a level gives what walking to it gives.
func FuzzFind(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":-2}`, `{"x,\"a":1,"a":2}`, `{"a":{"b":1},"b":"2"}`, `{"a":[3,"b"],"b":" 5,"}`, `{}`, `{"\\\"a":1}`} {
		f.Add([]byte(s), "a")
		f.Add([]byte(s), "b")
	}
	v := version(f, "1")
	f.Fuzz(func(t *testing.T, raw []byte, key string) {
		object, err := canon.Canonicalize(nil, raw, v.Canon)
		if err != nil || !isObject(object) || !utf8.ValidString(key) {
			return
		}
		keys := []string{key}
		for k := range canon.Fields(object) {
			keys = append(keys, k)
		}
		for _, key := range keys {
			found, _ := find(object, key)
			walked, _ := get(object, key)
			a, aOK := parseLevel(v, found)
			b, bOK := parseLevel(v, walked)
			if a != b || aOK != bOK {
				t.Fatalf("%s: %q is %q or %q", object, key, found, walked)
			}
		}
	})
}
