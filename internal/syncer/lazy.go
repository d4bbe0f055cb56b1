package syncer

import (
	"maps"
	"sync"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// lazyDevices bounds the devices whose known members are remembered.
	lazyDevices = 20_000
	// lazyMembers bounds the members that are remembered of one device.
	lazyMembers = 20_000
)

// lazyMemory remembers which member events devices that load members lazily have been told of. Whatever is lost is told again.
type lazyMemory struct {
	mu      sync.Mutex // guards all below
	devices map[deviceKey]*knownMembers
}

// knownMembers are the members that a device was told of.
type knownMembers struct {
	members map[memberKey]told
	last    sqldb.Pos // the greatest told.at
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

type memberKey struct {
	room graph.RoomNID
	user id.UserID
}

// told says that an answer with the token at told of an event. Whether the answer arrived is known once the device comes with that
// token or a later one.
type told struct {
	event graph.EventNID
	at    sqldb.Pos
}

func newLazyMemory() *lazyMemory {
	return &lazyMemory{devices: make(map[deviceKey]*knownMembers)}
}

// begin notes a request. What answers after its since told never arrived, or will be told again.
func (m *lazyMemory) begin(a *answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := deviceKey{a.q.User, a.q.Device}
	d := m.devices[key]
	switch {
	case d == nil:
	case a.first:
		delete(m.devices, key)
	case d.last > a.since:
		maps.DeleteFunc(d.members, func(_ memberKey, t told) bool { return t.at > a.since })
		d.last = a.since
	}
}

// knows reports whether the device was told of the event by an answer that arrived.
func (m *lazyMemory) knows(a *answer, room graph.RoomNID, user id.UserID, nid graph.EventNID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.devices[deviceKey{a.q.User, a.q.Device}]
	if d == nil {
		return false
	}
	t, ok := d.members[memberKey{room, user}]
	return ok && t.event == nid && t.at <= a.since
}

// told notes the member events among those that an answer tells.
func (m *lazyMemory) told(a *answer, room graph.RoomNID, events []*graph.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := deviceKey{a.q.User, a.q.Device}
	d := m.devices[key]
	for _, e := range events {
		if e.PDU.Type() != memberType || !e.PDU.IsState() {
			continue
		}
		if d == nil {
			d = m.add(key)
		}
		of := memberKey{room, id.UserID(e.PDU.Key().StateKey)}
		// What was told before with the same event, and arrived, stays known.
		if old, ok := d.members[of]; ok && old.event == e.NID && old.at <= a.since {
			continue
		}
		if len(d.members) >= lazyMembers {
			clear(d.members)
		}
		d.members[of] = told{e.NID, a.to}
		d.last = max(d.last, a.to)
	}
}

// add makes room for a device. Caller holds mu.
func (m *lazyMemory) add(key deviceKey) *knownMembers {
	if len(m.devices) >= lazyDevices {
		for k := range m.devices { // any one
			delete(m.devices, k)
			break
		}
	}
	d := &knownMembers{members: make(map[memberKey]told)}
	m.devices[key] = d
	return d
}
