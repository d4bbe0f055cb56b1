package fedclient

import (
	"errors"
	"fmt"
	"time"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// RemoteError is the answer of another server that is not a success.
type RemoteError struct {
	Server id.ServerName
	// Status is the HTTP status.
	Status int
	// Err is what the other server said. Its code may be any text, M_UNKNOWN where it gave none; its text
	// is cut to a sane length; Extra may hold room_version.
	Err *mxerr.Error
	// RetryAfter is how long the other server wants to be left alone, 0 where it didn't say.
	RetryAfter time.Duration
	// silent: there was no errcode, so something in front of the server may have spoken.
	silent bool
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s answered %d %s: %s", e.Server, e.Status, e.Err.Code, e.Err.Text)
}

// Unwrap is for errors.As: whoever passes the answer on to a client finds it as an *mxerr.Error.
func (e *RemoteError) Unwrap() error { return e.Err }

// Unreachable says that a server could not be asked, or gave no answer that can be understood.
type Unreachable struct {
	Server id.ServerName
	// RetryAt is when the next request may go out. Until then all but urgent ones fail at once.
	RetryAt time.Time
	// Asked is false where nothing was sent because the server failed shortly before.
	Asked bool
	Cause error
}

func (e *Unreachable) Error() string {
	if !e.Asked {
		return fmt.Sprintf("%s failed and is left alone until %s", e.Server, e.RetryAt.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s can't be reached: %v", e.Server, e.Cause)
}

func (e *Unreachable) Unwrap() error { return e.Cause }

// Why nothing was even tried.
var (
	// ErrNotPermitted: federation.allow and federation.deny forbid to speak with that server.
	ErrNotPermitted = errors.New("this server is not allowed to federate with that one")
	// ErrPrivate: a name leads to an address that is not public.
	ErrPrivate = errors.New("the address is not public, and federation.allow_networks does not list it")
	// ErrNotOurs: the origin of a request is not a name of this server.
	ErrNotOurs = errors.New("the origin is not a name of this server")
	// ErrTooLarge: an answer exceeds its bound.
	ErrTooLarge = errors.New("the answer is too large")
)

// FaultKind says what is wrong with an event of another server.
type FaultKind uint8

const (
	// FaultMalformed: it is no event of its room version. Asking again gives the same.
	FaultMalformed FaultKind = iota + 1
	// FaultSignature: a signature is absent or wrong. Asking again gives the same.
	FaultSignature
	// FaultKeys: the keys to judge the signatures can't be had now. It may be checked again later.
	FaultKeys
)

// Fault says why an event failed the checks that need no room.
type Fault struct {
	Kind FaultKind
	// Event is empty where the event is malformed.
	Event id.EventID
	// Signer is the server whose signature is at fault, or whose keys are out of reach.
	Signer id.ServerName
	Err    error
}

func (f *Fault) Error() string {
	switch f.Kind {
	case FaultMalformed:
		return fmt.Sprintf("malformed event: %v", f.Err)
	case FaultKeys:
		return fmt.Sprintf("the keys of %s for event %s are out of reach: %v", f.Signer, f.Event, f.Err)
	}
	return fmt.Sprintf("event %s lacks a valid signature of %s: %v", f.Event, f.Signer, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

// Retry reports whether the same event may pass later.
func (f *Fault) Retry() bool { return f.Kind == FaultKeys }
