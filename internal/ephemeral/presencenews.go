package ephemeral

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/maypok86/otter/v2"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// news remembers the latest changes of presence and the latest joins, so that a sync which has nothing to say about presence
// finds that out without the database. Ephemeral.mu guards it.
type news struct {
	recent bus.Recent[newsItem]
	// epochs count the changes of memberships that were seen, for users by a hash of their ID; foreign counts the times when
	// other nodes may have made some.
	epochs  [1024]uint64
	seed    maphash.Seed
	foreign uint64
	// shared remembers whether two users share a room.
	shared *otter.Cache[pair, verdict]
}

// newsItem is a change of presence, or, with a room, that somebody joined it.
type newsItem struct {
	user id.UserID
	room graph.RoomNID
}

// pair is an ordered pair of users.
type pair struct{ a, b id.UserID }

// verdict is whether a pair shares a room, as of these epochs.
type verdict struct {
	yes            bool
	a, b, anywhere uint64
}

const (
	maxNews  = 4096
	maxPairs = 100_000
	// fewOnline is up to how many people are checked one by one for whether they share a room.
	fewOnline = 200
)

var stmtShown = sqldb.SQL(`SELECT ` + presenceColumns + ` WHERE state <> 'offline' AND pos <= $1 LIMIT $2`)

func newNews(since sqldb.Pos) news {
	return news{recent: bus.Recent[newsItem]{Max: maxNews, Since: since}, seed: maphash.MakeSeed(), shared: otter.Must(&otter.Options[pair, verdict]{MaximumSize: maxPairs})}
}

// hear takes a piece of the stream.
func (n *news) hear(r bus.Range) {
	if r.Foreign {
		n.recent.Restart(r.To)
		n.foreign++
	}
	for _, e := range r.Entries {
		switch e.Kind {
		case bus.Presence:
			n.recent.Add(e.Pos, newsItem{user: e.User})
		case bus.RoomEvent:
			if ev, ok := e.Data.(*graph.Event); ok && ev.Change != nil && ev.Change.Old != ev.Change.New {
				*n.epoch(ev.Change.User)++
				if ev.Change.New == graph.Join {
					n.recent.Add(e.Pos, newsItem{ev.Change.User, ev.Room})
				}
			}
		case bus.Membership:
			*n.epoch(e.User)++
		}
	}
}

// epoch is the counter of a user. Caller holds mu.
func (n *news) epoch(user id.UserID) *uint64 {
	return &n.epochs[maphash.String(n.seed, string(user))%uint64(len(n.epochs))]
}

// PresenceNews returns m.presence events for what a user may know of that changed in (from, to]: the presence of those
// who share a room with the user, of those who came to share one, and their own. From 0 it is that of everybody of
// these who is not offline.
//
// Spec: cs sync
func (e *Ephemeral) PresenceNews(ctx context.Context, user id.UserID, from, to sqldb.Pos) ([]json.RawMessage, error) {
	if e.cfg.NoPresence {
		return nil, nil
	}
	list, err := e.presenceNews(ctx, user, from, to)
	if err != nil {
		return nil, fmt.Errorf("presence for %s: %w", user, err)
	}
	var events []json.RawMessage
	for _, p := range list {
		events = append(events, e.AppendPresence(nil, p))
	}
	return events, nil
}

func (e *Ephemeral) presenceNews(ctx context.Context, user id.UserID, from, to sqldb.Pos) ([]*Presence, error) {
	if from == 0 {
		return e.presenceAtFirst(ctx, user, to)
	}
	e.mu.Lock()
	items, known := e.news.recent.Between(from, to)
	e.mu.Unlock()
	if known && len(items) == 0 {
		return nil, nil
	}
	var about []id.UserID // whose presence may be news for the user
	var entered []graph.RoomNID
	if known {
		for _, item := range items {
			if what := item.What; what.room != 0 && what.user == user {
				entered = append(entered, what.room)
			} else {
				about = append(about, what.user)
			}
		}
	} else {
		var err error
		if about, entered, err = e.readNews(ctx, user, from, to); err != nil {
			return nil, err
		}
	}
	slices.Sort(about)
	about = slices.Compact(about)
	about, err := e.sharing(ctx, user, about)
	if err != nil {
		return nil, err
	}
	for _, room := range entered {
		members, err := e.graph.Members(ctx, room, graph.Join, maxNews)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			about = append(about, m.User)
		}
	}
	slices.Sort(about)
	return e.read(ctx, slices.Compact(about))
}

// readNews finds in the database what memory has forgotten.
func (e *Ephemeral) readNews(ctx context.Context, user id.UserID, from, to sqldb.Pos) (about []id.UserID, entered []graph.RoomNID, err error) {
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		changed, err := PresenceSince(tx, from, to)
		about = nil
		for _, p := range changed {
			about = append(about, p.User)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	rows, err := e.graph.MembershipsChanged(ctx, user, from)
	for _, m := range rows {
		if m.Membership == graph.Join && m.Since > from {
			entered = append(entered, m.Room)
		}
	}
	return about, entered, err
}

// read returns what is stored of users.
func (e *Ephemeral) read(ctx context.Context, users []id.UserID) (found []*Presence, err error) {
	if len(users) == 0 {
		return nil, nil
	}
	err = e.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = PresenceOf(tx, users)
		return err
	})
	return found, err
}

// presenceAtFirst returns the presence of everybody who shares a room with the user and is not offline.
func (e *Ephemeral) presenceAtFirst(ctx context.Context, user id.UserID, to sqldb.Pos) ([]*Presence, error) {
	var found []*Presence
	err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stmtShown, scanPresence(&found), to, fewOnline+1)
	})
	if err != nil {
		return nil, err
	}
	var users []id.UserID
	if len(found) <= fewOnline {
		for _, p := range found {
			users = append(users, p.User)
		}
		users, err = e.sharing(ctx, user, users)
	} else if users, err = e.graph.UsersSharing(ctx, user); err == nil {
		users = append(users, user)
		found, err = e.read(ctx, users)
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(users)
	return slices.DeleteFunc(found, func(p *Presence) bool {
		_, shares := slices.BinarySearch(users, p.User)
		return !shares || p.State == Offline
	}), nil
}

// sharing returns those of the others who share a room with the user. A user shares with themselves.
func (e *Ephemeral) sharing(ctx context.Context, user id.UserID, others []id.UserID) ([]id.UserID, error) {
	var kept []id.UserID
	for _, other := range others {
		yes := other == user
		if !yes {
			var err error
			if yes, err = e.share(ctx, user, other); err != nil {
				return nil, err
			}
		}
		if yes {
			kept = append(kept, other)
		}
	}
	return kept, nil
}

// share reports whether two users share a room. It remembers the answer until either of them enters or leaves one.
func (e *Ephemeral) share(ctx context.Context, a, b id.UserID) (bool, error) {
	if b < a {
		a, b = b, a
	}
	e.mu.Lock()
	now := verdict{a: *e.news.epoch(a), b: *e.news.epoch(b), anywhere: e.news.foreign}
	e.mu.Unlock()
	if was, ok := e.news.shared.GetIfPresent(pair{a, b}); ok {
		if now.yes = was.yes; was == now {
			return was.yes, nil
		}
	}
	rooms, err := e.graph.SharedRooms(ctx, a, b)
	if err != nil {
		return false, err
	}
	now.yes = len(rooms) > 0
	e.news.shared.Set(pair{a, b}, now)
	return now.yes, nil
}
