package clientapi

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// streamRoutes are what clients of old use in place of sync, and what clients of today use to
// look into a room without joining it.
//
// Spec: cs Room Previews
func (a *API) streamRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/events", Op: "getEvents peekEvents", Auth: web.Guest, Rate: web.RateNone, Handle: a.stream},
		{Method: "GET", Path: v3 + "/events/{eventId}", Op: "getOneEvent", Handle: a.oneEvent},
		{Method: "GET", Path: v3 + "/initialSync", Op: "initialSync", Handle: a.initialSync},
		{Method: "GET", Path: v3 + "/rooms/{roomId}/initialSync", Op: "roomInitialSync", Auth: web.Guest, Handle: a.roomInitialSync},
	}
}

const (
	// maxStreamWait bounds how long a request waits for events.
	maxStreamWait = 2 * time.Minute
	// streamPause is how long a request that found nothing waits at least: it looks at what
	// everybody does.
	streamPause = 100 * time.Millisecond
	// drainCheck is how often a waiting request looks whether the server stops.
	drainCheck = time.Second
)

// stream serves both operations that share its path: with a room_id it shows one room, also to
// who only looks into it.
//
// Spec: cs getEvents
// Spec: cs peekEvents
func (a *API) stream(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, start, timeout, err := a.streamParams(r)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(timeout)
	for from := start; ; {
		events, end, err := a.View.Stream(ctx, r.Caller.User, roomID, from, a.Bus.Last())
		if err != nil {
			return nil, err
		}
		if len(events) > 0 || end == from && !a.awaitStream(ctx, from, deadline, r.Draining()) {
			return a.streamed(ctx, r, events, start, end)
		}
		from = end
	}
}

// streamParams reads the parameters of stream. Without a token it starts at the present.
func (a *API) streamParams(r *web.Request) (roomID id.RoomID, from sqldb.Pos, timeout time.Duration, err error) {
	if s := r.Query("room_id"); s != "" {
		if roomID, err = id.ParseRoomID(s); err != nil {
			return "", 0, 0, mxerr.InvalidParam("\"room_id\": %v", err)
		}
	}
	from = a.Bus.Last()
	if s := r.Query("from"); s != "" {
		token, err := view.ParseToken(s)
		if err != nil {
			return "", 0, 0, err
		}
		from = sqldb.Pos(max(0, token))
	}
	wait, err := r.QueryInt("timeout", 0)
	timeout = time.Duration(min(max(wait, 0), maxStreamWait.Milliseconds())) * time.Millisecond
	return roomID, from, timeout, err
}

// awaitStream waits until the stream is past a position, and reports false where it is time to
// answer instead.
func (a *API) awaitStream(ctx context.Context, from sqldb.Pos, deadline time.Time, draining <-chan struct{}) bool {
	pause := time.NewTimer(min(streamPause, time.Until(deadline)))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-draining:
	case <-ctx.Done():
	}
	for time.Now().Before(deadline) && ctx.Err() == nil {
		select {
		case <-draining:
			return false
		default:
		}
		short, cancel := context.WithTimeout(ctx, min(drainCheck, time.Until(deadline)))
		_, err := a.Bus.Wait(short, from)
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}

func (a *API) streamed(ctx context.Context, r *web.Request, events []*graph.Event, start, end sqldb.Pos) (*web.Response, error) {
	chunk := []json.RawMessage{}
	for _, e := range events {
		raw, err := a.View.AppendEvent(ctx, nil, audience(r), e)
		if err != nil {
			return nil, err
		}
		chunk = append(chunk, raw)
	}
	return web.JSON(map[string]any{"start": streamToken(start), "end": streamToken(end), "chunk": chunk}), nil
}

// streamToken is a place in the stream, as sync writes it.
func streamToken(pos sqldb.Pos) string { return "s" + strconv.FormatInt(int64(pos), 10) }

// Spec: cs getOneEvent
func (a *API) oneEvent(ctx context.Context, r *web.Request) (*web.Response, error) {
	event, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	raw, err := a.View.OneEvent(ctx, audience(r), event)
	if err != nil {
		return nil, err
	}
	return web.Raw(raw), nil
}

// roomInfo is what both forms of initialSync say of a room.
type roomInfo struct {
	RoomID      id.RoomID        `json:"room_id"`
	Membership  graph.Membership `json:"membership,omitempty"`
	Invite      json.RawMessage  `json:"invite,omitempty"`
	Messages    *messageChunk    `json:"messages,omitempty"`
	State       json.RawMessage  `json:"state,omitempty"`
	Visibility  string           `json:"visibility,omitempty"`
	AccountData []datumEvent     `json:"account_data,omitempty"`
}

type messageChunk struct {
	Start string          `json:"start,omitempty"`
	End   string          `json:"end"`
	Chunk json.RawMessage `json:"chunk"`
}

// datumEvent is an entry of account data as an event.
type datumEvent struct {
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
}

// initialMessages is how many messages of each room initialSync shows unless it is told.
const initialMessages = 10

// maxInitialMessages bounds it.
const maxInitialMessages = 100

// Spec: cs roomInitialSync
func (a *API) roomInitialSync(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", initialMessages)
	if err != nil {
		return nil, err
	}
	info, err := a.roomInfo(ctx, r, roomID, limit)
	if err != nil {
		return nil, err
	}
	return web.JSON(info), nil
}

func (a *API) roomInfo(ctx context.Context, r *web.Request, roomID id.RoomID, limit int64) (roomInfo, error) {
	s, err := a.View.Snapshot(ctx, audience(r), roomID, int(min(max(limit, 1), maxInitialMessages)))
	if err != nil {
		return roomInfo{}, err
	}
	info := roomInfo{RoomID: roomID, Membership: s.Membership, Messages: &messageChunk{s.Start, s.End, s.Chunk}, State: s.State}
	if info.Visibility, err = a.visibility(ctx, roomID); err != nil {
		return roomInfo{}, err
	}
	info.AccountData, err = a.initialData(ctx, r.Caller.User, roomID)
	return info, err
}

// initialData lists account data, global where there is no room.
func (a *API) initialData(ctx context.Context, user id.UserID, roomID id.RoomID) ([]datumEvent, error) {
	data, err := a.Accounts.RoomData(ctx, user, roomID)
	events := []datumEvent{}
	for _, d := range data {
		if !d.Deleted {
			events = append(events, datumEvent{d.Type, d.Content})
		}
	}
	return events, err
}

// Spec: cs initialSync
func (a *API) initialSync(ctx context.Context, r *web.Request) (*web.Response, error) {
	limit, err := r.QueryInt("limit", initialMessages)
	if err != nil {
		return nil, err
	}
	archived, err := r.QueryBool("archived", false)
	if err != nil {
		return nil, err
	}
	end := a.Bus.Last() // what comes while this is put together is told again
	rooms, err := a.initialRooms(ctx, r, limit, archived)
	if err != nil {
		return nil, err
	}
	data, err := a.initialData(ctx, r.Caller.User, "")
	if err != nil {
		return nil, err
	}
	presence, err := a.Ephemeral.PresenceNews(ctx, r.Caller.User, 0, end)
	if err != nil {
		return nil, err
	}
	ignored, err := a.Accounts.IgnoredUsers(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	presence = slices.DeleteFunc(presence, func(raw json.RawMessage) bool {
		_, unwanted := ignored[id.UserID(gjson.GetBytes(raw, "sender").Str)]
		return unwanted
	})
	return web.JSON(map[string]any{
		"end": streamToken(end), "rooms": rooms, "account_data": data, "presence": append([]json.RawMessage{}, presence...),
	}), nil
}

// initialRooms lists the rooms of a user with what they hold.
func (a *API) initialRooms(ctx context.Context, r *web.Request, limit int64, archived bool) ([]roomInfo, error) {
	shown := []graph.Membership{graph.Join, graph.Invite}
	if archived {
		shown = append(shown, graph.Leave, graph.Ban)
	}
	rows, err := a.Graph.MembershipsOf(ctx, r.Caller.User, shown...)
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(m graph.MemberRow) bool { return m.Forgotten })
	rooms := []roomInfo{}
	for _, m := range rows {
		if m.Membership == graph.Invite {
			if unwanted, err := a.unwanted(ctx, r.Caller.User, m); err != nil {
				return nil, err
			} else if unwanted {
				continue
			}
		}
		info, err := a.initialRoom(ctx, r, m, limit)
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, info)
	}
	return rooms, nil
}

// unwanted reports whether a user wants to hear nothing of who sent an invite.
//
// Spec: cs Ignoring Users
// Spec: cs Invite permission
func (a *API) unwanted(ctx context.Context, user id.UserID, m graph.MemberRow) (bool, error) {
	var sender id.UserID
	if m.Event != 0 {
		events, err := a.Graph.Events(ctx, m.Room, []graph.EventNID{m.Event})
		if err != nil {
			return false, err
		}
		sender = events[0].PDU.Sender()
	} else {
		for _, e := range gjson.ParseBytes(m.Stripped).Array() {
			if e.Get("type").Str == "m.room.member" && e.Get("state_key").Str == string(user) {
				sender = id.UserID(e.Get("sender").Str)
			}
		}
	}
	ignored, err := a.Accounts.IgnoredUsers(ctx, user)
	if err != nil {
		return false, err
	}
	if _, ok := ignored[sender]; ok {
		return true, nil
	}
	rules, err := a.Accounts.InviteRules(ctx, user)
	return err == nil && rules.Judge(sender) != account.InviteAllowed, err
}

// initialRoom describes a room, as far as the user may see it.
func (a *API) initialRoom(ctx context.Context, r *web.Request, m graph.MemberRow, limit int64) (roomInfo, error) {
	if m.Membership != graph.Invite {
		info, err := a.roomInfo(ctx, r, m.RoomID, limit)
		if !mxerr.Is(err, mxerr.CodeForbidden) {
			return info, err
		}
		// Who was invited or knocked, and never got in, has nothing to see.
	}
	info := roomInfo{RoomID: m.RoomID, Membership: m.Membership}
	if m.Membership != graph.Invite || m.Event == 0 {
		return info, nil
	}
	events, err := a.Graph.Events(ctx, m.Room, []graph.EventNID{m.Event})
	if err != nil {
		return roomInfo{}, err
	}
	info.Invite, err = a.View.AppendEvent(ctx, nil, audience(r), events[0])
	return info, err
}
