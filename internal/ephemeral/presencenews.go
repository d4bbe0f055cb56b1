package ephemeral

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// news remembers the latest changes of presence and the latest joins, so that a sync which has nothing to say about presence
// finds that out without the database. Ephemeral.mu guards it.
type news struct{ recent bus.Recent[newsItem] }

// newsItem is a change of presence, or, with a room, that somebody joined it.
type newsItem struct {
	user id.UserID
	room graph.RoomNID
}

const (
	maxNews = 4096
	// fewOnline is up to how many people are checked one by one for whether they share a room with somebody who does with very many.
	fewOnline = 200
)

// stmtShown adds nothing to positions so that the index of those who are there is taken, not that of everybody's positions.
var stmtShown = sqldb.SQL(`SELECT ` + presenceColumns + ` WHERE state <> 'offline' AND pos + 0 <= $1 ORDER BY pos + 0 DESC LIMIT $2`)

func newNews(since sqldb.Pos) news {
	return news{recent: bus.Recent[newsItem]{Max: maxNews, Since: since}}
}

// hear takes a piece of the stream.
func (n *news) hear(r bus.Range) {
	if r.Foreign {
		n.recent.Restart(r.To)
	}
	for _, e := range r.Entries {
		switch e.Kind {
		case bus.Presence:
			n.recent.Add(e.Pos, newsItem{user: e.User})
		case bus.RoomEvent:
			if ev, ok := e.Data.(*graph.Event); ok && ev.Change != nil && ev.Change.Old != ev.Change.New && ev.Change.New == graph.Join {
				n.recent.Add(e.Pos, newsItem{ev.Change.User, ev.Room})
			}
		}
	}
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

// presenceAtFirst returns the presence of those who share a room with the user and are not offline: of the latest maxNews of the server, or fewOnline where
// the user shares rooms with very many.
func (e *Ephemeral) presenceAtFirst(ctx context.Context, user id.UserID, to sqldb.Pos) ([]*Presence, error) {
	var found []*Presence
	err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stmtShown, scanPresence(&found), to, maxNews)
	})
	if err != nil {
		return nil, err
	}
	if len(found) > fewOnline {
		cheap, err := e.cfg.Circles.Gather(ctx, user)
		if err != nil {
			return nil, err
		}
		if !cheap {
			found = found[:fewOnline]
		}
	}
	var seen []*Presence
	for _, p := range found {
		shares, err := e.cfg.Circles.Share(ctx, user, p.User)
		if err != nil {
			return nil, err
		}
		if shares {
			seen = append(seen, p)
		}
	}
	slices.SortFunc(seen, func(a, b *Presence) int { return cmp.Compare(a.User, b.User) })
	return seen, nil
}

// sharing returns those of the others who share a room with the user. A user shares with themselves.
func (e *Ephemeral) sharing(ctx context.Context, user id.UserID, others []id.UserID) ([]id.UserID, error) {
	var kept []id.UserID
	for _, other := range others {
		yes, err := e.cfg.Circles.Share(ctx, user, other)
		if err != nil {
			return nil, err
		}
		if yes {
			kept = append(kept, other)
		}
	}
	return kept, nil
}
