package fedroom

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

const (
	// checkedAtOnce is how many events are checked together: enough to keep all cores busy.
	checkedAtOnce = 256
	// storedAtOnce is how many outliers go into one commit.
	storedAtOnce = 1000
	// maxIntake and maxIntakeBytes bound a room's state with its auth chain.
	maxIntake      = 500_000
	maxIntakeBytes = 512 << 20
	// maxIntakesBytes bounds all intakes of the process together.
	maxIntakesBytes = 1 << 30
)

// intake takes state and auth chain of a room as another server sends it: checks signatures in pieces while the rest arrives, drops what
// doesn't pass, and keeps each event once. It must be closed.
type intake struct {
	f       *Federated
	room    id.RoomID
	version *roomver.Version
	from    id.ServerName
	// joining says that from lets this server into the room.
	joining bool

	waiting [][]byte // not yet checked
	isState []bool   // of each that waits
	all     []*event.PDU
	state   []id.EventID
	byID    map[id.EventID]*event.PDU
	inState map[id.EventID]bool
	// most bounds the events, and bytes counts what they take.
	most    int
	bytes   int64
	dropped int
	// late counts those of the dropped whose keys are out of reach now: they may pass another time.
	late int
	// fault is why the first of the dropped was dropped.
	fault error
}

func (f *Federated) intake(room id.RoomID, v *roomver.Version, from id.ServerName) *intake {
	return &intake{f: f, room: room, version: v, from: from, most: maxIntake, byID: make(map[id.EventID]*event.PDU), inState: make(map[id.EventID]bool)}
}

// close gives back the share of the memory that all intakes have together.
func (in *intake) close() {
	in.f.intakes.Release(in.bytes)
	in.bytes = 0
}

// events takes a streamed answer.
func (in *intake) events(ctx context.Context) fedclient.Events {
	return fedclient.Events{
		State:     func(raw json.RawMessage) error { return in.add(ctx, raw, true) },
		AuthChain: func(raw json.RawMessage) error { return in.add(ctx, raw, false) },
	}
}

func (in *intake) add(ctx context.Context, raw []byte, state bool) error {
	size := int64(len(raw))
	if in.bytes+size > maxIntakeBytes || len(in.all)+len(in.waiting) >= in.most {
		return misfitf("the room's state is larger than this server takes")
	}
	// Who waited here for others would keep from them what they wait for.
	if !in.f.intakes.TryAcquire(size) {
		return misfitf("this server takes too much from others at the moment")
	}
	in.bytes += size
	in.waiting, in.isState = append(in.waiting, raw), append(in.isState, state)
	if len(in.waiting) < checkedAtOnce {
		return nil
	}
	return in.flush(ctx)
}

// flush checks what waits.
func (in *intake) flush(ctx context.Context) error {
	var pdus []*event.PDU
	var errs []error
	if in.joining {
		pdus, errs = in.f.cfg.Client.CheckState(ctx, in.version, in.waiting, in.from)
	} else {
		pdus, errs = in.f.cfg.Client.CheckPDUs(ctx, in.version, in.waiting, in.from)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	in.f.metrics.fetched.Add(float64(len(in.waiting)))
	for i, p := range pdus {
		err := errs[i]
		if err == nil && p.RoomID() != in.room {
			err = misfitf("the event %s is of another room", p.ID())
		}
		if err != nil {
			in.drop(err)
			continue
		}
		in.keep(p, in.isState[i])
	}
	in.waiting, in.isState = in.waiting[:0], in.isState[:0]
	return nil
}

func (in *intake) drop(err error) {
	in.dropped++
	if fault, ok := errors.AsType[*fedclient.Fault](err); ok && fault.Retry() {
		in.late++
	}
	if in.fault == nil {
		in.fault = err
	}
}

func (in *intake) keep(p *event.PDU, state bool) {
	if in.byID[p.ID()] == nil {
		in.byID[p.ID()] = p
		in.all = append(in.all, p)
	}
	if state && p.IsState() && !in.inState[p.ID()] {
		in.inState[p.ID()] = true
		in.state = append(in.state, p.ID())
	}
}

// admits checks that the state is that of one room, of the version that was promised, and that the join is allowed by it. Members may be
// absent where they were omitted; those that the join needs are then taken from its auth events.
//
// Spec: ss Joining Rooms
// Spec: rooms/v12 Authorisation rules
func (in *intake) admits(join *event.PDU, omitted bool) error {
	byKey := make(map[event.Key]*event.PDU, len(in.state))
	for _, e := range in.state {
		p := in.byID[e]
		if byKey[p.Key()] != nil {
			return misfitf("the state has two events of type %.100q with one state key", p.Type())
		}
		byKey[p.Key()] = p
	}
	create := byKey[event.Key{Type: "m.room.create"}]
	switch {
	case create == nil:
		return misfitf("the state has no m.room.create event")
	case roomVersion(create) != in.version.ID:
		return misfitf("the room is of version %.40q, and not of version %s as the template said", roomVersion(create), in.version.ID)
	}
	var cited []*event.PDU
	for _, a := range join.AuthEvents() {
		p := in.byID[a]
		if p == nil {
			return misfitf("the auth chain lacks %s, which the join refers to", a)
		}
		cited = append(cited, p)
		if omitted && p.Type() == "m.room.member" && byKey[p.Key()] == nil {
			byKey[p.Key()] = p
		}
	}
	if err := eventauth.CheckAuthEvents(join, cited); err != nil {
		return misfitf("the join's auth events are not right: %v", err)
	}
	err := eventauth.Check(join, func(typ, stateKey string) *event.PDU { return byKey[event.Key{Type: typ, StateKey: stateKey}] })
	if err != nil {
		return misfitf("the room's state does not allow the join: %v", err)
	}
	return nil
}

// store keeps as outliers what was wanted and what authorises it, and nothing else that came with it. It returns the state: what of it could be
// stored and isn't rejected.
func (in *intake) store(ctx context.Context, wanted ...[]id.EventID) ([]id.EventID, error) {
	for part := range slices.Chunk(ancestorsFirst(in.reachable(slices.Concat(wanted...))), storedAtOnce) {
		err := in.f.cfg.Rooms.Outliers(ctx, in.room, in.version, part)
		if _, missing := errors.AsType[*room.Missing](err); missing {
			in.drop(err)
			err = nil
		}
		if err != nil {
			return nil, err
		}
	}
	fit, err := in.f.fit(ctx, in.room, in.state)
	in.state = fit
	return fit, err
}

// reachable returns those of the events that are wanted or in the auth chain of one that is.
func (in *intake) reachable(wanted []id.EventID) []*event.PDU {
	out := make([]*event.PDU, 0, len(in.all))
	seen := make(map[id.EventID]bool, len(in.all))
	for queue := wanted; len(queue) > 0; {
		p := in.byID[queue[len(queue)-1]]
		queue = queue[:len(queue)-1]
		if p == nil || seen[p.ID()] {
			continue
		}
		seen[p.ID()] = true
		out = append(out, p)
		queue = append(queue, p.AuthEvents()...)
	}
	return out
}

// fit returns those of the events that are stored, of the room, and not rejected.
func (f *Federated) fit(ctx context.Context, room id.RoomID, events []id.EventID) ([]id.EventID, error) {
	fit := make([]id.EventID, 0, len(events))
	for part := range slices.Chunk(events, storedAtOnce) {
		stored, err := f.cfg.Graph.EventsByID(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, e := range part {
			if s := stored[e]; s != nil && s.Flags&graph.Rejected == 0 && s.PDU.RoomID() == room {
				fit = append(fit, e)
			}
		}
	}
	return fit, nil
}

// ancestorsFirst orders events so that each comes after those of its auth events that are among them. Where events of versions 1 and 2,
// whose IDs are no hashes, refer to each other in a circle, one of them comes too early, and is judged as such.
func ancestorsFirst(pdus []*event.PDU) []*event.PDU {
	return order(pdus, (*event.PDU).AuthEvents)
}

// parentsFirst orders events so that each comes after those of its prev events that are among them.
func parentsFirst(pdus []*event.PDU) []*event.PDU {
	return order(pdus, (*event.PDU).PrevEvents)
}

func order(pdus []*event.PDU, edges func(*event.PDU) []id.EventID) []*event.PDU {
	byID := make(map[id.EventID]*event.PDU, len(pdus))
	for _, p := range pdus {
		byID[p.ID()] = p
	}
	out := make([]*event.PDU, 0, len(pdus))
	seen := make(map[id.EventID]bool, len(pdus))
	type visit struct {
		pdu  *event.PDU
		next int
	}
	var stack []visit
	for _, p := range pdus {
		if !seen[p.ID()] {
			seen[p.ID()] = true
			stack = append(stack, visit{pdu: p})
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if parents := edges(top.pdu); top.next < len(parents) {
				parent := byID[parents[top.next]]
				top.next++
				if parent != nil && !seen[parent.ID()] {
					seen[parent.ID()] = true
					stack = append(stack, visit{pdu: parent})
				}
				continue
			}
			out = append(out, top.pdu)
			stack = stack[:len(stack)-1]
		}
	}
	return out
}
