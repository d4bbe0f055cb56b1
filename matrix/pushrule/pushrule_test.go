package pushrule

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"myelin/matrix/mxerr"
)

const alice = "@alice:example.org"

func raws(elements ...string) []json.RawMessage {
	out := []json.RawMessage{}
	for _, e := range elements {
		out = append(out, json.RawMessage(e))
	}
	return out
}

func ids(rules []Rule) string {
	var out []string
	for _, r := range rules {
		out = append(out, r.ID)
	}
	return strings.Join(out, " ")
}

func put(t *testing.T, s Ruleset, kind Kind, ruleID string, d Draft, place Place) Ruleset {
	t.Helper()
	out, err := s.Put(kind, ruleID, d, place)
	if err != nil {
		t.Fatalf("put %s %s: %v", kind, ruleID, err)
	}
	return out
}

func message(body string) *Event {
	content, _ := json.Marshal(map[string]any{"msgtype": "m.text", "body": body})
	return &Event{ID: "$e", RoomID: "!room:example.org", Type: "m.room.message", Sender: "@bob:example.org", Content: content}
}

func stateOf(s string) *string { return &s }

// Spec: cs Default Override Rules
// Spec: cs Default Underride Rules
func TestDefaultRules(t *testing.T) {
	mayNotify := func(key string) bool { return key == "room" }
	tests := []struct {
		name    string
		event   Event
		members int
		may     func(string) bool
		want    string // rule, then N and H
	}{
		{"notice", Event{Type: "m.room.message", Content: []byte(`{"body":"x","msgtype":"m.notice"}`)}, 2, nil, ".m.rule.suppress_notices"},
		{"invite", Event{Type: "m.room.member", StateKey: stateOf(alice), Content: []byte(`{"membership":"invite"}`)}, 2, nil, ".m.rule.invite_for_me N"},
		{"invite of another", Event{Type: "m.room.member", StateKey: stateOf("@carol:x"), Content: []byte(`{"membership":"invite"}`)}, 2, nil, ".m.rule.member_event"},
		{"member event that is no state", Event{Type: "m.room.member", Content: []byte(`{"membership":"invite"}`)}, 2, nil, ".m.rule.member_event"},
		{"user mention", Event{Type: "m.room.message", Content: []byte(`{"body":"x","m.mentions":{"user_ids":["@x:y","@alice:example.org"]}}`)}, 9, nil, ".m.rule.is_user_mention NH"},
		{"mention in another case", Event{Type: "m.room.message", Content: []byte(`{"body":"x","m.mentions":{"user_ids":["@Alice:example.org"]}}`)}, 9, nil, ".m.rule.message N"},
		{"mention of a wrong type", Event{Type: "m.room.message", Content: []byte(`{"body":"x","m.mentions":{"user_ids":"@alice:example.org"}}`)}, 9, nil, ".m.rule.message N"},
		{"mention with a nested path", Event{Type: "m.room.message", Content: []byte(`{"m":{"mentions":{"user_ids":["@alice:example.org"]}}}`)}, 9, nil, ".m.rule.message N"},
		{"room mention", Event{Type: "m.room.message", Content: []byte(`{"m.mentions":{"room":true}}`)}, 9, mayNotify, ".m.rule.is_room_mention NH"},
		{"room mention without power", Event{Type: "m.room.message", Content: []byte(`{"m.mentions":{"room":true}}`)}, 9, nil, ".m.rule.message N"},
		{"room mention as text", Event{Type: "m.room.message", Content: []byte(`{"m.mentions":{"room":"true"}}`)}, 9, mayNotify, ".m.rule.message N"},
		{"tombstone", Event{Type: "m.room.tombstone", StateKey: stateOf(""), Content: []byte(`{}`)}, 9, nil, ".m.rule.tombstone NH"},
		{"tombstone that is no state", Event{Type: "m.room.tombstone", Content: []byte(`{}`)}, 9, nil, ""},
		{"reaction", Event{Type: "m.reaction", Content: []byte(`{}`)}, 2, nil, ".m.rule.reaction"},
		{"server acl", Event{Type: "m.room.server_acl", StateKey: stateOf(""), Content: []byte(`{}`)}, 2, nil, ".m.rule.room.server_acl"},
		{"edit", Event{Type: "m.room.message", Content: []byte(`{"m.relates_to":{"event_id":"$x","rel_type":"m.replace"}}`)}, 2, nil, ".m.rule.suppress_edits"},
		{"edit that mentions", Event{Type: "m.room.message", Content: []byte(`{"m.mentions":{"user_ids":["@alice:example.org"]},"m.relates_to":{"rel_type":"m.replace"}}`)}, 2, nil, ".m.rule.is_user_mention NH"},
		{"call", Event{Type: "m.call.invite", Content: []byte(`{}`)}, 2, nil, ".m.rule.call N"},
		{"encrypted, two", Event{Type: "m.room.encrypted", Content: []byte(`{}`)}, 2, nil, ".m.rule.encrypted_room_one_to_one N"},
		{"encrypted, three", Event{Type: "m.room.encrypted", Content: []byte(`{}`)}, 3, nil, ".m.rule.encrypted N"},
		{"message, two", *message("hello"), 2, nil, ".m.rule.room_one_to_one N"},
		{"message, three", *message("hello"), 3, nil, ".m.rule.message N"},
		{"body that names the user", *message("alice @alice:example.org @room"), 3, mayNotify, ".m.rule.message N"},
		{"unknown type", Event{Type: "org.example", Content: []byte(`{"body":"alice"}`)}, 2, nil, ""},
		{"own event", Event{Type: "m.room.message", Sender: alice, Content: []byte(`{"body":"x"}`)}, 2, nil, ""},
	}
	shared := Compile(alice, Default(alice))
	if shared != Compile("@bob:example.org", Default("@bob:example.org")) {
		t.Error("two users with default rules do not share them")
	}
	own := compile(alice, Default(alice))
	for _, test := range tests {
		e := test.event
		if e.Sender == "" {
			e.Sender = "@bob:example.org"
		}
		for _, c := range []*Compiled{shared, own} {
			if got := describe(c.Evaluate(&e, Facts{test.members, test.may}, Target{User: alice})); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
	}
}

func describe(m *Match) string {
	if m == nil {
		return ""
	}
	s := m.RuleID
	if m.Notify {
		s += " N"
	}
	if m.Highlight {
		s += "H"
	}
	return s
}

// TestManyProperties looks beyond what an Event remembers.
func TestManyProperties(t *testing.T) {
	content, rules := `{"a":0`, Default(alice)
	for i := range 40 {
		key := string(rune('a'+i/26)) + string(rune('a'+i%26))
		content += `,"` + key + `":{"x":` + strconv.Itoa(i) + `}`
		condition := `{"kind":"event_property_is","key":"content.` + key + `.x","value":` + strconv.Itoa(i) + `}`
		rules = put(t, rules, Override, key, Draft{Actions: raws(), Conditions: raws(condition, `{"kind":"room_member_count","is":"`+strconv.Itoa(i)+`"}`)}, Place{})
	}
	e := &Event{Type: "x", Sender: "@bob:x", Content: []byte(content + "}")}
	c := Compile(alice, rules)
	for range 2 {
		for i := range 40 {
			if m := c.Evaluate(e, Facts{Members: i}, Target{User: alice}); m == nil || m.RuleID != rules.Override[40-i].ID {
				t.Errorf("%d: %+v", i, m)
			}
		}
	}
}

func TestMasterRule(t *testing.T) {
	s, err := put(t, Default(alice), Override, "mine", Draft{Actions: raws(`"notify"`)}, Place{}).SetEnabled(Override, MasterRule, true)
	if err != nil {
		t.Fatal(err)
	}
	m := Compile(alice, s).Evaluate(message("alice"), Facts{Members: 2}, Target{User: alice})
	if m == nil || m.RuleID != MasterRule || m.Notify {
		t.Errorf("%+v", m)
	}
}

// Spec: cs Conditions
func TestConditions(t *testing.T) {
	const content = `{"a":{"b.c":{"d\\e":"found"}},"body":"Bob, look: *star* and why?","list":[1,"x",null,true,1.5,{}],"n":5,"nothing":null,"s":"5","yes":true}`
	e := &Event{ID: "$id", RoomID: "!r:x", Type: "t", Sender: "@bob:x", StateKey: stateOf("k"), OriginServerTS: 7, Content: []byte(content)}
	may := func(key string) bool { return key == "room" }
	for _, c := range []struct {
		condition string
		want      bool
	}{
		{`{"kind":"event_match","key":"content.a.b\\.c.d\\e","pattern":"FOUND"}`, true},
		{`{"kind":"event_match","key":"content.a.b\\.c.d\\\\e","pattern":"found"}`, true},
		{`{"kind":"event_match","key":"content.a.b.c.d\\e","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.n","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.missing","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.s.x","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.s","pattern":"?"}`, true},
		{`{"kind":"event_match","key":"room_id","pattern":"!R:*"}`, true},
		{`{"kind":"event_match","key":"sender","pattern":"@bob:*"}`, true},
		{`{"kind":"event_match","key":"event_id","pattern":"$id"}`, true},
		{`{"kind":"event_match","key":"state_key","pattern":"k"}`, true},
		{`{"kind":"event_match","key":"type.x","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"depth","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"look"}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":5}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":"5"}`, false},
		{`{"kind":"event_property_is","key":"content.s","value":5}`, false},
		{`{"kind":"event_property_is","key":"content.yes","value":true}`, true},
		{`{"kind":"event_property_is","key":"content.yes","value":1}`, false},
		{`{"kind":"event_property_is","key":"content.nothing","value":null}`, true},
		{`{"kind":"event_property_is","key":"content.missing","value":null}`, false},
		{`{"kind":"event_property_is","key":"content.body","value":"look"}`, false},
		{`{"kind":"event_property_is","key":"origin_server_ts","value":7}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":1}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":"x"}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":null}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":true}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":false}`, false},
		{`{"kind":"event_property_contains","key":"content.s","value":"5"}`, false},
		{`{"kind":"contains_display_name"}`, true},
		{`{"kind":"room_member_count","is":"3"}`, true},
		{`{"kind":"room_member_count","is":"==3"}`, true},
		{`{"kind":"room_member_count","is":"<3"}`, false},
		{`{"kind":"room_member_count","is":">2"}`, true},
		{`{"kind":"room_member_count","is":">=4"}`, false},
		{`{"kind":"room_member_count","is":"<=3"}`, true},
		{`{"kind":"sender_notification_permission","key":"room"}`, true},
		{`{"kind":"sender_notification_permission","key":"other"}`, false},
		{`{"kind":"org.example.unknown","key":"x"}`, false},
	} {
		s := put(t, Default(alice), Override, "r", Draft{Actions: raws(`"notify"`), Conditions: raws(c.condition)}, Place{})
		m := Compile(alice, s).Evaluate(e, Facts{Members: 3, SenderMayNotify: may}, Target{User: alice, DisplayName: "bob"})
		if got := m != nil && m.RuleID == "r"; got != c.want {
			t.Errorf("%s: %v", c.condition, got)
		}
	}
	for name, want := range map[string]bool{"": false, "bob": true, "bo": false, "*star*": true, "s*r": false, "why?": true, "wh?": false, "Look": true} {
		s := put(t, Default(alice), Override, "r", Draft{Actions: raws(), Conditions: raws(`{"kind":"contains_display_name"}`)}, Place{})
		if got := Compile(alice, s).Evaluate(e, Facts{}, Target{User: alice, DisplayName: name}) != nil; got != want {
			t.Errorf("display name %q: %v", name, got)
		}
	}
}

func TestKindsInOrder(t *testing.T) {
	pattern := "tea"
	s := Default(alice)
	for i, k := range slices.Backward(Kinds[:]) {
		ruleID := []string{"o", "c", "!room:example.org", "@bob:example.org", "u"}[i]
		s = put(t, s, k, ruleID, Draft{Actions: raws(), Pattern: &pattern}, Place{})
		m := Compile(alice, s).Evaluate(message("time for Tea"), Facts{Members: 2}, Target{User: alice})
		if m == nil || m.RuleID != ruleID || m.Kind != k {
			t.Errorf("with a rule of kind %s: %+v", k, m)
		}
	}
	for _, k := range Kinds[:4] {
		var err error
		if s, err = s.SetEnabled(k, s.Rules(k)[firstOwn(s.Rules(k))].ID, false); err != nil {
			t.Fatal(err)
		}
	}
	if m := Compile(alice, s).Evaluate(message("tea"), Facts{}, Target{User: alice}); m == nil || m.RuleID != "u" {
		t.Errorf("disabled rules still match: %+v", m)
	}
}

// Spec: cs setPushRule
func TestPutPlaces(t *testing.T) {
	d := Draft{Actions: raws(`"notify"`)}
	s := Default(alice)
	s = put(t, s, Override, "a", d, Place{})
	s = put(t, s, Override, "b", d, Place{})
	s = put(t, s, Override, "c", d, Place{After: "b"})
	s = put(t, s, Override, "d", d, Place{Before: "a"})
	s = put(t, s, Override, "e", d, Place{Before: "b", After: "a"})
	if got := ids(s.Override[:7]); got != ".m.rule.master e b c d a .m.rule.suppress_notices" {
		t.Errorf("order: %s", got)
	}
	disabled, _ := s.SetEnabled(Override, "c", false)
	same := put(t, disabled, Override, "c", Draft{Actions: raws()}, Place{})
	if got, _ := same.Find(Override, "c"); ids(same.Override) != ids(s.Override) || got.Enabled || len(got.Actions) != 0 {
		t.Errorf("an update moved or enabled the rule: %+v", got)
	}
	moved := put(t, s, Override, "e", d, Place{After: "a"})
	if got := ids(moved.Override[:6]); got != ".m.rule.master b c d a e" {
		t.Errorf("order: %s", got)
	}
	if got := ids(s.Override[:6]); got != ".m.rule.master e b c d a" {
		t.Errorf("an operation changed its receiver: %s", got)
	}
	gone, err := s.Delete(Override, "b")
	if err != nil || ids(gone.Override[:5]) != ".m.rule.master e c d a" || len(s.Override) != len(gone.Override)+1 {
		t.Errorf("delete: %v, %s", err, ids(gone.Override))
	}
}

func TestChangesAreChecked(t *testing.T) {
	ok, pattern, long := raws(`"notify"`), "x", strings.Repeat("x", MaxPattern+1)
	s := Default(alice)
	many := make([]json.RawMessage, MaxActions+1)
	for i := range many {
		many[i] = json.RawMessage(`"notify"`)
	}
	for _, c := range []struct {
		name   string
		kind   Kind
		ruleID string
		d      Draft
		place  Place
		code   mxerr.Code
	}{
		{"reserved", Override, ".mine", Draft{Actions: ok}, Place{}, mxerr.CodeInvalidParam},
		{"slash", Override, "a/b", Draft{Actions: ok}, Place{}, mxerr.CodeInvalidParam},
		{"backslash", Override, `a\b`, Draft{Actions: ok}, Place{}, mxerr.CodeInvalidParam},
		{"empty", Override, "", Draft{Actions: ok}, Place{}, mxerr.CodeInvalidParam},
		{"long ID", Override, strings.Repeat("x", 256), Draft{Actions: ok}, Place{}, mxerr.CodeInvalidParam},
		{"no actions", Override, "a", Draft{}, Place{}, mxerr.CodeMissingParam},
		{"many actions", Override, "a", Draft{Actions: many}, Place{}, mxerr.CodeInvalidParam},
		{"unknown action", Override, "a", Draft{Actions: raws(`"shout"`)}, Place{}, mxerr.CodeInvalidParam},
		{"number as action", Override, "a", Draft{Actions: raws(`5`)}, Place{}, mxerr.CodeInvalidParam},
		{"action without tweak", Override, "a", Draft{Actions: raws(`{"value":1}`)}, Place{}, mxerr.CodeInvalidParam},
		{"long action", Override, "a", Draft{Actions: raws(`"` + strings.Repeat("x", MaxElement) + `"`)}, Place{}, mxerr.CodeInvalidParam},
		{"broken action", Override, "a", Draft{Actions: raws(`{`)}, Place{}, mxerr.CodeBadJSON},
		{"no pattern", Content, "a", Draft{Actions: ok}, Place{}, mxerr.CodeMissingParam},
		{"long pattern", Content, "a", Draft{Actions: ok, Pattern: &long}, Place{}, mxerr.CodeInvalidParam},
		{"condition as text", Override, "a", Draft{Actions: ok, Conditions: raws(`"x"`)}, Place{}, mxerr.CodeInvalidParam},
		{"condition without kind", Override, "a", Draft{Actions: ok, Conditions: raws(`{"key":"x"}`)}, Place{}, mxerr.CodeMissingParam},
		{"condition without key", Underride, "a", Draft{Actions: ok, Conditions: raws(`{"kind":"event_match","pattern":"x"}`)}, Place{}, mxerr.CodeInvalidParam},
		{"condition without pattern", Override, "a", Draft{Actions: ok, Conditions: raws(`{"kind":"event_match","key":"x"}`)}, Place{}, mxerr.CodeInvalidParam},
		{"compound value", Override, "a", Draft{Actions: ok, Conditions: raws(`{"kind":"event_property_is","key":"x","value":[]}`)}, Place{}, mxerr.CodeInvalidParam},
		{"no value", Override, "a", Draft{Actions: ok, Conditions: raws(`{"kind":"event_property_contains","key":"x"}`)}, Place{}, mxerr.CodeInvalidParam},
		{"bad count", Override, "a", Draft{Actions: ok, Conditions: raws(`{"kind":"room_member_count","is":"=>2"}`)}, Place{}, mxerr.CodeInvalidParam},
		{"no count", Override, "a", Draft{Actions: ok, Conditions: raws(`{"kind":"room_member_count","is":2}`)}, Place{}, mxerr.CodeInvalidParam},
		{"before nothing", Override, "a", Draft{Actions: ok}, Place{Before: "z"}, mxerr.CodeInvalidParam},
		{"after nothing", Content, "a", Draft{Actions: ok, Pattern: &pattern}, Place{After: "z"}, mxerr.CodeInvalidParam},
		{"before itself", Override, "a", Draft{Actions: ok}, Place{Before: "a"}, mxerr.CodeInvalidParam},
		{"after a predefined rule", Override, "a", Draft{Actions: ok}, Place{After: MasterRule}, mxerr.CodeInvalidParam},
	} {
		got, err := s.Put(c.kind, c.ruleID, c.d, c.place)
		if !mxerr.Is(err, c.code) || ids(got.Rules(c.kind)) != ids(s.Rules(c.kind)) {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
	_, deleteErr := s.Delete(Override, MasterRule)
	_, missingErr := s.Delete(Room, "!x")
	_, enableErr := s.SetEnabled(Room, "!x", true)
	_, actionsErr := s.SetActions(Room, "!x", ok)
	_, findErr := s.Find(Room, "!x")
	for i, err := range []error{deleteErr, missingErr, enableErr, actionsErr, findErr} {
		if !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if _, err := s.SetActions(Override, MasterRule, nil); !mxerr.Is(err, mxerr.CodeMissingParam) {
		t.Error(err)
	}
	if _, err := ParseKind("device"); !mxerr.Is(err, mxerr.CodeInvalidParam) {
		t.Error(err)
	}
	for i := range MaxRules {
		s.Room = append(s.Room, Rule{ID: string(rune(i)), Actions: raws()})
	}
	if _, err := s.Put(Sender, "@x:y", Draft{Actions: ok}, Place{}); !mxerr.Is(err, mxerr.CodeResourceLimitExceeded) {
		t.Error(err)
	}
}

// Spec: cs Historical Actions
func TestActions(t *testing.T) {
	d := Draft{Actions: raws(`"dont_notify"`, `"notify"`, `"coalesce"`, `{ "value":"ring" ,"set_tweak":"sound"}`, `{"set_tweak":"highlight"}`, `{"set_tweak":"volume","value":0.5}`)}
	s := put(t, Default(alice), Room, "!room:example.org", d, Place{})
	m := Compile(alice, s).Evaluate(message("x"), Facts{}, Target{User: alice})
	if m == nil || !m.Notify || !m.Highlight || string(m.Tweaks) != `{"highlight":true,"sound":"ring","volume":0.5}` ||
		string(m.Actions) != `["notify",{"set_tweak":"sound","value":"ring"},{"set_tweak":"highlight"},{"set_tweak":"volume","value":0.5}]` {
		t.Errorf("%+v\n%s\n%s", m, m.Actions, m.Tweaks)
	}
	if kept, _ := s.Find(Room, "!room:example.org"); len(kept.Actions) != len(d.Actions) || string(kept.Actions[0]) != `"dont_notify"` {
		t.Errorf("kept as %s", kept.Actions)
	}
	s, err := s.SetActions(Room, "!room:example.org", raws(`"notify"`, `{"set_tweak":"highlight","value":false}`))
	if err != nil {
		t.Fatal(err)
	}
	if m = Compile(alice, s).Evaluate(message("x"), Facts{}, Target{User: alice}); m.Highlight || !m.Notify {
		t.Errorf("%+v", m)
	}
}

func TestStored(t *testing.T) {
	s := Default(alice)
	if got := s.Stored(alice); got != nil {
		t.Errorf("the default ruleset is stored as %s", got)
	}
	pattern := "<tea>"
	s = put(t, s, Content, "tea", Draft{Actions: raws(`"notify"`), Pattern: &pattern}, Place{})
	s = put(t, s, Override, "quiet", Draft{Actions: raws(), Conditions: raws(`{"kind":"org.unknown","x":[1.5]}`)}, Place{})
	s, _ = s.SetEnabled(Override, ".m.rule.member_event", false)
	s, _ = s.SetActions(Underride, ".m.rule.message", raws())
	stored := s.Stored(alice)
	const want = `{"global":{"content":[{"actions":["notify"],"default":false,"enabled":true,"pattern":"<tea>","rule_id":"tea"}],` +
		`"override":[{"actions":[],"conditions":[{"kind":"org.unknown","x":[1.5]}],"default":false,"enabled":true,"rule_id":"quiet"},` +
		`{"actions":[],"conditions":[{"key":"type","kind":"event_match","pattern":"m.room.member"}],"default":true,"enabled":false,"rule_id":".m.rule.member_event"}],` +
		`"room":[],"sender":[],"underride":[{"actions":[],"conditions":[{"key":"type","kind":"event_match","pattern":"m.room.message"}],"default":true,"enabled":true,"rule_id":".m.rule.message"}]}}`
	if string(stored) != want {
		t.Errorf("stored as\n%s\nwant\n%s", stored, want)
	}
	for _, form := range [][]byte{stored, s.AccountData()} {
		back, err := Parse(alice, form)
		if err != nil || string(back.AccountData()) != string(s.AccountData()) {
			t.Errorf("read back: %v\n%s\nwant\n%s", err, back.AccountData(), s.AccountData())
		}
	}
	if _, err := Parse(alice, []byte(`{"global":5}`)); err == nil {
		t.Error("a broken ruleset was accepted")
	}
	old, err := Parse(alice, []byte(`{"global":{"override":[{"rule_id":".m.rule.contains_display_name","default":true,"enabled":true,"actions":["notify"]},`+
		`{"rule_id":"x","enabled":true,"actions":["dont_notify"]}]}}`))
	if err != nil || ids(old.Override[:2]) != ".m.rule.master x" || len(old.Override) != len(Default(alice).Override)+1 || len(old.Override[1].Actions) != 1 {
		t.Errorf("%v, %s", err, ids(old.Override))
	}
}

func TestJSONShape(t *testing.T) {
	raw, err := json.Marshal(Ruleset{})
	if err != nil || string(raw) != `{"override":[],"content":[],"room":[],"sender":[],"underride":[]}` {
		t.Errorf("%s, %v", raw, err)
	}
	raw, _ = json.Marshal(Default(alice).Override[0])
	if string(raw) != `{"rule_id":".m.rule.master","default":true,"enabled":false,"conditions":[],"actions":[]}` {
		t.Errorf("%s", raw)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Default(alice).AccountData())
	f.Add([]byte(`{"global":{"override":[{"rule_id":"x","enabled":true,"conditions":[{"kind":"event_match","key":"content.body","pattern":"a*b?"}],"actions":[{"set_tweak":"x"}]}]}}`))
	f.Add([]byte(`{"global":{"content":[{"rule_id":"x","enabled":true,"pattern":"*","actions":[null]}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(alice, raw)
		if err != nil {
			return
		}
		Compile(alice, s).Evaluate(message("a ab"), Facts{Members: 2}, Target{User: alice, DisplayName: "a"})
		again, err := Parse(alice, s.Stored(alice))
		if err != nil || string(again.AccountData()) != string(s.AccountData()) {
			t.Errorf("%v: %s became %s", err, s.AccountData(), again.AccountData())
		}
	})
}

func FuzzPut(f *testing.F) {
	f.Add("override", "x", `["notify"]`, `[{"kind":"room_member_count","is":"<=10"}]`, "tea")
	f.Add("content", "x", `[{"set_tweak":"sound","value":null}]`, `[]`, "*?")
	f.Fuzz(func(t *testing.T, kind, ruleID, actions, conditions, pattern string) {
		d := Draft{Pattern: &pattern}
		k, err := ParseKind(kind)
		if err != nil || json.Unmarshal([]byte(actions), &d.Actions) != nil || json.Unmarshal([]byte(conditions), &d.Conditions) != nil {
			return
		}
		s, err := Default(alice).Put(k, ruleID, d, Place{})
		if err != nil {
			if _, ok := mxerr.Of(err); !ok {
				t.Errorf("%v has no code", err)
			}
			return
		}
		Compile(alice, s).Evaluate(message("tea"), Facts{Members: 2}, Target{User: alice})
		if back, err := Parse(alice, s.Stored(alice)); err != nil || string(back.AccountData()) != string(s.AccountData()) {
			t.Errorf("%v: %s became %s", err, s.AccountData(), back.AccountData())
		}
	})
}

func FuzzParsePath(f *testing.F) {
	f.Add(`content.m\.relates_to.a\\b\x`)
	f.Fuzz(func(t *testing.T, key string) {
		var escaped []string
		for _, p := range parsePath(key) {
			escaped = append(escaped, strings.NewReplacer(`\`, `\\`, `.`, `\.`).Replace(p))
		}
		if again := parsePath(strings.Join(escaped, ".")); !slices.Equal(again, parsePath(key)) {
			t.Errorf("%q is %q, escaped again %q", key, parsePath(key), again)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	pattern := "myelin*release"
	own := Default(alice)
	for _, word := range []string{"tea", "cake", "lunch", "deploy", "incident"} {
		own, _ = own.Put(Content, word, Draft{Actions: raws(`"notify"`), Pattern: &word}, Place{})
	}
	own, _ = own.Put(Content, "release", Draft{Actions: raws(`"notify"`), Pattern: &pattern}, Place{})
	body := strings.Repeat("a message of ordinary length, ", 8)
	for name, s := range map[string]Ruleset{"default": Default(alice), "six keywords": own} {
		c := Compile(alice, s)
		b.Run(name+", first user", func(b *testing.B) {
			e := message(body)
			b.ReportAllocs()
			for b.Loop() {
				e.seen, e.fields = e.seen[:0], nil
				if c.Evaluate(e, Facts{Members: 50}, Target{User: alice}) == nil {
					b.Fatal("no rule matched")
				}
			}
		})
		b.Run(name+", each further user", func(b *testing.B) {
			e := message(body)
			b.ReportAllocs()
			for b.Loop() {
				if c.Evaluate(e, Facts{Members: 50}, Target{User: alice}) == nil {
					b.Fatal("no rule matched")
				}
			}
		})
	}
}
