package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"myelin/internal/graph"
)

// transactionsKept is how long a client may repeat a request and get the first answer.
const transactionsKept = 14 * 24 * time.Hour

func (s *Server) forgetTransactions(ctx context.Context) error {
	n, err := s.graph.ReclaimTxns(ctx, time.Now().Add(-transactionsKept).UnixMilli())
	if n > 0 {
		s.log.Info("transactions forgotten", slog.Int("count", n))
	}
	return err
}

// reclaimStates visits all rooms. One that fails does not keep it from the others.
func (s *Server) reclaimStates(ctx context.Context) error {
	const page = 100
	var problems []error
	for after := graph.RoomNID(0); ; {
		rooms, err := s.graph.Rooms(ctx, after, page)
		if err != nil {
			return err
		}
		for _, r := range rooms {
			after = r
			if _, err := s.graph.ReclaimStates(ctx, r); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				problems = append(problems, fmt.Errorf("room %d: %w", r, err))
			}
		}
		if len(rooms) < page {
			return errors.Join(problems...)
		}
	}
}
