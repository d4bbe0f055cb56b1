package fedclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"myelin/matrix/id"
)

// readJoin reads a body as the answer to a join.
func readJoin(r io.Reader) (joined Joined, state, chain []string, err error) {
	err = stateAnswer{
		arrays: map[string]func(json.RawMessage) error{
			"state":      func(raw json.RawMessage) error { state = append(state, string(raw)); return nil },
			"auth_chain": func(raw json.RawMessage) error { chain = append(chain, string(raw)); return nil },
		},
		objects: map[string]any{"event": &joined.Event, "members_omitted": &joined.MembersOmitted, "servers_in_room": (*serverNames)(&joined.Servers)},
	}.read(r)
	return joined, state, chain, err
}

func TestStateStream(t *testing.T) {
	body := ` { "origin":"x" , "auth_chain" : [ ] ,"st\u0061te":[{"a":"}]\"\\"},{"b":[{},"[",1.5e3]} , {}], "unknown":{"state":[[]]},
		"members_omitted":true,"n":-1,"servers_in_room":["a.example","b c",5,"[::1]:80"],"event":{"x":[1]},"z":null }  `
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(body), "byte by byte": iotest.OneByteReader(strings.NewReader(body)), "in halves": iotest.HalfReader(strings.NewReader(body))} {
		joined, state, chain, err := readJoin(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if fmt.Sprint(state) != `[{"a":"}]\"\\"} {"b":[{},"[",1.5e3]} {}]` || chain != nil {
			t.Errorf("%s: state %v, auth chain %v", name, state, chain)
		}
		if !joined.MembersOmitted || fmt.Sprint(joined.Servers) != "[a.example [::1]:80]" || string(joined.Event) != `{"x":[1]}` {
			t.Errorf("%s: %+v", name, joined)
		}
	}
}

func TestStateStreamRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":                    ``,
		"an array":                   `[200,{"state":[],"auth_chain":[]}]`,
		"no state":                   `{"auth_chain":[]}`,
		"state twice":                `{"state":[],"state":[],"auth_chain":[]}`,
		"state that is no array":     `{"state":{},"auth_chain":[]}`,
		"an event that is no object": `{"state":[1],"auth_chain":[]}`,
		"no comma":                   `{"state":[{}{}],"auth_chain":[]}`,
		"a comma at the end":         `{"state":[{},],"auth_chain":[]}`,
		"brackets that don't fit":    `{"state":[{]}],"auth_chain":[]}`,
		"cut off":                    `{"state":[{}`,
		"cut off in a text":          `{"state":[{"a":"`,
		"something behind it":        `{"state":[],"auth_chain":[]}{}`,
		"no name":                    `{state:[],"auth_chain":[]}`,
		"nonsense beside":            `{"state":[],"auth_chain":[],"x":nonsense}`,
		"a flag that is none":        `{"state":[],"auth_chain":[],"members_omitted":"yes"}`,
		"nested too deep":            `{"state":[{"a":` + strings.Repeat("[", 2000) + `}],"auth_chain":[]}`,
		"a long name":                `{"` + strings.Repeat("x", maxStreamKey) + `":1,"state":[],"auth_chain":[]}`,
		"an event that is too large": `{"state":[{"a":"` + strings.Repeat("x", maxStreamEvent) + `"}],"auth_chain":[]}`,
		"a field that is too large":  `{"x":"` + strings.Repeat("x", maxStreamField) + `","state":[],"auth_chain":[]}`,
		"too many fields": func() string {
			var b strings.Builder
			for i := range maxStreamFields {
				fmt.Fprintf(&b, `"x%d":1,`, i)
			}
			return `{` + b.String() + `"state":[],"auth_chain":[]}`
		}(),
	} {
		if _, _, _, err := readJoin(strings.NewReader(body)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	stop := errors.New("enough")
	err := stateAnswer{arrays: map[string]func(json.RawMessage) error{"state": func(json.RawMessage) error { return stop }}}.read(strings.NewReader(`{"state":[{}]}`))
	if taken, ok := errors.AsType[*takenError](err); !ok || taken.err != stop {
		t.Errorf("the taker's error came back as %v", err)
	}
}

// What the stream understands, encoding/json understands in the same way.
func FuzzStateStream(f *testing.F) {
	f.Add([]byte(`{"state":[{"a":"}"}],"auth_chain":[{},{"b":[]}],"event":{},"members_omitted":false,"servers_in_room":["a"]}`))
	f.Add([]byte(`{"auth_chain":[],"x":[1,"\u005d"],"state" : [ ] }`))
	f.Add([]byte(`{"state":[{"a":1}],"auth_chain":[],"x":1e5}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		joined, state, chain, err := readJoin(bytes.NewReader(body))
		again, state2, chain2, err2 := readJoin(iotest.OneByteReader(bytes.NewReader(body)))
		if (err == nil) != (err2 == nil) || err == nil && fmt.Sprint(joined, state, chain) != fmt.Sprint(again, state2, chain2) {
			t.Fatalf("%q: %v and, byte by byte, %v", body, err, err2)
		}
		for _, e := range append(state, chain...) {
			if !json.Valid([]byte(e)) {
				return // events are checked by those who take them
			}
		}
		var whole struct {
			State   []json.RawMessage `json:"state"`
			Chain   []json.RawMessage `json:"auth_chain"`
			Omitted bool              `json:"members_omitted"`
		}
		var fields map[string]json.RawMessage
		if err != nil || !json.Valid(body) {
			if err == nil {
				t.Fatalf("%q was accepted and is no JSON", body)
			}
			return
		}
		check(t, json.Unmarshal(body, &fields))
		check(t, json.Unmarshal(fields["state"], &whole.State))
		check(t, json.Unmarshal(fields["auth_chain"], &whole.Chain))
		same := func(a []string, b []json.RawMessage) bool {
			if len(a) != len(b) {
				return false
			}
			for i := range a {
				if a[i] != string(b[i]) {
					return false
				}
			}
			return true
		}
		if !same(state, whole.State) || !same(chain, whole.Chain) {
			t.Fatalf("%q: %v %v instead of %s %s", body, state, chain, whole.State, whole.Chain)
		}
		for _, s := range joined.Servers {
			if _, err := id.ParseServerName(string(s)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkStateStream(b *testing.B) {
	event := `{"auth_events":["$a","$b"],"content":{"displayname":"Somebody","membership":"join"},"sender":"@somebody:example.org","signatures":{"example.org":{"ed25519:a":"` + strings.Repeat("x", 300) + `"}},"state_key":"@somebody:example.org","type":"m.room.member"},`
	body := `{"state":[` + strings.TrimSuffix(strings.Repeat(event, 20_000), ",") + `],"auth_chain":[]}`
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		err := stateAnswer{arrays: map[string]func(json.RawMessage) error{"state": func(json.RawMessage) error { n++; return nil }, "auth_chain": nil}}.read(strings.NewReader(body))
		if err != nil || n != 20_000 {
			b.Fatal(n, err)
		}
	}
}
