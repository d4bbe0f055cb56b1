package fedclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Bounds of answers in bytes, after decompression.
const (
	maxSmallAnswer   = 64 << 10
	maxProfileAnswer = 256 << 10
	maxEventAnswer   = 2 << 20
	maxMediumAnswer  = 8 << 20
	maxLargeAnswer   = 32 << 20
	maxIDsAnswer     = 64 << 20
	maxEventsAnswer  = 128 << 20
	maxStateAnswer   = 1 << 30
	// maxErrorAnswer bounds what is read of an answer that is no success.
	maxErrorAnswer = 64 << 10
	// maxAnswerDepth bounds the nesting of an answer that is decoded as a whole.
	maxAnswerDepth = 1000
)

// Bounds of a transaction. Spec: ss Transactions
const (
	maxPDUs = 50
	maxEDUs = 100
)

// Paths that operations share.
const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// Call says between which servers a request passes, and how.
type Call struct {
	// Origin is the name of ours that asks. Its key signs.
	Origin id.ServerName
	// Destination is whom to ask.
	Destination id.ServerName
	// Urgent requests go out although the destination failed shortly before. Those who set it
	// wait between failures on their own account, or have a user who waits for the answer.
	Urgent bool
	// Timeout bounds the whole call; 0 means what suits the operation.
	Timeout time.Duration
}

// request is one request before it is signed.
type request struct {
	// op is the operationId, for logs and metrics.
	op     string
	method string
	// path is escaped.
	path  string
	query url.Values
	// body is JSON; nil for none.
	body     []byte
	unsigned bool
	// beside: the request is not counted among those to its server. It is for keys, which others of them may wait for, and which have
	// bounds of their own.
	beside  bool
	timeout time.Duration
	// limit bounds the answer in bytes.
	limit int64
	// accept is the media type wanted, "" for JSON.
	accept string
}

// segments builds an escaped path.
func segments(prefix string, parts ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}

// answer is a success whose body is yet to be read. Close must be called.
type answer struct {
	header http.Header
	// body yields decompressed bytes, ErrTooLarge beyond the limit, and an error where the other side pauses for too long.
	body io.Reader
	// done frees the connection, or closes it where something is unread.
	done func()
}

func (a *answer) Close() { a.done() }

// decode sends a request and decodes the answer into dest, which may be nil.
func (c *Client) decode(ctx context.Context, call Call, rq request, dest any) error {
	a, err := c.send(ctx, call, rq)
	if err != nil {
		return err
	}
	defer a.Close()
	raw, err := io.ReadAll(a.body)
	if err != nil {
		return c.broken(call, rq.op, err)
	}
	if dest == nil {
		return nil
	}
	if err := decodeJSON(raw, dest); err != nil {
		return c.malformed(call, rq.op, err)
	}
	return nil
}

// decodeJSON decodes what another server wrote: one value, in UTF-8, not too deep.
func decodeJSON(raw []byte, dest any) error {
	if !utf8.Valid(raw) {
		return errors.New("the answer is not UTF-8")
	}
	if err := checkDepth(raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, dest)
}

// checkDepth bounds nesting without caring for anything else of JSON.
func checkDepth(raw []byte) error {
	depth, inText := 0, false
	for i := 0; i < len(raw); i++ {
		switch ch := raw[i]; {
		case inText:
			if ch == '\\' {
				i++
			} else if ch == '"' {
				inText = false
			}
		case ch == '"':
			inText = true
		case ch == '{' || ch == '[':
			if depth++; depth > maxAnswerDepth {
				return errors.New("the answer is nested too deep")
			}
		case ch == '}' || ch == ']':
			depth--
		}
	}
	return nil
}

// stream sends a request and takes the answer apart as it arrives.
func (c *Client) stream(ctx context.Context, call Call, rq request, s stateAnswer) error {
	a, err := c.send(ctx, call, rq)
	if err != nil {
		return err
	}
	defer a.Close()
	err = s.read(a.body)
	var taken *takenError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &taken):
		return taken.err
	case errors.Is(err, errStateForm):
		return c.malformed(call, rq.op, err)
	}
	return c.broken(call, rq.op, err)
}

// malformed is the error for an answer that is not what the operation promises. The server isn't held to be out of reach: other
// requests may well succeed.
func (c *Client) malformed(call Call, op string, err error) error {
	return &Unreachable{Server: call.Destination, Asked: true, Cause: fmt.Errorf("its answer to %s makes no sense: %w", op, err)}
}

// broken is the error for an answer that ended before its end.
func (c *Client) broken(call Call, op string, err error) error {
	return &Unreachable{Server: call.Destination, Asked: true, Cause: fmt.Errorf("read its answer to %s: %w", op, err)}
}

// unknownEndpoint reports whether the other server doesn't know the operation.
func unknownEndpoint(err error) bool {
	remote, ok := errors.AsType[*RemoteError](err)
	return ok && (remote.Status == http.StatusNotFound || remote.Status == http.StatusMethodNotAllowed) &&
		(remote.Err.Code == mxerr.CodeUnrecognized || remote.silent)
}

// remoteError reads what a server says of a failure.
func remoteError(server id.ServerName, status int, header http.Header, body []byte) *RemoteError {
	e := &RemoteError{Server: server, Status: status, Err: &mxerr.Error{Code: mxerr.CodeUnknown}, silent: true, RetryAfter: retryAfter(header)}
	var text struct {
		Code         string          `json:"errcode"`
		Text         string          `json:"error"`
		RetryAfterMS float64         `json:"retry_after_ms"`
		RoomVersion  json.RawMessage `json:"room_version"`
	}
	if decodeJSON(body, &text) == nil && text.Code != "" {
		e.Err.Code, e.silent = mxerr.Code(clip(text.Code)), false
	}
	if e.Err.Text = clip(text.Text); e.Err.Text == "" {
		e.Err.Text = "The other server refused without giving a reason."
	}
	if v, ok := canon.Text(text.RoomVersion); ok && len(text.RoomVersion) > 0 {
		e.Err.Extra = map[string]any{"room_version": clip(v)}
	}
	if ms := text.RetryAfterMS; e.RetryAfter == 0 && ms > 0 {
		e.RetryAfter = time.Duration(min(ms, float64(maxBackoff/time.Millisecond))) * time.Millisecond
	}
	e.Err.RetryAfter = e.RetryAfter
	return e
}

// clip bounds a text that others wrote before it gets into logs and errors.
func clip(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	if len(s) <= most {
		return s
	}
	for s = s[:most]; len(s) > 0 && !utf8.ValidString(s); {
		s = s[:len(s)-1]
	}
	return s
}

// serverNames decodes a list of names and drops what isn't one: one bad name must not spoil the others.
type serverNames []id.ServerName

func (s *serverNames) UnmarshalJSON(raw []byte) error {
	var texts []json.RawMessage
	if err := json.Unmarshal(raw, &texts); err != nil {
		return err
	}
	*s = make(serverNames, 0, len(texts))
	for _, t := range texts {
		text, _ := canon.Text(bytes.TrimSpace(t))
		if name, err := id.ParseServerName(text); err == nil {
			*s = append(*s, name)
		}
	}
	return nil
}
