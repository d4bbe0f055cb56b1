package search

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/internal/work"
	"myelin/matrix/id"
)

// Config is what a Search needs.
type Config struct {
	DB    *sqldb.DB
	Graph *graph.Graph
	View  *view.View
	// Ignored returns the users whose messages a user doesn't want to see.
	Ignored func(context.Context, id.UserID) (map[id.UserID]struct{}, error)
	Log     *slog.Logger // nil discards
}

// Search finds messages. It is safe for concurrent use.
type Search struct {
	db       *sqldb.DB
	graph    *graph.Graph
	view     *view.View
	ignored  func(context.Context, id.UserID) (map[id.UserID]struct{}, error)
	log      *slog.Logger
	segNIDs  *sqldb.IDs
	progress progress

	// directories are those of segments, which never change.
	directories *otter.Cache[int64, []key]
	// grown holds something when there may be segments to merge.
	grown chan struct{}
	// behind is the position up to which this node last wrote that everything is indexed.
	behind atomic.Int64
}

// directoryBytes bounds the memory for directories. That of a hundred million messages fits.
const directoryBytes = 64 << 20

// Open prepares the tables.
func Open(ctx context.Context, c Config) (*Search, error) {
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open search: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Search{
		db: c.DB, graph: c.Graph, view: c.View, ignored: c.Ignored, log: c.Log, segNIDs: c.DB.IDs("search.segments"),
		directories: otter.Must(&otter.Options[int64, []key]{
			MaximumWeight: directoryBytes,
			Weigher: func(_ int64, dir []key) uint32 {
				size := 100
				for _, k := range dir {
					size += 24 + len(k.term)
				}
				return uint32(size)
			},
		}),
		grown: make(chan struct{}, 1),
	}, nil
}

// Start has the index follow the stream.
func (s *Search) Start(w *work.Runner) {
	w.Follow(work.Follower{Name: "search index", Kinds: []bus.Kind{bus.RoomEvent}, Batch: s.batch})
	w.Lead("merge the search index", s.merge)
	w.Schedule(work.Job{Name: "index older history", Period: olderPeriod, Run: s.older})
}

// olderPeriod is how often history that was fetched from other servers is looked for.
const olderPeriod = time.Minute
