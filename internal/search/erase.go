package search

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

const (
	// eraseAfter is how long words of a redacted event wait: many are taken out at once, and whoever read the event just before it was
	// redacted has indexed it by then.
	eraseAfter = time.Minute
	// eraseShare says how rarely the index is gone through: the pause is so many times as long as it took.
	eraseShare = 50
	// eraseAtOnce bounds the events whose words are taken out in one go.
	eraseAtOnce = 10_000
)

// Nobody finds an event by words that a redaction took, for the event decides. But they stand in the index, which says who wrote them, and where. Nothing tells at
// which words: the event has none any more. So the segments that may have it are gone through, and those that do are written anew.
var (
	insertErased = sqldb.SQL(`INSERT INTO search_erased (room_nid, ord, ts) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	erasedBefore = sqldb.SQL(`SELECT room_nid, ord FROM search_erased WHERE ts <= $1 ORDER BY room_nid, ord LIMIT $2`)
	deleteErased = sqldb.SQL(`DELETE FROM search_erased WHERE room_nid = $1 AND ord = $2`)
)

// spot is the place of an event.
type spot struct {
	room graph.RoomNID
	ord  int64
}

// redacted finds the events with words that redactions among others took.
func (s *Search) redacted(ctx context.Context, events []*graph.Event) (spots []spot, err error) {
	var targets []id.EventID
	for _, e := range events {
		if target, ok := e.PDU.Redacts(); ok {
			targets = append(targets, target)
		}
	}
	if len(targets) == 0 {
		return nil, nil
	}
	found, err := s.graph.EventsByID(ctx, targets)
	if err != nil {
		return nil, fmt.Errorf("load what was redacted: %w", err)
	}
	for _, e := range found {
		if e.Flags&graph.Redacted != 0 && e.Ord != 0 && hadText(e.PDU) {
			spots = append(spots, spot{e.Room, e.Ord})
		}
	}
	return spots, nil
}

// hadText reports whether there may have been words in an event that is redacted.
func hadText(p *event.PDU) bool {
	switch p.Type() {
	case "m.room.message", "m.room.name", "m.room.topic":
		return true
	}
	return false
}

// markErased has words taken out of the index.
func markErased(tx *sqldb.Tx, spots []spot) {
	now := time.Now().UnixMilli()
	for _, at := range spots {
		tx.Queue(insertErased, at.room, at.ord, now)
	}
}

// erase takes out the words of events that were redacted, and returns how many events that were.
func (s *Search) erase(ctx context.Context, l *work.Lease, before time.Time) (int, error) {
	gone := make(map[spot]struct{})
	var segments []*segment
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		clear(gone)
		err = tx.Query(erasedBefore, func(r *sqldb.Row) error {
			var at spot
			err := r.Scan(&at.room, &at.ord)
			gone[at] = struct{}{}
			return err
		}, before.UnixMilli(), eraseAtOnce)
		if err == nil && len(gone) > 0 {
			segments, err = s.segments(tx)
		}
		return err
	})
	if err != nil || len(gone) == 0 {
		return 0, err
	}
	for _, g := range segments {
		some, err := s.holds(ctx, g, gone)
		if err == nil && some {
			err = s.rewrite(ctx, l, []*segment{g}, g.level, gone)
		}
		if err != nil {
			return 0, fmt.Errorf("take words out of segment %d: %w", g.nid, err)
		}
	}
	// What was written anew is of no use to anybody, and says what it said.
	if err := s.clean(ctx, l); err != nil {
		return 0, err
	}
	err = s.leased(ctx, l, func(tx *sqldb.Tx) error {
		for at := range gone {
			tx.Queue(deleteErased, at.room, at.ord)
		}
		return nil
	})
	return len(gone), err
}

// holds reports whether a segment has a word of one of the events.
func (s *Search) holds(ctx context.Context, g *segment, gone map[spot]struct{}) (bool, error) {
	possible := false
	for at := range gone {
		possible = possible || at.ord >= g.firstOrd && at.ord <= g.lastOrd
	}
	if !possible {
		return false, nil
	}
	src := &source{m: &merging{s: s, ctx: ctx}, segment: g}
	for {
		ok, err := src.next()
		if err != nil || !ok {
			return false, err
		}
		for _, p := range src.list {
			if _, is := gone[spot{src.reader.key.room, p.ord()}]; is {
				return true, nil
			}
		}
	}
}
