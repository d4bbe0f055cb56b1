package fedsend

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxLetters bounds the EDUs of a transaction that are kept until they arrive, maxLetterBytes their size; the other EDUs have the rest.
	maxLetters     = maxEDUs / 2
	maxLetterBytes = 1 << 20
	// saveLists is how often it is written down that there was nothing to tell.
	saveLists = 30 * time.Second
)

var (
	stmtListsCursor    = sqldb.SQL(`SELECT pos FROM sender_cursor WHERE name = 'lists'`)
	stmtSetListsCursor = sqldb.SQL(`INSERT INTO sender_cursor (name, pos) VALUES ('lists', $1) ON CONFLICT (name) DO UPDATE SET pos = excluded.pos`)
)

// postman finds out which servers are to be told that the devices of our users changed, and has it written down for them: one row for a user
// and a server, however many rooms they share and however often the user changes something while the server is away. It also hears of what
// others wrote down.
type postman struct {
	*leader
	pos, saved sqldb.Pos // up to where changes were taken, and in the database
	posted     sqldb.Pos // up to where it is known what is written down
	savedAt    time.Time
}

// newPostman reads where the last one was. Where there was none, servers learn with the next change.
func (l *leader) newPostman(ctx context.Context) (*postman, error) {
	p := &postman{leader: l, savedAt: time.Now()}
	var routes []e2ee.Route
	var owed []route
	err := l.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err := tx.Get(stmtListsCursor, nil, &p.pos)
		if err != nil {
			return err
		}
		if p.posted, err = tx.Last(); err != nil {
			return err
		}
		if !found {
			p.pos = p.posted
		}
		if routes, err = e2ee.Routes(tx, 0, p.posted); err != nil {
			return err
		}
		owed, err = debtors(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load what waits for other servers: %w", err)
	}
	p.saved = p.pos
	p.post(routes)
	p.owe(owed)
	return p, nil
}

func (p *postman) run(ctx context.Context) error {
	heard, silence := listen(p.cfg.Bus, p.wants)
	defer silence()
	mail, quiet := listen(p.cfg.Bus, func(e bus.Entry) bool { return e.Kind == bus.Outbox })
	defer quiet()
	for {
		last, err := p.last(ctx)
		if err != nil {
			return err
		}
		if last > p.posted {
			if err := p.hear(ctx, mail, last); err != nil {
				return err
			}
		}
		if err := p.take(ctx, heard, last); err != nil {
			return err
		}
	}
}

// last returns the end of the stream, once it has grown or after a while.
func (p *postman) last(ctx context.Context) (sqldb.Pos, error) {
	if p.end > p.pos {
		return p.end, nil
	}
	short, cancel := context.WithTimeout(ctx, saveLists)
	defer cancel()
	last, err := p.cfg.Bus.Wait(short, min(p.pos, p.posted))
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return last, nil
}

func (p *postman) wants(e bus.Entry) bool {
	switch e.Kind {
	case bus.DeviceListLocal:
		return true
	case bus.RoomEvent:
		ev, ok := e.Data.(*graph.Event)
		return ok && p.comes(ev)
	}
	return false
}

// comes reports whether an event brings a user into a room.
func (p *postman) comes(e *graph.Event) bool {
	return e.Change != nil && e.Change.New == graph.Join && e.Change.Old != graph.Join
}

// hear learns for whom something was written down.
func (p *postman) hear(ctx context.Context, mail *news, to sqldb.Pos) error {
	var routes []e2ee.Route
	entries, ok := mail.take(p.posted, to)
	for _, e := range entries {
		posted, _ := e.Data.(e2ee.Posted)
		routes = append(routes, posted...)
	}
	if !ok {
		err := p.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
			routes, err = e2ee.Routes(tx, p.posted, to)
			return err
		})
		if err != nil {
			return fmt.Errorf("find what waits for other servers: %w", err)
		}
	}
	p.posted = to
	p.post(routes)
	return nil
}

// post has links look for what waits on their routes.
func (p *postman) post(routes []e2ee.Route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range routes {
		if !p.cfg.Ours.Is(r.Origin) || !p.cfg.Client.Permitted(r.Server) {
			continue
		}
		k := p.link(route{r.Origin, r.Server})
		k.post = true
		p.awake(k)
	}
}

// change is that the devices of a user changed, or, with a room, that the user came into it.
type change struct {
	user id.UserID
	room graph.RoomNID
}

// take writes down whom to tell of what happened up to a position.
func (p *postman) take(ctx context.Context, heard *news, to sqldb.Pos) error {
	if to <= p.pos && (p.pos == p.saved || time.Since(p.savedAt) < saveLists) {
		return nil
	}
	changes := make(map[change]struct{})
	var came []newcomer
	if entries, ok := heard.take(p.pos, to); ok {
		for _, e := range entries {
			if ev, ok := e.Data.(*graph.Event); ok {
				if n, ok := p.newcomerOf(ev); ok {
					came = append(came, n)
				}
				if !p.cfg.Ours.Is(ev.Change.User.Domain()) {
					continue
				}
				changes[change{ev.Change.User, ev.Room}] = struct{}{}
			} else {
				changes[change{user: e.User}] = struct{}{}
			}
		}
	} else if to > p.pos {
		var err error
		if to, came, err = p.read(ctx, to, changes); err != nil {
			return err
		}
	}
	debts, err := p.owed(ctx, came)
	if err != nil {
		return err
	}
	p.pos = max(p.pos, to)
	if len(changes)+len(debts) == 0 && time.Since(p.savedAt) < saveLists {
		return nil
	}
	return p.write(ctx, changes, debts)
}

// read finds in the database what another node wrote, or what happened while nobody sent, and returns up to where, and who came.
func (p *postman) read(ctx context.Context, to sqldb.Pos, changes map[change]struct{}) (sqldb.Pos, []newcomer, error) {
	events, err := p.cfg.Graph.EventsSince(ctx, p.pos, to, atOnce)
	if err != nil {
		return 0, nil, err
	}
	var came []newcomer
	if len(events) == atOnce {
		to = events[atOnce-1].Pos
	}
	for _, e := range events {
		user, err := id.ParseUserID(e.PDU.Key().StateKey)
		if err == nil && e.PDU.Key().Type == memberType && e.PDU.IsState() && e.PDU.Membership() == string(graph.Join) && p.cfg.Ours.Is(user.Domain()) {
			changes[change{user, e.Room}] = struct{}{}
		}
		if n, ok := p.newcomerOf(e); ok {
			came = append(came, n)
		}
	}
	err = p.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		users, upTo, err := e2ee.ChangedLists(tx, p.pos, to, atOnce)
		if err != nil {
			return err
		}
		to = upTo
		for _, user := range users {
			if p.cfg.Ours.Is(user.Domain()) {
				changes[change{user: user}] = struct{}{}
			}
		}
		return nil
	})
	return to, came, err
}

// write has the servers told, and what is owed written down, together with the cursor.
func (p *postman) write(ctx context.Context, changes map[change]struct{}, debts []debt) error {
	told := make(map[id.UserID][]id.ServerName, len(changes))
	for c := range changes {
		others, err := p.whom(ctx, c)
		if mxerr.Is(err, mxerr.CodeNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find whom to tell of devices of %s: %w", c.user, err)
		}
		told[c.user] = append(told[c.user], others...)
	}
	err := p.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		if err := p.lease.Check(tx); err != nil {
			return err
		}
		for user, servers := range told {
			if len(servers) == 0 {
				continue
			}
			pos, err := tx.Pos()
			if err != nil {
				return err
			}
			e2ee.PostList(tx, pos, user, servers)
		}
		for _, d := range debts {
			tx.Queue(stmtOwe, d.origin, d.server, d.room, d.upTo)
		}
		tx.Queue(stmtSetListsCursor, p.pos)
		return nil
	})
	if err != nil {
		return fmt.Errorf("write down whom to tell of devices: %w", err)
	}
	p.saved, p.savedAt = p.pos, time.Now()
	owed := make([]route, 0, len(debts))
	for _, d := range debts {
		owed = append(owed, d.route)
	}
	p.owe(owed)
	return nil
}

// whom returns the servers in a room, or in any room of a user.
func (p *postman) whom(ctx context.Context, c change) ([]id.ServerName, error) {
	if c.room != 0 {
		return p.audiences.lately(ctx, c.room, 0)
	}
	rooms, err := p.cfg.Graph.MembershipsOf(ctx, c.user, graph.Join)
	if err != nil {
		return nil, err
	}
	seen := make(map[id.ServerName]struct{})
	var others []id.ServerName
	for _, m := range rooms {
		servers, err := p.audiences.lately(ctx, m.Room, 0) // one who came just now must not miss it
		if err != nil {
			return nil, err
		}
		for _, server := range servers {
			if _, ok := seen[server]; !ok {
				seen[server] = struct{}{}
				others = append(others, server)
			}
		}
	}
	return others, nil
}

// letters adds what is kept for a server to a transaction.
func (l *leader) letters(ctx context.Context, k *link, f *flight) error {
	if !f.post {
		return nil
	}
	var err error
	f.letters, f.rest, err = l.cfg.Encryption.Letters(ctx, e2ee.Route{Origin: k.origin, Server: k.server}, f.mostLetters, maxLetterBytes)
	return err
}

// arrived writes down that the letters of a transaction, and what it pays, need not be sent again.
func (l *leader) arrived(ctx context.Context, k *link, f *flight) error {
	paid := f.debt != nil && !f.again
	if len(f.letters) == 0 && !paid {
		return nil
	}
	err := l.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		if err := l.lease.Check(tx); err != nil {
			return err
		}
		if len(f.letters) > 0 {
			e2ee.Sent(tx, e2ee.Route{Origin: k.origin, Server: k.server}, f.letters)
		}
		if paid {
			f.debt.note(tx)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write down what arrived: %w", err)
	}
	return nil
}
