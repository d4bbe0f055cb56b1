package eventauth

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"myelin/matrix/event"
)

// departures are the scenarios in which gomatrixserverlib and we disagree about some event, and what the text says.
var departures = map[string]string{
	"a create event": "1.3 checks room_version in every version",
	"additional creators are a list of user IDs":             "v12 1.4 rejects what is no list, null included",
	"only the value false stops federation":                  `rule 3 (v12: 4) speaks of the value false; "false" is a string`,
	"aliases":                                                "v6 removed the rule of its own for m.room.aliases",
	"redactions":                                             "v3 took redactions out of the rules",
	"a third-party invite":                                   "5.3.1 asks whether the property is there, null included; what is signed is the whole object",
	"a join rule without a meaning lets nobody in":           "5.2.6 rejects what no point before it allows",
	"a join rule that is no string lets nobody in":           "5.2.6 rejects what no point before it allows",
	"a room to knock at":                                     "join rule knock begins with v7",
	"the authorising server signs":                           "v8 4.2.1 binds every membership event",
	"a restricted room to knock at":                          "join rule knock_restricted begins with v10",
	"a knock at a restricted room":                           "v8 4.7.1 and v9 4.7.1 know join rule knock only; knock_restricted begins with v10",
	"the creator joins first":                                "5.2.1 allows before 5.2.2 compares the sender",
	"leaving":                                                "5.4.1 allows leaving only from invite, join and, since v7, knock",
	"taking back a knock":                                    "membership knock begins with v7",
	"every property counts":                                  "v11 9.5 names users_default",
	"users are an object of user IDs and levels":             "10.1 takes objects of levels only, so not null",
	"levels are integers from version 10 on":                 "notifications are compared since v6, not before",
	"unreadable levels in the state":                         "not in the text: doc.go says what we do",
	"levels beyond 64 bits are the greatest":                 "not in the text: doc.go says what we do",
	"the creator is whom the content names up to version 10": "5.2.1 speaks of the creator, which up to v10 is content.creator",
	"redactions take 50 unless a level is named, and the level of their type": "v3 took redactions out of the rules",
}

// An independent implementation reaches the same verdicts, save where the text decides against it.
func TestAgreesWithGomatrixserverlib(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	differ := map[string]bool{}
	for _, file := range files {
		for _, j := range readScenarios(t, file) {
			if len(j.cited) > 0 {
				continue
			}
			for number, want := range j.expect {
				v := version(t, strconv.Itoa(number))
				var state []*event.PDU
				for k, e := range j.state {
					state = append(state, e.make(t, v, "state-"+k.Type+k.StateKey))
				}
				err := theirVerdict(j.event.make(t, v, "event"), state)
				if (err == nil) == (want[:5] == "allow") {
					continue
				}
				differ[j.name] = true
				if departures[j.name] == "" {
					t.Errorf("%s, version %d: %s, they say %v", j.where, number, want, err)
				}
			}
		}
	}
	for name := range departures {
		if !differ[name] {
			t.Errorf("no difference in %q", name)
		}
	}
}

func theirVerdict(p *event.PDU, state []*event.PDU) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	read := func(p *event.PDU) (gomatrixserverlib.PDU, error) {
		version, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(p.Version().ID))
		if err != nil {
			return nil, err
		}
		return version.NewEventFromTrustedJSONWithEventID(string(p.ID()), p.Raw(), false)
	}
	theirs, err := read(p)
	if err != nil {
		return err
	}
	events := make([]gomatrixserverlib.PDU, len(state))
	for i, s := range state {
		if events[i], err = read(s); err != nil {
			return err
		}
	}
	provider, err := gomatrixserverlib.NewAuthEvents(events)
	if err != nil {
		return err
	}
	return gomatrixserverlib.Allowed(theirs, provider, func(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(sender), true)
	})
}
