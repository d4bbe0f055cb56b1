package fedsend

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/bus"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// repeatTyping is how often it is said again that somebody types: others forget it after a minute.
	repeatTyping = 40 * time.Second
	// repeatPresence is how often the presence of those who are not offline is said again: others forget it after half an hour.
	repeatPresence = 12 * time.Minute
	// tickWhispers is how often the time is looked at for that.
	tickWhispers = 10 * time.Second
	// atOnce bounds what is read from the database at once, and newcomers the members whose presence a server is told that comes
	// into a room.
	atOnce    = 500
	newcomers = 100
	// lookBack bounds, in positions, what was said while nobody sent and is sent later.
	lookBack = 100_000
)

// whispers has what users show of themselves sent: typing, receipts, presence. It runs beside the distribution of events,
// so that these never wait for it.
type whispers struct {
	*leader
	pos, end sqldb.Pos                                 // told up to; where the stream was at the beginning
	typing   map[graph.RoomNID]map[id.UserID]time.Time // users of ours, and when others were told
	repeated time.Time                                 // presence
}

func newWhispers(l *leader) *whispers {
	return &whispers{leader: l, pos: max(l.saved, l.end-lookBack), end: l.end, typing: make(map[graph.RoomNID]map[id.UserID]time.Time)}
}

func (w *whispers) run(ctx context.Context) error {
	heard, silence := listen(w.cfg.Bus, w.wants)
	defer silence()
	for w.pos < w.end && ctx.Err() == nil {
		w.try(ctx, w.take(ctx, heard, w.end))
	}
	ticked := time.Now()
	for {
		short, cancel := context.WithTimeout(ctx, tickWhispers)
		last, err := w.cfg.Bus.Wait(short, w.pos)
		cancel()
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if last > w.pos {
			w.try(ctx, w.take(ctx, heard, last))
		}
		if time.Since(ticked) >= tickWhispers {
			ticked = time.Now()
			w.try(ctx, w.tick(ctx))
		}
	}
}

// try logs what went wrong. That something is not told this once matters little.
func (w *whispers) try(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		w.log.Warn("typing, receipts or presence were not sent to other servers", "error", err)
	}
}

func (w *whispers) wants(e bus.Entry) bool {
	switch e.Kind {
	case bus.Typing:
		return true
	case bus.Receipt, bus.Presence:
		return w.cfg.Ours.Is(e.User.Domain())
	case bus.RoomEvent:
		ev, ok := e.Data.(*graph.Event)
		return ok && ev.Change != nil && ev.Change.New == graph.Join && ev.Change.Old != graph.Join
	}
	return false
}

// take handles what happened up to a position.
func (w *whispers) take(ctx context.Context, heard *news, to sqldb.Pos) error {
	from := w.pos
	entries, ok := heard.take(from, to)
	if !ok {
		var err error
		if entries, to, err = w.read(ctx, from, to); err != nil {
			w.pos = to
			return err
		}
	}
	w.pos = to
	for _, e := range entries {
		var err error
		switch data := e.Data.(type) {
		case *ephemeral.Typing:
			err = w.types(ctx, data)
		case *ephemeral.Receipt:
			err = w.reads(ctx, data)
		case *ephemeral.Presence:
			err = w.isThere(ctx, data)
		case *graph.Event:
			err = w.comes(ctx, data)
		}
		if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
			return err
		}
	}
	return nil
}

// read finds in the database what another node wrote, or what was said while nobody sent, and returns up to where. Who came into rooms
// is told with the next repetition.
func (w *whispers) read(ctx context.Context, from, last sqldb.Pos) (entries []bus.Entry, to sqldb.Pos, err error) {
	err = w.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		entries, to = nil, last
		receipts, err := ephemeral.PublicReceipts(tx, from, to, atOnce)
		if err != nil {
			return err
		}
		if len(receipts) == atOnce {
			to = receipts[atOnce-1].Pos
		}
		typing, err := ephemeral.TypingSince(tx, from, to, atOnce)
		if err != nil {
			return err
		}
		presence, err := ephemeral.PresenceSince(tx, from, to)
		if err != nil {
			return err
		}
		for _, t := range typing {
			entries = append(entries, bus.Entry{Data: t})
		}
		for _, r := range receipts {
			entries = append(entries, bus.Entry{Data: r})
		}
		for _, p := range presence {
			entries = append(entries, bus.Entry{Data: p})
		}
		return nil
	})
	if err != nil {
		return nil, last, fmt.Errorf("read what to tell other servers: %w", err)
	}
	return entries, to, nil
}

// types tells who of ours began to type in a room, and who stopped.
func (w *whispers) types(ctx context.Context, t *ephemeral.Typing) error {
	was := w.typing[t.Room]
	is := make(map[id.UserID]time.Time)
	var began, stopped []id.UserID
	for _, user := range t.Users {
		if !w.cfg.Ours.Is(user.Domain()) {
			continue
		}
		if told, ok := was[user]; ok {
			is[user] = told
		} else {
			is[user] = time.Now()
			began = append(began, user)
		}
	}
	for user := range was {
		if _, ok := is[user]; !ok {
			stopped = append(stopped, user)
		}
	}
	if delete(w.typing, t.Room); len(is) > 0 {
		w.typing[t.Room] = is
	}
	if err := w.tellTyping(ctx, t.Room, true, began); err != nil {
		return err
	}
	return w.tellTyping(ctx, t.Room, false, stopped)
}

func (w *whispers) tellTyping(ctx context.Context, room graph.RoomNID, typing bool, users []id.UserID) error {
	if len(users) == 0 {
		return nil
	}
	others, err := w.audiences.lately(ctx, room, 0)
	if err != nil || len(others) == 0 {
		return err
	}
	name, _, err := w.cfg.Graph.RoomID(ctx, room)
	if err != nil {
		return err
	}
	for _, user := range users {
		w.tell(others, &edu{eduKey: eduKey{kind: typingEDU, room: room, user: user}, body: typingBody(name, user, typing)})
	}
	return nil
}

// reads tells up to where a user of ours has read.
func (w *whispers) reads(ctx context.Context, r *ephemeral.Receipt) error {
	if r.Type != ephemeral.Read || !w.cfg.Ours.Is(r.User.Domain()) {
		return nil
	}
	others, err := w.audiences.lately(ctx, r.Room, 0)
	if err != nil || len(others) == 0 {
		return err
	}
	name, _, err := w.cfg.Graph.RoomID(ctx, r.Room)
	if err != nil {
		return err
	}
	w.tell(others, &edu{eduKey: eduKey{kind: receiptEDU, room: r.Room, user: r.User, thread: r.Thread}, body: receiptBody(name, r)})
	return nil
}

// isThere tells the presence of a user of ours to all servers that share a room with them.
func (w *whispers) isThere(ctx context.Context, p *ephemeral.Presence) error {
	if !w.cfg.Ours.Is(p.User.Domain()) {
		return nil
	}
	rooms, err := w.cfg.Graph.MembershipsOf(ctx, p.User, graph.Join)
	if err != nil {
		return err
	}
	told := make(map[id.ServerName]struct{})
	var others []id.ServerName
	for _, m := range rooms {
		servers, err := w.audiences.lately(ctx, m.Room, trustAudience)
		if err != nil {
			return err
		}
		for _, server := range servers {
			if _, ok := told[server]; !ok {
				told[server] = struct{}{}
				others = append(others, server)
			}
		}
	}
	w.tellPresence(others, p)
	return nil
}

func (w *whispers) tellPresence(others []id.ServerName, p *ephemeral.Presence) {
	if len(others) > 0 {
		w.tell(others, &edu{eduKey: eduKey{kind: presenceEDU, user: p.User}, body: presenceBody(p.User, w.cfg.Ephemeral.AppendContent(nil, p))})
	}
}

// comes tells those who came together in a room of each other: our users' presence to a server that is new there, and that of a user
// of ours to the servers there.
func (w *whispers) comes(ctx context.Context, e *graph.Event) error {
	newcomer := e.Change.User
	others, err := w.audiences.lately(ctx, e.Room, 0)
	if err != nil || len(others) == 0 || !w.cfg.Ephemeral.ShowsPresence() {
		return err
	}
	users := []id.UserID{newcomer}
	if !w.cfg.Ours.Is(newcomer.Domain()) {
		others = []id.ServerName{newcomer.Domain()}
		if users, err = w.cfg.Graph.LocalMembers(ctx, e.Room, w.cfg.Ours.Is, newcomers); err != nil {
			return err
		}
	}
	var present []*ephemeral.Presence
	err = w.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		present, err = ephemeral.PresenceOf(tx, users)
		return err
	})
	for _, p := range present {
		if p.State != ephemeral.Offline {
			w.tellPresence(others, p)
		}
	}
	return err
}

// tick repeats what other servers forget with time.
func (w *whispers) tick(ctx context.Context) error {
	for room, users := range w.typing {
		var again []id.UserID
		for user, told := range users {
			if time.Since(told) >= repeatTyping {
				users[user] = time.Now()
				again = append(again, user)
			}
		}
		if err := w.tellTyping(ctx, room, true, again); err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
			return err
		}
	}
	if time.Since(w.repeated) < repeatPresence || !w.cfg.Ephemeral.ShowsPresence() {
		return nil
	}
	w.repeated = time.Now()
	return w.repeatPresence(ctx)
}

func (w *whispers) repeatPresence(ctx context.Context) error {
	for after := id.UserID(""); ; {
		var page []*ephemeral.Presence
		err := w.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
			page, err = ephemeral.Shown(tx, after, atOnce)
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range page {
			if err := w.isThere(ctx, p); err != nil {
				return err
			}
			after = p.User
		}
		if len(page) < atOnce {
			return nil
		}
	}
}

// tell has an EDU of a user of ours sent to some servers.
func (w *whispers) tell(others []id.ServerName, e *edu) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	e.seq, e.made = w.seq, time.Now()
	for _, server := range others {
		k := w.link(route{e.user.Domain(), server})
		most := maxWaiting
		if !k.failingSince.IsZero() {
			if most = fewWaiting; e.kind == typingEDU {
				continue
			}
		}
		if !k.edus.add(e, most) {
			w.metrics.dropped.Inc()
		}
		w.awake(k)
	}
}
