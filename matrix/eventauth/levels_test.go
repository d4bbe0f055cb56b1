package eventauth

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

func version(t testing.TB, name string) *roomver.Version {
	t.Helper()
	v, ok := roomver.Get(name)
	if !ok {
		t.Fatalf("no version %s", name)
	}
	return v
}

func stateEvent(t testing.TB, v *roomver.Version, typ, key, sender, content string) *event.PDU {
	t.Helper()
	return plan{typ: typ, isState: true, key: key, sender: sender, content: content, prev: "message"}.make(t, v, "state")
}

func TestParseLevel(t *testing.T) {
	for _, c := range []struct {
		versions, raw string
		want          Power
		ok            bool
	}{
		{"1 5 6 9 10 12", `50`, 50, true},
		{"1 5 6 9 10 12", `-50`, -50, true},
		{"1 5 6 9 10 12", `0`, 0, true},
		{"1 5 6 9 10 12", `true`, 0, false},
		{"1 5 6 9 10 12", `null`, 0, false},
		{"1 5 6 9 10 12", `{}`, 0, false},
		{"1 5 6 9 10 12", `[1]`, 0, false},
		{"1 5 6 9 10 12", ``, 0, false},
		{"1 5 6 9", `"50"`, 50, true},
		{"1 5 6 9", `"+50"`, 50, true},
		{"1 5 6 9", `"\t -0050\n"`, -50, true},
		{"1 5 6 9", `"- 50"`, 0, false},
		{"1 5 6 9", `"--50"`, 0, false},
		{"1 5 6 9", `"-"`, 0, false},
		{"1 5 6 9", `"5e1"`, 0, false},
		{"1 5 6 9", `"1_000"`, 0, false},
		{"1 5 6 9", `"٥"`, 0, false},
		{"1 5 6 9", `"9223372036854775805"`, math.MaxInt64 - 2, true},
		{"1 5 6 9", `"9223372036854775807"`, greatest, true},
		{"1 5 6 9", `"-9223372036854775808"`, least, true},
		{"10 12", `"50"`, 0, false},
		{"1 5", `50.57`, 50, true},
		{"1 5", `-50.57`, -50, true},
		{"1 5", `5.114698E4`, 51146, true},
		{"1 5", `51146e-3`, 51, true},
		{"1 5", `1e400`, 0, false},
		{"1 5", `1e30`, greatest, true},
		{"1 5", `-1e30`, least, true},
		{"1 5", `9223372036854775807`, greatest, true},
		{"6 9 10 12", `50.57`, 0, false},
		{"6 9 10 12", `5e1`, 0, false},
	} {
		for _, v := range roomver.All() {
			if !slices.Contains(strings.Fields(c.versions), v.ID) {
				continue
			}
			if got, ok := parseLevel(v, []byte(c.raw)); got != c.want || ok != c.ok {
				t.Errorf("version %s, %s: %d, %v; want %d, %v", v.ID, c.raw, got, ok, c.want, c.ok)
			}
		}
	}
}

func TestLevelsDefaults(t *testing.T) {
	for _, v := range roomver.All() {
		create := stateEvent(t, v, typeCreate, "", "@ann:a", `{"creator":"@ann:a","additional_creators":["@amy:a","@ann:a",3]}`)
		ann, amy := Power(100), Power(0)
		if v.PrivilegedCreators {
			ann, amy = Infinite, Infinite
		}
		without := PowerLevels(v, create, nil)
		empty := PowerLevels(v, create, stateEvent(t, v, typePowerLevels, "", "@ann:a", `{}`))
		for name, l := range map[string]Levels{"none": without, "empty": empty} {
			if l.Ban() != 50 || l.Kick() != 50 || l.Redact() != 50 || l.Invite() != 0 || l.StateDefault() != 50 ||
				l.EventsDefault() != 0 || l.UsersDefault() != 0 || l.Event("x", true) != 50 || l.Event("x", false) != 0 ||
				l.Notification("room") != 50 || l.User("@bob:b") != 0 || l.User("@amy:a") != amy {
				t.Errorf("version %s, %s: %+v", v.ID, name, l)
			}
		}
		if got := without.User("@ann:a"); got != ann {
			t.Errorf("version %s: the creator has %d", v.ID, got)
		}
		if got := empty.User("@ann:a"); got != 0 && got != Infinite || v.PrivilegedCreators != (got == Infinite) {
			t.Errorf("version %s: with levels, the creator has %d", v.ID, got)
		}
		want := []id.UserID{"@ann:a"}
		if v.PrivilegedCreators {
			want = append(want, "@amy:a")
		}
		if got := Creators(create); !slices.Equal(got, want) {
			t.Errorf("version %s: creators %v", v.ID, got)
		}
	}
	v := version(t, "10")
	if Creators(nil) != nil || Creators(stateEvent(t, v, typeCreate, "", "@ann:a", `{}`)) != nil {
		t.Error("creators of no create event")
	}
	if PowerLevels(v, nil, nil).User("@ann:a") != 0 {
		t.Error("a level without a create event")
	}
}

func TestLevelsRead(t *testing.T) {
	v := version(t, "11")
	l := PowerLevels(v, nil, stateEvent(t, v, typePowerLevels, "", "@ann:a", `{"ban":1,"events":{"e":2,"s":3},"events_default":4,
		"invite":5,"kick":6,"notifications":{"room":7},"redact":8,"state_default":9,"users":{"@bob:b":10},"users_default":11}`))
	for name, pair := range map[string][2]Power{
		"ban": {1, l.Ban()}, "events e": {2, l.Event("e", false)}, "events s": {3, l.Event("s", true)},
		"events_default": {4, l.Event("x", false)}, "invite": {5, l.Invite()}, "kick": {6, l.Kick()},
		"notifications": {7, l.Notification("room")}, "other notification": {50, l.Notification("x")},
		"redact": {8, l.Redact()}, "state_default": {9, l.Event("x", true)},
		"users": {10, l.User("@bob:b")}, "users_default": {11, l.User("@ann:a")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d, want %d", name, pair[1], pair[0])
		}
	}
}

func TestRedacts(t *testing.T) {
	for _, v := range roomver.All() {
		target := plan{typ: "m.room.message", sender: "@bob:b", content: `{}`}.make(t, v, "target")
		redaction := func(sender string, of id.EventID) *event.PDU {
			name := []byte(`"` + string(of) + `"`)
			return plan{typ: typeRedaction, sender: sender, content: `{"redacts":` + string(name) + `}`,
				with: map[string]json.RawMessage{"redacts": name}}.make(t, v, "redaction")
		}
		l := PowerLevels(v, nil, stateEvent(t, v, typePowerLevels, "", "@ann:a", `{"users":{"@ann:a":50,"@cat:c":49}}`))
		decided := v.RedactionAuth // by the rules, before
		for _, c := range []struct {
			sender string
			want   bool
		}{
			{"@ann:a", true}, {"@bob:b", true}, {"@ben:b", true}, {"@cat:c", decided},
		} {
			if got := Redacts(redaction(c.sender, target.ID()), target, l); got != c.want {
				t.Errorf("version %s: %s redacts: %v", v.ID, c.sender, got)
			}
		}
		if Redacts(redaction("@ann:a", "$other"), target, l) {
			t.Errorf("version %s: redacts an event that it doesn't name", v.ID)
		}
	}
}

func TestNeededForDrafts(t *testing.T) {
	v := version(t, "11")
	bob := "@bob:b"
	got := NeededFor(v, typeMember, &bob, "@bob:b", []byte(`{"membership":"join"}`))
	want := []event.Key{{Type: typeCreate}, {Type: typePowerLevels}, {Type: typeMember, StateKey: bob}, {Type: typeJoinRules}}
	if !slices.Equal(got, want) {
		t.Errorf("a join needs %v", got)
	}
	if got := NeededFor(version(t, "12"), "m.room.message", nil, "@bob:b", nil); !slices.Equal(got, []event.Key{want[1], want[2]}) {
		t.Errorf("a message needs %v", got)
	}
	if got := NeededFor(v, typeCreate, new(string), "@bob:b", nil); got != nil {
		t.Errorf("a create event needs %v", got)
	}
}

func TestRejectedAuthEvent(t *testing.T) {
	for number, want := range map[string]string{"1": "v1 2.3", "11": "v11 2.3", "12": "v12 3.3"} {
		p := plan{typ: "m.room.message", sender: "@bob:b", content: `{}`}.make(t, version(t, number), "event")
		if got := RejectedAuthEvent(p, "$bad"); got.Rule != want || got.Error() == "" {
			t.Errorf("rule %s, want %s", got.Rule, want)
		}
	}
}

func TestUnknownVersion(t *testing.T) {
	v := *version(t, "11")
	v.ID = "org.example.13"
	p := plan{typ: "m.room.message", sender: "@bob:b", content: `{}`}.make(t, &v, "event")
	none := func(string, string) *event.PDU { return nil }
	if Check(p, none) == nil || CheckAuthEvents(p, nil) == nil || RejectedAuthEvent(p, "$x") == nil {
		t.Error("an unknown room version allows something")
	}
}
