package graph

import (
	"iter"

	"myelin/internal/graph/statemap"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// State is the state of a room at some moment: for each (type, state key) an event. Immutable; states of one room share what
// they have in common.
type State struct {
	m    statemap.Map // KeyNID to value
	keys *roomKeys
	nid  StateNID
	// chain leads from a checkpoint to this snapshot; empty for a state without a number and for the empty state.
	chain []link
	// from is the snapshot that a state without a number was derived from.
	from  *State
	epoch int64 // of the room when the chain was loaded
	cost  uint32
}

// weight estimates the bytes that the state holds beyond what it shares with others.
func (s *State) weight() uint32 { return s.cost + 512 }

// StateChange puts an event into a state. An NID of 0 takes the entry out.
type StateChange struct {
	Key event.Key
	NID EventNID
	// Membership must be set for m.room.member.
	Membership Membership
}

// StateDiff is a difference between two states; an NID is 0 where the state has no such entry. The memberships are set for
// m.room.member only.
type StateDiff struct {
	Key                          event.Key
	Old, New                     EventNID
	OldMembership, NewMembership Membership
}

// value is an entry of the map: an event, and in the lowest three bits the membership if it is a member event.
type value int64

const membershipBits = 3

// codes lists memberships by their code on disk: never reorder it.
var codes = [...]Membership{"", Join, Invite, Leave, Ban, Knock}

func makeValue(nid EventNID, m Membership) value {
	v := value(nid) << membershipBits
	for code, known := range codes {
		if m == known {
			return v | value(code)
		}
	}
	return v
}

func (v value) event() EventNID { return EventNID(v >> membershipBits) }

func (v value) membership() Membership {
	if code := v & (1<<membershipBits - 1); int(code) < len(codes) {
		return codes[code]
	}
	return ""
}

// Change returns the change that a state event makes to the state.
func (e *Event) change() StateChange {
	return StateChange{Key: e.PDU.Key(), NID: e.NID, Membership: Membership(e.PDU.Membership())}
}

// ChangeOf returns the change that a state event makes to a state.
func ChangeOf(e *Event) StateChange { return e.change() }

// NID is the number of the snapshot in its room, 0 for a state that has none: the empty state, and what With returns.
func (s *State) NID() StateNID { return s.nid }

// Len returns the number of entries.
func (s *State) Len() int { return s.m.Len() }

func (s *State) value(typ, stateKey string) value {
	key, ok := s.keys.find(typ, stateKey)
	if !ok {
		return 0
	}
	return value(s.m.Get(uint64(key)))
}

// Get returns the event that stands under the key.
func (s *State) Get(typ, stateKey string) (EventNID, bool) {
	v := s.value(typ, stateKey)
	return v.event(), v != 0
}

// GetKey is Get by the number of the key.
func (s *State) GetKey(key KeyNID) (EventNID, bool) {
	v := value(s.m.Get(uint64(key)))
	return v.event(), v != 0
}

// Membership returns a user's membership, "" if the state has no member event of the user. It reads no events.
func (s *State) Membership(user id.UserID) Membership {
	return s.value(memberType, string(user)).membership()
}

// All yields all entries, in the order in which their keys came to the room.
func (s *State) All() iter.Seq2[event.Key, EventNID] {
	return func(yield func(event.Key, EventNID) bool) {
		for k, v := range s.m.All() {
			if !yield(s.keys.key(KeyNID(k)), value(v).event()) {
				return
			}
		}
	}
}

// OfType yields the entries of one type with their state keys. Its cost is that of as many look-ups as the room ever had state keys
// of the type.
func (s *State) OfType(typ string) iter.Seq2[string, EventNID] {
	return func(yield func(string, EventNID) bool) {
		for _, k := range s.keys.ofType(typ) {
			if v := value(s.m.Get(uint64(k))); v != 0 && !yield(s.keys.key(k).StateKey, v.event()) {
				return
			}
		}
	}
}

// Member is an entry of the members of a state.
type Member struct {
	User       id.UserID
	Event      EventNID
	Membership Membership
}

// Members yields the member entries; with arguments only those with one of these memberships. It reads no events. Its cost is that
// of OfType.
func (s *State) Members(of ...Membership) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		for _, k := range s.keys.ofType(memberType) {
			v := value(s.m.Get(uint64(k)))
			if v == 0 || len(of) > 0 && !contains(of, v.membership()) {
				continue
			}
			if !yield(Member{id.UserID(s.keys.key(k).StateKey), v.event(), v.membership()}) {
				return
			}
		}
	}
}

func contains(of []Membership, m Membership) bool {
	for _, o := range of {
		if o == m {
			return true
		}
	}
	return false
}

// With returns the state with the changes made, in order. The result has no number until a head that holds it is committed.
func (s *State) With(changes ...StateChange) *State {
	if len(changes) == 0 {
		return s
	}
	next := &State{keys: s.keys, from: s.numbered(), epoch: s.epoch}
	if len(changes) == 1 {
		c := changes[0]
		next.m = s.m.With(uint64(s.keys.number(c.Key)), int64(changeValue(c)))
		return next
	}
	b := s.m.Builder()
	for _, c := range changes {
		b.Set(uint64(s.keys.number(c.Key)), int64(changeValue(c)))
	}
	next.m = b.Map()
	return next
}

func changeValue(c StateChange) value {
	if c.NID == 0 {
		return 0
	}
	return makeValue(c.NID, c.Membership)
}

// numbered returns s, or the snapshot that it was derived from.
func (s *State) numbered() *State {
	if s.from != nil {
		return s.from
	}
	return s
}

// Diff yields what must change to turn old into new. Both must be of the same room. It costs in proportion to the difference where the states
// share structure.
func Diff(old, new *State) iter.Seq[StateDiff] {
	old = old.in(new.keys)
	return func(yield func(StateDiff) bool) {
		for c := range statemap.Diff(old.m, new.m) {
			if !yield(stateDiff(new.keys, change{KeyNID(c.Key), value(c.Old), value(c.New)})) {
				return
			}
		}
	}
}

func stateDiff(keys *roomKeys, c change) StateDiff {
	return StateDiff{
		Key: keys.key(c.key),
		Old: c.old.event(), New: c.new.event(),
		OldMembership: c.old.membership(), NewMembership: c.new.membership(),
	}
}

// in returns the same state with its keys numbered by another roomKeys of the room.
func (s *State) in(keys *roomKeys) *State {
	if s.keys == keys {
		return s
	}
	c := *s
	c.keys = keys
	if s.from == nil {
		if !keys.meet(s.keys, KeyNID(s.m.Max())) {
			c.m = renumbered(statemap.Map{}, statemap.Map{}, s, keys)
		}
		return &c
	}
	c.from = s.from.in(keys)
	c.m = renumbered(c.from.m, s.from.m, s, keys)
	return &c
}

// renumbered makes the changes from a map to that of s, in other numbers, to a map that has the numbers of keys.
func renumbered(to, from statemap.Map, s *State, keys *roomKeys) statemap.Map {
	b := to.Builder()
	for d := range statemap.Diff(from, s.m) {
		b.Set(uint64(keys.number(s.keys.key(KeyNID(d.Key)))), d.New)
	}
	return b.Map()
}
