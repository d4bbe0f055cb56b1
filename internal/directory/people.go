package directory

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

var (
	knownUser = sqldb.SQL(`SELECT name, avatar, room_nid FROM known_users WHERE user_id = $1`)
	putUser   = sqldb.SQL(`INSERT INTO known_users (user_id, local, name, avatar, room_nid) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id) DO UPDATE SET name = excluded.name, avatar = excluded.avatar, room_nid = excluded.room_nid`)
	deleteUser = sqldb.SQL(`DELETE FROM known_users WHERE user_id = $1`)
	putWord    = sqldb.SQL(`INSERT INTO user_words (word, whole, user_id, named) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	deleteWord = sqldb.SQL(`DELETE FROM user_words WHERE word = $1 AND whole = $2 AND user_id = $3 AND named = $4`)
	roomOpen   = sqldb.SQL(`SELECT open FROM seen_rooms WHERE room_nid = $1`)
	putRoom    = sqldb.SQL(`INSERT INTO seen_rooms (room_nid, open, unread) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid) DO UPDATE SET open = excluded.open, unread = CASE WHEN seen_rooms.unread > excluded.unread THEN seen_rooms.unread ELSE excluded.unread END`)
	roomRead    = sqldb.SQL(`UPDATE seen_rooms SET unread = 0 WHERE room_nid = $1`)
	unreadRooms = sqldb.SQL(`SELECT room_nid FROM seen_rooms WHERE unread = 1 AND room_nid > $1 ORDER BY room_nid LIMIT 100`)
	usersTo     = sqldb.SQL(`SELECT pos FROM users_state WHERE one = 1`)
	setUsersTo  = sqldb.SQL(`UPDATE users_state SET pos = $1 WHERE one = 1 AND pos < $1`)
)

const (
	peopleEvents = 500 // events looked at in one batch
	peoplePage   = 200 // accounts and profiles looked at in one batch
	// peopleLag is how many positions without news of people may pass until that is noted.
	peopleLag = 256
	// gatherPeople is how long events are gathered while there are many: few of them are news of people.
	gatherPeople = 100 * time.Millisecond
	// readPeriod is how often members of rooms that this server came into are looked at, readChunk how many at once.
	readPeriod = time.Minute
	readChunk  = 100
)

// Profiles is what a Directory asks of the accounts.
type Profiles interface {
	User(context.Context, id.UserID) (account.User, error)
	NameAndAvatar(context.Context, id.UserID) (name, avatar string, err error)
	UsersChanged(ctx context.Context, from, to sqldb.Pos, limit int) ([]account.User, error)
	ProfilesChanged(ctx context.Context, from, to sqldb.Pos, limit int) ([]account.ProfileChange, error)
}

// handled is how far this node's follower came, for those who wait for it.
type handled struct {
	mu   sync.Mutex // guards all below
	pos  sqldb.Pos
	more chan struct{} // closed and replaced when pos grows
}

func (h *handled) set(pos sqldb.Pos) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pos > h.pos {
		h.pos = pos
		close(h.more)
		h.more = make(chan struct{})
	}
}

func (h *handled) get() (sqldb.Pos, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pos, h.more
}

// Start has the directory of users follow the stream.
func (d *Directory) Start(w *work.Runner) {
	w.Follow(work.Follower{
		Name: "user directory", Kinds: []bus.Kind{bus.RoomEvent, bus.ProfileChanged, bus.UserChanged}, Batch: d.followPeople,
		Gather: gatherPeople,
	})
	w.Schedule(work.Job{Name: "read members for the user directory", Period: readPeriod, Run: d.readRooms})
}

// news is what happened to people in a piece of the stream.
type news struct {
	to     sqldb.Pos
	users  map[id.UserID]bool         // of ours, whose account or profile changed
	others map[id.UserID]*graph.Event // of other servers, who came into a room or changed their name there
	rooms  map[graph.RoomNID]bool     // that may have opened or closed
	torn   map[graph.RoomNID]bool     // that this server came into
}

func (n *news) none() bool { return len(n.users)+len(n.others)+len(n.rooms)+len(n.torn) == 0 }

// newsOf reads a piece of the stream.
func (d *Directory) newsOf(ctx context.Context, from, last sqldb.Pos) (*news, error) {
	n := &news{
		to: last, users: make(map[id.UserID]bool), others: make(map[id.UserID]*graph.Event),
		rooms: make(map[graph.RoomNID]bool), torn: make(map[graph.RoomNID]bool),
	}
	events, err := d.graph.EventsSince(ctx, from, last, peopleEvents)
	if err != nil {
		return nil, err
	}
	if len(events) == peopleEvents {
		n.to = events[peopleEvents-1].Pos
	}
	accounts, err := d.profiles.UsersChanged(ctx, from, n.to, peoplePage)
	if err != nil {
		return nil, err
	}
	if len(accounts) == peoplePage {
		n.to = accounts[peoplePage-1].Pos
	}
	profiles, err := d.profiles.ProfilesChanged(ctx, from, n.to, peoplePage)
	if err != nil {
		return nil, err
	}
	if len(profiles) == peoplePage {
		n.to = profiles[peoplePage-1].Pos
	}
	for _, u := range accounts {
		n.users[u.ID] = true
	}
	for _, p := range profiles {
		n.users[p.User] = true
	}
	for _, e := range events {
		if e.Pos <= n.to {
			n.add(d, e)
		}
	}
	return n, nil
}

func (n *news) add(d *Directory, e *graph.Event) {
	k := e.PDU.Key()
	switch {
	case !e.PDU.IsState():
	case k.Type == "m.room.member" && e.PDU.Membership() == "join":
		user, err := id.ParseUserID(k.StateKey)
		switch {
		case err != nil:
		case !d.ours.Is(user.Domain()):
			n.others[user] = e
		case e.Flags&graph.Torn != 0:
			n.torn[e.Room] = true
		}
	case (k.Type == "m.room.join_rules" || k.Type == "m.room.history_visibility") && k.StateKey == "":
		n.rooms[e.Room] = true
	}
}

// followPeople is the follower's batch.
func (d *Directory) followPeople(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
	n, err := d.newsOf(ctx, from, last)
	if err != nil {
		return 0, nil, err
	}
	if n.none() && n.to-d.noted < peopleLag {
		d.handled.set(n.to)
		return n.to, nil, nil
	}
	var writes []func(tx *sqldb.Tx) error
	for room := range n.rooms {
		w, err := d.noteRoom(ctx, room, false)
		if err != nil {
			return 0, nil, err
		}
		writes = append(writes, w)
	}
	for room := range n.torn {
		w, err := d.noteRoom(ctx, room, true)
		if err != nil {
			return 0, nil, err
		}
		writes = append(writes, w)
	}
	for user := range n.users {
		w, err := d.noteOurs(ctx, user)
		if err != nil {
			return 0, nil, err
		}
		writes = append(writes, w)
	}
	for user, e := range n.others {
		writes = append(writes, func(tx *sqldb.Tx) error { return noteOther(tx, user, e) })
	}
	return n.to, func(tx *sqldb.Tx) error {
		for _, w := range writes {
			if err := w(tx); err != nil {
				return err
			}
		}
		tx.Queue(setUsersTo, n.to)
		d.noted = n.to
		return nil
	}, nil
}

// noteRoom looks at whether a room is open to anybody.
func (d *Directory) noteRoom(ctx context.Context, room graph.RoomNID, unread bool) (func(*sqldb.Tx) error, error) {
	head, err := d.graph.HeadOf(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return func(*sqldb.Tx) error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	state, err := d.entries(ctx, head, "m.room.join_rules", "m.room.history_visibility")
	if err != nil {
		return nil, err
	}
	open := isWorldReadable(state["m.room.history_visibility"])
	if rules := state["m.room.join_rules"]; rules != nil {
		open = open || str(gjson.GetBytes(rules.Content(), "join_rule")) == "public"
	}
	return func(tx *sqldb.Tx) error {
		tx.Queue(putRoom, room, open, unread)
		return nil
	}, nil
}

// noteOurs looks at an account.
func (d *Directory) noteOurs(ctx context.Context, user id.UserID) (func(*sqldb.Tx) error, error) {
	u, err := d.profiles.User(ctx, user)
	if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, err
	}
	if err != nil || u.DeactivatedTS != 0 {
		return func(tx *sqldb.Tx) error { return forgetUser(tx, user) }, nil
	}
	name, avatar, err := d.profiles.NameAndAvatar(ctx, user)
	if err != nil {
		return nil, err
	}
	return func(tx *sqldb.Tx) error { return writeUser(tx, person{user, true, name, avatar, 0}) }, nil
}

// person is a row of known_users.
type person struct {
	user         id.UserID
	local        bool
	name, avatar string
	room         graph.RoomNID
}

// noteOther takes what a member event says of a user of another server. What an open room says is not replaced by what others say, which
// not everybody may know.
func noteOther(tx *sqldb.Tx, user id.UserID, e *graph.Event) error {
	var open bool
	if _, err := tx.Get(roomOpen, []any{e.Room}, &open); err != nil {
		return err
	}
	p := person{user: user, name: clip(memberText(e.PDU, "displayname"), maxShown), avatar: clip(memberText(e.PDU, "avatar_url"), maxShown)}
	if !open {
		p.room = e.Room
		var old person
		known, err := tx.Get(knownUser, []any{user}, &old.name, &old.avatar, &old.room)
		if err != nil || known && old.room == 0 {
			return err
		}
	}
	return writeUser(tx, p)
}

// maxShown bounds the names and pictures that other servers give their users.
const maxShown = 1000

func memberText(p *event.PDU, field string) string {
	return str(gjson.GetBytes(p.Content(), field))
}

// writeUser writes what changed.
func writeUser(tx *sqldb.Tx, p person) error {
	p.name, p.avatar = storable(p.name), storable(p.avatar)
	var old person
	known, err := tx.Get(knownUser, []any{p.user}, &old.name, &old.avatar, &old.room)
	if err != nil {
		return err
	}
	if known && old.name == p.name && old.avatar == p.avatar && old.room == p.room {
		return nil
	}
	if known && old.name != p.name {
		for _, w := range wordsOf(p.user, old.name) {
			tx.Queue(deleteWord, w.word, w.whole, p.user, w.named)
		}
	}
	tx.Queue(putUser, p.user, p.local, p.name, p.avatar, p.room)
	if !known || old.name != p.name {
		for _, w := range wordsOf(p.user, p.name) {
			tx.Queue(putWord, w.word, w.whole, p.user, w.named)
		}
	}
	return nil
}

// storable leaves out what a text column can't hold.
func storable(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
}

func forgetUser(tx *sqldb.Tx, user id.UserID) error {
	var old person
	known, err := tx.Get(knownUser, []any{user}, &old.name, &old.avatar, &old.room)
	if err != nil || !known {
		return err
	}
	for _, w := range wordsOf(user, old.name) {
		tx.Queue(deleteWord, w.word, w.whole, user, w.named)
	}
	tx.Queue(deleteUser, user)
	return nil
}

// readRooms looks at the members of rooms that this server came into.
func (d *Directory) readRooms(ctx context.Context) error {
	for after := graph.RoomNID(0); ; {
		var rooms []graph.RoomNID
		err := d.db.Read(ctx, func(tx *sqldb.Tx) error {
			rooms = nil
			return tx.Query(unreadRooms, func(r *sqldb.Row) error {
				var room graph.RoomNID
				err := r.Scan(&room)
				rooms = append(rooms, room)
				return err
			}, after)
		})
		if err != nil {
			return fmt.Errorf("list rooms whose members are not known: %w", err)
		}
		if len(rooms) == 0 {
			return nil
		}
		for _, room := range rooms {
			after = room
			if err := d.readRoom(ctx, room); err != nil {
				return fmt.Errorf("read the members of room %d: %w", room, err)
			}
		}
	}
}

func (d *Directory) readRoom(ctx context.Context, room graph.RoomNID) error {
	head, err := d.graph.HeadOf(ctx, room)
	if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) || err == nil && head.Partial {
		return err // not all members are known yet: later
	}
	var some []graph.EventNID
	flush := func() error {
		if len(some) == 0 {
			return nil
		}
		events, err := d.graph.Events(ctx, room, some)
		some = some[:0]
		if err != nil {
			return err
		}
		return d.db.Write(ctx, func(tx *sqldb.Tx) error {
			for _, e := range events {
				if err := noteOther(tx, id.UserID(e.PDU.Key().StateKey), e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if head != nil {
		for m := range head.State.Members(graph.Join) {
			if d.ours.Is(m.User.Domain()) {
				continue
			}
			if some = append(some, m.Event); len(some) == readChunk {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return d.db.Write(ctx, func(tx *sqldb.Tx) error {
		tx.Queue(roomRead, room)
		return nil
	})
}

// awaitUsers waits a little for the follower to know of what has just happened: who changes their name can be found by it at once.
func (d *Directory) awaitUsers(ctx context.Context) error {
	if d.profiles == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, usersWait)
	defer cancel()
	var last sqldb.Pos
	for {
		var known sqldb.Pos
		err := d.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			if last == 0 {
				if last, err = tx.Last(); err != nil {
					return err
				}
			}
			_, err = tx.Get(usersTo, nil, &known)
			return err
		})
		here, grown := d.handled.get()
		known = max(known, here)
		if err == nil && known < last {
			var n *news
			// A search doesn't wait for a server that is far behind.
			if n, err = d.newsOf(ctx, known, last); err == nil && n.none() {
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil || known >= last {
			return err
		}
		select {
		case <-grown:
		case <-time.After(usersWait / 5): // another node may have followed
		case <-ctx.Done():
			return nil
		}
	}
}
