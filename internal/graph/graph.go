package graph

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// Config is what a Graph needs.
type Config struct {
	DB  *sqldb.DB
	Log *slog.Logger // nil discards
	// EventCache and StateCache bound the memory of the caches, in bytes; 0 means 64 MiB and 32 MiB.
	EventCache, StateCache int
	// Metrics registers the package's collectors; nil keeps them private.
	Metrics prometheus.Registerer
}

// Graph is the store of rooms. All methods may be called from any goroutine.
type Graph struct {
	db   *sqldb.DB
	nids *sqldb.IDs
}

func userOf(k event.Key) id.UserID { return id.UserID(k.StateKey) }

// NextNID returns a number for a new event. It must not be called inside a transaction.
func (g *Graph) NextNID(ctx context.Context) (EventNID, error) {
	nid, err := g.nids.Next(ctx)
	return EventNID(nid), err
}
