package graph

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// Config is what a Graph needs.
type Config struct {
	DB  *sqldb.DB
	Log *slog.Logger // nil discards
	// EventCache and StateCache bound the memory of the caches, in bytes; 0 means 64 MiB and 32 MiB.
	EventCache, StateCache int
	// Metrics registers the package's collectors; nil keeps them private.
	Metrics prometheus.Registerer
	// ForgetLeft has users forget the rooms that they leave, or are put out of, at once.
	//
	// Spec: cs m.forget_forced_upon_leave capability
	ForgetLeft bool
}

const (
	defaultEventCache = 64 << 20
	defaultStateCache = 32 << 20
	// cachedRooms bounds the rooms whose keys and head are kept in memory.
	cachedRooms = 20_000
	// rosterMemory bounds what is remembered of the servers and users in rooms, in bytes.
	rosterMemory = 32 << 20
)

// Graph is the store of rooms. All methods may be called from any goroutine.
type Graph struct {
	db       *sqldb.DB
	log      *slog.Logger
	nids     *sqldb.IDs
	roomNIDs *sqldb.IDs
	commits  *sqldb.Batcher[*job]
	seq      int64 // counts applied commits; only the committer's goroutine uses it

	events  *otter.Cache[EventNID, *Event]
	byID    *otter.Cache[id.EventID, EventNID] // of events in the cache, and of some that fell out
	states  *otter.Cache[stateKey, *State]
	rooms   *otter.Cache[RoomNID, *room]
	names   *otter.Cache[id.RoomID, RoomNID]
	rosters *otter.Cache[RoomNID, *roster]
	tail    tail

	forgetLeft bool

	// pending holds the state events of queued commits by number, for those who build on heads that are not durable yet.
	pending sync.Map // EventNID to *Event

	// fill orders the filling of events by readers against changes of stored events: a reader that began before a change must
	// not bring back what the change replaced.
	fill    sync.RWMutex
	changes int64 // guarded by fill
}

type stateKey struct {
	room RoomNID
	nid  StateNID
}

// room is what is kept in memory of a room.
type room struct {
	nid RoomNID
	id  id.RoomID

	mu      sync.Mutex // guards all below
	version *roomver.Version
	keys    *roomKeys
	head    *Head // the newest known to be durable; nil if none was loaded
	seq     int64 // of the commit that made head, in the order of this node's commits
}

// Open prepares the tables and returns the store.
func Open(ctx context.Context, c Config) (*Graph, error) {
	if err := c.DB.Migrate(ctx, Migrations...); err != nil {
		return nil, fmt.Errorf("open graph: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.EventCache <= 0 {
		c.EventCache = defaultEventCache
	}
	if c.StateCache <= 0 {
		c.StateCache = defaultStateCache
	}
	g := &Graph{
		forgetLeft: c.ForgetLeft,

		db:       c.DB,
		log:      c.Log,
		nids:     c.DB.IDs("graph.events"),
		roomNIDs: c.DB.IDs("graph.rooms"),
		events: otter.Must(&otter.Options[EventNID, *Event]{
			MaximumWeight: uint64(c.EventCache),
			Weigher:       func(_ EventNID, e *Event) uint32 { return uint32(len(e.PDU.Raw()) + 600) },
		}),
		byID: otter.Must(&otter.Options[id.EventID, EventNID]{MaximumSize: max(1024, c.EventCache/1024)}),
		states: otter.Must(&otter.Options[stateKey, *State]{
			MaximumWeight: uint64(c.StateCache),
			Weigher:       func(_ stateKey, s *State) uint32 { return s.weight() },
		}),
		rooms: otter.Must(&otter.Options[RoomNID, *room]{MaximumSize: cachedRooms}),
		names: otter.Must(&otter.Options[id.RoomID, RoomNID]{MaximumSize: 4 * cachedRooms}),
		rosters: otter.Must(&otter.Options[RoomNID, *roster]{
			MaximumWeight: rosterMemory, Weigher: func(_ RoomNID, r *roster) uint32 { return uint32(500 + r.cost) },
		}),
	}
	g.tail = newTail()
	g.commits = sqldb.NewBatcher(c.DB, "graph", g.apply)
	registerMetrics(c.Metrics, g)
	return g, nil
}

// NextNID returns a number for a new event. It must not be called inside a transaction.
func (g *Graph) NextNID(ctx context.Context) (EventNID, error) {
	nid, err := g.nids.Next(ctx)
	return EventNID(nid), err
}

// NextNIDs returns the first of n consecutive numbers for new events.
func (g *Graph) NextNIDs(ctx context.Context, n int) (EventNID, error) {
	nid, err := g.nids.NextN(ctx, n)
	return EventNID(nid), err
}

func registerMetrics(r prometheus.Registerer, g *Graph) {
	if r == nil {
		return
	}
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "myelin", Subsystem: "graph", Name: name, Help: help}, value))
	}
	gauge("event_cache_bytes", "Bytes of events kept in memory.", func() float64 { return float64(g.events.WeightedSize()) })
	gauge("state_cache_bytes", "Estimated bytes of state snapshots kept in memory.", func() float64 { return float64(g.states.WeightedSize()) })
	gauge("rooms_in_memory", "Rooms whose head and keys are kept in memory.", func() float64 { return float64(g.rooms.EstimatedSize()) })
}
