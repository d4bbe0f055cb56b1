package directory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// reservation is how long an alias is kept for a room that is being created.
	reservation = time.Minute
	// maxAliases bounds the aliases that one user makes for one room.
	maxAliases = 100
)

var (
	stmtAlias       = sqldb.SQL(`SELECT room_id, creator FROM aliases WHERE alias = $1`)
	stmtAliasesOf   = sqldb.SQL(`SELECT alias FROM aliases WHERE room_id = $1 ORDER BY created, alias`)
	stmtCountByUser = sqldb.SQL(`SELECT COUNT(*) FROM aliases WHERE room_id = $1 AND creator = $2`)
	// A reservation that was left behind is no obstacle.
	stmtTake = sqldb.SQL(`INSERT INTO aliases (alias, room_id, creator, created) VALUES ($1, $2, $3, $4)
		ON CONFLICT (alias) DO UPDATE SET room_id = excluded.room_id, creator = excluded.creator, created = excluded.created
		WHERE aliases.room_id = '' AND aliases.created < $5`)
	stmtAssign  = sqldb.SQL(`UPDATE aliases SET room_id = $2 WHERE alias = $1 AND room_id = ''`)
	stmtRelease = sqldb.SQL(`DELETE FROM aliases WHERE alias = $1 AND room_id = ''`)
	stmtDelete  = sqldb.SQL(`DELETE FROM aliases WHERE alias = $1 AND room_id = $2`)
	stmtMove    = sqldb.SQL(`UPDATE aliases SET room_id = $2 WHERE room_id = $1`)
)

// errInUse says that an alias leads to a room already.
func errInUse(alias id.RoomAlias) *mxerr.Error {
	return mxerr.New(mxerr.CodeRoomInUse, "The room alias %s is taken.", alias)
}

func noAlias(alias id.RoomAlias) *mxerr.Error {
	return mxerr.NotFound("The room alias %s was not found.", alias)
}

// checkDomain refuses aliases that are not for this server to give.
func (d *Directory) checkDomain(alias id.RoomAlias) error {
	if !d.ours.Is(alias.Domain()) {
		return mxerr.InvalidParam("The room alias %s belongs to another server.", alias)
	}
	return nil
}

// Reserve keeps an alias for a room that is about to be created. It returns M_ROOM_IN_USE where the alias
// is taken.
//
// Spec: cs createRoom
func (d *Directory) Reserve(ctx context.Context, alias id.RoomAlias, creator id.UserID) error {
	if err := d.checkDomain(alias); err != nil {
		return err
	}
	return d.db.Write(ctx, func(tx *sqldb.Tx) error { return take(tx, alias, "", creator) })
}

func take(tx *sqldb.Tx, alias id.RoomAlias, room id.RoomID, creator id.UserID) error {
	at := now()
	n, err := tx.Exec(stmtTake, alias, room, creator, at, at-reservation.Milliseconds())
	if err != nil {
		return fmt.Errorf("take alias %s: %w", alias, err)
	}
	if n == 0 {
		return errInUse(alias)
	}
	return nil
}

// Assign makes a reserved alias lead to its room, in the transaction that creates the room.
func (d *Directory) Assign(tx *sqldb.Tx, alias id.RoomAlias, room id.RoomID) {
	tx.Queue(stmtAssign, alias, room)
}

// Release gives a reservation up. A failure is no harm: the reservation lapses.
func (d *Directory) Release(ctx context.Context, alias id.RoomAlias) {
	err := d.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(stmtRelease, alias)
		return err
	})
	if err != nil {
		d.log.Warn("the alias of a room that could not be created stays reserved", "error", err)
	}
}

// Lookup returns the room that one of our aliases leads to, and false where it leads nowhere.
func (d *Directory) Lookup(ctx context.Context, alias id.RoomAlias) (id.RoomID, bool, error) {
	room, _, ok, err := d.alias(ctx, alias)
	return room, ok, err
}

func (d *Directory) alias(ctx context.Context, alias id.RoomAlias) (room id.RoomID, creator id.UserID, ok bool, err error) {
	err = d.db.Read(ctx, func(tx *sqldb.Tx) error {
		room, creator = "", ""
		_, err := tx.Get(stmtAlias, []any{alias}, &room, &creator)
		return err
	})
	if err != nil {
		return "", "", false, fmt.Errorf("look alias %s up: %w", alias, err)
	}
	return room, creator, room != "", nil
}

// Resolve returns the room that an alias leads to, M_NOT_FOUND where it leads nowhere. An application service may make the room first.
//
// Spec: as Querying
// Spec: cs getRoomIdByAlias
func (d *Directory) Resolve(ctx context.Context, alias id.RoomAlias) (id.RoomID, error) {
	room, ok, err := d.Lookup(ctx, alias)
	if err != nil {
		return "", err
	}
	if !ok && d.unknown != nil && d.unknown(ctx, alias) {
		if room, ok, err = d.Lookup(ctx, alias); err != nil {
			return "", err
		}
	}
	if !ok {
		return "", noAlias(alias)
	}
	return room, nil
}

// In returns our aliases of a room.
func (d *Directory) In(ctx context.Context, room id.RoomID) (aliases []id.RoomAlias, err error) {
	err = d.db.Read(ctx, func(tx *sqldb.Tx) error {
		aliases = []id.RoomAlias{}
		return tx.Query(stmtAliasesOf, func(r *sqldb.Row) error {
			var alias id.RoomAlias
			err := r.Scan(&alias)
			aliases = append(aliases, alias)
			return err
		}, room)
	})
	if err != nil {
		return nil, fmt.Errorf("load the aliases of %s: %w", room, err)
	}
	return aliases, nil
}

// manyServers bounds the members that are looked at for servers to join through.
const manyServers = 100

// Servers lists servers through which a room can be joined, ours first.
func (d *Directory) Servers(ctx context.Context, room id.RoomID, asked id.ServerName) ([]id.ServerName, error) {
	servers := []id.ServerName{asked}
	nid, ok, err := d.graph.RoomNID(ctx, room)
	if err != nil || !ok {
		return servers, err
	}
	members, err := d.graph.Members(ctx, nid, graph.Join, manyServers)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if s := m.User.Domain(); !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	return servers, nil
}

// Create makes an alias for a room that its creator is in. It returns M_ROOM_IN_USE where the alias is taken.
//
// Spec: cs setRoomAlias
func (d *Directory) Create(ctx context.Context, alias id.RoomAlias, room id.RoomID, who Actor) error {
	if err := d.checkDomain(alias); err != nil {
		return err
	}
	member, err := d.graph.MembershipIn(ctx, who.User, room)
	if err != nil {
		return err
	}
	if member != graph.Join && !who.Admin {
		return mxerr.Forbidden("You are not in this room.")
	}
	return d.db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := take(tx, alias, room, who.User); err != nil {
			return err
		}
		var n int
		if _, err := tx.Get(stmtCountByUser, []any{room, who.User}, &n); err != nil {
			return err
		}
		if n > maxAliases {
			return mxerr.Forbidden("You have given this room %d aliases, which is the limit.", maxAliases)
		}
		return nil
	})
}

// Delete removes an alias and returns the room that it led to. Its creator may do so, and who may choose the
// canonical alias of the room.
//
// Spec: cs deleteRoomAlias
func (d *Directory) Delete(ctx context.Context, alias id.RoomAlias, who Actor) (id.RoomID, error) {
	room, creator, ok, err := d.alias(ctx, alias)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", noAlias(alias)
	}
	if creator != who.User && !who.Admin {
		head, err := d.graph.Head(ctx, room)
		if err != nil {
			return "", err
		}
		if err := d.mayManage(ctx, who, head); err != nil {
			return "", err
		}
	}
	return room, d.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(stmtDelete, alias, room)
		if err == nil && n == 0 {
			return noAlias(alias) // gone meanwhile, or it leads elsewhere now
		}
		return err
	})
}

// Of lists the aliases that lead to a room, for who is in it, or for anybody if it is world readable.
//
// Spec: cs getLocalAliases
func (d *Directory) Of(ctx context.Context, room id.RoomID, who Actor) ([]id.RoomAlias, error) {
	if err := d.maySee(ctx, room, who); err != nil {
		return nil, err
	}
	return d.In(ctx, room)
}

func (d *Directory) maySee(ctx context.Context, room id.RoomID, who Actor) error {
	member, err := d.graph.MembershipIn(ctx, who.User, room)
	if err != nil || member == graph.Join || who.Admin {
		return err
	}
	forbidden := mxerr.Forbidden("You are not in this room.")
	head, err := d.graph.Head(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return forbidden
	}
	if err != nil {
		return err
	}
	state, err := d.entries(ctx, head, "m.room.history_visibility")
	if err != nil {
		return err
	}
	if !isWorldReadable(state["m.room.history_visibility"]) {
		return forbidden
	}
	return nil
}

// Move gives all aliases of a room, and its place in the list of published rooms, to its replacement.
//
// Spec: cs Room Upgrades
func (d *Directory) Move(tx *sqldb.Tx, from, to id.RoomID) {
	tx.Queue(stmtMove, from, to)
	tx.Queue(stmtPublishAs, from, to)
	tx.Queue(stmtUnpublish, from)
	changed(tx, from)
}

// WithoutAlias returns the content of a room's m.room.canonical_alias without one alias, and false where it
// doesn't name it.
func WithoutAlias(content []byte, alias id.RoomAlias) ([]byte, bool) {
	found := false
	out, err := canon.Canonicalize(nil, content, canon.Lax)
	if err != nil {
		return nil, false
	}
	if gjson.GetBytes(out, "alias").Str == string(alias) {
		out, found = canon.Without(nil, out, "alias"), true
	}
	var kept []byte
	dropped := false
	for _, a := range gjson.GetBytes(out, "alt_aliases").Array() {
		if a.Type == gjson.String && a.Str == string(alias) {
			dropped = true
			continue
		}
		kept = append(append(kept, ','), a.Raw...)
	}
	if !dropped {
		return out, found
	}
	if len(kept) == 0 {
		return canon.Without(nil, out, "alt_aliases"), true
	}
	kept[0] = '['
	return canon.With(nil, out, "alt_aliases", append(kept, ']')), true
}
