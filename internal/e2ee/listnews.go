package e2ee

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// maxNews bounds the changes of lists and memberships that are remembered: so many happen while clients that sync look away.
	maxNews = 8192
	// maxAppear bounds the users who are told for one room, or one look at the database. Of a larger room clients learn when they need to.
	maxAppear = 20_000
)

// Window is what one of our users wants to know: what happened after From, up to To.
type Window struct {
	User     id.UserID
	From, To sqldb.Pos
	// Rooms are those that the user is in, as far as something happened there in the window. Nil means that this isn't known.
	Rooms map[graph.RoomNID]struct{}
	// Joined and Left are rooms that the user entered and left in the window, where Rooms is set.
	Joined, Left []graph.RoomNID
}

// ListChanges are the users whose keys a client has to ask for again, and those it will hear no more of.
//
// Spec: cs Extensions to /sync
type ListChanges struct {
	Changed []id.UserID `json:"changed"`
	Left    []id.UserID `json:"left"`
}

// none is that nothing changed.
var none = &ListChanges{Changed: []id.UserID{}, Left: []id.UserID{}}

// listItem is a change of a user's keys, or, with a room, of a membership.
type listItem struct {
	user id.UserID
	room graph.RoomNID
	left bool      // of the room, not joined
	own  id.UserID // for this user's devices only, if set
}

// listNews remembers the latest changes, so that a sync which has none to tell finds that out without the database.
type listNews struct {
	mu     sync.Mutex // guards recent
	recent bus.Recent[listItem]
}

func newListNews(since sqldb.Pos) *listNews {
	return &listNews{recent: bus.Recent[listItem]{Max: maxNews, Since: since}}
}

// hear takes a piece of the stream.
func (n *listNews) hear(r bus.Range) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Foreign {
		n.recent.Restart(r.To)
	}
	for _, e := range r.Entries {
		switch e.Kind {
		case bus.DeviceListLocal, bus.DeviceListRemote:
			item := listItem{user: e.User}
			if o, ok := e.Data.(OwnChange); ok {
				item.user, item.own = o.About, e.User
			}
			n.recent.Add(e.Pos, item)
		case bus.RoomEvent:
			ev, ok := e.Data.(*graph.Event)
			if !ok || ev.Change == nil || ev.Change.Old == ev.Change.New {
				continue
			}
			if joined := ev.Change.New == graph.Join; joined || ev.Change.Old == graph.Join {
				n.recent.Add(e.Pos, listItem{user: ev.Change.User, room: ev.Room, left: !joined})
			}
		}
	}
}

// between returns what happened at the positions after from, up to to, and false where memory doesn't reach back so far.
func (n *listNews) between(from, to sqldb.Pos) ([]bus.Item[listItem], bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.recent.Between(from, to)
}

// users is a set.
type users map[id.UserID]struct{}

func (s users) add(u id.UserID) { s[u] = struct{}{} }

func (s users) sorted() []id.UserID {
	list := make([]id.UserID, 0, len(s))
	for u := range s {
		list = append(list, u)
	}
	slices.Sort(list)
	return list
}

// encounters are the users whose keys may be news for somebody.
type encounters struct {
	changed users // if they share a room
	came    users // who do, or did shortly before
	went    users // if they don't share one any more
	entered []graph.RoomNID
	left    []graph.RoomNID
}

// Changes returns whose keys a user's clients must ask for again.
//
// Spec: cs Extensions to /sync
// Spec: cs getKeysChanges
func (e *Encryption) Changes(ctx context.Context, w Window) (*ListChanges, error) {
	m := &encounters{changed: make(users), came: make(users), went: make(users)}
	items, known := e.lists.between(w.From, w.To)
	switch {
	case known && w.Rooms != nil:
		m.entered, m.left = w.Joined, w.Left
		if len(items) == 0 && len(m.entered)+len(m.left) == 0 {
			return none, nil
		}
		m.remember(w, items)
	default:
		if err := e.recall(ctx, w, m); err != nil {
			return nil, fmt.Errorf("changed keys for %s: %w", w.User, err)
		}
	}
	c, err := e.tell(ctx, w.User, m)
	if err != nil {
		return nil, fmt.Errorf("changed keys for %s: %w", w.User, err)
	}
	return c, nil
}

// remember finds who may be news in memory.
func (m *encounters) remember(w Window, items []bus.Item[listItem]) {
	for _, item := range items {
		it := item.What
		_, in := w.Rooms[it.room]
		switch {
		case it.own != "" && it.own != w.User:
		case it.room == 0:
			m.changed.add(it.user)
		case it.user == w.User:
		case it.left && (in || slices.Contains(w.Left, it.room)):
			m.went.add(it.user)
		case !it.left && in:
			m.came.add(it.user)
		}
	}
}

var (
	stmtListsChanged = sqldb.SQL(`SELECT user_id FROM key_lists WHERE pos > $1 ORDER BY pos LIMIT $2`)
	stmtOwnChanged   = sqldb.SQL(`SELECT own_pos FROM key_lists WHERE user_id = $1`)
)

// recall finds who may be news in the database. What happened after the window is told too: it is harmless to ask once more.
func (e *Encryption) recall(ctx context.Context, w Window, m *encounters) error {
	err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
		clear(m.changed)
		var own sqldb.Pos
		if _, err := tx.Get(stmtOwnChanged, []any{w.User}, &own); err != nil {
			return err
		}
		if own > w.From {
			m.changed.add(w.User)
		}
		add := func(r *sqldb.Row) error {
			var user id.UserID
			err := r.Scan(&user)
			m.changed.add(user)
			return err
		}
		if err := tx.Query(stmtSignedSince, add, w.User, w.From); err != nil {
			return err
		}
		return tx.Query(stmtListsChanged, add, w.From, maxAppear)
	})
	if err != nil {
		return err
	}
	came, went, err := e.cfg.Graph.Encounters(ctx, w.User, w.From, maxAppear)
	if err != nil {
		return err
	}
	for _, u := range came {
		m.came.add(u)
	}
	for _, u := range went {
		m.went.add(u)
	}
	rows, err := e.cfg.Graph.MembershipsChanged(ctx, w.User, w.From)
	for _, row := range rows {
		switch {
		case row.Since <= w.From:
		case row.Membership == graph.Join:
			m.entered = append(m.entered, row.Room)
		case row.Prev == graph.Join:
			m.left = append(m.left, row.Room)
		}
	}
	return err
}

// tell decides what of all that is told.
func (e *Encryption) tell(ctx context.Context, user id.UserID, m *encounters) (*ListChanges, error) {
	changed := make(users)
	for _, set := range []users{m.changed, m.came} {
		for other := range set {
			shares, err := e.cfg.Circles.Share(ctx, user, other)
			if err != nil {
				return nil, err
			}
			if shares {
				changed.add(other)
			}
		}
	}
	for _, room := range m.entered {
		changed.add(user)
		members, err := e.cfg.Graph.Members(ctx, room, graph.Join, maxAppear)
		if err != nil {
			return nil, err
		}
		for _, row := range members {
			changed.add(row.User)
		}
	}
	for _, room := range m.left {
		members, err := e.cfg.Graph.Members(ctx, room, graph.Join, maxAppear)
		if err != nil {
			return nil, err
		}
		for _, row := range members {
			m.went.add(row.User)
		}
	}
	left := make(users)
	for other := range m.went {
		shares, err := e.cfg.Circles.Share(ctx, user, other)
		if err != nil {
			return nil, err
		}
		if !shares {
			left.add(other)
		}
	}
	return &ListChanges{Changed: changed.sorted(), Left: left.sorted()}, nil
}

// forever is after all positions.
const forever = sqldb.Pos(1) << 62
