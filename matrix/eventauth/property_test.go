package eventauth

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// A verdict depends on the Needed keys and the create event only: Check asks for nothing else.
func TestCheckAsksForNeededKeysOnly(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, file := range files {
		for _, j := range readScenarios(t, file) {
			for number := range j.expect {
				v := version(t, strconv.Itoa(number))
				p := j.event.make(t, v, "event")
				needed := append(Needed(v, p), event.Key{Type: typeCreate})
				_ = Check(p, func(typ, key string) *event.PDU {
					k := event.Key{Type: typ, StateKey: key}
					if !slices.Contains(needed, k) {
						t.Errorf("%s, version %d: asks for %v", j.where, number, k)
					}
					if e, ok := j.state[k]; ok {
						return e.make(t, v, "state")
					}
					return nil
				})
			}
		}
	}
}

// randomLevels writes the content of an m.room.power_levels event with few names and few levels, so that
// random ones meet. Some levels are strings where those are levels.
func randomLevels(r *rand.Rand, v *roomver.Version) string {
	level := func() string {
		s := strconv.Itoa(r.IntN(7)*10 - 10)
		if !v.IntegerPowerLevels && r.IntN(5) == 0 {
			return `"` + s + `"`
		}
		return s
	}
	table := func(names ...string) string {
		var rows []string
		for _, name := range names {
			if r.IntN(3) > 0 {
				rows = append(rows, fmt.Sprintf("%q:%s", name, level()))
			}
		}
		return "{" + strings.Join(rows, ",") + "}"
	}
	var rows []string
	for _, name := range properties {
		if r.IntN(3) == 0 {
			rows = append(rows, fmt.Sprintf("%q:%s", name, level()))
		}
	}
	rows = append(rows,
		`"users":`+table("@bob:b", "@cat:c", "@dan:d", "@eve:e"),
		`"events":`+table("m.room.power_levels", "x", "y"),
		`"notifications":`+table("room", "z"))
	return "{" + strings.Join(rows, ",") + "}"
}

// Whoever may change the levels neither touches a level above their own nor makes one.
func TestNobodyRaisesAboveOwnLevel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for range 5000 {
		v := roomver.All()[r.IntN(last)]
		create := stateEvent(t, v, typeCreate, "", "@ann:a", `{"creator":"@ann:a"}`)
		before := stateEvent(t, v, typePowerLevels, "", "@ann:a", randomLevels(r, v))
		member := stateEvent(t, v, typeMember, "@bob:b", "@bob:b", `{"membership":"join"}`)
		after := stateEvent(t, v, typePowerLevels, "", "@bob:b", randomLevels(r, v))
		state := stateOf(create, before, member)
		if Check(after, state) != nil {
			continue
		}
		allowed++
		old, next := PowerLevels(v, create, before), PowerLevels(v, create, after)
		own := old.User("@bob:b")
		for _, u := range []id.UserID{"@bob:b", "@cat:c", "@dan:d", "@eve:e", "@guy:g"} {
			was, is := old.User(u), next.User(u)
			if is > was && is > own && is != old.UsersDefault() {
				t.Fatalf("version %s: %s has %d and raises %s from %d to %d:\n%s\n%s", v.ID, "@bob:b", own, u, was, is, before.Content(), after.Content())
			}
			listed := was != old.UsersDefault()
			if listed && is < was && was >= own && u != "@bob:b" {
				t.Fatalf("version %s: with %d lowers %s from %d:\n%s\n%s", v.ID, own, u, was, before.Content(), after.Content())
			}
		}
		// What takes more than the sender has before and after must take the same.
		names := []string{"m.room.power_levels", "x", "y"}
		for _, name := range names {
			was, is := old.entry(old.events, name, least), next.entry(next.events, name, least)
			if was != is && (was > own || is > own) {
				t.Fatalf("version %s: with %d changes %s from %d to %d", v.ID, own, name, was, is)
			}
		}
		for _, name := range []string{"room", "z"} {
			was, is := old.entry(old.notifications, name, least), next.entry(next.notifications, name, least)
			if v.NotificationsPowerLevel && was != is && (was > own || is > own) {
				t.Fatalf("version %s: with %d changes notification %s from %d to %d", v.ID, own, name, was, is)
			}
		}
	}
	if allowed < 50 {
		t.Errorf("only %d changes were allowed: the test shows little", allowed)
	}
}

// Repeating the levels as they are is always fine for whoever may send them.
func TestUnchangedLevelsAreAllowed(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		v := roomver.All()[r.IntN(last)]
		create := stateEvent(t, v, typeCreate, "", "@ann:a", `{"creator":"@ann:a"}`)
		content := randomLevels(r, v)
		before := stateEvent(t, v, typePowerLevels, "", "@ann:a", content)
		member := stateEvent(t, v, typeMember, "@bob:b", "@bob:b", `{"membership":"join"}`)
		after := stateEvent(t, v, typePowerLevels, "", "@bob:b", content)
		l := PowerLevels(v, create, before)
		may := l.User("@bob:b") >= l.Event(typePowerLevels, true)
		if err := Check(after, stateOf(create, before, member)); (err == nil) != may {
			t.Fatalf("version %s: %v for %s", v.ID, err, content)
		}
	}
}

// More power never forbids what less power allows, save that equals can't act on each other.
func TestMorePowerAllowsMore(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	events := []plan{
		{typ: "m.room.message", sender: "@bob:b", content: `{}`},
		{typ: "m.room.topic", isState: true, sender: "@bob:b", content: `{}`},
		{typ: typeThirdPartyInvite, isState: true, key: "tok", sender: "@bob:b", content: `{}`},
		{typ: typeMember, isState: true, key: "@cat:c", sender: "@bob:b", content: `{"membership":"ban"}`},
		{typ: typeMember, isState: true, key: "@cat:c", sender: "@bob:b", content: `{"membership":"leave"}`},
		{typ: typeMember, isState: true, key: "@fay:f", sender: "@bob:b", content: `{"membership":"invite"}`},
		{typ: typeRedaction, sender: "@bob:b", content: `{"redacts":"$x:a"}`},
	}
	for range 2000 {
		v := roomver.All()[r.IntN(last)]
		create := stateEvent(t, v, typeCreate, "", "@ann:a", `{"creator":"@ann:a"}`)
		bob := stateEvent(t, v, typeMember, "@bob:b", "@bob:b", `{"membership":"join"}`)
		cat := stateEvent(t, v, typeMember, "@cat:c", "@cat:c", `{"membership":"`+[]string{"join", "ban"}[r.IntN(2)]+`"}`)
		p := events[r.IntN(len(events))].make(t, v, "event")
		other := r.IntN(5)
		was := false
		for own := range 10 {
			levels := fmt.Sprintf(`{"ban":%d,"kick":%d,"invite":%d,"redact":3,"events":{"m.room.topic":%d},"users":{"@bob:b":%d,"@cat:c":%d}}`,
				other, other+1, other+2, other+1, own, other)
			is := Check(p, stateOf(create, bob, cat, stateEvent(t, v, typePowerLevels, "", "@ann:a", levels))) == nil
			if was && !is {
				t.Fatalf("version %s: %s is forbidden with %s", v.ID, p.Raw(), levels)
			}
			was = is
		}
	}
}

func stateOf(events ...*event.PDU) State {
	return func(typ, key string) *event.PDU {
		for _, e := range events {
			if (e.Key() == event.Key{Type: typ, StateKey: key}) {
				return e
			}
		}
		return nil
	}
}
