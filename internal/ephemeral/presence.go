package ephemeral

import (
	"context"
	"maps"
	"strconv"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// State is whether a user is there.
//
// Spec: cs Presence
type State string

// The states of the specification.
const (
	Online      State = "online"
	Unavailable State = "unavailable"
	Offline     State = "offline"
)

// ParseState reads a state that a client gave.
func ParseState(s string) (State, error) {
	switch v := State(s); v {
	case Online, Unavailable, Offline:
		return v, nil
	}
	return "", mxerr.InvalidParam("The presence must be online, unavailable or offline.")
}

// rank orders states by how much of the user is there.
func (s State) rank() int {
	switch s {
	case Online:
		return 2
	case Unavailable:
		return 1
	}
	return 0
}

// Presence is what others see of a user. Immutable.
type Presence struct {
	Pos       sqldb.Pos
	User      id.UserID
	State     State
	StatusMsg string
	// LastActive is in milliseconds since the epoch, 0 for never. While CurrentlyActive it may be out of date.
	LastActive      int64
	CurrentlyActive bool
	// Rooms are those of a user of another server, for who is to hear of a change at once. Only what is told on the bus has them.
	Rooms []graph.RoomNID
}

const (
	// offlineAfter is how long a device counts as connected after its last request for news.
	offlineAfter = 30 * time.Second
	// activeFor is how long an activity makes its user currently active, idleAfter how long at all.
	activeFor = time.Minute
	idleAfter = 5 * time.Minute
	// tickPresence is how often the clock is looked at for all this.
	tickPresence = 5 * time.Second
)

// person is what this node knows of a local user. Ephemeral.mu guards it.
type person struct {
	devices    map[id.DeviceID]*device
	lastActive int64
	// shown is what others see as far as this node knows. It is only believed if known.
	known       bool
	shown       State
	shownActive bool
}

// device is a client of a user.
type device struct {
	polls  int   // requests for news under way
	seen   int64 // end of the last one
	state  State
	chosen bool // the user said so, so polling changes nothing
}

// person returns what is known of a user, and begins to know them. Caller holds mu.
func (e *Ephemeral) person(user id.UserID) *person {
	p := e.people[user]
	if p == nil {
		p = &person{devices: make(map[id.DeviceID]*device)}
		e.people[user] = p
	}
	return p
}

// device returns a device, which counts as an activity if it was not connected.
func (p *person) device(name id.DeviceID, at int64) *device {
	d := p.devices[name]
	if d == nil || !d.alive(at) {
		d = &device{state: Online}
		p.devices[name] = d
		p.lastActive = max(p.lastActive, at)
	}
	d.seen = at
	return d
}

func (d *device) alive(at int64) bool { return d.polls > 0 || at-d.seen < offlineAfter.Milliseconds() }

// target is what others should see at a time.
func (p *person) target(at int64) (State, bool) {
	best := Offline
	maps.DeleteFunc(p.devices, func(_ id.DeviceID, d *device) bool { return !d.alive(at) })
	for _, d := range p.devices {
		if d.state.rank() > best.rank() {
			best = d.state
		}
	}
	if best != Online {
		return best, false
	}
	idle := time.Duration(at-p.lastActive) * time.Millisecond
	if idle >= idleAfter {
		return Unavailable, false
	}
	return Online, idle < activeFor
}

// look has a user's presence written if it is not what others see. Caller holds mu.
func (e *Ephemeral) look(user id.UserID, p *person, at int64) {
	state, active := p.target(at)
	if p.known && state == p.shown && active == p.shownActive {
		return
	}
	e.dirty[user] = struct{}{}
	signal(e.wakePresence)
}

// Poll says that a device asks for news and, by calling what is returned, that it got them. The state is the set_presence of
// the request; Offline means that the request says nothing about the user.
//
// Spec: cs sync
func (e *Ephemeral) Poll(user id.UserID, name id.DeviceID, state State) (done func()) {
	if e.cfg.NoPresence || state == Offline {
		return func() {}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	at := now()
	p := e.person(user)
	d := p.device(name, at)
	if state == Unavailable {
		d.state, d.chosen = Unavailable, false
	} else if !d.chosen {
		d.state = Online
	}
	d.polls++
	e.look(user, p, at)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		d.polls--
		d.seen = now()
	}
}

// Active says that a user did something on a device.
//
// Spec: cs Last active ago
func (e *Ephemeral) Active(user id.UserID, name id.DeviceID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bump(user, name)
}

// bump notes an activity of somebody who is connected; of others it says too little. Caller holds mu.
func (e *Ephemeral) bump(user id.UserID, name id.DeviceID) {
	p := e.people[user]
	if p == nil || len(p.devices) == 0 {
		return
	}
	at := now()
	p.lastActive = at
	for known, d := range p.devices {
		if known == name || name == "" {
			d.state, d.chosen = Online, false
		}
	}
	e.look(user, p, at)
}

// choose applies what a user says of themselves. Caller holds mu.
func (p *person) choose(name id.DeviceID, state State, at int64) {
	p.lastActive = at
	if state == Offline {
		clear(p.devices) // the next request for news makes one again
		return
	}
	d := p.device(name, at)
	d.state, d.chosen = state, state == Unavailable
}

// maxStatus bounds a status message, in bytes.
const maxStatus = 1024

// SetPresence sets a user's presence and status message; an empty one removes it.
//
// Spec: cs setPresence
func (e *Ephemeral) SetPresence(ctx context.Context, user id.UserID, name id.DeviceID, state State, status string) error {
	if e.cfg.NoPresence {
		return errNoPresence
	}
	if len(status) > maxStatus {
		return mxerr.InvalidParam("\"status_msg\" is longer than %d bytes.", maxStatus)
	}
	e.mu.Lock()
	e.person(user).choose(name, state, now())
	e.mu.Unlock()
	return e.writePresence(ctx, now(), []id.UserID{user}, &status)
}

var errNoPresence = mxerr.Forbidden("Presence is turned off on this server.")

// Presence returns what the viewer may see of a user: M_FORBIDDEN unless they share a room.
//
// Spec: cs getPresence
func (e *Ephemeral) Presence(ctx context.Context, viewer, user id.UserID) (*Presence, error) {
	if e.cfg.NoPresence {
		return nil, errNoPresence
	}
	if viewer != user {
		shared, err := e.cfg.Circles.Share(ctx, viewer, user)
		if err != nil {
			return nil, err
		}
		if !shared {
			return nil, mxerr.Forbidden("You are not allowed to see the presence of %s.", user)
		}
	}
	var found []*Presence
	err := e.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = PresenceOf(tx, []id.UserID{user})
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return &Presence{User: user, State: Offline}, nil
	}
	return found[0], nil
}

// AppendPresence appends an m.presence event.
//
// Spec: cs Presence
func (e *Ephemeral) AppendPresence(dst []byte, p *Presence) []byte {
	dst = canon.AppendString(append(dst, `{"type":"m.presence","sender":`...), string(p.User))
	return append(e.AppendContent(append(dst, `,"content":`...), p), '}')
}

// AppendContent appends what others may know of a user: the content of m.presence.
func (e *Ephemeral) AppendContent(dst []byte, p *Presence) []byte {
	last := p.LastActive
	e.mu.Lock()
	if here := e.people[p.User]; here != nil {
		last = max(last, here.lastActive)
	}
	e.mu.Unlock()
	dst = canon.AppendString(append(dst, `{"presence":`...), string(p.State))
	if last > 0 {
		dst = strconv.AppendInt(append(dst, `,"last_active_ago":`...), max(0, now()-last), 10)
	}
	if p.State == Online {
		dst = strconv.AppendBool(append(dst, `,"currently_active":`...), p.CurrentlyActive)
	}
	if p.StatusMsg != "" {
		dst = canon.AppendString(append(dst, `,"status_msg":`...), p.StatusMsg)
	}
	return append(dst, '}')
}
