package graph

import (
	"encoding/binary"
	"slices"
	"sync"

	"myelin/matrix/event"
)

const memberType = "m.room.member"

// roomKeys numbers the (type, state key) pairs of one room, from 1 on. Numbers are given in memory, ahead of the disk; a commit
// stores those that are new. That another writer gave the same number to another pair shows in the room's revision: the
// commit fails, and the head is loaded again with another roomKeys. The states of a room that are in memory may have several, and where they
// meet they are brought to one (see State.in).
type roomKeys struct {
	mu     sync.RWMutex // guards all below
	list   []event.Key  // list[n-1] has the number n
	byType map[string]*typeKeys
	stored KeyNID // numbers up to here are on disk
}

type typeKeys struct {
	byKey map[string]KeyNID
	nids  []KeyNID // ascending
}

func newKeys() *roomKeys { return &roomKeys{byType: make(map[string]*typeKeys)} }

func (r *roomKeys) find(typ, stateKey string) (KeyNID, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.byType[typ]
	if t == nil {
		return 0, false
	}
	nid, ok := t.byKey[stateKey]
	return nid, ok
}

// number finds the pair's number or gives it one.
func (r *roomKeys) number(k event.Key) KeyNID {
	if nid, ok := r.find(k.Type, k.StateKey); ok {
		return nid
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add(k)
}

// add gives the next number to a pair that has none, or returns the one it has. It is called with mu held.
func (r *roomKeys) add(k event.Key) KeyNID {
	t := r.ofTypeSized(k.Type, 0)
	if nid, ok := t.byKey[k.StateKey]; ok {
		return nid
	}
	nid := KeyNID(len(r.list) + 1)
	if len(t.nids) > 0 {
		k.Type = r.list[t.nids[0]-1].Type // one copy of the type in memory
	}
	r.list = append(r.list, k)
	t.byKey[k.StateKey] = nid
	t.nids = append(t.nids, nid)
	return nid
}

// ofTypeSized makes the maps of a type with space for so many pairs. It is called with mu held.
func (r *roomKeys) ofTypeSized(typ string, n int) *typeKeys {
	t := r.byType[typ]
	if t == nil {
		t = &typeKeys{byKey: make(map[string]KeyNID, n), nids: make([]KeyNID, 0, n)}
		r.byType[typ] = t
	}
	return t
}

func (r *roomKeys) key(nid KeyNID) event.Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if nid < 1 || int(nid) > len(r.list) {
		return event.Key{}
	}
	return r.list[nid-1]
}

// ofType returns the numbers of a type's pairs. The result must not be changed.
func (r *roomKeys) ofType(typ string) []KeyNID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.byType[typ]; t != nil {
		return t.nids[:len(t.nids):len(t.nids)]
	}
	return nil
}

// len is the highest number given.
func (r *roomKeys) len() KeyNID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return KeyNID(len(r.list))
}

// durable is the highest number on disk.
func (r *roomKeys) durable() KeyNID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.stored
}

// settle notes that numbers up to nid are on disk.
func (r *roomKeys) settle(nid KeyNID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored = max(r.stored, nid)
}

// between returns the pairs with numbers after from, up to to.
func (r *roomKeys) between(from, to KeyNID) []event.Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from >= to {
		return nil
	}
	return r.list[from:to:to]
}

// learn takes what the disk holds after r.stored as of some moment, which began at the number from. It returns r, or another roomKeys
// where r had given one of the numbers to another pair.
func (r *roomKeys) learn(from KeyNID, disk []event.Key) *roomKeys {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reserve(disk)
	for i, k := range disk {
		nid := from + KeyNID(i) + 1
		switch {
		case int(nid) <= len(r.list) && r.list[nid-1] == k:
		case int(nid) == len(r.list)+1 && r.add(k) == nid:
		default:
			return r.fork(from, disk)
		}
	}
	r.stored = max(r.stored, from+KeyNID(len(disk)))
	return r
}

// meet makes numbers up to one mean here what they mean elsewhere: those that r has not given yet it gives to the same pairs. It returns false where r has given
// one of them to another pair.
func (r *roomKeys) meet(elsewhere *roomKeys, upTo KeyNID) bool {
	elsewhere.mu.RLock()
	given, sure := elsewhere.list, elsewhere.stored
	elsewhere.mu.RUnlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	// What is on disk is the same.
	for nid := min(r.stored, sure) + 1; nid <= min(upTo, KeyNID(len(given))); nid++ {
		k := given[nid-1]
		if int(nid) <= len(r.list) && r.list[nid-1] != k || int(nid) > len(r.list) && r.add(k) != nid {
			return false
		}
	}
	return true
}

// reserve is called with mu held.
func (r *roomKeys) reserve(keys []event.Key) {
	r.list = slices.Grow(r.list, len(keys))
	if len(keys) < keyPage {
		return
	}
	counts := make(map[string]int)
	for _, k := range keys {
		counts[k.Type]++
	}
	for typ, n := range counts {
		r.ofTypeSized(typ, n)
	}
}

// fork is called with mu held.
func (r *roomKeys) fork(from KeyNID, disk []event.Key) *roomKeys {
	n := newKeys()
	n.reserve(disk)
	for _, k := range r.list[:from] {
		n.add(k)
	}
	for _, k := range disk {
		n.add(k)
	}
	n.stored = from + KeyNID(len(disk))
	return n
}

// keyPage is the number of keys that share a row on disk once there are so many.
const keyPage = 256

// encodeKeys writes for each key the length of its type plus one and the type, or 0 for the type of the key before; then the
// length of the state key and the state key.
func encodeKeys(keys []event.Key) []byte {
	out := make([]byte, 0, 48*len(keys))
	for i, k := range keys {
		if i > 0 && keys[i-1].Type == k.Type {
			out = append(out, 0)
		} else {
			out = binary.AppendUvarint(out, uint64(len(k.Type))+1)
			out = append(out, k.Type...)
		}
		out = binary.AppendUvarint(out, uint64(len(k.StateKey)))
		out = append(out, k.StateKey...)
	}
	return out
}

func decodeKeys(raw []byte) ([]event.Key, error) {
	keys := make([]event.Key, 0, keyPage)
	b := blob{rest: raw, text: string(raw)}
	typ := ""
	for len(b.rest) > 0 {
		if n := b.next(); n > 0 {
			typ = b.string(n - 1)
		}
		keys = append(keys, event.Key{Type: typ, StateKey: b.string(b.next())})
	}
	if b.bad {
		return nil, errSnapshot
	}
	return keys, nil
}
