package stateres

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// theirs holds the events of a room as the independent implementation reads them.
type theirs struct {
	room   *testRoom
	events map[id.EventID]gmsl.PDU
	// null is where their prints go.
	null *os.File
}

func theirUser(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

func (o *theirs) version() gmsl.IRoomVersion {
	return gmsl.MustGetRoomVersion(gmsl.RoomVersion(o.room.version.ID))
}

// pdu parses an event from its bytes.
func (o *theirs) pdu(t *testing.T, p *event.PDU) gmsl.PDU {
	t.Helper()
	if q, ok := o.events[p.ID()]; ok {
		return q
	}
	q, err := o.version().NewEventFromTrustedJSON(p.Raw(), false)
	if err != nil {
		t.Fatalf("their parser refuses %s: %v", p.Raw(), err)
	}
	o.events[p.ID()] = q
	return q
}

func (o *theirs) provider(t *testing.T, p *event.PDU, s Set) *gmsl.AuthEvents {
	t.Helper()
	provider, err := gmsl.NewAuthEvents(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := append(eventauth.Needed(o.room.version, p), createKey)
	at := o.room.at(s)
	for _, k := range keys {
		if q := at(k.Type, k.StateKey); q != nil {
			if err := provider.AddEvent(o.pdu(t, q)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return provider
}

func (o *theirs) allowed(t *testing.T, p *event.PDU, s Set) (err error) {
	t.Helper()
	return gmsl.Allowed(o.pdu(t, p), o.provider(t, p, s), theirUser)
}

// resolve runs their algorithm over complete states.
func (o *theirs) resolve(t *testing.T, sets []Set) Set {
	t.Helper()
	lists := make([][]gmsl.PDU, len(sets))
	for i, s := range sets {
		for _, e := range s {
			lists[i] = append(lists[i], o.pdu(t, o.room.events[e]))
		}
	}
	var auth []gmsl.PDU
	if o.room.version.StateRes == roomver.StateResV1 {
		// The first algorithm takes every one of these as part of the unconflicted state.
		_, unconflicted := splitV1(sets)
		for _, e := range unconflicted {
			auth = append(auth, o.pdu(t, o.room.events[e]))
		}
	} else {
		for _, e := range o.room.order {
			auth = append(auth, o.pdu(t, o.room.events[e]))
		}
	}
	list, err := gmsl.ResolveConflictsNew(gmsl.RoomVersion(o.room.version.ID), lists, auth, theirUser, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	out := Set{}
	for _, q := range list {
		out[event.Key{Type: q.Type(), StateKey: *q.StateKey()}] = id.EventID(q.EventID())
	}
	return out
}

// tryResolve is resolve without what the library prints, and with its panics as a text.
func (o *theirs) tryResolve(t *testing.T, sets []Set) (out Set, crash string) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			crash = fmt.Sprint(r)
		}
	}()
	if o.room.version.StateRes == roomver.StateResV21 {
		stdout := os.Stdout
		defer func() { os.Stdout = stdout }()
		os.Stdout = o.null
	}
	return o.resolve(t, sets), ""
}

// splitV1 divides by the first algorithm's notion of a conflict.
func splitV1(sets []Set) (conflicted map[event.Key]bool, unconflicted Set) {
	conflicted, unconflicted = map[event.Key]bool{}, Set{}
	for _, s := range sets {
		for k, e := range s {
			if was, ok := unconflicted[k]; ok && was != e {
				conflicted[k] = true
			}
			unconflicted[k] = e
		}
	}
	maps.DeleteFunc(unconflicted, func(k event.Key, _ id.EventID) bool { return conflicted[k] })
	return conflicted, unconflicted
}

// differences counts what the implementations disagree about.
type differences struct {
	cases, unequal int
	quirks         map[quirk]int
	verdicts       map[string]int
	judged         int
}

// TestDifferential feeds random histories to this implementation and to another one. It compares
// event IDs, redaction, the verdicts of the authorisation rules and the resolved states. Every
// difference must be explained by an entry of allowedDifferences or allowedVerdicts. MYELIN_HISTORIES sets the number of
// histories of each version.
func TestDifferential(t *testing.T) {
	for _, v := range roomver.All() {
		t.Run("v"+v.ID, func(t *testing.T) {
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			d := &differences{quirks: map[quirk]int{}, verdicts: map[string]int{}}
			for seed := range uint64(histories(t, 20)) {
				h := newHistory(newTestRoom(t, v), newRand(v, 1_000_000+seed))
				o := &theirs{h.testRoom, map[id.EventID]gmsl.PDU{}, null}
				h.proposed = func(p *event.PDU, state Set) { d.event(t, h, o, p, state) }
				h.merging = func(sets []Set) Set {
					got := mustResolve(t, h.testRoom, h.input(true), sets)
					d.resolution(t, h, o, sets, got)
					return got
				}
				h.run(40)
				for range 2 {
					sets := h.mangled()
					d.resolution(t, h, o, sets, mustResolve(t, h.testRoom, h.input(true), sets))
				}
				if t.Failed() {
					t.Fatalf("history %d of version %s", seed, v.ID)
				}
			}
			t.Logf("%d events, %d resolutions, %d of them different", d.judged, d.cases, d.unequal)
			for q, n := range d.quirks {
				t.Logf("%d × %s", n, allowedDifferences[q])
			}
			for why, n := range d.verdicts {
				t.Logf("%d × %s", n, why)
			}
		})
	}
}

// event compares everything about one event.
func (d *differences) event(t *testing.T, h *history, o *theirs, p *event.PDU, state Set) {
	t.Helper()
	q := o.pdu(t, p)
	if q.EventID() != string(p.ID()) {
		t.Errorf("event ID: ours %s, theirs %s for %s", p.ID(), q.EventID(), p.Raw())
	}
	ours, err := p.Redacted()
	if err != nil {
		t.Fatalf("redact %s: %v", p.Raw(), err)
	}
	raw, err := o.version().RedactEventJSON(p.Raw())
	if err != nil {
		t.Fatalf("their redaction of %s: %v", p.Raw(), err)
	}
	if raw, err = canon.Canonicalize(nil, raw, h.version.Canon); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, ours.Raw()) {
		t.Errorf("redaction of %s:\nours   %s\ntheirs %s", p.Raw(), ours.Raw(), raw)
	}
	d.judged++
	mine, other := eventauth.Check(p, h.at(state)), o.allowed(t, p, state)
	if (mine == nil) != (other == nil) {
		why := explainVerdict(h, p, state, mine, other)
		if why == "" {
			t.Errorf("verdict on %s in\n%sours %v\ntheirs %v", p.Raw(), h.describe(state), mine, other)
		}
		d.verdicts[why]++
	}
}

// resolution compares one resolution.
func (d *differences) resolution(t *testing.T, h *history, o *theirs, sets []Set, got Set) {
	t.Helper()
	d.cases++
	want, crash := o.tryResolve(t, sets)
	if crash != "" {
		if !strings.Contains(crash, "missing resolved create event") {
			t.Errorf("the library panics: %s", crash)
		}
		d.unequal++
		d.quirks[noImpliedCreate]++
		return
	}
	if maps.Equal(got, want) {
		return
	}
	d.unequal++
	if h.version.StateRes == roomver.StateResV1 {
		same(t, h.testRoom, "theirs, but for the rules", sets, modelV1(h.testRoom, sets, func(p *event.PDU, s Set) bool { return o.allowed(t, p, s) == nil }), want)
		d.quirks[otherRules]++
		return
	}
	needed, ok := explain(h.testRoom, o, t, sets, want)
	if !ok {
		same(t, h.testRoom, "theirs is none of the known departures", sets, got, want)
	}
	for _, q := range needed {
		d.quirks[q]++
	}
}

// explain finds a least set of quirks with which the model gives their result.
func explain(r *testRoom, o *theirs, t *testing.T, sets []Set, want Set) ([]quirk, bool) {
	matches := func(quirks quirk) bool {
		m := &model{room: r, quirks: quirks}
		if quirks&otherRules != 0 {
			m.check = func(p *event.PDU, s Set) bool { return o.allowed(t, p, s) == nil }
		}
		return maps.Equal(m.resolve(sets), want)
	}
	all := quirksEnd - 1
	if !matches(all) {
		return nil, false
	}
	for q := quirk(1); q < quirksEnd; q <<= 1 {
		if matches(all &^ q) {
			all &^= q
		}
	}
	var needed []quirk
	for q := quirk(1); q < quirksEnd; q <<= 1 {
		if all&q != 0 {
			needed = append(needed, q)
		}
	}
	return needed, true
}

// explainVerdict names the reason why the verdicts on an event differ, "" if there is none.
func explainVerdict(h *history, p *event.PDU, state Set, ours, theirs error) string {
	for _, a := range allowedVerdicts {
		if a.applies(h, p, state, ours, theirs) {
			return a.spec
		}
	}
	return ""
}

// allowedVerdicts lists where the other implementation's rules differ, with what the specification says.
var allowedVerdicts = []struct {
	spec    string
	applies func(h *history, p *event.PDU, state Set, ours, theirs error) bool
}{
	{
		spec: "rooms/v1 Authorisation rules 5.4.1: leaving needs membership invite or join (later also knock); the library lets those leave who have left",
		applies: func(h *history, p *event.PDU, state Set, ours, theirs error) bool {
			m := memberBefore(h, p, state)
			return theirs == nil && p.Membership() == "leave" && ownMembership(p) && (m == "" || m == "leave")
		},
	},
	{
		spec: "rooms/v1 Authorisation rules 5.2.6: «Otherwise, reject» under a join rule that the version does not know; the library lets members and invited users join",
		applies: func(h *history, p *event.PDU, state Set, ours, theirs error) bool {
			m := memberBefore(h, p, state)
			return theirs == nil && p.Membership() == "join" && ownMembership(p) && (m == "join" || m == "invite")
		},
	},
	{
		spec: "rooms/v7 Authorisation rules 4.2.5: «If the join_rule is public, allow»; the library refuses those who have knocked before",
		applies: func(h *history, p *event.PDU, state Set, ours, theirs error) bool {
			return ours == nil && p.Membership() == "join" && ownMembership(p) && memberBefore(h, p, state) == "knock"
		},
	},
	{
		spec: "rooms/v1 Authorisation rules 5.4.4: unbanning needs the kick level and more power than the target too; the library asks for the ban level alone",
		applies: func(h *history, p *event.PDU, state Set, ours, theirs error) bool {
			return theirs == nil && p.Membership() == "leave" && !ownMembership(p) && memberBefore(h, p, state) == "ban"
		},
	},
}

func ownMembership(p *event.PDU) bool {
	key, _ := p.StateKey()
	return key == string(p.Sender())
}

// memberBefore is the membership that a membership event changes.
func memberBefore(h *history, p *event.PDU, state Set) string {
	if m := h.at(state)(p.Key().Type, p.Key().StateKey); m != nil {
		return m.Membership()
	}
	return ""
}
