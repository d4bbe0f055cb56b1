package ephemeral

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const presenceColumns = `user_id, state, status_msg, last_active, currently_active, pos FROM presence`

var (
	stmtPresenceOf    = sqldb.SQL(`SELECT ` + presenceColumns + ` WHERE user_id = ANY($1)`)
	stmtPresenceSince = sqldb.SQL(`SELECT ` + presenceColumns + ` WHERE pos > $1 AND pos <= $2 ORDER BY pos`)
	stmtPresenceRow   = sqldb.SQL(`SELECT state, status_msg, last_active, currently_active, node FROM presence WHERE user_id = $1`)
	stmtSetPresence   = sqldb.SQL(`INSERT INTO presence (user_id, state, status_msg, last_active, currently_active, node, pos)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, status_msg = excluded.status_msg, last_active = excluded.last_active,
		currently_active = excluded.currently_active, node = excluded.node, pos = excluded.pos`)
	stmtRenewNode = sqldb.SQL(`INSERT INTO presence_nodes (node, renewed) VALUES ($1, $2) ON CONFLICT (node) DO UPDATE SET renewed = excluded.renewed`)
	// Those whom this node showed before it was started again, and those of nodes that are gone.
	stmtAdopt = sqldb.SQL(`UPDATE presence SET node = $1 WHERE state <> 'offline' AND (node = $1 AND $3 = 1
		OR node <> $1 AND node <> '' AND node NOT IN (SELECT node FROM presence_nodes WHERE renewed > $2)) RETURNING user_id, state, last_active, currently_active`)
	stmtShownBy = sqldb.SQL(`SELECT user_id, state, currently_active FROM presence WHERE user_id = ANY($1)`)
)

const (
	// renewPeriod is how often a node says that it lives, goneAfter after what silence it is taken for dead.
	renewPeriod = 5 * time.Minute
	goneAfter   = 15 * time.Minute
	// writeAtOnce bounds the people in one transaction.
	writeAtOnce = 256
)

// row is what the table says of a user.
type row struct {
	Presence
	node  string
	found bool
}

func presenceRow(tx *sqldb.Tx, user id.UserID) (r row, err error) {
	r.User, r.State = user, Offline
	r.found, err = tx.Get(stmtPresenceRow, []any{user}, &r.State, &r.StatusMsg, &r.LastActive, &r.CurrentlyActive, &r.node)
	return r, err
}

// writePresence brings the table to what others should see, where it isn't. With a status the users said so themselves: then
// it doesn't count what another node thinks.
func (e *Ephemeral) writePresence(ctx context.Context, at int64, users []id.UserID, status *string) error {
	if status != nil {
		clean := strings.ReplaceAll(*status, "\x00", "")
		status = &clean
	}
	for part := range slices.Chunk(users, writeAtOnce) {
		var shown []row
		err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
			shown = shown[:0]
			for _, user := range part {
				r, err := e.showPerson(tx, at, user, status)
				if err != nil {
					return err
				}
				shown = append(shown, r)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("write presence: %w", err)
		}
		e.nowShown(shown)
	}
	return nil
}

// showPerson writes one user's presence if it changed, and returns what the table says then.
func (e *Ephemeral) showPerson(tx *sqldb.Tx, at int64, user id.UserID, status *string) (row, error) {
	r, err := presenceRow(tx, user)
	if err != nil {
		return r, err
	}
	next := r.Presence
	e.mu.Lock()
	if p := e.people[user]; p != nil {
		next.State, next.CurrentlyActive = p.target(at)
		next.LastActive = max(next.LastActive, p.lastActive)
	} else {
		next.State, next.CurrentlyActive = Offline, false
	}
	e.mu.Unlock()
	if status != nil {
		next.StatusMsg = *status
	}
	same := next.State == r.State && next.StatusMsg == r.StatusMsg && next.CurrentlyActive == r.CurrentlyActive
	// Another node knows of a device that we don't know of.
	lowers := next.State.rank() < r.State.rank() || next.State == r.State && !next.CurrentlyActive
	if same || lowers && status == nil && r.found && r.node != e.cfg.Node {
		return r, nil
	}
	if next.Pos, err = tx.Pos(); err != nil {
		return r, err
	}
	tx.Queue(stmtSetPresence, user, next.State, next.StatusMsg, next.LastActive, next.CurrentlyActive, e.cfg.Node, next.Pos)
	shown := next
	tx.Emit(bus.Entry{Pos: next.Pos, Kind: bus.Presence, User: user, Data: &shown})
	return row{next, e.cfg.Node, true}, nil
}

// nowShown remembers what others see.
func (e *Ephemeral) nowShown(rows []row) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range rows {
		if p := e.people[r.User]; p != nil {
			p.known, p.shown, p.shownActive = true, r.State, r.CurrentlyActive
			if len(p.devices) == 0 {
				delete(e.people, r.User)
			}
		}
	}
}

// runPresence writes what changes with requests and with time, for as long as ctx lasts.
func (e *Ephemeral) runPresence(ctx context.Context) error {
	for renewed := int64(0); ; {
		if at := now(); at-renewed >= renewPeriod.Milliseconds() {
			if err := e.renew(ctx, at, renewed == 0); err != nil {
				return err
			}
			if err := e.expireRemote(ctx, at); err != nil {
				return err
			}
			renewed = at
		}
		if err := e.tickPresence(ctx, now()); err != nil {
			return err
		}
		if err := wait(ctx, e.wakePresence, tickPresence); err != nil {
			return err
		}
	}
}

// renew says that this node lives, and takes over whom nobody else looks after.
func (e *Ephemeral) renew(ctx context.Context, at int64, first bool) error {
	type adopted struct {
		user   id.UserID
		state  State
		last   int64
		active bool
	}
	var all []adopted
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		all = nil
		tx.Queue(stmtRenewNode, e.cfg.Node, at)
		return tx.Query(stmtAdopt, func(r *sqldb.Row) error {
			var a adopted
			err := r.Scan(&a.user, &a.state, &a.last, &a.active)
			all = append(all, a)
			return err
		}, e.cfg.Node, at-goneAfter.Milliseconds(), first)
	})
	if err != nil {
		return fmt.Errorf("renew presence: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range all {
		if e.people[a.user] != nil {
			continue
		}
		// Their clients have as long to come back as after any request.
		p := e.person(a.user)
		p.devices[""] = &device{seen: at, state: a.state}
		p.lastActive, p.known, p.shown, p.shownActive = a.last, true, a.state, a.active
	}
	return nil
}

// tickPresence writes the presence of those for whom it changed, by a request or by time.
func (e *Ephemeral) tickPresence(ctx context.Context, at int64) error {
	if err := e.checkShown(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	for user, p := range e.people {
		e.look(user, p, at)
	}
	users := slices.Collect(maps.Keys(e.dirty))
	clear(e.dirty)
	select {
	case <-e.wakePresence: // it is being done
	default:
	}
	e.mu.Unlock()
	return e.writePresence(ctx, at, users, nil)
}

// checkShown reads what others see if another node may have changed it.
func (e *Ephemeral) checkShown(ctx context.Context) error {
	e.mu.Lock()
	doubt := e.doubt
	e.doubt = false
	users := []id.UserID(nil)
	if doubt {
		users = slices.Collect(maps.Keys(e.people))
	}
	e.mu.Unlock()
	for part := range slices.Chunk(users, 4*writeAtOnce) {
		var rows []row
		err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
			rows = rows[:0]
			return tx.Query(stmtShownBy, func(r *sqldb.Row) error {
				var s row
				err := r.Scan(&s.User, &s.State, &s.CurrentlyActive)
				rows = append(rows, s)
				return err
			}, part)
		})
		if err != nil {
			return fmt.Errorf("check presence: %w", err)
		}
		e.nowShown(rows)
	}
	return nil
}

func scanPresence(found *[]*Presence) func(*sqldb.Row) error {
	return func(r *sqldb.Row) error {
		p := new(Presence)
		*found = append(*found, p)
		return r.Scan(&p.User, &p.State, &p.StatusMsg, &p.LastActive, &p.CurrentlyActive, &p.Pos)
	}
}

// PresenceSince reads the presence of everybody for whom it changed at positions in (from, to], in that order. Who of
// them the reader may see is for the caller to say: those who share a room with them.
func PresenceSince(tx *sqldb.Tx, from, to sqldb.Pos) (found []*Presence, err error) {
	if err := tx.Query(stmtPresenceSince, scanPresence(&found), from, to); err != nil {
		return nil, fmt.Errorf("load presence: %w", err)
	}
	return found, nil
}

// PresenceOf reads the presence of users. Those who never showed any are left out.
func PresenceOf(tx *sqldb.Tx, users []id.UserID) (found []*Presence, err error) {
	for part := range slices.Chunk(users, 4*writeAtOnce) {
		if err := tx.Query(stmtPresenceOf, scanPresence(&found), part); err != nil {
			return nil, fmt.Errorf("load presence: %w", err)
		}
	}
	return found, nil
}
