package room

import (
	"crypto/rand"
	"errors"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// Proposal is an event that a local user wants to send.
type Proposal struct {
	Sender id.UserID
	Type   string
	// StateKey is nil for an event that is not a state event.
	StateKey *string
	// Content is a JSON object. It is canonicalised here.
	Content []byte
	// Redacts is set for m.room.redaction only.
	Redacts id.EventID
	// TS is the origin_server_ts in milliseconds; 0 means the time of the decision.
	TS int64
	// Sticky is for how many milliseconds the event sticks; 0 for most.
	//
	// MSC4354: Sticky events
	Sticky int64
}

// facts is what decide knows besides the proposal.
type facts struct {
	head *graph.Head
	// follow lists the extremities of the head that the event will follow.
	follow []graph.Extremity
	// state holds the entries of the state after these that authorise the proposal.
	state  eventauth.State
	origin id.ServerName
	key    sign.Key
	// now is in milliseconds since the epoch.
	now int64
}

// decide builds and authorises the event that the proposal asks for on top of the head.
// Others must be able to follow what we do, so it refuses to invite users of other servers to a room that is closed to them.
// It is a pure function of its arguments, but for the random opaque part of event IDs in room
// versions 1 and 2.
func decide(f facts, p Proposal) (*event.PDU, error) {
	v := f.head.Version
	draft := event.Draft{
		RoomID:         f.head.ID,
		Type:           p.Type,
		StateKey:       p.StateKey,
		Sender:         p.Sender,
		Content:        p.Content,
		OriginServerTS: p.TS,
		Redacts:        p.Redacts,
		Sticky:         p.Sticky,
	}
	if draft.OriginServerTS == 0 {
		draft.OriginServerTS = f.now
	}
	for _, x := range f.follow {
		draft.PrevEvents = append(draft.PrevEvents, x.ID)
		draft.Depth = max(draft.Depth, x.Depth)
	}
	// In old versions an event may claim the greatest depth that 64 bits hold.
	draft.Depth = min(draft.Depth, canon.MaxInt-1) + 1
	for _, key := range eventauth.NeededFor(v, p.Type, p.StateKey, p.Sender, p.Content) {
		if e := f.state(key.Type, key.StateKey); e != nil {
			draft.AuthEvents = append(draft.AuthEvents, e.ID())
		}
	}
	pdu, err := draft.Build(v, f.origin, f.key, rand.Text)
	if err != nil {
		return nil, err
	}
	if err := eventauth.Check(pdu, f.state); err != nil {
		return nil, forbidden(err)
	}
	if pdu.Membership() == "invite" && !federates(f.state("m.room.create", "")) {
		if target, _ := pdu.StateKey(); id.UserID(target).Domain() != p.Sender.Domain() {
			return nil, mxerr.Forbidden("this room is closed to users of other servers")
		}
	}
	return pdu, nil
}

// federates reports whether users of other servers may take part in a room.
//
// Spec: cs m.room.create
func federates(create *event.PDU) bool {
	raw, ok := canon.Get(create.Content(), "m.federate")
	return !ok || string(raw) != "false"
}

// forbidden turns a rejection by the authorisation rules into what a client is told.
func forbidden(err error) error {
	var rejection *eventauth.Rejection
	switch {
	case !errors.As(err, &rejection):
		return err
	case rejection.Malformed:
		return mxerr.BadJSON("%s (rule %s)", rejection.Text, rejection.Rule)
	}
	return mxerr.Forbidden("%s (rule %s)", rejection.Text, rejection.Rule)
}
