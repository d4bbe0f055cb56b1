package fedsend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Whoever comes into a room is to learn what sticks there, and each server brings its own: what its users sent, which it knows the ancestors of. A row of
// sticky_debts says that a server is owed the events of one of our names that stick in a room, after one position and up to that at which the server came. What
// comes later it gets like everybody else.
//
// MSC4354: Sticky events
var (
	stmtOwe = sqldb.SQL(`INSERT INTO sticky_debts (origin, server, room_nid, after_pos, upto_pos) VALUES ($1, $2, $3, 0, $4)
		ON CONFLICT (server, origin, room_nid) DO UPDATE SET upto_pos = excluded.upto_pos`)
	stmtDebtors = sqldb.SQL(`SELECT DISTINCT origin, server FROM sticky_debts`)
	stmtDebts   = sqldb.SQL(`SELECT room_nid, after_pos, upto_pos FROM sticky_debts WHERE server = $1 AND origin = $2 ORDER BY room_nid LIMIT 2`)
	stmtPart    = sqldb.SQL(`UPDATE sticky_debts SET after_pos = $4 WHERE server = $1 AND origin = $2 AND room_nid = $3`)
	stmtPaid    = sqldb.SQL(`DELETE FROM sticky_debts WHERE server = $1 AND origin = $2 AND room_nid = $3 AND upto_pos = $4`)
)

const (
	// owePause is how long a server has for its join before what it is owed is sent; it refuses what is of rooms that it isn't in yet. Then it is tried again,
	// maxRefusals times, after pauses that double.
	owePause    = 5 * time.Second
	maxRefusals = 5
)

// maxStuck is how many events of a room are looked at to find out in whose name they are owed.
const maxStuck = 1000

// newcomer is that a user of another server came into a room, at a position, with the state before it.
type newcomer struct {
	room   graph.RoomNID
	server id.ServerName
	pos    sqldb.Pos
	before graph.StateNID
}

// debt is a row of sticky_debts.
type debt struct {
	route
	room        graph.RoomNID
	after, upTo sqldb.Pos
	paid        bool         // the transaction has all of it
	events      []id.EventID // in the transaction
}

// newcomerOf tells whether an event brings a user of another server into a room.
func (p *postman) newcomerOf(e *graph.Event) (newcomer, bool) {
	key := e.PDU.Key()
	if key.Type != memberType || !e.PDU.IsState() || graph.Membership(e.PDU.Membership()) != graph.Join {
		return newcomer{}, false
	}
	user, err := id.ParseUserID(key.StateKey)
	if err != nil || p.cfg.Ours.Is(user.Domain()) || !p.cfg.Client.Permitted(user.Domain()) {
		return newcomer{}, false
	}
	return newcomer{e.Room, user.Domain(), e.Pos, e.StateBefore}, true
}

// owed finds out what is to be sent to servers that came into rooms just now.
func (p *postman) owed(ctx context.Context, came []newcomer) (debts []debt, err error) {
	rooms := make(map[graph.RoomNID][]*graph.Event) // what sticks in each, up to the last who came
	for i := len(came) - 1; i >= 0; i-- {
		if _, read := rooms[came[i].room]; !read {
			if rooms[came[i].room], err = p.cfg.Graph.OwnSticky(ctx, came[i].room, 0, came[i].pos, maxStuck); err != nil {
				return nil, fmt.Errorf("find what sticks in room %d: %w", came[i].room, err)
			}
		}
	}
	for _, n := range came {
		stuck := rooms[n.room]
		if len(stuck) == 0 || stuck[0].Pos > n.pos {
			continue
		}
		there, err := p.audiences.in(ctx, p.audiences.history(n.room), n.server, n.before)
		if err != nil {
			return nil, err
		}
		if there {
			continue
		}
		names := make(map[id.ServerName]bool)
		for _, e := range stuck {
			name := e.PDU.Sender().Domain()
			if e.Pos <= n.pos && !names[name] && p.cfg.Ours.Is(name) {
				names[name] = true
				debts = append(debts, debt{route: route{name, n.server}, room: n.room, upTo: n.pos})
			}
		}
	}
	return debts, nil
}

// owe has links look for what is owed on their routes.
func (p *postman) owe(routes []route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range routes {
		if !p.cfg.Ours.Is(r.origin) || !p.cfg.Client.Permitted(r.server) {
			continue
		}
		k := p.link(r)
		k.owes, k.owedAt = true, time.Now().Add(owePause)
		p.awake(k)
	}
}

// debtors returns the routes on which something is owed.
func debtors(tx *sqldb.Tx) (routes []route, err error) {
	err = tx.Query(stmtDebtors, func(r *sqldb.Row) error {
		var at route
		err := r.Scan(&at.origin, &at.server)
		routes = append(routes, at)
		return err
	})
	return routes, err
}

// pay adds events that are owed to a transaction that has space for most of them, those of one room. A flight that was tried has them already.
func (l *leader) pay(ctx context.Context, k *link, f *flight, most int) error {
	if !f.owes || f.debt != nil {
		return nil
	}
	var rows []debt
	err := l.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		rows = nil
		return tx.Query(stmtDebts, func(r *sqldb.Row) error {
			d := debt{route: k.route}
			err := r.Scan(&d.room, &d.after, &d.upTo)
			rows = append(rows, d)
			return err
		}, k.server, k.origin)
	})
	if err != nil {
		return fmt.Errorf("read what is owed to %s: %w", k.server, err)
	}
	if len(rows) == 0 {
		return nil
	}
	d := rows[0]
	space := most - len(f.events)
	if f.more = len(rows) > 1 || space <= 0; space <= 0 {
		return nil
	}
	stuck, err := l.cfg.Graph.OwnSticky(ctx, d.room, d.after, d.upTo, space)
	if err != nil {
		return fmt.Errorf("load what is owed to %s: %w", k.server, err)
	}
	others, err := l.audiences.lately(ctx, d.room, 0)
	if err != nil {
		return err
	}
	erased, err := l.erased(ctx, stuck)
	if err != nil {
		return err
	}
	for _, e := range stuck {
		d.after = e.Pos
		if _, gone := erased[e.PDU.Sender()]; !gone && e.PDU.Sender().Domain() == k.origin && slices.Contains(others, k.server) {
			f.events = append(f.events, entry{room: e.Room, nid: e.NID, pos: e.Pos})
			d.events = append(d.events, e.PDU.ID())
		}
	}
	d.paid = len(stuck) < space
	f.more = f.more || !d.paid
	f.debt = &d
	return nil
}

// erased finds the senders of events who want no newcomers to read them.
func (l *leader) erased(ctx context.Context, events []*graph.Event) (map[id.UserID]sqldb.Pos, error) {
	if l.cfg.Erased == nil || len(events) == 0 {
		return nil, nil
	}
	var senders []id.UserID
	for _, e := range events {
		if sender := e.PDU.Sender(); !slices.Contains(senders, sender) {
			senders = append(senders, sender)
		}
	}
	return l.cfg.Erased(ctx, senders)
}

// refused reports whether a server would not have some of what it is owed.
func (d *debt) refused(refused map[id.EventID]string) bool {
	return d != nil && slices.ContainsFunc(d.events, func(e id.EventID) bool { _, is := refused[e]; return is })
}

// note writes down what of a debt has arrived.
func (d *debt) note(tx *sqldb.Tx) {
	if d.paid {
		tx.Queue(stmtPaid, d.server, d.origin, d.room, d.upTo)
	} else {
		tx.Queue(stmtPart, d.server, d.origin, d.room, d.after)
	}
}
