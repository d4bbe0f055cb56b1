package push

import (
	"context"
	"fmt"
	"slices"
	"time"

	"myelin/internal/bus"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

const (
	maxBatch = 500
	// maxDue ends a batch early: so many messages to gateways go into one transaction, and those of one event more.
	maxDue = 10_000
	// maxAudiences bounds the rooms whose special members are remembered.
	maxAudiences = 20_000
	// audienceAge is how long that is believed without being read again.
	audienceAge = time.Hour
)

// follower turns the stream into rows. Users who changed no rules, ignore nobody and have no pusher cost nothing: what an event means to all of
// them is one row. The others are special, and are judged one by one. It is used by one goroutine at a time.
type follower struct {
	p     *Push
	at    sqldb.Pos // where the next batch begins, if nothing went wrong
	ready bool

	special map[id.UserID]bool
	pushers map[id.UserID][]int64
	rooms   map[graph.RoomNID]*audience
}

// audience are the special users who are joined to a room.
type audience struct {
	loaded time.Time
	seats  map[id.UserID]*seat
}

type seat struct {
	rules  *pushrule.Compiled // silent was found out for these; nil for none yet
	silent bool               // the user's base in push_bases
}

// rows are what a batch writes.
type rows struct {
	events   []eventRow
	redacted []int64
	own      []ownRow
	marks    []mark
	bases    []base
	due      []due
	read     []readerRow
}

type (
	eventRow struct {
		ord    int64
		room   graph.RoomNID
		thread string
		h      int64
	}
	ownRow struct {
		user   id.UserID
		room   graph.RoomNID
		thread string
		ord    int64
	}
	mark struct {
		user    id.UserID
		room    graph.RoomNID
		ord     int64
		thread  string
		n, h    int64
		outcome int64
	}
	base struct {
		room   graph.RoomNID
		user   id.UserID
		ord    int64
		silent bool
	}
	due       struct{ pusher, ord int64 }
	readerRow struct {
		user id.UserID
		room graph.RoomNID
	}
)

func (r *rows) empty() bool {
	return len(r.events)+len(r.redacted)+len(r.own)+len(r.marks)+len(r.bases)+len(r.due)+len(r.read) == 0
}

// batch is what the stream calls.
func (f *follower) batch(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, func(*sqldb.Tx) error, error) {
	if !f.ready || f.at != from {
		if err := f.reset(ctx, from); err != nil {
			return 0, nil, err
		}
	}
	f.ready = false // until all of it went well
	events, err := f.p.cfg.Graph.EventsSince(ctx, from, last, maxBatch)
	if err != nil {
		return 0, nil, err
	}
	to := last
	if len(events) == maxBatch {
		to = events[len(events)-1].Pos
	}
	invites, to, err := f.p.outsideInvites(ctx, from, to)
	if err != nil {
		return 0, nil, err
	}
	events = slices.DeleteFunc(events, func(e *graph.Event) bool { return e.Pos > to })
	if err := f.learn(ctx, from, to); err != nil {
		return 0, nil, err
	}
	r := new(rows)
	for i, e := range events {
		if err := f.event(ctx, r, e); err != nil {
			return 0, nil, fmt.Errorf("judge event %d: %w", e.NID, err)
		}
		if len(r.due) >= maxDue && i+1 < len(events) {
			to = e.Pos
			break
		}
	}
	for _, o := range invites {
		if o.Pos > to {
			break // the next batch has it
		}
		if err := f.outside(ctx, r, o); err != nil {
			return 0, nil, fmt.Errorf("judge an invite to %s: %w", o.RoomID, err)
		}
	}
	if err := f.readers(ctx, r, from, to); err != nil {
		return 0, nil, err
	}
	f.at, f.ready = to, true
	if len(events) == 0 && r.empty() {
		return to, nil, nil
	}
	return to, func(tx *sqldb.Tx) error { return r.write(tx, to) }, nil
}

// reset forgets what may be wrong, and reads who is special.
func (f *follower) reset(ctx context.Context, from sqldb.Pos) error {
	f.rooms = make(map[graph.RoomNID]*audience)
	f.special = make(map[id.UserID]bool)
	f.pushers = make(map[id.UserID][]int64)
	f.at = from
	return f.learn(ctx, 0, from)
}

// learn takes note of users who became special at positions in (from, to].
func (f *follower) learn(ctx context.Context, from, to sqldb.Pos) error {
	changed, err := f.p.cfg.Accounts.RulesChanged(ctx, from, to)
	if err != nil {
		return err
	}
	err = f.p.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(sqlNewPushers, func(r *sqldb.Row) error {
			var user id.UserID
			var pusher int64
			if err := r.Scan(&user, &pusher); err != nil {
				return err
			}
			changed = append(changed, user)
			for _, known := range f.pushers[user] {
				if known == pusher {
					return nil
				}
			}
			f.pushers[user] = append(f.pushers[user], pusher)
			return nil
		}, from, to)
	})
	if err != nil {
		return fmt.Errorf("load new pushers: %w", err)
	}
	for _, user := range changed {
		if f.special[user] {
			continue
		}
		f.special[user] = true
		for _, a := range f.rooms {
			a.loaded = time.Time{} // read again when the room is next spoken in
		}
	}
	return nil
}

// event handles one event.
func (f *follower) event(ctx context.Context, r *rows, e *graph.Event) error {
	if target, ok := e.PDU.Redacts(); ok {
		ord, redacted, err := f.p.cfg.Graph.RedactedLive(ctx, e.Room, target)
		if err != nil {
			return err
		}
		if redacted {
			r.redacted = append(r.redacted, ord)
		}
	}
	if key, ok := e.PDU.StateKey(); ok && e.PDU.Type() == memberType && graph.Membership(e.PDU.Membership()) != graph.Join {
		f.badge(r, id.UserID(key)) // what they have not read there counts no more
	}
	v, err := f.p.judge(ctx, e)
	if err != nil {
		return err
	}
	sender := e.PDU.Sender()
	if v.read && f.p.cfg.Ours.Is(sender.Domain()) {
		r.own = append(r.own, ownRow{sender, e.Room, v.thread, e.Ord})
		f.badge(r, sender)
	}
	a, err := f.audience(ctx, e)
	if err != nil || v.dead {
		return err
	}
	if v.base != nil {
		r.events = append(r.events, eventRow{e.Ord, e.Room, v.thread, number(v.base.Highlight)})
	}
	h := &hearing{verdict: v}
	for user, s := range a.seats {
		if user != sender {
			if err := f.decide(ctx, r, h, user, s); err != nil {
				return err
			}
		}
	}
	return f.others(ctx, r, h, a)
}

// others judges who is not special, but whom the event names, or who sent it.
func (f *follower) others(ctx context.Context, r *rows, v *hearing, a *audience) error {
	e := v.event
	sender := e.PDU.Sender()
	if v.base != nil && !v.read && f.p.cfg.Ours.Is(sender.Domain()) {
		s := a.seats[sender]
		if s == nil {
			s = new(seat)
		}
		if err := f.decide(ctx, r, v, sender, s); err != nil {
			return err
		}
	}
	seen := make(map[id.UserID]bool, len(v.named))
	for _, user := range v.named {
		if seen[user] || user == sender || a.seats[user] != nil || !f.p.cfg.Ours.Is(user.Domain()) {
			continue
		}
		seen[user] = true
		m, err := f.p.cfg.Graph.MembershipIn(ctx, user, e.PDU.RoomID())
		if err != nil {
			return err
		}
		if m == graph.Join || m == graph.Invite {
			if err := f.decide(ctx, r, v, user, new(seat)); err != nil {
				return err
			}
		}
	}
	return nil
}

// decide notes in what an event means something else to a user than their base says, and what their pushers are to be told.
func (f *follower) decide(ctx context.Context, r *rows, v *hearing, user id.UserID, s *seat) error {
	e := v.event
	rules, err := f.p.rulesOf(ctx, user)
	if err != nil {
		return err
	}
	if v.base != nil && s.rules != rules {
		s.rules = rules
		if silent := rules != f.p.standard && f.p.silent(rules, e, user); silent != s.silent {
			s.silent = silent
			r.bases = append(r.bases, base{e.Room, user, e.Ord, silent})
		}
	}
	m, err := f.p.matchBy(ctx, v, user, rules)
	if err != nil {
		return err
	}
	k := mark{user: user, room: e.Room, ord: e.Ord, thread: v.thread}
	if m != nil {
		k.n, k.h = 1, number(m.Highlight)
		k.outcome = 1 + k.h
		for _, pusher := range f.pushers[user] {
			r.due = append(r.due, due{pusher, e.Ord})
		}
	}
	if v.base != nil && !s.silent {
		k.n, k.h = k.n-1, k.h-number(v.base.Highlight)
	}
	if k.n != 0 || k.h != 0 {
		r.marks = append(r.marks, k)
	}
	return nil
}

// silent reports whether by these rules most of what is said in a room means nothing to a user. It is a guess that only saves rows: where it is
// wrong there are marks.
func (p *Push) silent(rules *pushrule.Compiled, e *graph.Event, user id.UserID) bool {
	typ := "m.room.message"
	if e.PDU.Type() == "m.room.encrypted" {
		typ = e.PDU.Type()
	}
	m := rules.Evaluate(&pushrule.Event{
		ID: "$", RoomID: e.PDU.RoomID(), Type: typ, Sender: p.stranger, Content: []byte(`{"msgtype":"m.text"}`),
	}, pushrule.Facts{Members: 3}, pushrule.Target{User: user})
	return m == nil || !m.Notify
}

// badge has a user's pushers told how much is unread.
func (f *follower) badge(r *rows, user id.UserID) {
	for _, pusher := range f.pushers[user] {
		r.due = append(r.due, due{pusher, 0})
	}
}

// readers notes who has read something.
func (f *follower) readers(ctx context.Context, r *rows, from, to sqldb.Pos) error {
	return f.p.db.Read(ctx, func(tx *sqldb.Tx) error {
		r.read = nil
		return ephemeral.Readers(tx, from, to, func(user id.UserID, room graph.RoomNID) {
			if f.special[user] {
				r.read = append(r.read, readerRow{user, room})
				f.badge(r, user)
			}
		})
	})
}

// audience returns the special members of an event's room.
func (f *follower) audience(ctx context.Context, e *graph.Event) (*audience, error) {
	a := f.rooms[e.Room]
	if a == nil || time.Since(a.loaded) > audienceAge {
		if len(f.rooms) >= maxAudiences {
			clear(f.rooms)
		}
		var err error
		if a, err = f.load(ctx, e.Room); err != nil {
			return nil, err
		}
		f.rooms[e.Room] = a
		return a, nil
	}
	if key, ok := e.PDU.StateKey(); ok && e.PDU.Type() == memberType && f.special[id.UserID(key)] {
		user := id.UserID(key)
		m, err := f.p.cfg.Graph.MembershipIn(ctx, user, e.PDU.RoomID())
		if err != nil {
			return nil, err
		}
		switch {
		case m != graph.Join:
			delete(a.seats, user)
		case a.seats[user] == nil:
			// Their base is read with those of everybody.
			a.loaded = time.Time{}
			return f.audience(ctx, e)
		}
	}
	return a, nil
}

func (f *follower) load(ctx context.Context, room graph.RoomNID) (*audience, error) {
	a := &audience{loaded: time.Now(), seats: make(map[id.UserID]*seat)}
	if len(f.special) == 0 {
		return a, nil
	}
	head, err := f.p.cfg.Graph.HeadOf(ctx, room)
	if err != nil {
		return nil, err
	}
	if int64(len(f.special)) < head.Joined {
		users := make([]id.UserID, 0, len(f.special))
		for user := range f.special {
			users = append(users, user)
		}
		if users, err = f.p.cfg.Graph.JoinedOf(ctx, room, users); err != nil {
			return nil, err
		}
		for _, user := range users {
			a.seats[user] = new(seat)
		}
	} else {
		users, err := f.p.cfg.Graph.LocalMembers(ctx, room, f.p.cfg.Ours.Is, int(head.Joined)+1000)
		if err != nil {
			return nil, err
		}
		for _, user := range users {
			if f.special[user] {
				a.seats[user] = new(seat)
			}
		}
	}
	err = f.p.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(sqlBasesIn, func(r *sqldb.Row) error {
			var user id.UserID
			var silent bool
			err := r.Scan(&user, &silent)
			if s := a.seats[user]; s != nil {
				s.silent = silent
			}
			return err
		}, room)
	})
	if err != nil {
		return nil, fmt.Errorf("load bases: %w", err)
	}
	return a, nil
}

type threadKey struct {
	room   graph.RoomNID
	thread string
}

// write is the effect of a batch.
func (r *rows) write(tx *sqldb.Tx, to sqldb.Pos) error {
	type end struct{ last, n, h int64 }
	threads := make(map[threadKey]*end)
	for _, e := range r.events {
		key := threadKey{e.room, e.thread}
		t := threads[key]
		if t == nil {
			t = new(end)
			threads[key] = t
			if _, err := tx.Get(sqlThread, []any{e.room, e.thread}, &t.n, &t.h); err != nil {
				return fmt.Errorf("load a thread: %w", err)
			}
		}
		t.last, t.n, t.h = e.ord, t.n+1, t.h+e.h
		tx.Queue(sqlAddEvent, e.ord, e.room, e.thread, t.n, t.h)
	}
	for key, t := range threads {
		tx.Queue(sqlMoveThread, key.room, key.thread, t.last, t.n, t.h)
	}
	for _, o := range r.own {
		tx.Queue(sqlSetOwn, o.user, o.room, o.thread, o.ord)
	}
	for _, m := range r.marks {
		tx.Queue(sqlAddMark, m.user, m.room, m.ord, m.thread, m.n, m.h, m.outcome)
	}
	for _, b := range r.bases {
		tx.Queue(sqlSetBase, b.room, b.user, b.ord, number(b.silent))
	}
	for _, ord := range r.redacted {
		if err := discount(tx, ord); err != nil {
			return err
		}
	}
	for _, who := range r.read {
		if err := compress(tx, who); err != nil {
			return err
		}
	}
	now := time.Now().UnixMilli()
	for _, d := range r.due {
		tx.Queue(sqlAddDue, d.pusher, d.ord, now)
	}
	if len(r.due) > 0 {
		tx.Emit(bus.Entry{Kind: bus.PushDue})
	}
	tx.Queue(sqlSetDone, to)
	return nil
}

// discount takes a redacted event out of all counts.
func discount(tx *sqldb.Tx, ord int64) error {
	var room graph.RoomNID
	var thread string
	var h int64
	found, err := tx.Get(sqlRedactedEvent, []any{ord}, &room, &thread, &h)
	if err != nil {
		return fmt.Errorf("load a redacted event: %w", err)
	}
	if found {
		tx.Queue(sqlAddRedacted, room, thread, ord, h)
	}
	tx.Queue(sqlDropMarks, ord)
	return nil
}

// compress deletes marks of what was read: those that say that it means nothing, and of the others all but the newest, which stand in lists of
// notifications.
func compress(tx *sqldb.Tx, who readerRow) error {
	reads, err := ephemeral.ReadsOf(tx, who.user, who.room)
	if err != nil {
		return err
	}
	tx.Queue(sqlDropNoMarks, who.user, who.room, reads[""])
	return thin(tx, who, reads[""], keptRead)
}

// thin deletes a user's marks in a room up to a place, but for the newest of them.
func thin(tx *sqldb.Tx, who readerRow, upTo int64, kept int) error {
	var last int64
	found, err := tx.Get(sqlMarkAfter, []any{who.user, who.room, upTo, kept}, &last)
	if err != nil {
		return fmt.Errorf("look for old marks: %w", err)
	}
	if found {
		tx.Queue(sqlDropOldMarks, who.user, who.room, last)
	}
	return nil
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
