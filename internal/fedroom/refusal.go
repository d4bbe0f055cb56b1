package fedroom

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"myelin/internal/fedclient"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// refusals collects why one server after another could not be used.
type refusals struct {
	servers []id.ServerName
	errs    []error
}

func (r *refusals) add(server id.ServerName, err error) {
	r.servers = append(r.servers, server)
	r.errs = append(r.errs, err)
}

// maxDenials is how many servers may say that something is forbidden before the others aren't asked any more. One may be
// behind the times.
const maxDenials = 2

// final reports that asking further servers is of no use.
func (r *refusals) final() bool {
	denials := 0
	for _, err := range r.errs {
		switch remoteCode(err) {
		case mxerr.CodeIncompatibleRoomVersion, mxerr.CodeUnsupportedRoomVersion, mxerr.CodeInviteBlocked:
			return true
		case mxerr.CodeForbidden:
			denials++
		}
	}
	return denials >= maxDenials
}

// telling are the codes of another server that say something to the client about its request, the most telling first. Every
// other code is about what passed between the servers.
//
// Spec: ss makeJoin
var telling = []mxerr.Code{
	mxerr.CodeIncompatibleRoomVersion, mxerr.CodeUnsupportedRoomVersion, mxerr.CodeInviteBlocked, mxerr.CodeForbidden, mxerr.CodeUnableToGrantJoin,
	mxerr.CodeUnableToAuthoriseJoin, mxerr.CodeLimitExceeded, mxerr.CodeNotFound,
}

// remoteCode is what another server answered, "" where that is not for clients or where there was no answer.
func remoteCode(err error) mxerr.Code {
	remote, ok := errors.AsType[*fedclient.RemoteError](err)
	if !ok || remote.Err == nil {
		return ""
	}
	for _, code := range telling {
		if remote.Err.Code == code {
			return code
		}
	}
	return ""
}

// err is what the client is told: the most telling answer with what each server said.
func (r *refusals) err(what string) error {
	code := mxerr.CodeConnectionFailed
	for _, c := range telling {
		if r.says(c) {
			code = c
			break
		}
	}
	var parts []string
	for i, s := range r.servers {
		parts = append(parts, fmt.Sprintf("%s: %s", s, reason(r.errs[i])))
	}
	e := mxerr.New(code, "%s failed (%s)", what, strings.Join(parts, "; "))
	for i := range r.errs {
		remote, ok := errors.AsType[*fedclient.RemoteError](r.errs[i])
		if !ok || remoteCode(remote) != code {
			continue
		}
		if version, ok := remote.Err.Extra["room_version"].(string); ok {
			e = e.With("room_version", version)
		}
		if code == mxerr.CodeLimitExceeded {
			e.RetryAfter = remote.RetryAfter
		}
	}
	return fmt.Errorf("%w: %w", e, errors.Join(r.errs...))
}

func (r *refusals) says(code mxerr.Code) bool {
	for _, err := range r.errs {
		if remoteCode(err) == code {
			return true
		}
	}
	return false
}

// reason says in words that a client may see why a server was of no use.
func reason(err error) string {
	if remote, ok := errors.AsType[*fedclient.RemoteError](err); ok {
		return fmt.Sprintf("it answered %d %s: %s", remote.Status, remote.Err.Code, remote.Err.Text)
	}
	if fault, ok := errors.AsType[*misfit](err); ok {
		return fault.text
	}
	switch {
	case errors.Is(err, fedclient.ErrNotPermitted), errors.Is(err, fedclient.ErrPrivate), errors.Is(err, fedclient.ErrTooLarge):
		return "it may not be used"
	case errors.Is(err, context.DeadlineExceeded):
		return "it took too long"
	}
	if _, ok := errors.AsType[*fedclient.Unreachable](err); ok {
		return "it can't be reached, or gave no sensible answer"
	}
	return "its answer could not be used"
}

// misfit says what is wrong with what another server sent. The text is safe to show.
type misfit struct{ text string }

func (m *misfit) Error() string { return "fedroom: " + m.text }

func misfitf(format string, args ...any) error { return &misfit{fmt.Sprintf(format, args...)} }

// answered reports whether an error is another server's answer, rather than the lack of one.
func answered(err error) bool {
	_, ok := errors.AsType[*fedclient.RemoteError](err)
	return ok
}
