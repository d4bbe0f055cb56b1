package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Verdict is what became of a received event.
type Verdict uint8

// The verdicts. An event with any of them is stored.
const (
	// Accepted events are part of the room and are sent to clients.
	Accepted Verdict = iota
	// SoftFailed events were allowed where they stand, but not by the room's current state.
	// They are not sent to clients, and nothing of ours will follow them.
	SoftFailed
	// Rejected events break the authorisation rules.
	Rejected
)

// Missing is the error for an event whose ancestors are not stored. Fetch them, receive them,
// and receive the event again.
type Missing struct {
	// Prev and Auth are those of its prev_events and auth_events that are not here.
	Prev, Auth []id.EventID
}

func (m *Missing) Error() string {
	return fmt.Sprintf("room: %d previous and %d auth events are missing", len(m.Prev), len(m.Auth))
}

// Graft takes in an event whose ancestors are not all here, together with the state before it as another server told
// it: IDs of stored events. What of them is rejected or no state event is left out. Errors are those of ReceiveAll; *Missing lists also what of the
// state is not stored.
//
// Spec: ss Room State Resolution
func (r *Rooms) Graft(ctx context.Context, pdu *event.PDU, before []id.EventID) (Verdict, *eventauth.Rejection, error) {
	result := r.take(ctx, incoming{pdu: pdu, grafted: true, before: before}, patiently())
	return result.Verdict, result.Rejection, result.Err
}

// Result is what became of one of several events.
type Result struct {
	Verdict Verdict
	// Rejection says why an event was rejected or soft-failed; nil for one that was judged before.
	Rejection *eventauth.Rejection
	// Err is why the event is not stored.
	Err error

	// by is the state of the room by which the event was soft-failed; refused: its policy server did that.
	by      graph.StateNID
	refused bool
}

// ReceiveAll takes in events of one room that other servers made, in the order given. Their signatures and hashes have been
// checked. An event that is stored already, other than as an outlier, is not judged again. Those that follow each other become durable
// together. The results are in the order of the events.
//
// The error of a result is *Missing where ancestors are missing, M_INVALID_PARAM for an event that can have no
// place in the room, and M_NOT_FOUND for a room that this
// server is not in. *Unjudged is for an event that the room's policy server has not judged within a moment. A rejected event is no error.
//
// Spec: ss Checks performed on receipt of a PDU
func (r *Rooms) ReceiveAll(ctx context.Context, room id.RoomID, pdus []*event.PDU) []Result {
	return r.receiveAll(ctx, room, pdus, briefly())
}

func (r *Rooms) receiveAll(ctx context.Context, room id.RoomID, pdus []*event.PDU, patience patience) []Result {
	results := make([]Result, len(pdus))
	known, err := r.cfg.Graph.EventsByID(ctx, idsOf(pdus))
	if err != nil {
		return failed(results, err)
	}
	l := r.lane(room)
	waiting := make([]*queued, len(pdus))
	seen := make(map[id.EventID]bool, len(pdus))
	for i, pdu := range pdus {
		if pdu.RoomID() != room {
			results[i].Err = mxerr.InvalidParam("the event %s belongs to another room", pdu.ID())
			continue
		}
		in := incoming{pdu: pdu, unknown: known[pdu.ID()] == nil && !seen[pdu.ID()]}
		seen[pdu.ID()] = true
		q, err := r.queue(ctx, l, graph.TxnRef{}, r.judging(ctx, in, &results[i]))
		if err != nil {
			results[i].Err = err
			continue
		}
		if u, ok := errors.AsType[*unrecommended](q.err); ok {
			if in, err = r.recommendable(ctx, patience, in, u); err == nil {
				q, err = r.queue(ctx, l, graph.TxnRef{}, r.judging(ctx, in, &results[i]))
			}
			if err != nil {
				results[i].Err = err // its own: others may be in the room already, or need nobody's judgement
				continue
			}
		}
		waiting[i] = q
	}
	for i, q := range waiting {
		if q == nil {
			continue
		}
		switch err := r.outcome(ctx, l, q); {
		case err == nil:
			results[i].Err = q.err
		case errors.Is(err, graph.ErrConflict):
			results[i] = r.take(ctx, incoming{pdu: pdus[i]}, patience)
		default:
			results[i].Err = fmt.Errorf("commit to %s: %w", room, err)
		}
	}
	return results
}

// outcome waits for what a decision rests on.
func (r *Rooms) outcome(ctx context.Context, l *lane, q *queued) error {
	if q.ticket == nil {
		return nil
	}
	err := q.ticket.Wait(context.WithoutCancel(ctx))
	l.settle(graph.TxnRef{}, q, err)
	return err
}

func failed(results []Result, err error) []Result {
	for i := range results {
		results[i] = Result{Err: err}
	}
	return results
}

func idsOf(pdus []*event.PDU) []id.EventID {
	ids := make([]id.EventID, len(pdus))
	for i, p := range pdus {
		ids[i] = p.ID()
	}
	return ids
}

// incoming is an event from elsewhere and how to take it in.
type incoming struct {
	pdu *event.PDU
	// unknown: the event was not stored a moment ago. If it is by now the commit fails.
	unknown bool
	// grafted: its ancestors need not be here. before is the state before it.
	grafted bool
	before  []id.EventID
	// memberless: member events were left out of before; those of the head are taken until the others are learned, from one of the servers.
	memberless bool
	servers    []id.ServerName
	// flags are given to the event.
	flags graph.Flags
	// asked: the room's policy server was asked for the signature that the event lacks.
	asked bool
	// again: the event is stored, soft-failed, and judged by the room's state of now. Unless it is accepted nothing changes.
	again bool
	// strict: unless it is accepted it is refused, with M_FORBIDDEN, and not stored.
	strict bool
}

// take takes in one event.
func (r *Rooms) take(ctx context.Context, in incoming, patience patience) Result {
	for {
		var result Result
		_, err := r.advance(ctx, in.pdu.RoomID(), graph.TxnRef{}, r.judging(ctx, in, &result))
		if u, ok := errors.AsType[*unrecommended](err); ok {
			if in, err = r.recommendable(ctx, patience, in, u); err == nil {
				continue
			}
		}
		result.Err = err
		return result
	}
}

// judging is the decision about an event. It writes down what it found.
func (r *Rooms) judging(ctx context.Context, in incoming, result *Result) decision {
	unknown := in.unknown
	return func(head *graph.Head, settled bool) (step, error) {
		var known *graph.Event
		if !unknown {
			var err error
			if known, _, err = r.cfg.Graph.Event(ctx, in.pdu.ID()); err != nil {
				return step{}, err
			}
		}
		unknown = false // whoever is asked again was wrong before
		switch {
		case known != nil && known.Room != head.Room:
			return step{}, mxerr.InvalidParam("the event ID %s is that of an event in another room", in.pdu.ID())
		case in.again && (known == nil || known.Flags&graph.SoftFailed == 0):
			*result = Result{Verdict: Accepted}
			return step{}, nil
		case known != nil && known.Flags&graph.Outlier == 0 && !in.again:
			*result = Result{Verdict: verdictOf(known.Flags)}
			return step{event: in.pdu.ID()}, nil
		}
		j := r.judgement(head, settled, in, known)
		if len(j.pdu.PrevEvents()) == 0 {
			return step{}, mxerr.InvalidParam("the event %s follows nothing, and the room has begun", in.pdu.ID())
		}
		commit, err := j.judge(ctx)
		if err != nil {
			return step{}, err
		}
		*result = Result{Verdict: verdictOf(commit.Events[0].Flags), Rejection: j.rejection, by: head.StateNID, refused: j.refused}
		if in.again && result.Verdict != Accepted {
			return step{}, nil
		}
		if in.strict && result.Verdict != Accepted {
			return step{}, forbidden(j.rejection)
		}
		return step{commit: commit, event: in.pdu.ID()}, nil
	}
}

func verdictOf(f graph.Flags) Verdict {
	switch {
	case f&graph.Rejected != 0:
		return Rejected
	case f&graph.SoftFailed != 0:
		return SoftFailed
	}
	return Accepted
}

// judgement decides about one received event on top of a head.
type judgement struct {
	rooms   *Rooms
	head    *graph.Head
	settled bool
	pdu     *event.PDU
	in      incoming
	// known is the event where it is stored as an outlier, else nil.
	known *graph.Event

	// rejection says why the event was rejected or soft-failed.
	rejection *eventauth.Rejection
	// refused: the room's policy server does not recommend it.
	refused bool
}

// judgement begins the judgement of an event, known as an outlier or not at all. What is stored is judged, not what came: where servers choose the IDs
// of events, two may have one ID. Only in place of a pruned form the whole event is taken.
func (r *Rooms) judgement(head *graph.Head, settled bool, in incoming, known *graph.Event) *judgement {
	j := &judgement{rooms: r, head: head, settled: settled, pdu: in.pdu, in: in}
	if known == nil {
		return j
	}
	e := *known
	hashed := head.Version.EventIDs != roomver.EventIDDomain
	if hashed && e.Flags&graph.Redacted == 0 && !e.PDU.HashOK() && in.pdu.HashOK() {
		e.PDU, e.Restored = in.pdu, true
	}
	j.known, j.pdu = &e, e.PDU
	return j
}

// judge returns the commit that stores the event.
func (j *judgement) judge(ctx context.Context) (*graph.Commit, error) {
	// An event that follows just what we know to be newest needs nothing but the head.
	straight := !j.in.grafted && !j.in.again && j.followsHead()
	if !j.settled && (!straight || j.pdu.Type() == "m.room.redaction") {
		return nil, errUnsettled
	}
	prev, auth, gone, err := j.ancestors(ctx, straight)
	if err != nil {
		return nil, err
	}
	before, err := j.before(ctx, straight, prev)
	if err != nil {
		return nil, err
	}
	e, err := j.event(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.weigh(ctx, e, auth, before); err != nil {
		return nil, err
	}
	if err := j.policyFails(ctx, e); err != nil {
		return nil, err
	}
	place := graph.Placement{Before: before, Partial: j.in.memberless}
	var filled []id.EventID
	if !straight {
		var gap bool
		if gap, place.Followed, err = j.rooms.cfg.Graph.IsGap(ctx, j.head.Room, j.pdu.ID()); err != nil {
			return nil, err
		}
		if gap {
			filled = []id.EventID{j.pdu.ID()}
		}
		if err := j.branch(ctx, e, prev, &place); err != nil {
			return nil, err
		}
	}
	if len(gone) > 0 {
		e.Flags |= graph.Torn
	}
	next, err := j.head.Place(e, place)
	if err != nil {
		return nil, err
	}
	commit := &graph.Commit{Prev: j.head, Next: next, Events: []*graph.Event{e}, Filled: filled}
	if next.Partial && !j.head.Partial {
		commit.Partial = &graph.PartialRoom{Room: j.head.Room, Join: j.pdu.ID(), Servers: j.in.servers}
		if commit.Partial.Since, err = j.rooms.unfinished(ctx, j.head); err != nil {
			return nil, err
		}
	}
	if e.Flags&graph.Rejected == 0 { // what a rejected event names need not exist
		for _, g := range gone {
			commit.Gaps = append(commit.Gaps, graph.Gap{Missing: g, Child: e.NID})
		}
	}
	if e.Flags&graph.SoftFailed != 0 && !j.refused && j.pdu.Sticky() > 0 {
		commit.Waiting = e
	}
	return commit, j.redactions(ctx, commit, e, before)
}

// branch finds what an event that doesn't follow everything makes of the room.
func (j *judgement) branch(ctx context.Context, e *graph.Event, prev []*graph.Event, place *graph.Placement) (err error) {
	if e.Flags&(graph.Rejected|graph.SoftFailed) != 0 {
		return nil
	}
	behind, err := j.rooms.behind(ctx, j.head, prev)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(j.head.Extremities), func(x graph.Extremity) bool {
		return slices.Contains(j.pdu.PrevEvents(), x.ID) || slices.Contains(behind, x.NID)
	})
	if !place.Followed {
		if others, place.Drop, err = j.rooms.spare(ctx, j.head, others, e); err != nil {
			return err
		}
		place.Followed = slices.Contains(place.Drop, e.NID)
	}
	place.Drop = append(place.Drop, behind...)
	if place.Followed && len(others) > 0 {
		// What follows it was placed by a state that another server told: that branch has it in already. Or it is one branch too many.
		place.After, err = j.remaining(ctx, others)
		return err
	}
	place.Followed = false
	place.After, err = j.merge(ctx, e, place.Before, others)
	return err
}

// remaining returns the state of the room once an event that is no branch of its own has taken those away that it follows.
func (j *judgement) remaining(ctx context.Context, branches []graph.Extremity) (*graph.State, error) {
	if len(branches) == len(j.head.Extremities) {
		return j.head.State, nil
	}
	states, err := j.rooms.branches(ctx, j.head, branches, nil)
	if err != nil {
		return nil, err
	}
	return j.rooms.resolve(ctx, j.head, states)
}

// before returns the state before the event.
func (j *judgement) before(ctx context.Context, straight bool, prev []*graph.Event) (*graph.State, error) {
	switch {
	case straight:
		return j.head.State, nil
	case j.in.again:
		return j.rooms.cfg.Graph.StateBefore(ctx, j.known)
	case j.in.grafted:
		return j.rooms.stateOf(ctx, j.head, j.in.before, j.in.memberless)
	}
	states, err := j.rooms.statesAfter(ctx, prev)
	if err != nil {
		return nil, err
	}
	return j.rooms.resolve(ctx, j.head, states)
}

// followsHead reports whether the event follows all extremities and nothing else.
func (j *judgement) followsHead() bool {
	prev := j.pdu.PrevEvents()
	for _, x := range j.head.Extremities {
		if !slices.Contains(prev, x.ID) {
			return false
		}
	}
	return len(prev) == len(j.head.Extremities)
}

// event returns what will be stored.
func (j *judgement) event(ctx context.Context) (*graph.Event, error) {
	if j.known != nil {
		e := *j.known
		e.Flags = e.Flags&^(graph.Outlier|graph.Rejected|graph.SoftFailed) | graph.Known | j.in.flags
		return &e, nil
	}
	nid, err := j.rooms.cfg.Graph.NextNID(ctx)
	return &graph.Event{NID: nid, PDU: j.pdu, Flags: j.in.flags}, err
}

// weigh flags an event that breaks the rules.
func (j *judgement) weigh(ctx context.Context, e *graph.Event, auth []*graph.Event, before *graph.State) (err error) {
	if j.rejection, err = j.allowed(ctx, auth, before); err != nil {
		return err
	}
	if j.rejection != nil {
		e.Flags |= graph.Rejected
		return nil
	}
	if before == j.head.State {
		return nil
	}
	if j.rejection, err = j.check(ctx, auth, j.head.State); j.rejection != nil {
		e.Flags |= graph.SoftFailed
	}
	return err
}

// ancestors loads the events that the event refers to. prev is empty where it follows the head. gone are prev events that are not here
// and need not be.
func (j *judgement) ancestors(ctx context.Context, straight bool) (prev, auth []*graph.Event, gone []id.EventID, err error) {
	var missing Missing
	if !straight && !j.in.again {
		unfit := graph.Outlier
		if !j.head.Partial && !j.in.grafted {
			// What came in an earlier stay, of which the members were never learned, has no state to go on from.
			unfit |= graph.Thin
		}
		if prev, missing.Prev, err = j.load(ctx, j.pdu.PrevEvents(), unfit); err != nil {
			return nil, nil, nil, err
		}
	}
	if auth, missing.Auth, err = j.load(ctx, j.pdu.AuthEvents(), 0); err != nil {
		return nil, nil, nil, err
	}
	if j.in.grafted {
		gone, missing.Prev = missing.Prev, nil
	}
	switch {
	case len(missing.Prev)+len(missing.Auth) == 0:
		return prev, auth, gone, nil
	case !j.settled:
		return nil, nil, nil, errUnsettled
	}
	return nil, nil, nil, &missing
}

// load returns the stored events of the room among ids; those that are flagged unfit count as
// missing.
func (j *judgement) load(ctx context.Context, ids []id.EventID, unfit graph.Flags) (found []*graph.Event, missing []id.EventID, err error) {
	stored, err := j.rooms.cfg.Graph.EventsByID(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range ids {
		e := stored[x]
		if e == nil || e.Flags&unfit != 0 || e.Room != j.head.Room {
			missing = append(missing, x)
			continue
		}
		found = append(found, e)
	}
	return found, missing, nil
}

// allowed checks the event by its auth events and by the state before it.
func (j *judgement) allowed(ctx context.Context, auth []*graph.Event, before *graph.State) (*eventauth.Rejection, error) {
	rejection, err := byAuthEvents(j.pdu, auth, func() (*event.PDU, error) {
		return j.rooms.current(ctx, j.head.Room, j.head.State, "m.room.create", "")
	})
	if rejection != nil || err != nil {
		return rejection, err
	}
	return j.check(ctx, auth, before)
}

// byAuthEvents checks an event by the events that it names as its authority. In rooms whose events don't name the creation, create loads it.
func byAuthEvents(pdu *event.PDU, auth []*graph.Event, create func() (*event.PDU, error)) (*eventauth.Rejection, error) {
	cited := make([]*event.PDU, len(auth))
	byKey := make(map[event.Key]*event.PDU, len(auth)+1)
	for i, a := range auth {
		if a.Flags&graph.Rejected != 0 {
			return eventauth.RejectedAuthEvent(pdu, a.PDU.ID()), nil
		}
		cited[i] = a.PDU
		byKey[a.PDU.Key()] = a.PDU
	}
	if rejection, err := rejected(eventauth.CheckAuthEvents(pdu, cited)); rejection != nil || err != nil {
		return rejection, err
	}
	key := event.Key{Type: "m.room.create"}
	if byKey[key] == nil && pdu.Key() != key {
		var err error
		if byKey[key], err = create(); err != nil {
			return nil, err
		}
	}
	return rejected(eventauth.Check(pdu, func(typ, stateKey string) *event.PDU {
		return byKey[event.Key{Type: typ, StateKey: stateKey}]
	}))
}

// check applies the authorisation rules by a state of the room. Where the members of the room are not all known, those that the event
// names as its authority are believed.
func (j *judgement) check(ctx context.Context, auth []*graph.Event, s *graph.State) (*eventauth.Rejection, error) {
	needed := append(eventauth.Needed(j.head.Version, j.pdu), event.Key{Type: "m.room.create"})
	state, err := j.rooms.entries(ctx, j.head.Room, s, needed)
	if err != nil {
		return nil, err
	}
	if j.head.Partial {
		state = believing(state, auth)
	}
	return rejected(eventauth.Check(j.pdu, state))
}

// believing is a state to which the member events among others are added.
func believing(state eventauth.State, others []*graph.Event) eventauth.State {
	return func(typ, stateKey string) *event.PDU {
		if e := state(typ, stateKey); e != nil || typ != "m.room.member" {
			return e
		}
		for _, a := range others {
			if a.PDU.Key() == (event.Key{Type: typ, StateKey: stateKey}) {
				return a.PDU
			}
		}
		return nil
	}
}

// rejected tells a rejection from another error.
func rejected(err error) (*eventauth.Rejection, error) {
	var rejection *eventauth.Rejection
	if errors.As(err, &rejection) {
		return rejection, nil
	}
	return nil, err
}

// merge returns the state of the room after e: that of the branch which e ends, resolved with
// the other branches.
func (j *judgement) merge(ctx context.Context, e *graph.Event, before *graph.State, others []graph.Extremity) (*graph.State, error) {
	states, err := j.rooms.branches(ctx, j.head, others, nil)
	if err != nil {
		return nil, err
	}
	return j.rooms.resolve(ctx, j.head, append([]*graph.State{after(e, before)}, states...), e)
}
