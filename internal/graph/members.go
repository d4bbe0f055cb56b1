package graph

import (
	"context"
	"fmt"
	"slices"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	memberFields  = `m.user_id, m.room_nid, r.room_id, m.membership, m.event_nid, m.pos, m.since, m.prev, m.forgotten, m.stripped`
	fromMembers   = ` FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid`
	memberColumns = memberFields + fromMembers
)

var (
	memberByName = sqldb.SQL(`SELECT m.membership FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid
		WHERE m.user_id = $1 AND r.room_id = $2`)
	memberOf       = sqldb.SQL(`SELECT ` + memberColumns + ` WHERE m.user_id = $1 AND m.room_nid = $2`)
	membersAmong   = sqldb.SQL(`SELECT ` + memberColumns + ` WHERE m.user_id = $1 AND m.room_nid = ANY($2)`)
	membersOfUser  = sqldb.SQL(`SELECT ` + memberColumns + ` WHERE m.user_id = $1`)
	membersChanged = sqldb.SQL(`SELECT ` + memberColumns + ` WHERE m.user_id = $1 AND m.pos > $2`)
	membersOfRoom  = sqldb.SQL(`SELECT ` + memberColumns + ` WHERE m.room_nid = $1 AND m.membership = $2 ORDER BY m.since LIMIT $3`)
	membersPage    = sqldb.SQL(`SELECT user_id, since FROM memberships WHERE room_nid = $1 AND membership = 'join'
		AND since >= $2 ORDER BY since LIMIT $3`)
	roomsShared = sqldb.SQL(`SELECT a.room_nid FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.user_id = $2
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership = 'join'`)
	revOf        = sqldb.SQL(`SELECT rev FROM heads WHERE room_nid = $1`)
	outsideSince = sqldb.SQL(`SELECT ` + memberColumns + ` WHERE m.event_nid = 0 AND m.pos > $1 AND m.pos <= $2 ORDER BY m.pos LIMIT $3`)
	setTold      = sqldb.SQL(`UPDATE memberships SET told_id = $3, told_ts = $4 WHERE user_id = $1 AND room_nid = $2`)
	// What was told of before IDs were kept has none, and is left out.
	invitesOutside = sqldb.SQL(`SELECT ` + memberFields + `, m.told_id, m.told_ts` + fromMembers + ` WHERE m.event_nid = 0 AND m.pos > $1 AND m.pos <= $2
		AND m.membership = 'invite' AND m.told_id <> '' ORDER BY m.pos LIMIT $3`)
	outsideAt = sqldb.SQL(`SELECT ` + memberFields + `, m.told_id, m.told_ts` + fromMembers + ` WHERE m.event_nid = 0 AND m.user_id = $1 AND m.pos = ANY($2)
		AND m.told_id <> '' ORDER BY m.pos`)
	forgetRoom = sqldb.SQL(`UPDATE memberships SET forgotten = 1 WHERE user_id = $1 AND room_nid = $2`)
)

func scanMember(r *sqldb.Row) (MemberRow, error) {
	var m MemberRow
	err := r.Scan(&m.User, &m.Room, &m.RoomID, &m.Membership, &m.Event, &m.Pos, &m.Since, &m.Prev, &m.Forgotten, &m.Stripped)
	return m, err
}

func (g *Graph) members(ctx context.Context, s *sqldb.Stmt, args ...any) (found []MemberRow, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(s, func(r *sqldb.Row) error {
			m, err := scanMember(r)
			found = append(found, m)
			return err
		}, args...)
	})
	return found, wrap(err, "load memberships")
}

// MembershipIn returns a user's current membership, "" if there never was one.
func (g *Graph) MembershipIn(ctx context.Context, user id.UserID, room id.RoomID) (m Membership, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(memberByName, []any{user, room}, &m)
		return err
	})
	return m, wrap(err, "load a membership")
}

// MembershipOf returns a user's row for a room; false if there is none.
func (g *Graph) MembershipOf(ctx context.Context, user id.UserID, room RoomNID) (MemberRow, bool, error) {
	found, err := g.members(ctx, memberOf, user, room)
	if err != nil || len(found) == 0 {
		return MemberRow{}, false, err
	}
	return found[0], true, nil
}

// MembershipsAmong returns a user's rows for some rooms, in no order.
func (g *Graph) MembershipsAmong(ctx context.Context, user id.UserID, rooms []RoomNID) ([]MemberRow, error) {
	return g.members(ctx, membersAmong, user, rooms)
}

// MembershipsOf returns a user's rows for all rooms, forgotten ones too, or with arguments those with one of these memberships.
func (g *Graph) MembershipsOf(ctx context.Context, user id.UserID, of ...Membership) ([]MemberRow, error) {
	found, err := g.members(ctx, membersOfUser, user)
	if len(of) > 0 {
		found = slices.DeleteFunc(found, func(m MemberRow) bool { return !slices.Contains(of, m.Membership) })
	}
	return found, err
}

// MembershipsChanged returns the rows of a user that changed after a position.
func (g *Graph) MembershipsChanged(ctx context.Context, user id.UserID, after sqldb.Pos) ([]MemberRow, error) {
	return g.members(ctx, membersChanged, user, after)
}

// Members returns current members of a room with one membership, those who came first first, at most limit of them.
func (g *Graph) Members(ctx context.Context, room RoomNID, of Membership, limit int) ([]MemberRow, error) {
	return g.members(ctx, membersOfRoom, room, string(of), limit)
}

const membersAtOnce = 256

// LocalMembers returns at most limit joined members whose server ours accepts, those who came first first. It may read all
// joined members of the room to find them.
func (g *Graph) LocalMembers(ctx context.Context, room RoomNID, ours func(id.ServerName) bool, limit int) ([]id.UserID, error) {
	var out []id.UserID
	seen := make(map[id.UserID]bool) // members who came at one position may span pages
	since, page := sqldb.Pos(0), membersAtOnce
	for {
		n, last := 0, since
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(membersPage, func(r *sqldb.Row) error {
				var user id.UserID
				if err := r.Scan(&user, &last); err != nil {
					return err
				}
				n++
				if !seen[user] && ours(user.Domain()) {
					out = append(out, user)
				}
				seen[user] = true
				return nil
			}, room, since, page)
		})
		switch {
		case err != nil:
			return nil, fmt.Errorf("load members of room %d: %w", room, err)
		case len(out) >= limit:
			return out[:limit], nil
		case n < page:
			return out, nil
		case last == since:
			page *= 2 // a whole page of members of one position
		}
		since = last
	}
}

// SharedRooms returns the rooms that both users are joined to.
func (g *Graph) SharedRooms(ctx context.Context, a, b id.UserID) (found []RoomNID, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(roomsShared, func(r *sqldb.Row) error {
			var room RoomNID
			err := r.Scan(&room)
			found = append(found, room)
			return err
		}, a, b)
	})
	return found, wrap(err, "load shared rooms")
}

// Forget marks a room as forgotten by a user. It returns M_UNKNOWN if the user is in it, invited or knocking, and M_NOT_FOUND if the
// user never had to do with it.
//
// Spec: cs forgetRoom
func (g *Graph) Forget(ctx context.Context, user id.UserID, name id.RoomID) error {
	nid, known, err := g.RoomNID(ctx, name)
	if err != nil {
		return err
	}
	if !known {
		return mxerr.NotFound("you are not in room %s", name)
	}
	return g.db.Write(ctx, func(tx *sqldb.Tx) error { return g.forget(tx, user, nid) })
}

// forgotten says with what mark a membership is stored: 1 if the room is forgotten at once.
func (g *Graph) forgotten(m Membership) int {
	if g.forgetLeft && (m == Leave || m == Ban) {
		return 1
	}
	return 0
}

func (g *Graph) forget(tx *sqldb.Tx, user id.UserID, room RoomNID) error {
	var row MemberRow
	found := false
	err := tx.Query(memberOf, func(r *sqldb.Row) (err error) {
		row, err = scanMember(r)
		found = true
		return err
	}, user, room)
	switch {
	case err != nil:
		return fmt.Errorf("load the membership to forget: %w", err)
	case !found || row.Membership == "":
		return mxerr.NotFound("you are not in this room")
	case row.Membership != Leave && row.Membership != Ban:
		return mxerr.New(mxerr.CodeUnknown, "you must leave the room before you can forget it")
	}
	if _, err := tx.Exec(forgetRoom, user, room); err != nil {
		return fmt.Errorf("forget a room: %w", err)
	}
	return nil
}

// SetOutOfBand stores what another server told of a membership in a room that this server has no part in. Once it has, the
// room's own events overrule it: it returns ErrConflict where the room has another head than the one that o names.
func (g *Graph) SetOutOfBand(ctx context.Context, o OutOfBand) error {
	nid, known, err := g.RoomNID(ctx, o.Room)
	if err != nil {
		return err
	}
	if !known {
		n, err := g.roomNIDs.Next(ctx)
		if err != nil {
			return fmt.Errorf("number room %s: %w", o.Room, err)
		}
		nid = RoomNID(n)
	}
	version := ""
	if o.Version != nil {
		version = o.Version.ID
	}
	err = g.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(insertRoom, nid, o.Room, version); err != nil {
			return err
		}
		if _, err := tx.Get(roomByID, []any{o.Room}, &nid, nil); err != nil {
			return err
		}
		var rev int64
		if _, err := tx.Get(revOf, []any{nid}, &rev); err != nil {
			return err
		}
		if rev != o.Rev {
			return ErrConflict
		}
		return g.writeOutOfBand(tx, nid, o)
	})
	return wrap(err, "store a membership from outside")
}

func (g *Graph) writeOutOfBand(tx *sqldb.Tx, nid RoomNID, o OutOfBand) error {
	var old Membership
	if _, err := tx.Get(memberByName, []any{o.User, o.Room}, &old); err != nil {
		return err
	}
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	var stripped any
	if o.Stripped != nil {
		stripped = o.Stripped
	}
	setMembers.queue(tx, []any{o.User, nid, string(o.Membership), 0, pos, pos, string(old), g.forgotten(o.Membership), stripped})
	tx.Queue(setTold, o.User, nid, o.ID, o.TS)
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.Membership, Room: int64(nid), User: o.User,
		Data: &MemberChange{User: o.User, Old: old, New: o.Membership}})
	return nil
}

// OutsideSince returns the memberships that other servers told of at positions in (from, to], of rooms that this server has no part in.
func OutsideSince(tx *sqldb.Tx, from, to sqldb.Pos, limit int) (found []MemberRow, err error) {
	err = tx.Query(outsideSince, func(r *sqldb.Row) error {
		m, err := scanMember(r)
		found = append(found, m)
		return err
	}, from, to, limit)
	return found, wrap(err, "load memberships from outside")
}

// OutsideInvites returns the invites to rooms that this server has no part in which came at positions in (from, to] and are still open.
func (g *Graph) OutsideInvites(ctx context.Context, from, to sqldb.Pos, limit int) ([]Outside, error) {
	return g.outside(ctx, invitesOutside, from, to, limit)
}

// OutsideAt returns a user's memberships in such rooms that came at these positions and are still what they were, as far as their IDs are known.
func (g *Graph) OutsideAt(ctx context.Context, user id.UserID, at []int64) ([]Outside, error) {
	return g.outside(ctx, outsideAt, user, at)
}

func (g *Graph) outside(ctx context.Context, s *sqldb.Stmt, args ...any) (found []Outside, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(s, func(r *sqldb.Row) error {
			var m Outside
			err := r.Scan(&m.User, &m.Room, &m.RoomID, &m.Membership, &m.Event, &m.Pos, &m.Since, &m.Prev, &m.Forgotten, &m.Stripped, &m.ID, &m.TS)
			found = append(found, m)
			return err
		}, args...)
	})
	return found, wrap(err, "load memberships from outside")
}

// Gaps returns backward extremities of a room, at most limit of them.
func (g *Graph) Gaps(ctx context.Context, room RoomNID, limit int) (found []Gap, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(gapsOf, func(r *sqldb.Row) error {
			var gap Gap
			err := r.Scan(&gap.Missing, &gap.Child)
			found = append(found, gap)
			return err
		}, room, limit)
	})
	return found, wrap(err, "load gaps")
}

// IsGap reports whether stored events of a room refer to an event that is missing from it, and whether one that is neither rejected nor
// soft-failed follows it.
func (g *Graph) IsGap(ctx context.Context, room RoomNID, event id.EventID) (gap, followed bool, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		gap, followed = false, false
		return tx.Query(isGap, func(r *sqldb.Row) error {
			var flags Flags
			err := r.Scan(&flags)
			gap = true
			followed = followed || flags&hidden == 0
			return err
		}, room, event)
	})
	return gap, followed, wrap(err, "look for a gap")
}
