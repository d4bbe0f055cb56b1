package e2ee

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/bus"
	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Config is what an Encryption needs. All fields must be set but for Log.
type Config struct {
	DB    *sqldb.DB
	Bus   *bus.Bus
	Ours  *ours.Set
	Graph *graph.Graph
	// Circles was opened before this.
	Circles *graph.Circles
	Client  *fedclient.Client
	Log     *slog.Logger // nil discards
}

// Encryption is the door to everything in this package. It is safe for concurrent use.
type Encryption struct {
	cfg Config
	db  *sqldb.DB
	log *slog.Logger

	epochs *epochs
	// stocks remembers what devices have left, as of an epoch.
	stocks   *otter.Cache[deviceKey, *stock]
	lists    *listNews
	postedMu sync.Mutex // guards posted
	// posted counts, modulo countEvery, the messages to devices that were posted on a route by this node.
	posted map[Route]int
	// mostPosted is maxPosted, unless a test wants less.
	mostPosted int
	// reaper deletes messages that arrived.
	reaper *sqldb.Batcher[receipt]
	claims *sqldb.Batcher[[]*claim]

	unsubscribe func()
}

// deviceKey names a device.
type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

func (k deviceKey) text() string { return string(k.user) + " " + string(k.device) }

// maxStocks bounds the devices whose stock is remembered. One takes about 300 bytes.
const maxStocks = 50_000

// Open prepares the tables. Those of package account have to be there.
func Open(ctx context.Context, c Config) (*Encryption, error) {
	if c.DB == nil || c.Bus == nil || c.Ours == nil || c.Graph == nil || c.Circles == nil || c.Client == nil {
		return nil, errors.New("open e2ee: a field of its Config is missing")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open e2ee: %w", err)
	}
	since, err := c.DB.Last(ctx)
	if err != nil {
		return nil, fmt.Errorf("open e2ee: %w", err)
	}
	e := &Encryption{
		cfg: c, db: c.DB, log: c.Log, epochs: newEpochs(),
		stocks: otter.Must(&otter.Options[deviceKey, *stock]{MaximumSize: maxStocks}),
		lists:  newListNews(since), reaper: newReaper(c.DB), claims: newClaims(c.DB),
		posted: make(map[Route]int), mostPosted: maxPosted,
	}
	// What is written between the two is told, or was written by another node: then the next piece of news is foreign.
	_, e.unsubscribe = c.Bus.Subscribe(e.follow)
	return e, nil
}

// Close leaves the bus.
func (e *Encryption) Close() { e.unsubscribe() }

// follow takes news from the bus.
func (e *Encryption) follow(r bus.Range) {
	if r.Foreign {
		e.epochs.all()
	}
	e.lists.hear(r)
	for _, entry := range r.Entries {
		switch entry.Kind {
		case bus.OneTimeKeys, bus.DeviceListLocal, bus.ToDevice:
			e.epochs.bump(deviceKey{entry.User, entry.Device}.text())
		}
	}
}

func now() int64 { return time.Now().UnixMilli() }
