package room

import (
	"context"
	"log/slog"
	"time"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// An event that another server brings without the signature of its room's policy server needs that one to be asked. A transaction brings events
// of many rooms, and its sender waits for the answer before it sends the next; so a policy server gets a moment there, and one that was slow
// of late gets none. What it hasn't judged by then comes back as Unjudged: package fedroom writes it down and gives it to ReceivePatiently, in the
// background, where only the same room waits for it.
const (
	// momentOfAsking bounds the time in which policy servers are asked about the events of one ReceiveAll.
	momentOfAsking = time.Second
	// maxAsking is the same for ReceivePatiently and for single events. What is left then is soft-failed.
	maxAsking = 15 * time.Second
	// slowFor is how long a policy server that was slow gets no moment. maxSlow bounds those that are remembered.
	slowFor = time.Minute
	maxSlow = 1000
	// maxAsks bounds the questions about received events that are under way, maxAsksOfServer those to one policy server.
	maxAsks         = 64
	maxAsksOfServer = 4
)

// Unjudged is the error for an event that the room's policy server has not judged yet. Receive it again, patiently.
type Unjudged struct{ Server id.ServerName }

func (u *Unjudged) Error() string {
	return "room: the policy server " + string(u.Server) + " has not judged the event yet"
}

// patience is for how long policy servers may be asked on behalf of one call.
type patience struct {
	until time.Time
	// brief: what isn't judged by then comes back, else it is soft-failed.
	brief bool
}

func briefly() patience   { return patience{time.Now().Add(momentOfAsking), true} }
func patiently() patience { return patience{time.Now().Add(maxAsking), false} }

// recommendable asks for the signature that an event from elsewhere lacks. Where the policy server gives none the event will be soft-failed.
// The end of the patience ends the asking, not the caller's errand.
func (r *Rooms) recommendable(ctx context.Context, p patience, in incoming, u *unrecommended) (incoming, error) {
	in.asked = true
	server := u.policy.server
	late := &Unjudged{server}
	if p.brief && r.slow(server) {
		return in, late
	}
	asking, cancel := context.WithDeadline(ctx, p.until)
	defer cancel()
	leave, ok := r.enter(asking, server)
	if !ok {
		if p.brief && ctx.Err() == nil {
			return in, late
		}
		return in, ctx.Err()
	}
	defer leave()
	signed, err := r.ask(asking, u)
	if err == nil {
		in.pdu = signed
		return in, nil
	}
	if asking.Err() != nil && ctx.Err() == nil {
		r.tardy.Set(server, time.Now())
		if p.brief {
			return in, late
		}
		return in, nil
	}
	if ctx.Err() != nil {
		return in, ctx.Err()
	}
	if _, refused := mxerr.Of(err); !refused {
		return in, err
	}
	r.cfg.Log.Debug("an event is not recommended", slog.String("event", string(in.pdu.ID())), slog.Any("error", err))
	return in, nil
}

// slow reports whether a policy server took too long a short while ago.
func (r *Rooms) slow(server id.ServerName) bool {
	at, ok := r.tardy.GetIfPresent(server)
	return ok && time.Since(at) < slowFor
}

// enter waits for a slot to ask a policy server about received events. It returns false at the end of the context.
func (r *Rooms) enter(ctx context.Context, server id.ServerName) (leave func(), ok bool) {
	own, _ := r.asks.ComputeIfAbsent(server, func() (chan struct{}, bool) { return make(chan struct{}, maxAsksOfServer), false })
	for _, slots := range []chan struct{}{own, r.asking} {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			if slots == r.asking {
				<-own
			}
			return nil, false
		}
	}
	return func() { <-r.asking; <-own }, true
}

// ReceivePatiently is ReceiveAll for those whom nobody waits for: the room's policy server may take its time, and no event comes back Unjudged.
//
// Spec: ss Validating Policy Server signatures
func (r *Rooms) ReceivePatiently(ctx context.Context, room id.RoomID, pdus []*event.PDU) []Result {
	return r.receiveAll(ctx, room, pdus, patiently())
}
