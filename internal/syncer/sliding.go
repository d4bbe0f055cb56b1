package syncer

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"myelin/internal/account"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/push"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Slide returns the answer to a request of sliding sync as JSON. It waits for news as the request says, and returns M_UNKNOWN_POS for a
// position that this device didn't get on this connection, or that is too old.
//
// MSC4186: Simplified Sliding Sync
func (s *Syncer) Slide(ctx context.Context, q *Sliding) ([]byte, error) {
	if s.cfg.Ephemeral != nil {
		defer s.cfg.Ephemeral.Poll(q.User, q.Device, q.Presence)()
	}
	conn, base, at, err := s.connect(ctx, q)
	if err != nil {
		return nil, err
	}
	conn.members.begin(at.answer)
	w := s.hub.watch(q.User, q.Device)
	defer w.stop()
	like := Request{Timeout: q.Timeout, Draining: q.Draining}
	if q.Pos != "" {
		like.Since = &Token{Pos: at.pos}
	}
	wait := newPatience(like)
	defer wait.stop()
	a := &slide{s: s, q: q, conn: conn, base: base, ledger: base, first: q.Pos == "", from: at.pos}
	conn.mu.Lock()
	a.memo = conn.memo
	conn.mu.Unlock()
	for {
		if !wait.over {
			wait.pause(ctx, w)
		}
		w.drain()
		news, err := a.look(ctx)
		if err != nil {
			return nil, err
		}
		if news || wait.over {
			w.answered()
			return a.finish(ctx)
		}
		a.goOn()
		if err := wait.forNews(ctx, w); err != nil {
			return nil, err
		}
	}
}

// slide is an answer of sliding sync in the making.
type slide struct {
	s    *Syncer
	q    *Sliding
	conn *connection
	// base is what the client's token stands for, ledger that with what was noted while the request waited, marks what was.
	base, ledger *ledger
	marks        map[graph.RoomNID]mark
	texts        []string
	memo         *memo
	first        bool
	from         sqldb.Pos // what happened after it is news

	// What follows belongs to one look.
	seen     *survey
	children []map[id.RoomID]bool
	ignored  map[id.UserID]struct{}
	invites  func() (account.InviteRules, error) // read when the first comes up
	welcome  *account.InviteRules                // what that returned; nil before
	again    bool                                // the survey came upon an invite before that
	data     map[id.RoomID][]account.Datum
	receipts map[graph.RoomNID][]*ephemeral.Receipt
	typing   map[graph.RoomNID]*ephemeral.Typing
	unread   map[graph.RoomNID]push.Counts
	rooms    []*room
	ext      []byte

	mu      sync.Mutex // guards configs, members and bumps while rooms are worked on in parallel
	configs map[int]*roomConfig
	members introduction
	bumps   map[graph.RoomNID]sqldb.Pos
}

// look makes an answer's parts, and reports whether there is something that the client would wait for.
func (a *slide) look(ctx context.Context) (news bool, err error) {
	if a.ignored, err = a.s.cfg.Accounts.IgnoredUsers(ctx, a.q.User); err != nil {
		return false, err
	}
	a.invites = sync.OnceValues(func() (account.InviteRules, error) { return a.s.cfg.Accounts.InviteRules(ctx, a.q.User) })
	a.children = make([]map[id.RoomID]bool, len(a.q.lists))
	for i := range a.q.lists {
		if spaces := a.q.lists[i].filter.Spaces; spaces != nil {
			if a.children[i], err = a.s.children(ctx, a.q.User, spaces); err != nil {
				return false, err
			}
		}
	}
	if err := a.surveys(ctx); err != nil {
		return false, err
	}
	a.configs, a.bumps = make(map[int]*roomConfig), make(map[graph.RoomNID]sqldb.Pos)
	a.members = introduction{make(map[graph.RoomNID]acquaintances), make(map[graph.RoomNID]bool)}
	a.open()
	if err := a.loadChanges(ctx); err != nil {
		return false, err
	}
	if err := a.count(ctx); err != nil {
		return false, err
	}
	if err := a.visitRooms(ctx); err != nil {
		return false, err
	}
	for _, r := range a.rooms {
		news = news || r.body != nil
	}
	a.noteBumps()
	told, err := a.extend(ctx)
	return news || told, err
}

// surveys looks the user's rooms through, once more if there are invites of which it has to be read whether the user wants them.
func (a *slide) surveys(ctx context.Context) error {
	a.welcome = nil
	// What the token of to_device stands for may be later than that of the connection, and this node may not have heard of it.
	from := a.from
	if d := a.q.ext.ToDevice; d != nil && d.Enabled {
		queue, _ := d.from()
		from = max(from, queue)
	}
	for {
		a.again = false
		err := a.s.arrange(ctx, a.q.User, from, func(f *feed) { a.seen = a.survey(a.s.hub, f) })
		switch {
		case errors.Is(err, errFuture) && from > a.from:
			from = a.from
			continue
		case errors.Is(err, errFuture):
			return errUnknownPos // the database is an older one
		case err != nil || !a.again:
			return err
		}
		rules, err := a.invites()
		if err != nil {
			return err
		}
		a.welcome = &rules
	}
}

// counting reports whether the answer says how much is unread. The accepted form leaves that to clients.
func (a *slide) counting() bool { return a.q.form == SlidingUnstable && a.s.cfg.Push != nil }

// count finds out how much is unread in the rooms that may be told of.
func (a *slide) count(ctx context.Context) (err error) {
	if !a.counting() {
		return nil
	}
	var rooms []graph.RoomNID
	for _, r := range a.rooms {
		if r.config != nil && r.inRoom() {
			rooms = append(rooms, r.spot.row.Room)
		}
	}
	if len(rooms) > 0 {
		a.unread, err = a.s.cfg.Push.Counts(ctx, a.q.User, a.seen.to, rooms...)
	}
	return err
}

// open makes a room of each spot.
func (a *slide) open() {
	a.rooms = a.rooms[:0]
	combined := make(map[listSet]*roomConfig)
	for i := range a.seen.spots {
		s := &a.seen.spots[i]
		r := &room{a: a, spot: s, old: a.ledger.get(s.row.Room)}
		r.mark = r.old
		if s.lists != (listSet{}) {
			if r.config = combined[s.lists]; r.config == nil {
				var of []*roomConfig
				for k := range a.q.lists {
					if s.lists.has(k) {
						of = append(of, a.q.lists[k].config)
					}
				}
				r.config = combine(of)
				combined[s.lists] = r.config
			}
		}
		if s.sub != nil {
			if r.config == nil {
				r.config = s.sub
			} else {
				r.config = combine([]*roomConfig{r.config, s.sub})
			}
		}
		a.rooms = append(a.rooms, r)
	}
}

func (a *slide) visitRooms(ctx context.Context) error {
	if len(a.rooms) < 8 {
		for _, r := range a.rooms {
			if err := r.visit(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	const share = 4
	for from := 0; from < len(a.rooms); from += share {
		group.Go(func() error {
			for _, r := range a.rooms[from:min(from+share, len(a.rooms))] {
				if err := r.visit(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// noteBumps gives the shelf what was read.
func (a *slide) noteBumps() {
	if len(a.bumps) == 0 {
		return
	}
	h := a.s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feeds[a.q.User]
	if f == nil || f.shelf == nil || f.epoch != a.seen.epoch || f.shape != a.seen.shape {
		return
	}
	for room, pos := range a.bumps {
		if s := f.seats[room]; s != nil && s.card != nil {
			s.card.bump = max(s.card.bump, pos)
		}
	}
}

// settle collects what the ledger has to learn, and numbers configurations.
func (a *slide) settle() {
	if a.marks == nil {
		a.marks = make(map[graph.RoomNID]mark)
	}
	if a.texts == nil {
		a.texts = a.base.texts
	}
	for _, r := range a.rooms {
		if r.told {
			r.mark.config = a.number(r.config.text)
		}
		if r.mark != r.old {
			a.marks[r.spot.row.Room] = r.mark
		}
	}
}

// number returns the number of a configuration, counting from 1.
func (a *slide) number(text string) int {
	for i, t := range a.texts {
		if t == text {
			return i + 1
		}
	}
	a.texts = append(a.texts[:len(a.texts):len(a.texts)], text)
	return len(a.texts)
}

// goOn prepares for another look after one that found nothing to tell.
func (a *slide) goOn() {
	a.settle()
	was := a.ledger
	a.ledger = a.base.with(a.base.version, a.marks, a.texts)
	if len(a.marks) == 0 {
		a.ledger = was
	}
	a.memo = &memo{a.ledger, a.seen.epoch, a.seen.shape, a.q.rules, a.seen.counts}
	a.from = a.seen.to
}

// finish makes the answer durable and writes it.
func (a *slide) finish(ctx context.Context) ([]byte, error) {
	a.settle()
	next, err := a.s.save(ctx, a.conn, a.base, a.marks, a.texts)
	if err != nil {
		return nil, err
	}
	to := place{a.seen.to, a.conn.nid, next.version, newAnswerID()}
	a.conn.members.tell(to.answer, &a.members)
	a.conn.mu.Lock()
	a.conn.memo = &memo{next, a.seen.epoch, a.seen.shape, a.q.rules, a.seen.counts}
	a.conn.mu.Unlock()

	size := 256 + len(a.ext)
	for _, r := range a.rooms {
		size += len(r.body) + 80
	}
	out := append(make([]byte, 0, size), `{"pos":`...)
	out = canon.AppendString(out, to.String())
	if a.q.txnID != "" {
		out = canon.AppendString(append(out, `,"txn_id":`...), a.q.txnID)
	}
	out = a.appendLists(append(out, `,"lists":{`...))
	out = append(out, `},"rooms":{`...)
	n := 0
	for _, r := range a.rooms {
		if r.body == nil {
			continue
		}
		if n++; n > 1 {
			out = append(out, ',')
		}
		out = append(append(canon.AppendString(out, string(r.spot.row.RoomID)), ':'), r.body...)
	}
	out = append(append(append(out, `},"extensions":{`...), a.ext...), "}}"...)
	return out, nil
}

// appendLists appends how long the lists are, and in the unstable form which rooms they show.
func (a *slide) appendLists(out []byte) []byte {
	for i := range a.q.lists {
		l := &a.q.lists[i]
		if i > 0 {
			out = append(out, ',')
		}
		out = append(canon.AppendString(out, l.name), `:{"count":`...)
		out = strconv.AppendInt(out, int64(a.seen.counts[i]), 10)
		if a.q.shownRooms(l) {
			out = append(out, `,"ops":[`...)
			for k, span := range l.ranges {
				if k > 0 {
					out = append(out, ',')
				}
				out = append(out, `{"op":"SYNC","range":[`...)
				out = strconv.AppendInt(out, int64(span.first), 10)
				out = strconv.AppendInt(append(out, ','), int64(span.last), 10)
				out = append(out, `],"room_ids":[`...)
				for j, room := range a.seen.shown[i][k] {
					if j > 0 {
						out = append(out, ',')
					}
					out = canon.AppendString(out, string(room))
				}
				out = append(out, `]}`...)
			}
			out = append(out, ']')
		}
		out = append(out, '}')
	}
	return out
}

// oldConfig returns the configuration that a mark names.
func (a *slide) oldConfig(number int) *roomConfig {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.configs[number]; c != nil {
		return c
	}
	texts := a.ledger.texts
	c := new(roomConfig)
	if number > 0 && number <= len(texts) {
		// What can't be read is told again.
		if known, err := parseConfig(texts[number-1]); err == nil {
			c = known
		}
	}
	a.configs[number] = c
	return c
}
