package room

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/mxerr"
)

// stickyGather is how long changes of rooms are gathered before the events that wait for them are judged again.
const stickyGather = time.Second

// followSticky judges again the events that would stick, were they not soft-failed by a state of their room that is another by now: all servers are to agree on
// what sticks, whichever of two branches they saw first. What the room's policy server refuses is not among them.
//
// MSC4354: Sticky events
func (r *Rooms) followSticky(ctx context.Context, _, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
	for {
		waiting, err := r.cfg.Graph.StickyWaiting(ctx, followPage)
		if err != nil {
			return 0, nil, err
		}
		for _, e := range waiting {
			if err := r.reconsider(ctx, e); err != nil {
				return 0, nil, fmt.Errorf("judge %s again: %w", e.PDU.ID(), err)
			}
		}
		if len(waiting) < followPage {
			return last, nil, nil
		}
	}
}

// reconsider judges a soft-failed event by the room's state of now. One that passes becomes part of the room as if it came now.
func (r *Rooms) reconsider(ctx context.Context, e *graph.Event) error {
	result := r.take(ctx, incoming{pdu: e.PDU, again: true}, patiently())
	switch _, refused := mxerr.Of(result.Err); {
	case refused: // nobody of ours is in the room any more, for example
		r.cfg.Log.Info("an event is not judged again", slog.String("event", string(e.PDU.ID())), slog.Any("error", result.Err))
		return r.cfg.Graph.StillWaits(ctx, e, 0)
	case result.Err != nil:
		return result.Err
	case result.Verdict == Accepted:
		return nil
	case result.refused:
		return r.cfg.Graph.StillWaits(ctx, e, 0)
	}
	return r.cfg.Graph.StillWaits(ctx, e, result.by)
}
