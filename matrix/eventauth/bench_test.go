package eventauth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"myelin/matrix/event"
)

// benchState is a room of version 12 whose power levels list so many users.
func benchState(b testing.TB, users int) State {
	v := version(b, "12")
	var rows []string
	for i := range users {
		rows = append(rows, fmt.Sprintf(`"@moderator%04d:example.org":50`, i))
	}
	levels := `{"ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,"m.room.encryption":100,
		"m.room.history_visibility":100,"m.room.name":50,"m.room.power_levels":100,"m.room.server_acl":100,
		"m.room.tombstone":150},"events_default":0,"historical":100,"invite":0,"kick":50,"redact":50,
		"state_default":50,"users":{` + strings.Join(rows, ",") + `},"users_default":0}`
	state := map[event.Key]*event.PDU{}
	for _, e := range []*event.PDU{
		stateEvent(b, v, typeCreate, "", "@ann:a", `{"room_version":"12"}`),
		stateEvent(b, v, typeMember, "@ann:a", "@ann:a", `{"membership":"join"}`),
		stateEvent(b, v, typeMember, "@bob:b", "@bob:b", `{"displayname":"Bob","membership":"join"}`),
		stateEvent(b, v, typeJoinRules, "", "@ann:a", `{"join_rule":"public"}`),
		stateEvent(b, v, typePowerLevels, "", "@ann:a", levels),
	} {
		state[e.Key()] = e
	}
	return func(typ, key string) *event.PDU { return state[event.Key{Type: typ, StateKey: key}] }
}

func BenchmarkCheck(b *testing.B) {
	v := version(b, "12")
	message := plan{typ: "m.room.message", sender: "@bob:b", content: `{"body":"hello","msgtype":"m.text"}`, prev: "message"}
	join := plan{typ: typeMember, isState: true, key: "@cat:c", sender: "@cat:c", content: `{"membership":"join"}`, prev: "message"}
	levels := plan{typ: typePowerLevels, isState: true, sender: "@ann:a", prev: "message"}
	for _, c := range []struct {
		name  string
		event plan
		users int
	}{
		{"message", message, 5}, {"message-100-moderators", message, 100}, {"message-1500-moderators", message, 1500},
		{"join", join, 5}, {"levels", levels, 5}, {"levels-1500-moderators", levels, 1500},
	} {
		b.Run(c.name, func(b *testing.B) {
			state := benchState(b, c.users)
			if c.event.content == "" {
				c.event.content = string(state(typePowerLevels, "").Content())
			}
			p := c.event.make(b, v, "event")
			b.ReportAllocs()
			for b.Loop() {
				if err := Check(p, state); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a hostile third-party invite can cost is bounded, however many signatures and keys it names.
func TestThirdPartyInviteIsBounded(t *testing.T) {
	v := version(t, "11")
	var keys, signatures []string
	for i := range 600 {
		keys = append(keys, `{"public_key":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"}`)
		signatures = append(signatures, fmt.Sprintf(`"ed25519:%d":"FnqN29Qpnnf0XNptGZAQzxFsSpjxKID7vr2Ks0dhPE2uFTLZp0BzRFYFvFMSeLe8md57M19ZckuxvF059fayCw"`, i))
	}
	made := stateEvent(t, v, typeThirdPartyInvite, "tok", "@ann:a", `{"public_keys":[`+strings.Join(keys, ",")+`]}`)
	p := stateEvent(t, v, typeMember, "@bob:b", "@ann:a", `{"membership":"invite","third_party_invite":{"signed":{"mxid":"@bob:b",
		"token":"tok","signatures":{"id.example":{`+strings.Join(signatures, ",")+`}}}}}`)
	start := time.Now()
	err := Check(p, stateOf(stateEvent(t, v, typeCreate, "", "@ann:a", `{}`), made))
	if r, ok := err.(*Rejection); !ok || r.Rule != "v11 4.4.1.8" {
		t.Errorf("verdict %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
