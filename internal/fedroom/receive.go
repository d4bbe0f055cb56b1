package fedroom

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Outcome is what became of one event of a transaction.
type Outcome struct {
	// Event is empty where the event could not be read.
	Event id.EventID
	// Err says why the event was dropped: an *mxerr.Error or a *fedclient.Fault for what is wrong with it, anything else for what is
	// wrong here, so that it should come again. Rejected and soft-failed events, and those that wait for
	// what they refer to, have none.
	Err error
}

// stageTime is how long events may take to be written down once the time of their transaction is up.
const stageTime = 10 * time.Second

// roomsAtOnce is how many rooms of one transaction are worked on at once: a busy room doesn't hold up the others.
const roomsAtOnce = 4

// Receive takes the events of a transaction of another server, those of one room in their order. What it has accepted is durable, also where it
// waits for events that are missing.
//
// Spec: ss sendTransaction
// Spec: ss Checks performed on receipt of a PDU
func (f *Federated) Receive(ctx context.Context, origin id.ServerName, raws []json.RawMessage) []Outcome {
	out := make([]Outcome, len(raws))
	batches := make(map[id.RoomID]*batch)
	var rooms errgroup.Group
	rooms.SetLimit(roomsAtOnce)
	var inOrder []*batch
	for i, raw := range raws {
		name, err := id.ParseRoomID(gjson.GetBytes(raw, "room_id").Str)
		if err != nil {
			out[i].Err = mxerr.BadJSON("the event has no room_id")
			continue
		}
		b := batches[name]
		if b == nil {
			b = &batch{f: f, origin: origin, room: name, out: out}
			batches[name] = b
			inOrder = append(inOrder, b)
		}
		b.at = append(b.at, i)
		b.raws = append(b.raws, raw)
	}
	for _, b := range inOrder {
		rooms.Go(func() error { b.receive(ctx); return nil })
	}
	rooms.Wait() // nobody returns an error
	for _, o := range out {
		if _, wrong := mxerr.Of(o.Err); wrong {
			f.metrics.received.WithLabelValues("refused").Inc()
		}
	}
	return out
}

// batch is the events of one room in a transaction.
type batch struct {
	f      *Federated
	origin id.ServerName
	room   id.RoomID
	out    []Outcome
	at     []int // where in out the events stand
	raws   [][]byte
}

// fail gives all events one error.
func (b *batch) fail(err error) {
	for _, i := range b.at {
		b.out[i].Err = err
	}
}

func (b *batch) receive(ctx context.Context) {
	head, _, err := b.f.head(ctx, b.room)
	if err != nil {
		b.fail(err)
		return
	}
	if head == nil {
		b.outside(ctx)
		return
	}
	if err := b.f.admitted(ctx, head, b.origin); err != nil {
		b.fail(err)
		b.name(ctx, head.Version)
		return
	}
	pdus, at, waiting := b.check(ctx, head.Version)
	for i, r := range b.f.cfg.Rooms.ReceiveAll(ctx, b.room, pdus) {
		p := pdus[i]
		_, missing := errors.AsType[*room.Missing](r.Err)
		_, unjudged := errors.AsType[*room.Unjudged](r.Err)
		if failed := failedHere(r.Err) && !unjudged; missing || unjudged || failed {
			// What goes wrong here with one room must not keep the server from sending what concerns others.
			if failed {
				b.f.cfg.Log.WarnContext(ctx, "could not judge an event, and will try again", "room", b.room, "event", p.ID(), "origin", b.origin, "err", r.Err)
			}
			waiting = append(waiting, staged{room: b.room, event: p.ID(), body: p.Raw(), proof: proofOf(p, true)})
			continue
		}
		b.out[at[i]].Err = r.Err
		if r.Err == nil {
			b.f.metrics.received.WithLabelValues(verdicts[r.Verdict]).Inc()
		}
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stageTime)
	defer cancel()
	b.stage(late, head, waiting)
}

// failedHere reports whether an error is neither about the event nor about what it refers to.
func failedHere(err error) bool {
	if err == nil {
		return false
	}
	if _, missing := errors.AsType[*room.Missing](err); missing {
		return false
	}
	e, refused := mxerr.Of(err)
	return !refused || e.Code == mxerr.CodeUnknown
}

// mark says of events that wait whether the server that sent them is in the room as far as is known here.
func (b *batch) mark(ctx context.Context, head *graph.Head, waiting []staged) error {
	if len(waiting) == 0 {
		return nil
	}
	for _, raw := range b.raws {
		// The list of a large room's servers isn't needed where a member speaks.
		sender, err := id.ParseUserID(gjson.GetBytes(raw, "sender").Str)
		if err == nil && sender.Domain() == b.origin && head.State.Membership(sender) == graph.Join {
			return nil
		}
	}
	servers, err := b.f.cfg.Graph.Servers(ctx, head.Room)
	if err != nil {
		return err
	}
	for i := range waiting {
		waiting[i].outsider = !slices.Contains(servers, b.origin)
	}
	return nil
}

var verdicts = map[room.Verdict]string{room.Accepted: "accepted", room.SoftFailed: "soft_failed", room.Rejected: "rejected"}

// check returns the events that pass the checks which need no room, where they stand in out, and those whose keys are out of reach now.
func (b *batch) check(ctx context.Context, v *roomver.Version) (pdus []*event.PDU, at []int, waiting []staged) {
	checked, errs := b.f.cfg.Client.CheckPDUs(ctx, v, b.raws, b.origin)
	for i, p := range checked {
		o := &b.out[b.at[i]]
		fault, faulty := errors.AsType[*fedclient.Fault](errs[i])
		switch {
		case faulty && fault.Retry() && fault.Event != "":
			o.Event = fault.Event
			// What isn't part of the event is not kept.
			switch p, err := event.Parse(v, b.raws[i]); {
			case err != nil:
				o.Err = err
			case p.RoomID() != b.room:
				o.Err = mxerr.InvalidParam("the event is of another room than its room_id says")
			default:
				waiting = append(waiting, staged{room: b.room, event: p.ID(), body: p.Raw(), proof: proofOf(p, false)})
			}
		case errs[i] != nil:
			if faulty {
				o.Event = fault.Event
			}
			o.Err = errs[i]
		case p.RoomID() != b.room:
			o.Event, o.Err = p.ID(), mxerr.InvalidParam("the event is of another room than its room_id says")
		default:
			o.Event = p.ID()
			pdus, at = append(pdus, p), append(at, b.at[i])
		}
	}
	return pdus, at, waiting
}

// name tells which events were refused unread, so that the other server learns of each.
func (b *batch) name(_ context.Context, v *roomver.Version) {
	for i, raw := range b.raws {
		if p, err := event.Parse(v, raw); err == nil {
			b.out[b.at[i]].Event = p.ID()
		}
	}
}

// stage keeps what waits.
func (b *batch) stage(ctx context.Context, head *graph.Head, waiting []staged) {
	var refused map[id.EventID]error
	err := b.mark(ctx, head, waiting)
	if err == nil {
		refused, err = b.f.stage(ctx, b.origin, waiting)
	}
	for _, s := range waiting {
		for _, i := range b.at {
			if b.out[i].Event != s.event {
				continue
			}
			if b.out[i].Err = err; err == nil {
				b.out[i].Err = refused[s.event]
			}
		}
		if err == nil && refused[s.event] == nil {
			b.f.metrics.received.WithLabelValues("staged").Inc()
		}
	}
}

// outside takes events of a room that this server isn't in. The only ones that mean anything are those that end an invite or a knock
// of a user of ours.
//
// Spec: ss Leaving Rooms (Rejecting Invites)
func (b *batch) outside(ctx context.Context) {
	b.fail(mxerr.Forbidden("this server is not in the room"))
	nid, known, err := b.f.cfg.Graph.RoomNID(ctx, b.room)
	if err != nil {
		b.fail(err)
		return
	}
	if !known {
		return
	}
	_, version, err := b.f.cfg.Graph.RoomID(ctx, nid)
	if err != nil {
		b.fail(err)
		return
	}
	if version == nil {
		return
	}
	b.name(ctx, version)
	for i, raw := range b.raws {
		// Only what may be such an event is worth the check of a signature.
		e := gjson.ParseBytes(raw)
		target, err := id.ParseUserID(e.Get("state_key").Str)
		if err != nil || e.Get("type").Str != "m.room.member" || !b.f.cfg.Ours.Is(target.Domain()) {
			continue
		}
		o := &b.out[b.at[i]]
		pdu, err := b.f.cfg.Client.CheckPDU(ctx, version, raw, b.origin)
		if err != nil {
			o.Err = err
			continue
		}
		if ended, err := b.f.rescinded(ctx, nid, pdu, target); err != nil || ended {
			o.Err = err
		}
	}
}

// rescinded takes note of the end of an invite or a knock. The room's rules can't be applied from outside, so an invite is ended by who sent it
// alone; a knock, which anybody with the power may refuse, by users of servers that may be in the room.
func (f *Federated) rescinded(ctx context.Context, room graph.RoomNID, pdu *event.PDU, target id.UserID) (bool, error) {
	membership := graph.Membership(pdu.Membership())
	if pdu.Key() != (event.Key{Type: "m.room.member", StateKey: string(target)}) || membership != graph.Leave && membership != graph.Ban {
		return false, nil
	}
	row, ok, err := f.cfg.Graph.MembershipOf(ctx, target, room)
	if err != nil || !ok {
		return false, err
	}
	switch row.Membership {
	case graph.Invite:
		by, ok := inviter(row)
		if !ok || by != pdu.Sender() {
			return false, nil
		}
	case graph.Knock:
		servers, err := f.mayRefuse(ctx, pdu.RoomID(), row)
		if err != nil || !slices.Contains(servers, pdu.Sender().Domain()) {
			return false, err
		}
	default:
		return false, nil
	}
	return f.setOutOfBand(ctx, graph.OutOfBand{
		Room: pdu.RoomID(), Version: pdu.Version(), User: target, Membership: membership, Stripped: alone(pdu),
	})
}

// alone is a member event as the only thing that is told of a room.
func alone(pdu *event.PDU) []byte {
	return append(pdu.AppendClient([]byte{'['}, event.ClientFormat{OmitRoomID: true}), ']')
}
