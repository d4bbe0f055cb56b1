package event

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"

	"myelin/matrix/canon"
	"myelin/matrix/roomver"
)

// TestAgreesWithAnotherImplementation feeds random events of every version to ours and to an independent
// implementation, and compares event IDs, redactions and what the hash check makes of them.
func TestAgreesWithAnotherImplementation(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, v := range roomver.All() {
		other, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(v.ID))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			p := build(t, v, randomDraft(rnd, v))
			raw := p.Raw()
			if rnd.IntN(4) == 0 {
				raw = canon.With(nil, raw, "org.example.late", []byte(`"added"`))
			}
			ours, err := Parse(v, raw)
			if err != nil {
				t.Fatalf("version %s: %s: %v", v, raw, err)
			}
			theirs, err := other.NewEventFromUntrustedJSON(raw)
			if err != nil {
				t.Fatalf("version %s: %s: they say %v", v, raw, err)
			}
			if theirs.EventID() != string(ours.ID()) || theirs.Redacted() == ours.HashOK() || theirs.RoomID().String() != string(ours.RoomID()) {
				t.Fatalf("version %s: %s\nours   %s %s hash %v\ntheirs %s %s hash %v", v, raw, ours.ID(), ours.RoomID(), ours.HashOK(),
					theirs.EventID(), theirs.RoomID().String(), !theirs.Redacted())
			}
			red, err := ours.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			want, err := other.RedactEventJSON(raw)
			if err != nil {
				t.Fatal(err)
			}
			if want, err = canon.Canonicalize(nil, want, v.Canon); err != nil {
				t.Fatal(err)
			}
			if string(red.Raw()) != string(want) {
				t.Fatalf("version %s: %s redacted\nours   %s\ntheirs %s", v, raw, red.Raw(), want)
			}
		}
	}
}

// randomDraft makes an event whose content has some of the keys that redactions treat specially.
func randomDraft(rnd *rand.Rand, v *roomver.Version) Draft {
	d := sample(v)
	types := []string{
		"m.room.member", "m.room.create", "m.room.join_rules", "m.room.power_levels", "m.room.aliases",
		"m.room.history_visibility", "m.room.redaction", "m.room.message", "org.example.other",
	}
	d.Type = types[rnd.IntN(len(types))]
	// The other implementation rebuilds what it keeps of these from typed structs, so each gets the type it has.
	fields := []string{
		`"membership":"join"`, `"creator":"@alice:example.org"`, `"join_rule":"invite"`, `"ban":1`, `"events":{"x":2}`,
		`"events_default":3`, `"invite":4`, `"kick":5`, `"redact":6`, `"state_default":7`, `"users":{"@a:b":8}`,
		`"users_default":9`, `"notifications":{"room":10}`, `"aliases":["#a:b"]`, `"history_visibility":"shared"`,
		`"allow":[{"type":"m.room_membership","room_id":"!x"}]`, `"join_authorised_via_users_server":"@a:b"`,
		`"third_party_invite":{"display_name":"x","signed":{"mxid":"@a:b","token":"t"}}`,
		`"body":"ünï\u0000\"\\\n\u2028<>&\/😀"`, `"room_version":"` + v.ID + `"`, `"\u007f":[true,false,null,{"b":[],"a":{}}]`,
	}
	if d.Type == "m.room.member" && v.RedactsInContent {
		// They drop the whole invite. Spec: rooms/v11 Redactions: "it allows the signed key".
		fields = slices.DeleteFunc(fields, func(f string) bool { return strings.HasPrefix(f, `"third_party_invite"`) })
	}
	rnd.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	d.Content = []byte("{" + strings.Join(fields[:rnd.IntN(len(fields))], ",") + "}")
	if rnd.IntN(2) == 0 || d.Type == "m.room.create" {
		key := fmt.Sprintf("key%d", rnd.IntN(9))
		if d.Type == "m.room.create" {
			key = ""
		}
		d.StateKey = &key
	}
	if d.Type == "m.room.create" && v.CreateAsRoomID {
		d.RoomID = ""
	}
	if d.Type == "m.room.redaction" {
		d.Redacts = d.PrevEvents[0]
	}
	return d
}
