package push

import (
	"context"
	"fmt"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// keptRead bounds the marks of what a user has read in a room.
	keptRead = 100
	// prunedAtOnce bounds the pairs of users and rooms that one transaction looks at.
	prunedAtOnce = 200
)

// Prune deletes marks that count for nothing any more, because there are too many newer ones of the user in the room. Who reads has theirs deleted
// then; this is about those who never do.
func (p *Push) Prune(ctx context.Context) error { return p.prune(ctx, maxMarks) }

func (p *Push) prune(ctx context.Context, kept int) error {
	at, more := readerRow{}, true
	for more {
		var next readerRow
		err := p.db.Write(ctx, func(tx *sqldb.Tx) (err error) {
			next, more, err = pruneSome(tx, at, kept)
			return err
		})
		if err != nil {
			return fmt.Errorf("forget old notifications: %w", err)
		}
		at = next
	}
	return nil
}

// pruneSome looks at the next users and rooms, and returns the last of them. more is false once there are no others.
func pruneSome(tx *sqldb.Tx, after readerRow, kept int) (at readerRow, more bool, err error) {
	at = after
	for range prunedAtOnce {
		var user id.UserID
		var room graph.RoomNID
		if more, err = tx.Get(sqlNextMarked, []any{at.user, at.room}, &user, &room); err != nil || !more {
			return at, false, err
		}
		at = readerRow{user, room}
		if err := thin(tx, at, end, kept); err != nil {
			return at, false, err
		}
	}
	return at, true, nil
}
