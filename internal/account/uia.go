package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Operation is a request that needs interactive authentication.
type Operation struct {
	// Name tells this request from all others: the operation id and what its path holds, such as
	// "deleteDevice ABCDEF". A session is good for one Name only.
	Name string
	// User is the caller, empty where the request came without an access token.
	User id.UserID
	// Body is the whole request body, auth included. It may be empty.
	Body []byte
	// Flows are the ways to authenticate, each a list of stages to complete in order.
	Flows []web.Flow
}

// Grant says that a request is authenticated.
type Grant struct {
	// User is the caller, or whom the password stage identified where there was no caller. It is
	// empty for a registration.
	User id.UserID
	// Params is the request body without auth. A client may leave everything but auth
	// out of a repeated request; then these are the parameters of its first one.
	Params json.RawMessage
	// Facts are what stages found out.
	Facts Facts

	session *authSession
}

// Facts are what completed stages leave behind, by names of their own.
type Facts map[string]string

// The facts of this package's stages.
const (
	FactUser              = "user"
	FactRegistrationToken = "registration_token"
	FactTerms             = "terms"
)

// Stage is one kind of interactive authentication. Its values are immutable.
type Stage interface {
	// Type is the name in flows, such as "m.login.dummy".
	Type() string
	// Params is what a client must know to attempt the stage; nil for nothing.
	Params() any
	// Attempt judges what a client submits. An *mxerr.Error says that the attempt failed and that
	// the client may try again (but after errOtherUser); any other error is the server's.
	Attempt(ctx context.Context, t *Try) error
}

// Try is one attempt at a stage.
type Try struct {
	Operation
	// Auth is the auth object that the client submitted.
	Auth json.RawMessage
	// Facts of the stages completed so far. The stage adds its own.
	Facts Facts
	// With, where the stage sets it, runs in the transaction that records the stage as completed. An
	// *mxerr.Error from it fails the attempt.
	With func(tx *sqldb.Tx) error
}

// authHeader is what every auth object has.
type authHeader struct {
	Type    string `json:"type"`
	Session string `json:"session"`
}

// Interact authenticates a request: it returns a Grant when all stages of a flow are complete, and a
// *web.InteractiveError that tells the client what to do otherwise.
//
// A session is bound to the operation, the caller and, once its first stage is complete, to the request's
// parameters. A request that is repeated after completion is granted again as long as the session lives, so that
// a client that missed the answer can ask again.
//
// Spec: cs User-interactive API in the REST API
func (a *Accounts) Interact(ctx context.Context, op Operation) (*Grant, error) {
	op.Name = text(op.Name, 2*maxIdentifier) // it holds what a path held
	params, auth, err := splitAuth(op.Body)
	if err != nil {
		return nil, err
	}
	if auth == nil {
		s, err := a.newAuthSession(ctx, op, params)
		if err != nil {
			return nil, err
		}
		return nil, a.challenge(op, s, nil)
	}
	var header authHeader
	if err := json.Unmarshal(auth, &header); err != nil {
		return nil, mxerr.BadJSON(`"auth" must be an object whose "type" and "session" are strings.`)
	}
	s, err := a.findAuthSession(ctx, op, header, params)
	if err != nil {
		return nil, err
	}
	if s.fresh && header.Session != "" {
		return nil, a.challenge(op, s, mxerr.Forbidden("This authentication session is not known or has expired. Start again."))
	}
	// One retry: another request of the same session may have come in between.
	for range 2 {
		var grant *Grant
		grant, err = a.proceed(ctx, op, s, header.Type, auth)
		if !errors.Is(err, errStale) {
			return grant, err
		}
		if s, err = a.findAuthSession(ctx, op, header, params); err != nil {
			return nil, err
		}
	}
	return nil, a.challenge(op, s, nil)
}

// proceed attempts a stage and grants the operation if that was the last one.
func (a *Accounts) proceed(ctx context.Context, op Operation, s *authSession, stage string, auth json.RawMessage) (*Grant, error) {
	if complete(op.Flows, s.completed) {
		return s.grant(op), nil
	}
	// Without a type the client asks whether a stage was completed elsewhere. A completed stage can't be
	// attempted again.
	if stage == "" || slices.Contains(s.completed, stage) {
		return nil, a.challenge(op, s, nil)
	}
	if !next(op.Flows, s.completed, stage) {
		return nil, a.challenge(op, s, mxerr.Forbidden("The stage %.64q is not what comes next in any flow.", stage))
	}
	try := &Try{Operation: op, Auth: auth, Facts: maps.Clone(s.facts)}
	if try.Facts == nil {
		try.Facts = Facts{}
	}
	if err := a.stages[stage].Attempt(ctx, try); err != nil {
		return nil, a.refused(op, s, err)
	}
	done := *s
	done.completed = append(slices.Clone(s.completed), stage)
	done.facts = try.Facts
	if err := a.saveAuthSession(ctx, s, &done, try.With); err != nil {
		return nil, a.refused(op, s, err)
	}
	if complete(op.Flows, done.completed) {
		return done.grant(op), nil
	}
	return nil, a.challenge(op, &done, nil)
}

// refused turns the failure of a stage into a challenge, and leaves the server's own errors alone.
func (a *Accounts) refused(op Operation, s *authSession, err error) error {
	e, ok := mxerr.Of(err)
	if !ok || e.Code == mxerr.CodeLimitExceeded || e == errOtherUser {
		return err
	}
	return a.challenge(op, s, e)
}

func (s *authSession) grant(op Operation) *Grant {
	g := &Grant{User: op.User, Params: s.params, Facts: s.facts, session: s}
	if g.User == "" {
		g.User = id.UserID(s.facts[FactUser])
	}
	return g
}

// challenge is the 401 that lists what is left to do.
func (a *Accounts) challenge(op Operation, s *authSession, why *mxerr.Error) error {
	e := &web.InteractiveError{
		Flows: op.Flows, Session: s.id, Completed: s.completed, Err: why, Params: map[string]any{},
	}
	for _, flow := range op.Flows {
		for _, name := range flow.Stages {
			if stage := a.stages[name]; stage != nil {
				if p := stage.Params(); p != nil {
					e.Params[name] = p
				}
			}
		}
	}
	return e
}

// next reports whether the stage follows the completed ones in some flow.
func next(flows []web.Flow, completed []string, stage string) bool {
	for _, f := range flows {
		if len(f.Stages) > len(completed) && slices.Equal(f.Stages[:len(completed)], completed) && f.Stages[len(completed)] == stage {
			return true
		}
	}
	return false
}

func complete(flows []web.Flow, completed []string) bool {
	return slices.ContainsFunc(flows, func(f web.Flow) bool { return slices.Equal(f.Stages, completed) })
}

// splitAuth takes auth out of a request body. auth is nil where there is none; params is a JSON object
// with its keys in order, so that equal requests are equal bytes.
func splitAuth(body []byte) (params, auth json.RawMessage, err error) {
	if len(body) == 0 {
		return json.RawMessage("{}"), nil, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, nil, mxerr.BadJSON("The request body must be an object.")
	}
	auth = fields["auth"]
	delete(fields, "auth")
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	if params, err = json.Marshal(fields); err != nil {
		return nil, nil, fmt.Errorf("encode parameters: %w", err)
	}
	if string(auth) == "null" {
		auth = nil
	}
	return params, auth, nil
}
