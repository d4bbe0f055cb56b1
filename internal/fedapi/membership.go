package fedapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// maxEvent bounds the body of a request that is one event.
const maxEvent = 128 << 10

// membershipRoutes lets users of other servers in and out of rooms of ours.
//
// Spec: ss Joining Rooms
// Spec: ss Knocking upon a room
// Spec: ss Leaving Rooms (Rejecting Invites)
func (a *API) membershipRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/federation/v1/make_join/{roomId}/{userId}", Op: "makeJoin", Auth: web.Server, Rate: web.RateServer, Handle: a.makeJoin},
		{Method: "GET", Path: "/_matrix/federation/v1/make_knock/{roomId}/{userId}", Op: "makeKnock", Auth: web.Server, Rate: web.RateServer, Handle: a.makeKnock},
		{Method: "GET", Path: "/_matrix/federation/v1/make_leave/{roomId}/{userId}", Op: "makeLeave", Auth: web.Server, Rate: web.RateServer, Handle: a.makeLeave},
		{Method: "PUT", Path: "/_matrix/federation/v2/send_join/{roomId}/{eventId}", Op: "sendJoinV2", Auth: web.Server, Rate: web.RateHeavy, MaxBody: maxEvent, Handle: a.sendJoin},
		{Method: "PUT", Path: "/_matrix/federation/v1/send_knock/{roomId}/{eventId}", Op: "sendKnock", Auth: web.Server, Rate: web.RateServer, MaxBody: maxEvent, Handle: a.sendKnock},
		{Method: "PUT", Path: "/_matrix/federation/v2/send_leave/{roomId}/{eventId}", Op: "sendLeaveV2", Auth: web.Server, Rate: web.RateServer, MaxBody: maxEvent, Handle: a.sendLeave},
		// Servers of the first years wrap the answer in an array.
		{Method: "PUT", Path: "/_matrix/federation/v1/send_join/{roomId}/{eventId}", Op: "sendJoinV1", Auth: web.Server, Rate: web.RateHeavy, MaxBody: maxEvent, Handle: wrapped(a.sendJoin)},
		{Method: "PUT", Path: "/_matrix/federation/v1/send_leave/{roomId}/{eventId}", Op: "sendLeaveV1", Auth: web.Server, Rate: web.RateServer, MaxBody: maxEvent, Handle: wrapped(a.sendLeave)},
	}
}

// Spec: ss makeJoin
func (a *API) makeJoin(ctx context.Context, r *web.Request) (*web.Response, error) {
	versions := r.QueryAll("ver")
	if len(versions) == 0 {
		versions = []string{"1"}
	}
	return a.template(ctx, r, graph.Join, versions)
}

// Spec: ss makeKnock
func (a *API) makeKnock(ctx context.Context, r *web.Request) (*web.Response, error) {
	versions := r.QueryAll("ver")
	if len(versions) == 0 {
		return nil, mxerr.MissingParam("The query parameter \"ver\" is needed.")
	}
	return a.template(ctx, r, graph.Knock, versions)
}

// Spec: ss makeLeave
func (a *API) makeLeave(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.template(ctx, r, graph.Leave, nil)
}

// template answers with an event for the asking server to complete.
func (a *API) template(ctx context.Context, r *web.Request, m graph.Membership, versions []string) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	if user.Domain() != r.Origin {
		return nil, mxerr.Forbidden("%s is not a user of %s.", user, r.Origin)
	}
	head, err := a.resident(ctx, r)
	if err != nil {
		return nil, err
	}
	raw, version, err := a.Rooms.Template(ctx, head.ID, user, m, versions)
	if err != nil {
		return nil, err
	}
	// The specification wants to see who made the template, whatever the room version makes of that field.
	if _, ok := canon.Get(raw, "origin"); !ok {
		raw = canon.With(nil, raw, "origin", canon.AppendString(nil, string(r.Destination)))
	}
	return web.JSON(map[string]any{"room_version": version.ID, "event": json.RawMessage(raw)}), nil
}

// Spec: ss sendJoinV2
func (a *API) sendJoin(ctx context.Context, r *web.Request) (*web.Response, error) {
	omit, err := r.QueryBool("omit_members", false)
	if err != nil {
		return nil, err
	}
	// Its turn comes first: a server that is told to wait must not be in the room already.
	done, err := a.turn(ctx, r.Origin)
	if err != nil {
		return nil, err
	}
	t, err := a.joined(ctx, r, omit)
	if err != nil {
		done()
		return nil, err
	}
	return a.tell(ctx, t, done), nil
}

// joined takes a join into the room, and is what the joining server is told.
func (a *API) joined(ctx context.Context, r *web.Request, omit bool) (telling, error) {
	join, err := a.accept(ctx, r, graph.Join)
	if err != nil {
		return telling{}, err
	}
	x, state, err := a.View.JoinExcerpt(ctx, join, omit)
	if err != nil {
		return telling{}, err
	}
	before := append([]byte(`"event":`), join.PDU.Raw()...)
	before = strconv.AppendBool(append(before, `,"members_omitted":`...), x.MembersOmitted)
	if x.MembersOmitted {
		servers, err := json.Marshal(view.Servers(state))
		if err != nil {
			return telling{}, fmt.Errorf("list the servers in %s: %w", join.PDU.RoomID(), err)
		}
		before = append(append(before, `,"servers_in_room":`...), servers...)
	}
	return telling{excerpt: x, before: append(before, ','), state: "state", auth: "auth_chain", item: (*event.PDU).Raw}, nil
}

// Spec: ss sendKnock
func (a *API) sendKnock(ctx context.Context, r *web.Request) (*web.Response, error) {
	knock, err := a.accept(ctx, r, graph.Knock)
	if err != nil {
		return nil, err
	}
	pdus, err := a.View.Introduction(ctx, knock)
	if err != nil {
		return nil, err
	}
	return web.Raw(append(appendEvents([]byte(`{"knock_room_state":`), pdus), '}')), nil
}

// Spec: ss sendLeaveV2
func (a *API) sendLeave(ctx context.Context, r *web.Request) (*web.Response, error) {
	if _, err := a.accept(ctx, r, graph.Leave); err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// wrapped puts what a handler answers into the second place of an array, after a status: the form of version 1, which the specification has
// dropped and old servers fall back to.
func wrapped(handle web.Handler) web.Handler {
	return func(ctx context.Context, r *web.Request) (*web.Response, error) {
		inner, err := handle(ctx, r)
		if err != nil {
			return nil, err
		}
		if inner.Stream == nil { // as after a leave
			return web.Raw([]byte("[200,{}]")), nil
		}
		write := inner.Stream
		inner.Stream = func(w io.Writer) error {
			if _, err := io.WriteString(w, "[200,"); err != nil {
				return err
			}
			if err := write(w); err != nil {
				return err
			}
			_, err := io.WriteString(w, "]")
			return err
		}
		return inner, nil
	}
}

// resident returns the head of the room that a path names, M_NOT_FOUND unless a user of ours is in it and all of its state is known: others can
// neither judge who may come in nor tell the rest of the room.
func (a *API) resident(ctx context.Context, r *web.Request) (*graph.Head, error) {
	room, err := a.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	head, err := a.Rooms.Head(ctx, room)
	if err != nil {
		return nil, err
	}
	joined, err := a.Graph.Joined(ctx, head, a.Ours.Names()...)
	if err == nil && (head.Partial || !joined) {
		err = mxerr.NotFound("This server can't let anybody into or out of the room %s.", room)
	}
	return head, err
}

// accept takes the membership event of a user of the asking server into the room.
func (a *API) accept(ctx context.Context, r *web.Request, m graph.Membership) (*graph.Event, error) {
	head, err := a.resident(ctx, r)
	if err != nil {
		return nil, err
	}
	name, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	pdu, err := event.Parse(head.Version, raw)
	if err != nil {
		return nil, err
	}
	if err := checkMembership(pdu, m, r.Origin, head.ID, name); err != nil {
		return nil, err
	}
	if pdu, err = a.checkSignatures(ctx, head.Version, pdu, r.Origin); err != nil {
		return nil, err
	}
	return a.Rooms.Accept(ctx, pdu)
}

// checkMembership refuses what would have a server speak for others, or us sign something else.
//
// Spec: ss sendJoinV2; ss sendKnock; ss sendLeaveV2
func checkMembership(pdu *event.PDU, m graph.Membership, origin id.ServerName, room id.RoomID, name id.EventID) error {
	stateKey, isState := pdu.StateKey()
	switch {
	case pdu.ID() != name:
		return mxerr.InvalidParam("The path names the event %s, and the event is %s.", name, pdu.ID())
	case pdu.RoomID() != room:
		return mxerr.InvalidParam("The event is of another room.")
	case pdu.Type() != "m.room.member" || !isState:
		return mxerr.InvalidParam("The event is not a membership.")
	case pdu.Membership() != string(m):
		return mxerr.InvalidParam("The membership of the event is not %q.", m)
	case pdu.Sender().Domain() != origin:
		return mxerr.InvalidParam("The sender is not a user of %s.", origin)
	case stateKey != string(pdu.Sender()):
		return mxerr.InvalidParam("The event is about somebody else than its sender.")
	}
	return nil
}

// checkSignatures returns the event after its signatures and its hash were checked. A restricted join that one of our users lets
// happen gets our signature first, which its server can't have: the authorisation rules decide whether anybody sees it.
//
// Spec: ss Restricted rooms
func (a *API) checkSignatures(ctx context.Context, version *roomver.Version, pdu *event.PDU, origin id.ServerName) (*event.PDU, error) {
	voucher, _ := id.ParseUserID(gjson.GetBytes(pdu.Content(), "join_authorised_via_users_server").Str)
	if signer := voucher.Domain(); signer != origin && slices.Contains(pdu.RequiredSigners(), signer) {
		if key, own := a.Ours.Key(signer); own {
			var err error
			if pdu, err = pdu.Signed(signer, key); err != nil {
				return nil, err
			}
		}
	}
	checked, err := a.Client.CheckPDU(ctx, version, pdu.Raw(), origin)
	var fault *fedclient.Fault
	switch {
	case err == nil:
		return checked, nil
	case !errors.As(err, &fault):
		return nil, err
	case fault.Retry():
		// Ours or theirs, nobody can tell; it may be well the next time.
		return nil, web.Status(mxerr.New(mxerr.CodeUnknown, "The keys of %s can't be had now.", fault.Signer), http.StatusBadGateway)
	}
	return nil, mxerr.InvalidParam("%s", mustSay(fault))
}

// mustSay is what another server is told of a fault.
func mustSay(fault *fedclient.Fault) string {
	text, err := said(fault)
	if err != nil {
		return "The event is not valid."
	}
	return text
}
