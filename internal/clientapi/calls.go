package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"strconv"
	"time"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// TURN says how users get at TURN servers: with names and passwords made of a secret, or, where there is none, all with the
// same.
type TURN struct {
	URIs               []string
	Secret             string
	Lifetime           time.Duration
	Username, Password string
	Guests             bool
}

// callRoutes is about what calls need besides rooms.
//
// Spec: cs Voice over IP
func (a *API) callRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/v3/voip/turnServer", Op: "getTurnServer", Auth: web.Guest, Handle: a.turnServer},
	}
}

// turnServer is the answer of getTurnServer. TTL is in seconds.
type turnServer struct {
	Username string   `json:"username"`
	Password string   `json:"password"`
	URIs     []string `json:"uris"`
	TTL      int64    `json:"ttl"`
}

// Spec: cs getTurnServer
func (a *API) turnServer(_ context.Context, r *web.Request) (*web.Response, error) {
	t := a.Settings.TURN
	switch {
	case len(t.URIs) == 0:
		return nil, mxerr.NotFound("this server has no relay for calls")
	case r.Caller.Guest && !t.Guests:
		return nil, mxerr.New(mxerr.CodeGuestAccessForbidden, "guests may not use this server's relay for calls")
	}
	return web.JSON(t.server(r.Caller.User, time.Now())), nil
}

// server makes credentials. Those of a secret are its keyed hash over a name that begins with the time at which they
// expire, as the draft "A REST API for Access To TURN Services" has it.
func (t TURN) server(user id.UserID, now time.Time) turnServer {
	s := turnServer{Username: t.Username, Password: t.Password, URIs: t.URIs, TTL: int64(t.Lifetime.Seconds())}
	if t.Secret == "" {
		return s
	}
	s.Username = strconv.FormatInt(now.Add(t.Lifetime).Unix(), 10) + ":" + string(user)
	mac := hmac.New(sha1.New, []byte(t.Secret))
	mac.Write([]byte(s.Username))
	s.Password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return s
}
