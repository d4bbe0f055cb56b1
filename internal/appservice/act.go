package appservice

import (
	"context"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// ByToken returns the application service whose as_token this is, nil where there is none.
//
// Spec: as Identity assertion
func (g *Registry) ByToken(token string) *Service {
	if token == "" || len(g.Services()) == 0 {
		return nil
	}
	return g.current.Load().byHash[hashToken(token)]
}

// Exempt reports whether a request with this token is of an application service, to which the limits of addresses do not apply: all its users
// share one address.
func (g *Registry) Exempt(token string) bool { return g.ByToken(token) != nil }

// deviceQueries are the names of the parameter by which an application service says whose device it acts as, with the one from before
// it was specified.
var deviceQueries = []string{"device_id", "org.matrix.msc3202.device_id"}

// Act finds out whom an application service acts as: what the query says, or its own user. It returns M_FORBIDDEN for users who are not its
// own or don't exist, and M_UNKNOWN_DEVICE.
//
// Spec: as Identity assertion
func (g *Registry) Act(ctx context.Context, s *Service, r *web.Request) (web.Caller, error) {
	select {
	case s.asks.heard <- struct{}{}: // it lives, so what waits for it is tried now
	default:
	}
	user := s.User
	if name := r.Query("user_id"); name != "" {
		var err error
		if user, err = id.ParseUserID(name); err != nil {
			return web.Caller{}, mxerr.InvalidParam("\"user_id\": %v", err)
		}
		if g.MayHave(s, user) != nil {
			return web.Caller{}, mxerr.Forbidden("%s is not in the namespaces of this application service.", user)
		}
	}
	var device id.DeviceID
	for _, name := range deviceQueries {
		if device == "" {
			device = id.DeviceID(r.Query(name))
		}
	}
	caller, err := g.cfg.Accounts.Masquerade(ctx, user, device)
	if err != nil {
		return web.Caller{}, err
	}
	caller.Appservice, caller.Unlimited = s.ID, !s.limited(user)
	return caller, nil
}

// needed returns the application service that a request without a caller comes from.
//
// Spec: as Server admin style permissions
func (g *Registry) needed(r *web.Request) (*Service, error) {
	token := r.Token()
	if token == "" {
		return nil, mxerr.New(mxerr.CodeMissingToken, "This needs the as_token of an application service.")
	}
	s := g.ByToken(token)
	if s == nil {
		return nil, mxerr.New(mxerr.CodeUnknownToken, "The access token is not that of an application service.").With("soft_logout", false)
	}
	return s, nil
}

// Register makes a user for an application service. body is the whole request.
//
// Spec: as Server admin style permissions
func (g *Registry) Register(ctx context.Context, r *web.Request, body []byte) (*account.Login, error) {
	s, err := g.needed(r)
	if err != nil {
		return nil, err
	}
	return g.cfg.Accounts.RegisterAppservice(ctx, body, func(user id.UserID) error { return g.MayHave(s, user) })
}

// Login opens a device of a user of an application service.
//
// Spec: as Server admin style permissions
func (g *Registry) Login(ctx context.Context, r *web.Request, req account.LoginRequest) (*account.Login, error) {
	s, err := g.needed(r)
	if err != nil {
		return nil, err
	}
	return g.cfg.Accounts.LoginAppservice(ctx, req, func(user id.UserID) error { return g.MayHave(s, user) })
}
