package graph

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

const eventColumns = `e.room_nid, e.event_nid, e.event_id, e.ord, e.flags, e.state_nid, e.head_state, e.replaces, e.redacted_by, e.txn, r.version, e.body
	FROM events e JOIN rooms r ON r.room_nid = e.room_nid`

// 7 is hidden: Outlier, Rejected and SoftFailed.
var (
	eventsByID  = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.event_id = ANY($1)`)
	eventsByNID = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.event_nid = ANY($2)`)
	timelineUp  = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord < $3 AND (e.flags & 7) = 0
		ORDER BY e.ord LIMIT $4`)
	timelineDown = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord < $3 AND (e.flags & 7) = 0
		ORDER BY e.ord DESC LIMIT $4`)
	// From is inclusive in these two: were it "ord > $1", SQLite would compare $1 with the bound of the partial index, and so prepare
	// the statement again for each value.
	streamEvents = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.ord >= $1 AND e.ord <= $2 AND e.ord > 0 AND (e.flags & 7) = 0
		ORDER BY e.ord LIMIT $3`)
	liveEvents  = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.ord >= $1 AND e.ord <= $2 AND e.ord > 0 ORDER BY e.ord`)
	eventsAtPos = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.ord = ANY($1) AND e.ord > 0 AND (e.flags & 7) = 0`)
	redactedOrd = sqldb.SQL(`SELECT ord FROM events WHERE event_id = $1 AND room_nid = $2 AND ord > 0 AND (flags & 16) <> 0`)
)

// loading collects events from a query. Those in the cache are taken from there.
type loading struct {
	g       *Graph
	changes int64 // g.changes before the transaction began
	found   []*Event
}

func (g *Graph) loading() *loading {
	g.fill.RLock()
	defer g.fill.RUnlock()
	return &loading{g: g, changes: g.changes}
}

func (l *loading) row(r *sqldb.Row) error {
	e := &Event{stored: true}
	var name id.EventID
	var version string
	var ord *int64
	var txn, body []byte
	err := r.Scan(&e.Room, &e.NID, &name, &ord, &e.Flags, &e.StateBefore, &e.HeadState, &e.Replaces, &e.RedactedBy, &txn, &version, &body)
	if err != nil {
		return err
	}
	if ord != nil {
		e.Ord = *ord
		e.Pos = sqldb.Pos(max(0, e.Ord))
	}
	v, ok := roomver.Get(version)
	if !ok {
		return fmt.Errorf("event %s is of room version %q, which this server doesn't know", name, version)
	}
	if e.PDU, err = event.Trusted(v, name, body); err != nil {
		return fmt.Errorf("event %s on disk: %w", name, err)
	}
	if device, txnID, ok := bytes.Cut(txn, []byte{0}); ok {
		e.Txn = TxnRef{User: e.PDU.Sender(), Device: id.DeviceID(device), ID: string(txnID)}
	}
	l.found = append(l.found, e)
	return nil
}

// keep puts what was found into the cache, unless stored events changed meanwhile.
func (l *loading) keep() []*Event {
	l.g.fill.RLock()
	defer l.g.fill.RUnlock()
	for i, e := range l.found {
		if l.changes == l.g.changes {
			was, fresh := l.g.events.SetIfAbsent(e.NID, e)
			if !fresh {
				l.found[i] = was
				continue
			}
			l.g.byID.Set(e.PDU.ID(), e.NID)
		}
	}
	return l.found
}

// keepEvent puts an event fresh from its commit into the cache.
func (g *Graph) keepEvent(e *Event) {
	g.fill.RLock()
	defer g.fill.RUnlock()
	g.events.SetIfAbsent(e.NID, e)
	g.byID.Set(e.PDU.ID(), e.NID)
}

// replaced drops stored events that changed.
func (g *Graph) replaced(nids ...EventNID) {
	if len(nids) == 0 {
		return
	}
	g.tail.drop(nids)
	g.fill.Lock()
	defer g.fill.Unlock()
	g.changes++
	for _, nid := range nids {
		g.events.Invalidate(nid)
	}
}

// query runs one statement on events.
func (g *Graph) query(ctx context.Context, s *sqldb.Stmt, args ...any) ([]*Event, error) {
	l := g.loading()
	err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
		l.found = nil
		return tx.Query(s, l.row, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	return l.keep(), nil
}

func (g *Graph) cachedByID(event id.EventID) (*Event, bool) {
	nid, ok := g.byID.GetIfPresent(event)
	if !ok {
		return nil, false
	}
	return g.events.GetIfPresent(nid)
}

// Event returns an event by its ID, and false where it is not stored. Outliers and rejected events are returned as well.
func (g *Graph) Event(ctx context.Context, event id.EventID) (*Event, bool, error) {
	if e, ok := g.cachedByID(event); ok {
		return e, true, nil
	}
	found, err := g.query(ctx, eventsByID, []string{string(event)})
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	return found[0], true, nil
}

// maxLookup is the most keys in one look-up statement.
const maxLookup = 2000

// EventsByID returns those of the events that are stored.
func (g *Graph) EventsByID(ctx context.Context, events []id.EventID) (map[id.EventID]*Event, error) {
	out := make(map[id.EventID]*Event, len(events))
	var missing []string
	for _, name := range events {
		if e, ok := g.cachedByID(name); ok {
			out[name] = e
		} else {
			missing = append(missing, string(name))
		}
	}
	for part := range slices.Chunk(missing, maxLookup) {
		found, err := g.query(ctx, eventsByID, part)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			out[e.PDU.ID()] = e
		}
	}
	return out, nil
}

// Events returns events of one room by number, in the order asked for. It is an error if one is not stored. State events whose
// commit is queued count as stored, since heads and states may name them already; of these only NID, Room, Flags and PDU may be used.
func (g *Graph) Events(ctx context.Context, room RoomNID, nids []EventNID) ([]*Event, error) {
	out := make([]*Event, len(nids))
	var missing []int64
	for i, nid := range nids {
		if e, ok := g.events.GetIfPresent(nid); ok && e.Room == room {
			out[i] = e
		} else if e, ok := g.pending.Load(nid); ok && e.(*Event).Room == room {
			out[i] = e.(*Event)
		} else {
			missing = append(missing, int64(nid))
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	loaded := make(map[EventNID]*Event, len(missing))
	for part := range slices.Chunk(missing, maxLookup) {
		found, err := g.query(ctx, eventsByNID, room, part)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			loaded[e.NID] = e
		}
	}
	for i, nid := range nids {
		if out[i] == nil {
			if out[i] = loaded[nid]; out[i] == nil {
				return nil, fmt.Errorf("load events: event %d of room %d is not stored", nid, room)
			}
		}
	}
	return out, nil
}

// Timeline returns part of a room's timeline: no outliers, rejected or soft-failed events.
func (g *Graph) Timeline(ctx context.Context, room RoomNID, r Range) ([]*Event, error) {
	if r.Limit <= 0 {
		return nil, nil
	}
	if r.Before == 0 {
		r.Before = End
	}
	s := timelineUp
	if r.Backward {
		s = timelineDown
	}
	return g.query(ctx, s, room, r.After, r.Before, r.Limit)
}

// LastBefore returns the newest visible event of the room at or before an ord; false if there is none.
func (g *Graph) LastBefore(ctx context.Context, room RoomNID, ord int64) (*Event, bool, error) {
	before := ord
	if before < End {
		before++
	}
	return one(g.query(ctx, timelineDown, room, int64(Beginning), before, 1))
}

func one(found []*Event, err error) (*Event, bool, error) {
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	return found[0], true, nil
}

// EventsSince returns visible live events of all rooms in stream order: positions after from, up to to, at most limit of them.
func (g *Graph) EventsSince(ctx context.Context, from, to sqldb.Pos, limit int) ([]*Event, error) {
	if events, ok := g.tail.since(from, to, limit); ok {
		return events, nil
	}
	return g.query(ctx, streamEvents, from+1, to, limit)
}

// EventsAtPositions returns the visible live events at positions, in no order.
func (g *Graph) EventsAtPositions(ctx context.Context, positions []int64) ([]*Event, error) {
	var out []*Event
	for part := range slices.Chunk(positions, maxLookup) {
		found, err := g.query(ctx, eventsAtPos, part)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// RedactedLive returns the place of a live event that was redacted, false for any other. It reads the database: what is in memory may not have
// heard of a redaction when the stream tells of it.
func (g *Graph) RedactedLive(ctx context.Context, room RoomNID, name id.EventID) (ord int64, ok bool, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		ok, err = tx.Get(redactedOrd, []any{name, room}, &ord)
		return err
	})
	return ord, ok, wrap(err, "find a redacted event")
}
