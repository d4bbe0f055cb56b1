package fedapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"myelin/internal/ephemeral"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxNews bounds the receipts, the rooms named without one that counts, and the people whose presence is told, in one transaction. The rest is passed over.
const maxNews = 500

// news is what the EDUs of one transaction may still do.
type news struct {
	api    *API
	origin id.ServerName
	left   int
	shut   map[id.RoomID]error // what the rooms' access control lists said
}

// takeEDUs takes what a server says of its users. What is malformed, or not the server's to say, is passed over, as are types that
// nothing here is done with. An error is ours: the EDUs must come again.
//
// Spec: ss EDUs
func (a *API) takeEDUs(ctx context.Context, origin id.ServerName, edus []json.RawMessage) error {
	n := &news{api: a, origin: origin, left: maxNews, shut: make(map[id.RoomID]error)}
	for _, raw := range edus {
		var e edu
		err := read(raw, &e)
		switch e.Type {
		case "m.typing":
			err = n.typing(ctx, e.Content)
		case "m.receipt":
			err = n.receipts(ctx, e.Content)
		case "m.presence":
			err = n.presence(ctx, e.Content)
		case "m.signing_key_update", "org.matrix.signing_key_update":
			err = n.signing(ctx, e.Content)
		case "m.direct_to_device":
			err = n.direct(ctx, e.Content)
		case "m.device_list_update":
			err = n.deviceList(ctx, e.Content)
		}
		if err = unlessTheirs(err); err != nil {
			return fmt.Errorf("take %s of %s: %w", e.Type, origin, err)
		}
	}
	return nil
}

// unlessTheirs returns err unless it says that the other server is wrong.
func unlessTheirs(err error) error {
	if e, refused := mxerr.Of(err); refused && e.Code != mxerr.CodeUnknown {
		return nil
	}
	return err
}

// user parses the ID of a user for whom the server may speak.
func (n *news) user(text string) (id.UserID, error) {
	user, err := id.ParseUserID(text)
	if err != nil {
		return "", mxerr.InvalidParam("%v", err)
	}
	if user.Domain() != n.origin {
		return "", mxerr.Forbidden("%s is not a user of %s", user, n.origin)
	}
	return user, nil
}

// room parses the ID of a room that the server isn't shut out of.
func (n *news) room(ctx context.Context, text string) (id.RoomID, error) {
	room, err := id.ParseRoomID(text)
	if err != nil {
		return "", mxerr.InvalidParam("%v", err)
	}
	shut, known := n.shut[room]
	if !known {
		shut = n.api.Federated.Allowed(ctx, room, n.origin)
		n.shut[room] = shut
	}
	return room, shut
}

func read(content json.RawMessage, into any) error {
	if err := json.Unmarshal(content, into); err != nil {
		return mxerr.BadJSON("%v", err)
	}
	return nil
}

// Spec: ss Typing Notifications
func (n *news) typing(ctx context.Context, content json.RawMessage) error {
	var body struct {
		Room   string `json:"room_id"`
		User   string `json:"user_id"`
		Typing bool   `json:"typing"`
	}
	if err := read(content, &body); err != nil {
		return err
	}
	user, err := n.user(body.User)
	if err != nil {
		return err
	}
	room, err := n.room(ctx, body.Room)
	if err != nil {
		return err
	}
	return n.api.Ephemeral.RemoteTyping(ctx, user, room, body.Typing)
}

// receipt is how far a user has read.
type receipt struct {
	Events []string `json:"event_ids"`
	Data   struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id"`
	} `json:"data"`
}

// receipts takes each receipt that is in order, whatever the others are.
//
// Spec: ss Receipts
func (n *news) receipts(ctx context.Context, content json.RawMessage) error {
	var rooms map[string]map[string]map[string]json.RawMessage
	if err := read(content, &rooms); err != nil {
		return err
	}
	for name, types := range rooms {
		if n.left <= 0 {
			return nil
		}
		room, err := n.room(ctx, name)
		if err != nil {
			if err = unlessTheirs(err); err != nil {
				return err
			}
			n.left--
			continue
		}
		if len(types[ephemeral.Read]) == 0 {
			n.left-- // it had to be looked at, too
		}
		for text, raw := range types[ephemeral.Read] {
			if n.left--; n.left < 0 {
				return nil
			}
			if err := unlessTheirs(n.receipt(ctx, room, text, raw)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *news) receipt(ctx context.Context, room id.RoomID, text string, raw json.RawMessage) error {
	var r receipt
	if err := read(raw, &r); err != nil {
		return err
	}
	user, err := n.user(text)
	if err != nil {
		return err
	}
	if len(r.Events) != 1 {
		return mxerr.InvalidParam("a receipt is for one event")
	}
	event, err := id.ParseEventID(r.Events[0])
	if err != nil {
		return mxerr.InvalidParam("%v", err)
	}
	return n.api.Ephemeral.RemoteReceipt(ctx, user, room, ephemeral.Mark{Type: ephemeral.Read, Thread: r.Data.Thread, Event: event, TS: r.Data.TS})
}

// Spec: ss Presence
func (n *news) presence(ctx context.Context, content json.RawMessage) error {
	var body struct {
		Push []struct {
			User      string `json:"user_id"`
			Presence  string `json:"presence"`
			StatusMsg string `json:"status_msg"`
			Ago       int64  `json:"last_active_ago"`
			Active    bool   `json:"currently_active"`
		} `json:"push"`
	}
	if err := read(content, &body); err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	var told []ephemeral.Presence
	for _, p := range body.Push {
		if n.left--; n.left < 0 {
			break
		}
		user, err := n.user(p.User)
		if err != nil {
			continue
		}
		state, err := ephemeral.ParseState(p.Presence)
		if err != nil {
			continue
		}
		told = append(told, ephemeral.Presence{
			User: user, State: state, StatusMsg: p.StatusMsg, LastActive: now - max(0, p.Ago), CurrentlyActive: p.Active,
		})
	}
	return n.api.Ephemeral.RemotePresence(ctx, told)
}
