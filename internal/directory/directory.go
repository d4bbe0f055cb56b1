package directory

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is what a Directory needs.
type Config struct {
	DB    *sqldb.DB
	Ours  *ours.Set
	Graph *graph.Graph
	// Bus tells what changed. Without it every listing reads all published rooms anew.
	Bus *bus.Bus
	Log *slog.Logger // nil discards
	// Profiles are the accounts of this server. Without it no users are found.
	Profiles Profiles
	// AllUsers lets everybody find every user of this server.
	AllUsers bool
	// Unknown asks whoever may make the room of an alias of ours that leads nowhere, and reports whether it leads somewhere now. May be
	// nil.
	Unknown func(context.Context, id.RoomAlias) bool
}

// Directory finds rooms. It is safe for concurrent use.
type Directory struct {
	db    *sqldb.DB
	ours  *ours.Set
	graph *graph.Graph
	log   *slog.Logger
	list  list
	// unknown is Config.Unknown.
	unknown func(context.Context, id.RoomAlias) bool
	// hearsay is what other servers said of rooms.
	hearsay hearsay
	close   func()

	profiles Profiles
	allUsers bool
	handled  handled
	// noted is the position up to which the follower last wrote that users are known. It belongs to the follower alone.
	noted sqldb.Pos
}

// migrations make the tables. A reserved alias has an empty room_id. Times are in milliseconds since the epoch.
var migrations = []sqldb.Migration{{Slice: "directory", Version: 1, SQL: `
	CREATE TABLE aliases (
		alias TEXT NOT NULL PRIMARY KEY,
		room_id TEXT NOT NULL,
		creator TEXT NOT NULL,
		created BIGINT NOT NULL
	);
	CREATE INDEX aliases_by_room ON aliases (room_id);
	CREATE TABLE published (
		room_id TEXT NOT NULL PRIMARY KEY,
		created BIGINT NOT NULL
	);
`}, {Slice: "directory", Version: 2, SQL: `
	CREATE TABLE tours (
		token TEXT NOT NULL PRIMARY KEY,
		user_id TEXT NOT NULL,
		created BIGINT NOT NULL,
		way BLOB NOT NULL
	);
	CREATE INDEX tours_by_user ON tours (user_id, created);
	CREATE INDEX tours_by_age ON tours (created);
`}, {Slice: "directory", Version: 3, SQL: `
	CREATE TABLE network_rooms (
		network TEXT NOT NULL,
		room_id TEXT NOT NULL,
		PRIMARY KEY (network, room_id)
	) WITHOUT ROWID;
	CREATE INDEX network_rooms_by_room ON network_rooms (room_id);
`}}

// Open prepares the tables and returns the directory.
func Open(ctx context.Context, c Config) (*Directory, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.DB.Migrate(ctx, append(userMigrations, migrations...)...); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	d := &Directory{
		db: c.DB, ours: c.Ours, graph: c.Graph, log: c.Log, unknown: c.Unknown, hearsay: newHearsay(), close: func() {},
		profiles: c.Profiles, allUsers: c.AllUsers, handled: handled{more: make(chan struct{})},
	}
	d.list.reset(c.Bus == nil)
	if c.Bus != nil {
		_, d.close = c.Bus.Subscribe(d.list.follow)
	}
	return d, nil
}

// Close leaves the bus.
func (d *Directory) Close() { d.close() }

func now() int64 { return time.Now().UnixMilli() }

// Actor is a local user who wants to change the directory.
type Actor struct {
	User id.UserID
	// Admin may do what otherwise takes power in the room.
	Admin bool
}

// mayManage returns M_FORBIDDEN unless the actor is in the room with the power to choose its canonical alias,
// which is what ties a room to the names it goes by.
func (d *Directory) mayManage(ctx context.Context, who Actor, head *graph.Head) error {
	if who.Admin {
		return nil
	}
	if head.State.Membership(who.User) != graph.Join {
		return mxerr.Forbidden("You are not in this room.")
	}
	state, err := d.entries(ctx, head, "m.room.create", "m.room.power_levels")
	if err != nil {
		return err
	}
	levels := eventauth.PowerLevels(head.Version, state["m.room.create"], state["m.room.power_levels"])
	if levels.User(who.User) < levels.Event("m.room.canonical_alias", true) {
		return mxerr.Forbidden("You don't have permission to change the aliases of this room.")
	}
	return nil
}

// entries loads the state events of these types that have an empty state key.
func (d *Directory) entries(ctx context.Context, head *graph.Head, types ...string) (map[string]*event.PDU, error) {
	var nids []graph.EventNID
	for _, typ := range types {
		if nid, ok := head.State.Get(typ, ""); ok {
			nids = append(nids, nid)
		}
	}
	events, err := d.graph.Events(ctx, head.Room, nids)
	if err != nil {
		return nil, fmt.Errorf("load state of %s: %w", head.ID, err)
	}
	found := make(map[string]*event.PDU, len(events))
	for _, e := range events {
		found[e.PDU.Type()] = e.PDU
	}
	return found, nil
}
