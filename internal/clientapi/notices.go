package clientapi

import (
	"bytes"
	"context"
	"encoding/json"

	"myelin/internal/notice"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// noticeRoutes let administrators tell users something in the server's name. The operation is not in the specification: tools of
// operators know it from Synapse.
//
// Spec: cs Server Notices
func (a *API) noticeRoutes() []web.Route {
	const tools = "/_synapse/admin/v1/send_server_notice"
	return []web.Route{
		{Method: "POST", Path: tools, Op: "sendServerNotice", Auth: web.Admin, Rate: web.RateSend, Handle: a.sendNotice},
		{Method: "PUT", Path: tools + "/{txnId}", Op: "sendServerNotice", Auth: web.Admin, Rate: web.RateSend, Handle: a.sendNotice},
	}
}

// sendNotice sends one event to one user of this server. With a transaction ID it does so once.
func (a *API) sendNotice(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		User     string          `json:"user_id"`
		Type     string          `json:"type"`
		StateKey *string         `json:"state_key"`
		Content  json.RawMessage `json:"content"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.User == "":
		return nil, mxerr.MissingParam("\"user_id\" is missing")
	case body.Content == nil:
		return nil, mxerr.MissingParam("\"content\" is missing")
	case !bytes.HasPrefix(body.Content, []byte("{")):
		return nil, mxerr.BadJSON("\"content\" must be an object")
	}
	user, err := id.ParseUserID(body.User)
	if err != nil {
		return nil, mxerr.InvalidParam("\"user_id\": %v", err)
	}
	event, err := a.Notices.Send(ctx, notice.Notice{
		User: user, Type: body.Type, StateKey: body.StateKey, Content: body.Content, Txn: transaction(r, "send_server_notice"),
	})
	if err != nil {
		return nil, err
	}
	return web.JSON(eventSent{event}), nil
}
