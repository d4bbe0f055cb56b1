package syncer

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"myelin/internal/account"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/push"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// answer is one answer in the making.
type answer struct {
	s     *Syncer
	q     Request
	snap  *snapshot
	first bool
	since sqldb.Pos // 0 on a first sync
	to    sqldb.Pos

	ignored  map[id.UserID]struct{}
	data     map[id.RoomID][]account.Datum // "": global
	receipts map[graph.RoomNID][]*ephemeral.Receipt
	typing   map[graph.RoomNID]*ephemeral.Typing
	// active are the rooms with events in the window, where the hub doesn't know.
	active map[graph.RoomNID]sqldb.Pos
	// confirm holds what state events that were told before may have got wrong.
	confirm map[graph.RoomNID][]event.Key
	visits  []visit
	// unread counts what is unread in all joined rooms; nil where that is asked room by room.
	unread map[graph.RoomNID]push.Counts
	// sticking are the events that stick, by room, read when the first room may have some.
	sticking func() (map[graph.RoomNID][]*graph.Event, error)
	// invites are the user's wishes about invites, read when the first comes up.
	invites func() (account.InviteRules, error)

	mu   sync.Mutex // guards next while rooms are worked on in parallel
	next Token
}

// section is a part of an answer's rooms.
type section int

const (
	inJoin section = iota
	inInvite
	inKnock
	inLeave
	sections
)

var sectionNames = [sections]string{`"join":{`, `"invite":{`, `"knock":{`, `"leave":{`}

// visit is a room that an answer has to look at.
type visit struct {
	glance
	section section
	// entered: the user joined in the window.
	entered bool

	body []byte // what the answer says; nil if nothing
}

func newAnswer(s *Syncer, q Request, snap *snapshot) *answer {
	a := &answer{s: s, q: q, snap: snap, first: q.Since == nil, to: snap.to, next: Token{Pos: snap.to}}
	if !a.first {
		a.since = q.Since.Pos
	}
	return a
}

// build makes the answer. news is false where it has nothing that a client would wait for.
func (a *answer) build(ctx context.Context) (body []byte, news bool, err error) {
	if a.ignored, err = a.s.cfg.Accounts.IgnoredUsers(ctx, a.q.User); err != nil {
		return nil, false, err
	}
	a.invites = sync.OnceValues(func() (account.InviteRules, error) { return a.s.cfg.Accounts.InviteRules(ctx, a.q.User) })
	a.sticking = sync.OnceValues(func() (map[graph.RoomNID][]*graph.Event, error) { return a.loadSticky(ctx) })
	if a.q.Filter.Room.State.LazyLoadMembers {
		a.s.lazy.begin(a)
	}
	if err := a.gather(ctx); err != nil {
		return nil, false, err
	}
	if err := a.loadUnread(ctx); err != nil {
		return nil, false, err
	}
	if err := a.visitAll(ctx); err != nil {
		return nil, false, err
	}
	return a.assemble(ctx)
}

// gather finds out which rooms have to be looked at and loads what is read for many rooms at once.
func (a *answer) gather(ctx context.Context) error {
	if err := a.loadData(ctx); err != nil {
		return err
	}
	var joined, quiet []graph.RoomNID
	var entered []graph.RoomNID
	for _, g := range a.snap.rooms {
		if !a.q.Filter.Room.MatchRoom(g.row.RoomID) {
			continue
		}
		v := visit{glance: g}
		switch g.row.Membership {
		case graph.Join:
			v.entered = !a.first && g.row.Since > a.since
			switch {
			case v.entered:
				entered = append(entered, g.row.Room)
			case !g.complete:
				joined = append(joined, g.row.Room)
			}
			if !a.first && !a.snap.complete {
				quiet = append(quiet, g.row.Room)
			}
		case graph.Invite:
			v.section = inInvite
		case graph.Knock:
			v.section = inKnock
		default:
			v.section = inLeave
		}
		a.visits = append(a.visits, v)
	}
	if err := a.loadEphemeral(ctx, joined, a.since); err != nil {
		return err
	}
	if err := a.loadEphemeral(ctx, entered, 0); err != nil {
		return err
	}
	var err error
	if len(quiet) > 0 {
		if a.active, err = a.s.cfg.Graph.ActiveRooms(ctx, quiet, a.since, a.to); err != nil {
			return err
		}
	}
	return a.loadConfirm(ctx, quiet)
}

// maxConfirm bounds the state events of one room that are looked at for what has to be confirmed.
const maxConfirm = 1000

// loadConfirm finds what the token asks to confirm.
func (a *answer) loadConfirm(ctx context.Context, joined []graph.RoomNID) error {
	if a.first || a.q.Since.Confirm == 0 {
		return nil
	}
	from := a.q.Since.Confirm
	rooms, err := a.s.cfg.Graph.ActiveRooms(ctx, joined, from, a.since)
	if err != nil {
		return err
	}
	a.confirm = make(map[graph.RoomNID][]event.Key, len(rooms))
	for room := range rooms {
		events, err := a.s.cfg.Graph.Timeline(ctx, room, graph.Range{After: int64(from), Before: int64(a.since) + 1, Limit: maxConfirm})
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.PDU.IsState() {
				a.confirm[room] = append(a.confirm[room], e.PDU.Key())
			}
		}
	}
	return nil
}

// visitAll works on the rooms, several at a time where there are many.
func (a *answer) visitAll(ctx context.Context) error {
	if len(a.visits) < 8 {
		for i := range a.visits {
			if err := a.visit(ctx, &a.visits[i]); err != nil {
				return err
			}
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	const share = 16
	for from := 0; from < len(a.visits); from += share {
		group.Go(func() error {
			for i := from; i < min(from+share, len(a.visits)); i++ {
				if err := a.visit(ctx, &a.visits[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (a *answer) visit(ctx context.Context, v *visit) (err error) {
	switch v.section {
	case inJoin:
		v.body, err = a.joined(ctx, v)
	case inLeave:
		v.body, err = a.left(ctx, v)
	default:
		v.body, err = a.asked(ctx, v)
	}
	return err
}

// assemble puts the parts together.
func (a *answer) assemble(ctx context.Context) (out []byte, news bool, err error) {
	size := 256
	for i := range a.visits {
		size += len(a.visits[i].body) + len(a.visits[i].row.RoomID) + 8
	}
	fields, err := a.fields(ctx) // they have a part in the token
	if err != nil {
		return nil, false, err
	}
	out = make([]byte, 0, size)
	out = canon.AppendString(append(out, `{"next_batch":`...), a.next.String())
	out, news = a.appendRooms(out)
	if events := a.globalData(); len(events) > 0 {
		news = true
		out = append(appendRawEvents(append(out, `,"account_data":`...), events), '}')
	}
	presence, err := a.presence(ctx)
	if err != nil {
		return nil, false, err
	}
	if len(presence) > 0 {
		news = true
		out = append(appendRawEvents(append(out, `,"presence":`...), presence), '}')
	}
	for _, f := range fields {
		news = news || f.News
		out = append(append(canon.AppendString(append(out, ','), f.Name), ':'), f.JSON...)
	}
	return append(out, '}'), news, nil
}

func (a *answer) appendRooms(out []byte) ([]byte, bool) {
	open := false
	for s := range sections {
		begun := false
		for i := range a.visits {
			v := &a.visits[i]
			if v.section != s || v.body == nil {
				continue
			}
			switch {
			case begun:
				out = append(out, ',')
			case open:
				out = append(append(out, ','), sectionNames[s]...)
			default:
				out = append(append(out, `,"rooms":{`...), sectionNames[s]...)
			}
			open, begun = true, true
			out = append(append(canon.AppendString(out, string(v.row.RoomID)), ':'), v.body...)
		}
		if begun {
			out = append(out, '}')
		}
	}
	if open {
		out = append(out, '}')
	}
	return out, open
}

// fields runs the further sections.
func (a *answer) fields(ctx context.Context) ([]Field, error) {
	if len(a.s.cfg.Sections) == 0 {
		return nil, nil
	}
	w := Window{User: a.q.User, Device: a.q.Device, From: a.since, To: a.to, FromQueue: a.since, Rooms: make(map[graph.RoomNID]struct{})}
	if !a.first && a.q.Since.Queue != 0 {
		w.FromQueue = a.q.Since.Queue
	}
	// The filter selects rooms to show, not whom the user shares rooms with.
	for _, g := range a.snap.rooms {
		switch r := &g.row; {
		case r.Membership == graph.Join:
			w.Rooms[r.Room] = struct{}{}
			if !a.first && r.Since > a.since {
				w.Joined = append(w.Joined, r.Room)
			}
		case !a.first && r.Since > a.since && r.Prev == graph.Join:
			w.Left = append(w.Left, r.Room)
		}
	}
	var all []Field
	for _, s := range a.s.cfg.Sections {
		fields, err := s(ctx, w)
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			if f.UpTo != 0 && f.UpTo < a.to {
				a.next.Queue = f.UpTo
			}
		}
		all = append(all, fields...)
	}
	return all, nil
}

// audience is for whom events are shown.
func (a *answer) audience() view.Audience {
	return view.Audience{
		User: a.q.User, Device: a.q.Device, OmitRoomID: true,
		Federation: a.q.Filter.EventFormat == "federation", Fields: a.q.Filter.EventFields,
	}
}

// confirmFrom asks the next answer to confirm what state events after pos touched.
func (a *answer) confirmFrom(pos sqldb.Pos) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next.Confirm == 0 || pos < a.next.Confirm {
		a.next.Confirm = pos
	}
}

// appendRawEvents appends {"events":[…] without the closing brace.
func appendRawEvents(out []byte, events [][]byte) []byte {
	out = append(out, `{"events":[`...)
	for i, e := range events {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, e...)
	}
	return append(out, ']')
}
