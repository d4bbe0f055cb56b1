package clientapi

import (
	"context"

	"myelin/internal/graph"
	"myelin/internal/report"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// reportRoutes take what users find inappropriate to those who run the server.
//
// Spec: cs Reporting Content
func (a *API) reportRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "POST", Path: v3 + "/rooms/{roomId}/report/{eventId}", Op: "reportEvent", Rate: web.RateSend, Handle: a.reportEvent},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/report", Op: "reportRoom", Rate: web.RateSend, Handle: a.reportRoom},
		{Method: "POST", Path: v3 + "/users/{userId}/report", Op: "reportUser", Rate: web.RateSend, Handle: a.reportUser},
	}
}

// reason reads the body of a report.
func reason(r *web.Request, required bool) (string, error) {
	var body struct {
		Reason *string `json:"reason"`
	}
	switch err := r.Decode(&body); {
	case err != nil:
		return "", err
	case body.Reason != nil:
		return *body.Reason, nil
	case required:
		return "", mxerr.MissingParam("\"reason\" is missing")
	}
	return "", nil
}

// Spec: cs reportEvent
func (a *API) reportEvent(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	why, err := reason(r, false)
	if err != nil {
		return nil, err
	}
	notFound := mxerr.NotFound("there is no event %s in a room that you are in", eventID)
	membership, err := a.Graph.MembershipIn(ctx, r.Caller.User, roomID)
	if err != nil {
		return nil, err
	}
	if membership != graph.Join {
		return nil, notFound
	}
	if _, err := a.View.Event(ctx, audience(r), roomID, eventID); mxerr.Is(err, mxerr.CodeForbidden) || mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, notFound
	} else if err != nil {
		return nil, err
	}
	return web.Empty, a.Reports.Add(ctx, report.Report{Reporter: r.Caller.User, Room: roomID, Event: eventID, Reason: why})
}

// reportRoom gives the same answer for rooms that this server doesn't know: strangers learn nothing.
//
// Spec: cs reportRoom
func (a *API) reportRoom(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	why, err := reason(r, true)
	if err != nil {
		return nil, err
	}
	if _, known, err := a.Graph.RoomNID(ctx, roomID); err != nil || !known {
		return web.Empty, err
	}
	return web.Empty, a.Reports.Add(ctx, report.Report{Reporter: r.Caller.User, Room: roomID, Reason: why})
}

// Spec: cs reportUser
func (a *API) reportUser(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	why, err := reason(r, true)
	if err != nil {
		return nil, err
	}
	if a.Ours.Is(user.Domain()) {
		if _, err := a.Accounts.User(ctx, user); err != nil {
			return nil, err
		}
	}
	return web.Empty, a.Reports.Add(ctx, report.Report{Reporter: r.Caller.User, User: user, Reason: why})
}
