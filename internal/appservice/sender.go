package appservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/internal/work"
	"myelin/matrix/id"
)

// Config is what a Sender needs. All fields must be set but for Log and Metrics.
type Config struct {
	DB         *sqldb.DB
	Bus        *bus.Bus
	Registry   *Registry
	Graph      *graph.Graph
	View       *view.View
	Ephemeral  *ephemeral.Ephemeral
	Encryption *e2ee.Encryption
	// Aliases returns our aliases of a room.
	Aliases func(context.Context, id.RoomID) ([]id.RoomAlias, error)
	Log     *slog.Logger          // nil discards
	Metrics prometheus.Registerer // nil keeps the collectors private
}

// Sender brings application services what concerns them.
type Sender struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
}

// lease is the name of the right to send.
const lease = "application services"

// NewSender returns a Sender. Nothing is sent before Start.
func NewSender(c Config) (*Sender, error) {
	if c.DB == nil || c.Bus == nil || c.Registry == nil || c.Graph == nil || c.View == nil || c.Ephemeral == nil || c.Encryption == nil || c.Aliases == nil {
		return nil, errors.New("open the sender to application services: a field of its Config is missing")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Sender{cfg: c, log: c.Log, metrics: newMetrics(c.Metrics)}, nil
}

// Start sends for as long as the Runner runs, on one node at a time.
func (s *Sender) Start(w *work.Runner) {
	w.Go("follow the registrations of application services", s.cfg.Registry.Follow)
	w.Lead(lease, func(ctx context.Context, l *work.Lease) error { return s.lead(ctx, l) })
}

// lead keeps a worker for each application service while the lease lasts.
func (s *Sender) lead(ctx context.Context, l *work.Lease) error {
	ctx, fail := context.WithCancelCause(ctx)
	all := make(map[string]*running)
	silence := func() {}
	defer func() {
		fail(nil)
		for _, r := range all {
			<-r.done
		}
		silence()
	}()
	var stream *feed
	for {
		now, changed := s.cfg.Registry.watch()
		for name, r := range all {
			if now.byID[name] != r.s {
				r.stop()
				<-r.done
				delete(all, name)
			}
		}
		for _, service := range now.list {
			if service.URL == "" || all[service.ID] != nil {
				continue
			}
			if stream == nil {
				stream, silence = listen(s.cfg.Bus)
			}
			all[service.ID] = begin(ctx, fail, &worker{Sender: s, s: service, lease: l, stream: stream})
		}
		if len(all) == 0 && stream != nil { // nobody listens
			silence()
			stream, silence = nil, func() {}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// running is a worker at work.
type running struct {
	s    *Service
	stop context.CancelFunc
	done chan struct{}
}

// afterFailure is how long a worker that failed on this side rests.
const afterFailure = 5 * time.Second

// begin starts a worker, which starts again where it fails. When it has lost the lease, all end.
func begin(ctx context.Context, fail context.CancelCauseFunc, k *worker) *running {
	ctx, stop := context.WithCancel(ctx)
	r := &running{s: k.s, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for ctx.Err() == nil {
			err := k.contained(ctx)
			switch {
			case errors.Is(err, work.ErrLost):
				fail(err)
				return
			case err != nil && ctx.Err() == nil:
				k.log.Error("sending to an application service failed and will start again", "appservice", k.s.ID, "error", err)
				_ = rest(ctx, afterFailure, nil)
			}
		}
	}()
	return r
}

// contained runs a worker and turns a panic into an error.
func (k *worker) contained(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return k.run(ctx)
}

// rest waits, until it is woken or ctx ends.
func rest(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
