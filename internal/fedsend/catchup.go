package fedsend

import (
	"context"
	"fmt"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// missed is a room that a server may lack events of.
type missed struct {
	room graph.RoomNID
	mark
}

// caughtUp is a room of which a server lacks nothing up to a position any more.
type caughtUp struct {
	room graph.RoomNID
	upTo sqldb.Pos
}

// maxLook bounds the rooms that are looked at for one transaction.
const maxLook = 200

// search is what catchUp looks for.
type search struct {
	route
	rooms []missed
	upTo  sqldb.Pos
	most  int  // events in the transaction
	long  bool // the newest events of each room are enough
}

// catchUp fills a transaction with what a server missed: the rooms with the newest events first, and the events of each room in
// their order. After a long outage that is only the newest ones of each room; the other side asks for the rest if
// it wants it, as it must anyway for the events of other servers.
func (l *leader) catchUp(ctx context.Context, f *flight, q search) error {
	for _, m := range q.rooms[:min(len(q.rooms), maxLook)] {
		events, upTo, err := l.missing(ctx, q, m)
		if err != nil {
			return fmt.Errorf("find what %s missed: %w", q.server, err)
		}
		if len(f.events)+len(events) > q.most {
			return nil
		}
		f.events = append(f.events, events...)
		f.rooms = append(f.rooms, caughtUp{m.room, upTo})
	}
	return nil
}

// missing returns events of a room that a server should have and may not, and the position up to which nothing else is to be sent.
func (l *leader) missing(ctx context.Context, q search, m missed) ([]entry, sqldb.Pos, error) {
	upTo := q.upTo
	found, err := l.cfg.Graph.OutgoingIn(ctx, m.room, graph.Range{After: int64(m.after), Before: int64(upTo) + 1, Backward: q.long, Limit: q.most})
	if err != nil || len(found) == 0 {
		return nil, upTo, err
	}
	if q.long {
		slices.Reverse(found)
		if len(found) == q.most {
			// What sticks is sent however much came after it.
			stuck, err := l.cfg.Graph.OwnSticky(ctx, m.room, m.after, found[0].Pos-1, q.most)
			if err != nil {
				return nil, 0, err
			}
			if len(stuck) > 0 {
				found, upTo = stuck, stuck[len(stuck)-1].Pos
			}
		}
	} else if len(found) == q.most {
		upTo = found[len(found)-1].Pos
	}
	past := l.audiences.history(m.room)
	var events []entry
	for _, e := range found {
		sender := e.PDU.Sender().Domain()
		if sender == q.server || l.cfg.Ours.Is(sender) && sender != q.origin {
			continue
		}
		in, err := l.audiences.in(ctx, past, q.server, e.HeadState)
		if err != nil {
			return nil, 0, err
		}
		target := id.ServerName("")
		if !in {
			if target, err = l.target(ctx, e); err != nil {
				return nil, 0, err
			}
		}
		if in || target == q.server {
			events = append(events, entry{room: e.Room, nid: e.NID, pos: e.Pos})
		}
	}
	return events, upTo, nil
}
