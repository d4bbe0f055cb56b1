package web

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxParams is the largest number of parameters in one route's path.
const maxParams = 6

// bodyTimeout is how long a client may take to send its body.
const bodyTimeout = time.Minute

// Request is what a handler sees of a request.
type Request struct {
	// Caller is who sent it. It is empty on routes without authentication, and without a
	// token on routes where authentication is optional.
	Caller Caller
	// Origin is the server that signed the request and Destination the name of ours that it was meant for. They are
	// set on routes with Auth Server only.
	Origin, Destination id.ServerName
	// HTTP is the request itself, for what has no accessor here.
	HTTP *http.Request
	// RemoteAddr is the client's address; a trusted proxy's word is taken for it.
	RemoteAddr netip.Addr

	route    *route
	writer   http.ResponseWriter
	draining <-chan struct{}
	params   [maxParams]string
	query    url.Values
	body     []byte
	read     bool
	// holding counts the body of another server's request.
	holding *holding
}

// Op is the operation's id.
func (r *Request) Op() string { return r.route.Op }

// Path returns a path parameter, unescaped. The name must be one of the route's.
func (r *Request) Path(name string) string {
	for i, n := range r.route.names {
		if n == name {
			return r.params[i]
		}
	}
	return ""
}

// Draining is closed when the server is about to stop: a handler that waits for news then answers
// with what it has. It may be nil, that is, never closed.
func (r *Request) Draining() <-chan struct{} { return r.draining }

// UserID reads a path parameter as a user ID.
func (r *Request) UserID(name string) (id.UserID, error) {
	return parsed(r.Path(name), id.ParseUserID)
}

// RoomID reads a path parameter as a room ID.
func (r *Request) RoomID(name string) (id.RoomID, error) {
	return parsed(r.Path(name), id.ParseRoomID)
}

// EventID reads a path parameter as an event ID.
func (r *Request) EventID(name string) (id.EventID, error) {
	return parsed(r.Path(name), id.ParseEventID)
}

// RoomAlias reads a path parameter as a room alias.
func (r *Request) RoomAlias(name string) (id.RoomAlias, error) {
	return parsed(r.Path(name), id.ParseRoomAlias)
}

func parsed[T any](s string, parse func(string) (T, error)) (T, error) {
	v, err := parse(s)
	if err != nil {
		return v, mxerr.InvalidParam("%s", err)
	}
	return v, nil
}

// Query returns a query parameter, "" where it is absent.
func (r *Request) Query(name string) string { return r.query.Get(name) }

// HasQuery reports whether a query parameter is present, if only empty.
func (r *Request) HasQuery(name string) bool { return r.query.Has(name) }

// QueryAll returns every value of a query parameter, in order.
func (r *Request) QueryAll(name string) []string { return r.query[name] }

// QueryInt reads a query parameter as a decimal integer; fallback stands in where it is absent.
func (r *Request) QueryInt(name string, fallback int64) (int64, error) {
	s := r.query.Get(name)
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, mxerr.InvalidParam("The query parameter %q must be an integer.", name)
	}
	return n, nil
}

// QueryBool reads a query parameter that must be "true" or "false"; fallback stands in where
// it is absent.
func (r *Request) QueryBool(name string, fallback bool) (bool, error) {
	switch r.query.Get(name) {
	case "":
		return fallback, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, mxerr.InvalidParam("The query parameter %q must be true or false.", name)
}

// Token returns the access token, "" where there is none. The header wins over the query.
//
// Spec: cs Using access tokens
func (r *Request) Token() string {
	if scheme, token, ok := strings.Cut(r.HTTP.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return r.query.Get("access_token")
}

// Body returns the request's body as it came. The slice is the caller's to keep.
func (r *Request) Body() ([]byte, error) {
	if r.read {
		return r.body, nil
	}
	limit := r.route.MaxBody
	if r.HTTP.ContentLength > limit {
		return nil, tooLargeBody(limit)
	}
	// A client that trickles its body must not hold a connection for ever. Failure to set a
	// deadline means that there is no connection, as in tests.
	control := http.NewResponseController(r.writer)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := readAll(r.HTTP.Body, r.HTTP.ContentLength, limit)
	if err != nil {
		return nil, err
	}
	_ = control.SetReadDeadline(time.Time{})
	r.body, r.read = body, true
	return body, nil
}

// readAll reads a body of a claimed size (-1: unknown). It believes claims only up to 64 KiB.
func readAll(body io.Reader, claimed, limit int64) ([]byte, error) {
	if claimed == 0 || body == nil {
		return nil, nil
	}
	capacity := int64(512)
	if claimed > 0 {
		capacity = min(claimed, 64<<10) + 1
	}
	buf := make([]byte, 0, capacity)
	for {
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, tooLargeBody(limit)
		case errors.Is(err, io.EOF):
			return buf, nil
		case mxerr.Is(err, mxerr.CodeLimitExceeded):
			return nil, err
		case err != nil:
			return nil, Status(mxerr.New(mxerr.CodeUnknown, "The request's body could not be read to its end."), http.StatusBadRequest)
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

func tooLargeBody(limit int64) error {
	return mxerr.TooLarge("The request's body is larger than %d bytes.", limit)
}

// parseQuery reads the query string. Unlike package net/url it takes a semicolon for itself,
// because clients put unescaped JSON into queries.
func parseQuery(raw string) (url.Values, error) {
	if raw == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(strings.ReplaceAll(raw, ";", "%3B"))
	if err != nil {
		return nil, mxerr.InvalidParam("The query string is not well formed.")
	}
	for name, all := range values {
		for _, v := range all {
			if !cleanText(v) {
				return nil, mxerr.InvalidParam("The query parameter %q must be valid UTF-8 without NUL.", strings.ToValidUTF8(name, "?"))
			}
		}
	}
	return values, nil
}

func cleanText(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}
