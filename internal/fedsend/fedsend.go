package fedsend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
)

// Config is what a Sender needs. All fields must be set but for Erased, Log and Metrics.
type Config struct {
	DB         *sqldb.DB
	Bus        *bus.Bus
	Ours       *ours.Set
	Client     *fedclient.Client
	Graph      *graph.Graph
	Ephemeral  *ephemeral.Ephemeral
	Encryption *e2ee.Encryption
	// Erased returns those of some users who want no newcomers to read what they wrote. Optional.
	Erased  func(context.Context, []id.UserID) (map[id.UserID]sqldb.Pos, error)
	Log     *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil keeps the collectors private
}

// Sender tells other servers what happens here. It is safe for concurrent use.
type Sender struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	audiences *audiences

	mu      sync.Mutex // guards all below
	leading *leader    // nil while another node sends
	// heard are servers that this node heard of and that the sending node has yet to learn of.
	heard map[id.ServerName]struct{}
}

// lease is the name of the right to send.
const lease = "federation sender"

const (
	// tellHeard is how often a node that doesn't send passes on whom it heard of.
	tellHeard = 10 * time.Second
	// maxHeard bounds whom it remembers for that.
	maxHeard = 10_000
)

// Open prepares the tables. Nothing is sent before Start.
func Open(ctx context.Context, c Config) (*Sender, error) {
	if c.DB == nil || c.Bus == nil || c.Ours == nil || c.Client == nil || c.Graph == nil || c.Ephemeral == nil || c.Encryption == nil {
		return nil, errors.New("open the federation sender: a field of its Config is missing")
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open the federation sender: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sender{cfg: c, log: c.Log, audiences: newAudiences(c), heard: make(map[id.ServerName]struct{})}
	s.metrics = newMetrics(c.Metrics, s)
	return s, nil
}

// Start sends for as long as the Runner runs, on one node at a time.
func (s *Sender) Start(w *work.Runner) {
	w.Lead(lease, func(ctx context.Context, l *work.Lease) error {
		return s.lead(ctx, l)
	})
	w.Every("tell the federation sender who was heard of", tellHeard, s.passOn)
}

// Heard says that a request of another server came in: what waits for that server is tried now. It doesn't block.
func (s *Sender) Heard(server id.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leading != nil {
		s.leading.heard(server)
	} else if len(s.heard) < maxHeard {
		s.heard[server] = struct{}{}
	}
}

// passOn tells the node that sends, through the database, whom this one heard of.
func (s *Sender) passOn(ctx context.Context) error {
	s.mu.Lock()
	var names []string
	for server := range s.heard {
		names = append(names, string(server))
	}
	clear(s.heard)
	s.mu.Unlock()
	slices.Sort(names) // every node locks rows in the same order
	for part := range slices.Chunk(names, 1000) {
		err := s.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
			tx.Queue(stmtHeard, now(), part)
			return nil
		})
		if err != nil {
			return fmt.Errorf("note who was heard of: %w", err)
		}
	}
	return nil
}

// lead sends while the lease lasts.
func (s *Sender) lead(ctx context.Context, held *work.Lease) error {
	l := newLeader(s, held)
	defer l.close()
	if err := l.restore(ctx); err != nil {
		return fmt.Errorf("load what waits for other servers: %w", err)
	}
	s.mu.Lock()
	s.leading = l
	for server := range s.heard {
		l.heard(server)
	}
	clear(s.heard)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.leading = nil
	}()
	return l.run(ctx)
}

func now() int64 { return time.Now().UnixMilli() }
