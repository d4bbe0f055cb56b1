package fedapi

import (
	"context"
	"strconv"
	"time"

	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// historyRoutes gives out events of the past.
//
// Spec: ss Backfilling and retrieving missing events
// Spec: ss Retrieving events
func (a *API) historyRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/federation/v1/backfill/{roomId}", Op: "backfillRoom", Auth: web.Server, Rate: web.RateServer, Handle: a.backfill},
		{Method: "POST", Path: "/_matrix/federation/v1/get_missing_events/{roomId}", Op: "getMissingPreviousEvents", Auth: web.Server, Rate: web.RateServer, Handle: a.missingEvents},
		{Method: "GET", Path: "/_matrix/federation/v1/event/{eventId}", Op: "getEvent", Auth: web.Server, Rate: web.RateServer, Handle: a.event},
		{Method: "GET", Path: "/_matrix/federation/v1/timestamp_to_event/{roomId}", Op: "getEventByTimestamp", Auth: web.Server, Rate: web.RateServer, Handle: a.timestampToEvent},
	}
}

// maxNamed bounds the events that a request for history names.
const maxNamed = 1000

// Spec: ss backfillRoom
func (a *API) backfill(ctx context.Context, r *web.Request) (*web.Response, error) {
	if !r.HasQuery("v") || !r.HasQuery("limit") {
		return nil, mxerr.MissingParam("The query parameters \"v\" and \"limit\" are needed.")
	}
	from, err := eventIDs("v", r.QueryAll("v"), view.MaxServerEvents)
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, mxerr.InvalidParam("\"limit\" must be positive.")
	}
	s, err := a.sight(ctx, r)
	if err != nil {
		return nil, err
	}
	pdus, err := s.Backfill(ctx, from, int(min(limit, view.MaxServerEvents)))
	if err != nil {
		return nil, err
	}
	return transactionOf(r.Destination, pdus), nil
}

// transactionOf answers with events in the form of a transaction.
func transactionOf(origin id.ServerName, pdus []*event.PDU) *web.Response {
	body := canon.AppendString([]byte(`{"origin":`), string(origin))
	body = strconv.AppendInt(append(body, `,"origin_server_ts":`...), time.Now().UnixMilli(), 10)
	return web.Raw(append(appendEvents(append(body, `,"pdus":`...), pdus), '}'))
}

func appendEvents(dst []byte, pdus []*event.PDU) []byte {
	dst = append(dst, '[')
	for i, p := range pdus {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, p.Raw()...)
	}
	return append(dst, ']')
}

// defaultMissing is the limit of a request for missing events that names none.
const defaultMissing = 10

// Spec: ss getMissingPreviousEvents
func (a *API) missingEvents(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Limit    *int64   `json:"limit"`
		MinDepth int64    `json:"min_depth"`
		Earliest []string `json:"earliest_events"`
		Latest   []string `json:"latest_events"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Earliest == nil || body.Latest == nil {
		return nil, mxerr.MissingParam("\"earliest_events\" and \"latest_events\" are needed.")
	}
	q := view.MissingQuery{MinDepth: body.MinDepth, Limit: defaultMissing}
	if body.Limit != nil {
		q.Limit = int(max(0, min(*body.Limit, view.MaxServerEvents)))
	}
	var err error
	if q.Latest, err = eventIDs("latest_events", body.Latest, maxNamed); err != nil {
		return nil, err
	}
	if q.Earliest, err = eventIDs("earliest_events", body.Earliest, maxNamed); err != nil {
		return nil, err
	}
	s, err := a.sight(ctx, r)
	if err != nil {
		return nil, err
	}
	pdus, err := s.Missing(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.Raw(append(appendEvents([]byte(`{"events":`), pdus), '}')), nil
}

// Spec: ss getEvent
func (a *API) event(ctx context.Context, r *web.Request) (*web.Response, error) {
	name, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	pdu, err := a.View.EventFor(ctx, r.Origin, name, func(room id.RoomID) error {
		return a.Federated.Allowed(ctx, room, r.Origin)
	})
	if err != nil {
		return nil, err
	}
	return transactionOf(r.Destination, []*event.PDU{pdu}), nil
}

// Spec: ss getEventByTimestamp
func (a *API) timestampToEvent(ctx context.Context, r *web.Request) (*web.Response, error) {
	if !r.HasQuery("ts") {
		return nil, mxerr.MissingParam("The query parameter \"ts\" is needed.")
	}
	ts, err := r.QueryInt("ts", 0)
	if err != nil {
		return nil, err
	}
	dir := r.Query("dir")
	if dir != "f" && dir != "b" {
		return nil, mxerr.InvalidParam("The query parameter \"dir\" must be \"f\" or \"b\".")
	}
	s, err := a.sight(ctx, r)
	if err != nil {
		return nil, err
	}
	name, at, err := s.NearTime(ctx, ts, dir == "b")
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"event_id": name, "origin_server_ts": at}), nil
}
