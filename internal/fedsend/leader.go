package fedsend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
)

const (
	// checkpointEvery is how often what was sent is written down, and settleAfter after what time an event that a server still
	// lacks is written down for it instead of being read again from the stream after a restart.
	checkpointEvery = 2 * time.Second
	settleAfter     = 10 * time.Second
	// askHeard is how often the database is asked whom other nodes heard of, askStream how often whether hints were lost.
	askHeard  = 15 * time.Second
	askStream = 30 * time.Second
	// readAtOnce bounds the events read from the database at once.
	readAtOnce = 500
	// farewell is how long a transaction that is on its way may take once the sender is told to stop.
	farewell = 3 * time.Second
)

// leader is the one who sends, while it holds the lease.
type leader struct {
	*Sender
	lease *work.Lease

	// wake holds one signal at most: that a link became ready, or a slot free.
	wake chan struct{}
	// flights are the transactions on their way. Their context outlives the leader's by farewell.
	flights sync.WaitGroup
	flying  context.Context
	ground  context.CancelFunc

	// Only run uses these: up to where events are distributed and the cursor in the database.
	saved   sqldb.Pos
	end     sqldb.Pos // of the stream when we took over, which the bus may not know yet
	savedAt time.Time
	history []progress // of the last checkpoints, the oldest first
	asked   time.Time  // for heard
	seen    int64      // heard up to it

	mu    sync.Mutex // guards all below
	ended bool
	pos   sqldb.Pos // events up to it wait in links
	links map[route]*link
	ready []*link // in the order in which their turn comes
	retry []*link // those that failed, in that order
	free  int     // slots
	slow  int     // flights that gave their slot back
	seq   uint64  // of EDUs
}

// progress is where the sender was at a time.
type progress struct {
	at  time.Time
	pos sqldb.Pos
}

func newLeader(s *Sender, held *work.Lease) *leader {
	l := &leader{Sender: s, lease: held, wake: make(chan struct{}, 1), links: make(map[route]*link), free: maxFlights}
	l.flying, l.ground = context.WithCancel(context.Background())
	return l
}

// run sends until the context ends, and writes down what is left.
func (l *leader) run(ctx context.Context) error {
	events, silence := listen(l.cfg.Bus, func(e bus.Entry) bool {
		ev, ok := e.Data.(*graph.Event)
		return e.Kind == bus.RoomEvent && ok && ev.Outgoing()
	})
	defer silence()
	postman, err := l.newPostman(ctx)
	if err != nil {
		return err
	}
	whispers := newWhispers(l)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.dispatch(ctx) })
	g.Go(func() error { return whispers.run(ctx) })
	g.Go(func() error { return postman.run(ctx) })
	g.Go(func() error { return l.follow(ctx, events) })
	err = g.Wait()
	if errors.Is(context.Cause(ctx), work.ErrLost) {
		return err // another node may be sending
	}
	l.land()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if bad := l.checkpoint(bye, true); bad != nil && !errors.Is(bad, sqldb.ErrClosed) {
		l.log.Warn("what other servers lack was not written down; some events will be sent twice", "error", bad)
	}
	return err
}

// land waits for the flights, not for long.
func (l *leader) land() {
	timer := time.AfterFunc(farewell, l.ground)
	defer timer.Stop()
	l.flights.Wait()
}

// close ends all flights and timers.
func (l *leader) close() {
	l.mu.Lock()
	l.ended = true
	for _, k := range l.links {
		if k.timer != nil {
			k.timer.Stop()
		}
	}
	l.mu.Unlock()
	l.ground()
	l.flights.Wait()
}

// follow takes events from the stream for as long as ctx lasts.
func (l *leader) follow(ctx context.Context, events *news) error {
	polled := time.Now()
	for {
		last, err := l.wait(ctx, &polled)
		if err != nil {
			return err
		}
		if last > l.pos {
			if err := l.take(ctx, events, last); err != nil {
				return err
			}
		}
		if time.Since(l.savedAt) >= checkpointEvery {
			if err := l.checkpoint(ctx, false); err != nil {
				return err
			}
		}
		if time.Since(l.asked) >= askHeard && !l.idle() {
			if err := l.askHeard(ctx); err != nil {
				return err
			}
		}
	}
}

// wait returns the end of the stream once it has grown, or when it is time for a checkpoint.
func (l *leader) wait(ctx context.Context, polled *time.Time) (sqldb.Pos, error) {
	if l.end > l.pos {
		return l.end, nil
	}
	pause := checkpointEvery
	if l.idle() {
		pause = askHeard
	}
	short, cancel := context.WithTimeout(ctx, pause)
	defer cancel()
	last, err := l.cfg.Bus.Wait(short, l.pos)
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil && time.Since(*polled) >= askStream {
		*polled = time.Now()
		return l.cfg.DB.Last(ctx)
	}
	return last, nil
}

// idle reports whether all is written down and nobody waits for anything.
func (l *leader) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.saved == l.pos && len(l.links) == 0
}

// take distributes events up to a position, or some of them.
func (l *leader) take(ctx context.Context, events *news, to sqldb.Pos) error {
	entries, ok := events.take(l.pos, to)
	list := make([]*graph.Event, 0, len(entries))
	if ok {
		for _, e := range entries {
			list = append(list, e.Data.(*graph.Event))
		}
	} else {
		var err error
		if list, err = l.cfg.Graph.OutgoingSince(ctx, l.pos, to, readAtOnce); err != nil {
			return err
		}
		if len(list) == readAtOnce {
			to = list[readAtOnce-1].Pos
		}
	}
	for _, e := range list {
		if err := l.distribute(ctx, e); err != nil {
			return fmt.Errorf("distribute %s: %w", e.PDU.ID(), err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pos = to
	return nil
}

// distribute has an event sent to whom it concerns.
func (l *leader) distribute(ctx context.Context, e *graph.Event) error {
	others, speaker, err := l.audiences.after(ctx, e.Room, e.HeadState)
	if err != nil {
		return err
	}
	sender := e.PDU.Sender().Domain()
	origin := sender
	if !l.cfg.Ours.Is(sender) {
		origin = speaker
	}
	target, err := l.target(ctx, e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	what := entry{room: e.Room, nid: e.NID, pos: e.Pos}
	for _, server := range others {
		if server == target {
			target = ""
		}
		if server != sender {
			l.add(route{origin, server}, what)
		}
	}
	if target != "" && target != sender {
		l.add(route{origin, target}, what)
	}
	return nil
}

// target returns the server of the user whom an event puts out of the room, or whose invite or knock it ends: it must learn of it though it is
// not there. What changes between one absence and another concerns nobody there, and would come between a user's steps back into the room.
func (l *leader) target(ctx context.Context, e *graph.Event) (id.ServerName, error) {
	key := e.PDU.Key()
	m := graph.Membership(e.PDU.Membership())
	if key.Type != memberType || !e.PDU.IsState() || m != graph.Leave && m != graph.Ban || e.Replaces == 0 {
		return "", nil
	}
	user, err := id.ParseUserID(key.StateKey)
	if err != nil || l.cfg.Ours.Is(user.Domain()) || !l.cfg.Client.Permitted(user.Domain()) {
		return "", nil
	}
	before, err := l.cfg.Graph.Events(ctx, e.Room, []graph.EventNID{e.Replaces})
	if err != nil {
		return "", err
	}
	switch graph.Membership(before[0].PDU.Membership()) {
	case graph.Leave, graph.Ban:
		return "", nil
	}
	return user.Domain(), nil
}

// link returns the link of a route. Caller holds mu.
func (l *leader) link(r route) *link {
	k := l.links[r]
	if k == nil {
		k = newLink(r)
		l.links[r] = k
	}
	return k
}

// add has an event sent. Caller holds mu.
func (l *leader) add(r route, e entry) {
	k := l.link(r)
	k.add(e)
	l.awake(k)
}

// askHeard learns from the database whom other nodes heard of.
func (l *leader) askHeard(ctx context.Context) error {
	l.asked = time.Now()
	since := l.seen
	l.seen = now() - askHeard.Milliseconds() // clocks differ
	var servers []id.ServerName
	err := l.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		servers = nil
		return tx.Query(stmtHeardOf, func(r *sqldb.Row) error {
			var server id.ServerName
			err := r.Scan(&server)
			servers = append(servers, server)
			return err
		}, since)
	})
	for _, server := range servers {
		l.heard(server)
	}
	if err != nil {
		return fmt.Errorf("ask whom other nodes heard of: %w", err)
	}
	return nil
}
