package syncer

import (
	"context"
	"encoding/json"

	"myelin/internal/graph"
	"myelin/internal/thread"
	"myelin/matrix/id"
)

// threadsRequest asks for changes of the threads that the user follows.
//
// MSC4308: Thread Subscriptions extension to Sliding Sync
type threadsRequest struct {
	Enabled bool `json:"enabled"`
	Limit   *int `json:"limit"`
}

// maxThreads is the most changes in one answer, and how many there are for who doesn't say.
const maxThreads = 100

// threads returns the request under whichever name it came, and the name.
func (x *extensions) threads() (*threadsRequest, string) {
	if x.Threads != nil {
		return x.Threads, "thread_subscriptions"
	}
	return x.UnstableThreads, "io.element.msc4308.thread_subscriptions"
}

// threads tells of the threads that the user follows since, and of those not any more.
//
// MSC4308: Thread Subscriptions extension to Sliding Sync
func (a *slide) threads(ctx context.Context, m *mark) (string, []byte, bool, error) {
	q, name := a.q.ext.threads()
	enabled := q != nil && q.Enabled && a.s.cfg.Threads != nil
	// Whether something changed while nobody asked is found out when somebody does.
	from, _ := a.pass(m, theThreads, enabled, true)
	if !enabled {
		return "", nil, false, nil
	}
	limit := maxThreads
	if q.Limit != nil {
		limit = max(1, min(limit, *q.Limit))
	}
	changes, err := a.s.cfg.Threads.Changes(ctx, a.q.User, from, a.seen.to, limit+1)
	if err != nil || len(changes) == 0 {
		return "", nil, false, err
	}
	var body struct {
		thread.List
		PrevBatch string `json:"prev_batch,omitempty"`
	}
	if len(changes) > limit {
		changes = changes[:limit]
		body.PrevBatch = thread.Token(changes[limit-1].Pos - 1).String()
	}
	body.List, err = thread.NewList(changes, func(nid graph.RoomNID) (id.RoomID, error) {
		room, _, err := a.s.cfg.Graph.RoomID(ctx, nid)
		return room, err
	})
	if err != nil {
		return "", nil, false, err
	}
	raw, err := json.Marshal(body)
	return name, raw, true, err
}
