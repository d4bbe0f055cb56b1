package fedapi

import (
	"context"
	"io"

	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// stateRoutes gives out the state of rooms, and what authorises events.
//
// Spec: ss Retrieving events
// Spec: ss Retrieving event authorisation information
func (a *API) stateRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/federation/v1/state/{roomId}", Op: "getRoomState", Auth: web.Server, Rate: web.RateHeavy, Handle: a.state},
		{Method: "GET", Path: "/_matrix/federation/v1/state_ids/{roomId}", Op: "getRoomStateIds", Auth: web.Server, Rate: web.RateHeavy, Handle: a.stateIDs},
		{Method: "GET", Path: "/_matrix/federation/v1/event_auth/{roomId}/{eventId}", Op: "getEventAuth", Auth: web.Server, Rate: web.RateServer, Handle: a.eventAuth},
	}
}

// Spec: ss getRoomState
func (a *API) state(ctx context.Context, r *web.Request) (*web.Response, error) {
	x, err := a.stateBefore(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.told(ctx, r.Origin, telling{excerpt: x, state: "pdus", auth: "auth_chain", item: (*event.PDU).Raw})
}

// Spec: ss getRoomStateIds
func (a *API) stateIDs(ctx context.Context, r *web.Request) (*web.Response, error) {
	x, err := a.stateBefore(ctx, r)
	if err != nil {
		return nil, err
	}
	name := func(p *event.PDU) []byte { return canon.AppendString(nil, string(p.ID())) }
	return a.told(ctx, r.Origin, telling{excerpt: x, state: "pdu_ids", auth: "auth_chain_ids", item: name})
}

func (a *API) stateBefore(ctx context.Context, r *web.Request) (*view.Excerpt, error) {
	if !r.HasQuery("event_id") {
		return nil, mxerr.MissingParam("The query parameter \"event_id\" is needed.")
	}
	at, err := id.ParseEventID(r.Query("event_id"))
	if err != nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	s, err := a.sight(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.StateBefore(ctx, at)
}

// Spec: ss getEventAuth
func (a *API) eventAuth(ctx context.Context, r *web.Request) (*web.Response, error) {
	name, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	s, err := a.sight(ctx, r)
	if err != nil {
		return nil, err
	}
	x, err := s.AuthChain(ctx, name)
	if err != nil {
		return nil, err
	}
	return a.told(ctx, r.Origin, telling{excerpt: x, auth: "auth_chain", item: (*event.PDU).Raw})
}

// telling is an answer that holds a state of a room.
type telling struct {
	excerpt *view.Excerpt
	// before is what comes before the state in the body: members of an object, each with a comma after it.
	before []byte
	// state and auth are the keys of the two arrays; state is empty where only the auth chain is told.
	state, auth string
	// item is what is told of an event, as JSON.
	item func(*event.PDU) []byte
}

// turn waits until a server may be told the state of a room. done ends that and must be called, by tell or otherwise.
func (a *API) turn(ctx context.Context, to id.ServerName) (done func(), err error) {
	own, err := a.heavy.take(ctx, id.ServerName(to.Host()))
	if err != nil {
		return nil, err
	}
	select {
	case a.answers <- struct{}{}:
	case <-ctx.Done():
		own()
		return nil, ctx.Err()
	}
	return func() {
		<-a.answers
		own()
	}, nil
}

// told is tell for those who have nothing to do before it is the asking server's turn.
func (a *API) told(ctx context.Context, to id.ServerName, t telling) (*web.Response, error) {
	done, err := a.turn(ctx, to)
	if err != nil {
		return nil, err
	}
	return a.tell(ctx, t, done), nil
}

// tell answers with a state, piece by piece, and ends the turn.
func (a *API) tell(ctx context.Context, t telling, done func()) *web.Response {
	// Package web calls what a handler returned, always and once.
	return &web.Response{Stream: func(w io.Writer) error {
		defer done()
		return t.write(ctx, w)
	}}
}

func (t telling) write(ctx context.Context, w io.Writer) error {
	out := &arrays{to: w, item: t.item}
	out.text("{")
	out.bytes(t.before)
	if t.state != "" {
		out.open(t.state)
	}
	state := func(p *event.PDU) error { return out.add(p) }
	inAuth := false
	auth := func(p *event.PDU) error {
		if !inAuth {
			inAuth = true
			t.openAuth(out)
		}
		return out.add(p)
	}
	if err := t.excerpt.Each(ctx, state, auth); err != nil {
		return err
	}
	if !inAuth {
		t.openAuth(out)
	}
	out.text("]}")
	return out.err
}

// openAuth begins the auth chain.
func (t telling) openAuth(out *arrays) {
	if t.state != "" {
		out.text("],")
	}
	out.open(t.auth)
}

// arrays writes arrays of events. After an error it writes nothing more.
type arrays struct {
	to    io.Writer
	item  func(*event.PDU) []byte
	begun bool // the array has an element
	err   error
}

func (o *arrays) bytes(b []byte) {
	if o.err == nil {
		_, o.err = o.to.Write(b)
	}
}

func (o *arrays) text(s string) { o.bytes([]byte(s)) }

func (o *arrays) open(key string) {
	o.text(`"` + key + `":[`)
	o.begun = false
}

func (o *arrays) add(p *event.PDU) error {
	if o.begun {
		o.text(",")
	}
	o.begun = true
	o.bytes(o.item(p))
	return o.err
}
