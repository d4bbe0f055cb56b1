package ephemeral

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is what an Ephemeral needs.
type Config struct {
	DB       *sqldb.DB
	Ours     *ours.Set
	Graph    *graph.Graph
	Circles  *graph.Circles // opened before this
	Accounts *account.Accounts
	Bus      *bus.Bus
	Log      *slog.Logger // nil discards
	// Node names this node, as in package work. Nodes of one database that live at once should differ.
	Node string
	// NoPresence turns presence off: nobody is shown and nothing is stored.
	NoPresence bool
}

// Ephemeral is the door to everything in this package. It is safe for concurrent use.
type Ephemeral struct {
	cfg   Config
	db    *sqldb.DB
	graph *graph.Graph
	log   *slog.Logger

	// Each holds one signal at most: that there is something to do for the loop of that name.
	wakeTyping, wakePresence chan struct{}
	unsubscribe              func()

	mu     sync.Mutex       // guards all below
	typing map[typist]int64 // who types by word of this node, and until when
	left   []typist         // of those, who left their room
	alarm  int64            // when the typing loop will look again, in milliseconds since the epoch
	people map[id.UserID]*person
	dirty  map[id.UserID]struct{} // people whose presence may have to be written
	doubt  bool                   // another node may have written what people.shown says
	news   news
}

// migrations make the tables. An unthreaded receipt has an empty thread. A read marker stands among the receipts, so
// that it doesn't move back, without a position: readers find it in account data. The presence of users of other servers has
// no node, but the time when it was last heard of, in milliseconds since the epoch.
var migrations = []sqldb.Migration{{Slice: "ephemeral", Version: 1, SQL: `
	CREATE TABLE receipts (
		room_nid BIGINT NOT NULL,
		user_id TEXT NOT NULL,
		type TEXT NOT NULL,
		thread TEXT NOT NULL,
		event_id TEXT NOT NULL,
		ord BIGINT NOT NULL,
		ts BIGINT NOT NULL,
		pos BIGINT NOT NULL,
		PRIMARY KEY (room_nid, user_id, type, thread)
	) WITHOUT ROWID;
	CREATE INDEX receipts_by_pos ON receipts (room_nid, pos);
	CREATE TABLE typing (
		room_nid BIGINT NOT NULL,
		user_id TEXT NOT NULL,
		expires BIGINT NOT NULL,
		PRIMARY KEY (room_nid, user_id)
	) WITHOUT ROWID;
	CREATE INDEX typing_by_time ON typing (expires);
	CREATE TABLE typing_changes (
		room_nid BIGINT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL
	);
	CREATE TABLE presence (
		user_id TEXT NOT NULL PRIMARY KEY,
		state TEXT NOT NULL,
		status_msg TEXT NOT NULL,
		last_active BIGINT NOT NULL,
		currently_active BIGINT NOT NULL,
		node TEXT NOT NULL,
		pos BIGINT NOT NULL
	);
	CREATE INDEX presence_by_pos ON presence (pos);
	CREATE INDEX presence_shown ON presence (node) WHERE state <> 'offline';
	CREATE TABLE presence_nodes (
		node TEXT NOT NULL PRIMARY KEY,
		renewed BIGINT NOT NULL
	);
`}, {Slice: "ephemeral", Version: 2, SQL: `
	ALTER TABLE presence ADD COLUMN heard BIGINT NOT NULL DEFAULT 0;
`}, {Slice: "ephemeral", Version: 3, SQL: `
	CREATE INDEX receipts_public ON receipts (pos) WHERE type = 'm.read';
	CREATE INDEX typing_changes_by_pos ON typing_changes (pos);
`}, {Slice: "ephemeral", Version: 4, SQL: `
	CREATE INDEX receipts_private ON receipts (pos) WHERE type = 'm.read.private';
`}}

// Open prepares the tables. Nothing expires before Start.
func Open(ctx context.Context, c Config) (*Ephemeral, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open ephemeral: %w", err)
	}
	since, err := c.DB.Last(ctx)
	if err != nil {
		return nil, fmt.Errorf("open ephemeral: %w", err)
	}
	e := &Ephemeral{
		news: newNews(since),
		cfg:  c, db: c.DB, graph: c.Graph, log: c.Log,
		wakeTyping: make(chan struct{}, 1), wakePresence: make(chan struct{}, 1),
		typing: make(map[typist]int64), people: make(map[id.UserID]*person), dirty: make(map[id.UserID]struct{}),
	}
	// What is written between the two is told, or was written by another node: then the next piece of news is foreign.
	_, e.unsubscribe = c.Bus.Subscribe(e.follow)
	return e, nil
}

// Start runs what must happen without being asked for: expiry of typing, and of presence.
func (e *Ephemeral) Start(g *work.Group) {
	g.Go("typing", e.runTyping)
	if !e.cfg.NoPresence {
		g.Go("presence", e.runPresence)
	}
}

// Close leaves the bus. What Start began is ended by its Group, which must be stopped before.
func (e *Ephemeral) Close() { e.unsubscribe() }

// follow takes news from the bus.
func (e *Ephemeral) follow(r bus.Range) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubt = e.doubt || r.Foreign
	e.news.hear(r)
	for _, entry := range r.Entries {
		ev, ok := entry.Data.(*graph.Event)
		if entry.Kind != bus.RoomEvent || !ok {
			continue
		}
		e.bump(ev.PDU.Sender(), ev.Txn.Device)
		if ev.Change != nil && ev.Change.New != graph.Join {
			e.gone(typist{ev.Room, ev.Change.User})
		}
	}
}

func now() int64 { return time.Now().UnixMilli() }

// signal wakes the loop that waits at c.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait returns when c is signalled, after d, or with an error when ctx ends.
func wait(ctx context.Context, c <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// local returns the number of a room that a local user is joined to, M_FORBIDDEN for any other.
func (e *Ephemeral) local(ctx context.Context, user id.UserID, room id.RoomID) (graph.RoomNID, error) {
	if !e.cfg.Ours.Is(user.Domain()) {
		return 0, mxerr.Forbidden("You are not in this room.")
	}
	return e.member(ctx, user, room)
}

// member returns the number of a room that a user is joined to, M_FORBIDDEN for any other.
func (e *Ephemeral) member(ctx context.Context, user id.UserID, room id.RoomID) (graph.RoomNID, error) {
	forbidden := mxerr.Forbidden("You are not in this room.")
	nid, known, err := e.graph.RoomNID(ctx, room)
	if err != nil {
		return 0, err
	}
	if !known {
		return 0, forbidden
	}
	m, err := e.graph.MembershipIn(ctx, user, room)
	if err == nil && m != graph.Join {
		err = forbidden
	}
	return nid, err
}
