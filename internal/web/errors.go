package web

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"

	"myelin/matrix/mxerr"
)

// statusOf gives each errcode its HTTP status. Operations that answer a code with another
// status than here wrap their error with Status.
//
// Spec: cs Standard error response
var statusOf = map[mxerr.Code]int{
	mxerr.CodeForbidden:     http.StatusForbidden,
	mxerr.CodeUnknownToken:  http.StatusUnauthorized,
	mxerr.CodeMissingToken:  http.StatusUnauthorized,
	mxerr.CodeUserLocked:    http.StatusUnauthorized, // Spec: cs Account locking
	mxerr.CodeUserSuspended: http.StatusForbidden,    // Spec: cs Account suspension
	mxerr.CodeBadJSON:       http.StatusBadRequest,
	mxerr.CodeNotJSON:       http.StatusBadRequest,
	mxerr.CodeNotFound:      http.StatusNotFound,
	mxerr.CodeLimitExceeded: http.StatusTooManyRequests,
	mxerr.CodeUnrecognized:  http.StatusNotFound, // 405 where only the method is wrong
	mxerr.CodeUnknown:       http.StatusInternalServerError,
	mxerr.CodeUnauthorized:  http.StatusUnauthorized,

	mxerr.CodeUserDeactivated:         http.StatusForbidden,  // Spec: cs login
	mxerr.CodeUserInUse:               http.StatusBadRequest, // Spec: cs register
	mxerr.CodeInvalidUsername:         http.StatusBadRequest, // Spec: cs register
	mxerr.CodeRoomInUse:               http.StatusBadRequest, // Spec: cs createRoom
	mxerr.CodeInvalidRoomState:        http.StatusBadRequest, // Spec: cs createRoom
	mxerr.CodeUnsupportedRoomVersion:  http.StatusBadRequest, // Spec: cs createRoom
	mxerr.CodeIncompatibleRoomVersion: http.StatusBadRequest, // Spec: ss makeJoin
	mxerr.CodeBadState:                http.StatusForbidden,
	mxerr.CodeGuestAccessForbidden:    http.StatusForbidden,
	mxerr.CodeMissingParam:            http.StatusBadRequest,
	mxerr.CodeInvalidParam:            http.StatusBadRequest,
	mxerr.CodeTooLarge:                http.StatusRequestEntityTooLarge,
	mxerr.CodeExclusive:               http.StatusBadRequest, // Spec: cs register
	mxerr.CodeResourceLimitExceeded:   http.StatusForbidden,
	mxerr.CodeCannotLeaveServerNotice: http.StatusForbidden,  // Spec: cs Server Notices
	mxerr.CodeWeakPassword:            http.StatusBadRequest, // Spec: cs Password Management
	mxerr.CodeUnableToAuthoriseJoin:   http.StatusBadRequest, // Spec: ss makeJoin
	mxerr.CodeUnableToGrantJoin:       http.StatusBadRequest, // Spec: ss makeJoin
	mxerr.CodeDuplicateAnnotation:     http.StatusBadRequest, // Spec: cs sendMessage
	mxerr.CodeBadAlias:                http.StatusBadRequest, // Spec: cs setRoomStateWithKey
	mxerr.CodeProfileTooLarge:         http.StatusBadRequest, // Spec: cs setProfileField
	mxerr.CodeKeyTooLarge:             http.StatusBadRequest, // Spec: cs setProfileField
	mxerr.CodeWrongRoomKeysVersion:    http.StatusForbidden,  // Spec: cs putRoomKeys
	mxerr.CodeInviteBlocked:           http.StatusForbidden,  // Spec: cs inviteUser
	mxerr.CodeConnectionFailed:        http.StatusBadGateway,
	mxerr.CodeConnectionTimeout:       http.StatusGatewayTimeout,
	mxerr.CodeThreepidNotFound:        http.StatusBadRequest, // Spec: cs requestTokenToResetPasswordEmail
	mxerr.CodeThreepidInUse:           http.StatusBadRequest, // Spec: cs requestTokenTo3PIDEmail
	mxerr.CodeThreepidDenied:          http.StatusForbidden,  // Spec: cs requestTokenTo3PIDEmail
	mxerr.CodeThreepidAuthFailed:      http.StatusBadRequest, // Spec: cs add3PID
	mxerr.CodeCaptchaNeeded:           http.StatusBadRequest,
	mxerr.CodeCaptchaInvalid:          http.StatusBadRequest,
	mxerr.CodeServerNotTrusted:        http.StatusBadRequest, // Spec: cs requestTokenTo3PIDEmail
	mxerr.CodeUnknownPos:              http.StatusBadRequest, // MSC4186: an unknown or expired position
	mxerr.CodeInvalidSignature:        http.StatusBadRequest, // Spec: cs uploadCrossSigningKeys

	mxerr.CodeNotYetUploaded:       http.StatusGatewayTimeout, // Spec: cs getContentAuthed
	mxerr.CodeCannotOverwriteMedia: http.StatusConflict,       // Spec: cs uploadContentToMXC

	mxerr.CodeUnknownDevice: http.StatusBadRequest, // Spec: as Identity assertion
	mxerr.CodeURLNotSet:     http.StatusBadRequest, // Spec: cs pingAppservice
	mxerr.CodeBadStatus:     http.StatusBadGateway, // Spec: cs pingAppservice
}

// Status gives an error another HTTP status than its code has, for the operations where the
// specification wants that. The error still decides the body.
func Status(err error, status int) error { return &statusError{err, status} }

type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// Suspended is the error for something that a suspended account may not do.
//
// Spec: cs Account suspension
func Suspended() *mxerr.Error {
	return mxerr.New(mxerr.CodeUserSuspended, "You cannot do this while your account is suspended.")
}

// InteractiveError asks the client for more authentication: a 401 whose body lists the
// flows. It is an answer rather than a failure, unless Err says what went wrong.
//
// Spec: cs User-interactive API in the REST API
type InteractiveError struct {
	Flows     []Flow
	Params    map[string]any
	Session   string
	Completed []string
	// Err says why the last attempt failed; nil where there was none or it succeeded.
	Err *mxerr.Error
}

// Flow is one sequence of stages that would authenticate the caller.
type Flow struct {
	Stages []string `json:"stages"`
}

func (e *InteractiveError) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	return "user-interactive authentication is not complete"
}

func (e *InteractiveError) body() map[string]any {
	body := map[string]any{"flows": e.Flows, "params": e.Params, "session": e.Session}
	if e.Flows == nil {
		body["flows"] = []Flow{}
	}
	if e.Params == nil {
		body["params"] = struct{}{}
	}
	if len(e.Completed) > 0 {
		body["completed"] = e.Completed
	}
	if e.Err != nil {
		body["errcode"], body["error"] = e.Err.Code, e.Err.Text
	}
	return body
}

// internal is all that a client learns of an error that is ours.
var internal = mxerr.New(mxerr.CodeUnknown, "The server failed to handle the request.")

// toResponse turns any error into an answer. blame is the error to log, nil where the
// caller is at fault and the errcode says it all.
func toResponse(err error) (resp *Response, code mxerr.Code, blame error) {
	var interactive *InteractiveError
	if errors.As(err, &interactive) {
		return &Response{Status: http.StatusUnauthorized, Body: interactive.body()}, "", nil
	}
	e, ok := mxerr.Of(err)
	if !ok {
		e, blame = internal, err
	}
	status, known := statusOf[e.Code]
	if !known {
		status = http.StatusBadRequest
	}
	var over *statusError
	if errors.As(err, &over) {
		status = over.status
	}
	if status >= 500 && blame == nil {
		blame = err
	}
	return errorResponse(e, status), e.Code, blame
}

func errorResponse(e *mxerr.Error, status int) *Response {
	body := make(map[string]any, len(e.Extra)+3)
	maps.Copy(body, e.Extra)
	body["errcode"], body["error"] = e.Code, e.Text
	resp := &Response{Status: status, Body: body}
	if e.Code == mxerr.CodeLimitExceeded && e.RetryAfter > 0 {
		body["retry_after_ms"] = int64(math.Ceil(float64(e.RetryAfter) / float64(time.Millisecond)))
		seconds := int64(math.Ceil(e.RetryAfter.Seconds()))
		resp.Header = http.Header{"Retry-After": {strconv.FormatInt(seconds, 10)}}
	}
	return resp
}

// gone reports whether err only says that nobody waits for the answer any more.
func gone(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Canceled)
}
