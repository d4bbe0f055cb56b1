package server

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/delayed"
	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// sendDelayed sends an event whose time has come, as its user could send it now.
//
// MSC4140: cancellable delayed events.
func (s *Server) sendDelayed(ctx context.Context, e delayed.Event) (id.EventID, error) {
	caller, err := s.accounts.Caller(ctx, e.User)
	switch {
	case err != nil:
		return "", err
	case caller.Locked:
		return "", mxerr.New(mxerr.CodeUserLocked, "This account has been locked.")
	case caller.Suspended:
		return "", mxerr.New(mxerr.CodeUserSuspended, "You cannot do this while your account is suspended.")
	}
	if e.Type == "m.room.redaction" && e.State == nil {
		target, err := id.ParseEventID(gjson.GetBytes(e.Content, "redacts").Str)
		if err != nil {
			return "", mxerr.BadJSON("\"redacts\": %v", err)
		}
		return s.rooms.Redact(ctx, room.Redaction{Room: e.Room, Sender: e.User, Target: target, Content: e.Content, Txn: e.Txn()})
	}
	return s.rooms.Send(ctx, room.Message{
		Room: e.Room, Txn: e.Txn(),
		Proposal: room.Proposal{Sender: e.User, Type: e.Type, StateKey: e.State, Content: e.Content, Sticky: e.Sticky},
	})
}
