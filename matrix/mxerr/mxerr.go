package mxerr

import (
	"errors"
	"fmt"
	"time"
)

// Code is an errcode of the specification, such as "M_FORBIDDEN".
type Code string

// The codes in use. The map in internal/web gives each its HTTP status.
const (
	CodeForbidden               Code = "M_FORBIDDEN"
	CodeUnknownToken            Code = "M_UNKNOWN_TOKEN"
	CodeMissingToken            Code = "M_MISSING_TOKEN"
	CodeUserLocked              Code = "M_USER_LOCKED"
	CodeUserSuspended           Code = "M_USER_SUSPENDED"
	CodeBadJSON                 Code = "M_BAD_JSON"
	CodeNotJSON                 Code = "M_NOT_JSON"
	CodeNotFound                Code = "M_NOT_FOUND"
	CodeLimitExceeded           Code = "M_LIMIT_EXCEEDED"
	CodeUnrecognized            Code = "M_UNRECOGNIZED"
	CodeUnknown                 Code = "M_UNKNOWN"
	CodeUnauthorized            Code = "M_UNAUTHORIZED"
	CodeUserDeactivated         Code = "M_USER_DEACTIVATED"
	CodeUserInUse               Code = "M_USER_IN_USE"
	CodeInvalidUsername         Code = "M_INVALID_USERNAME"
	CodeRoomInUse               Code = "M_ROOM_IN_USE"
	CodeInvalidRoomState        Code = "M_INVALID_ROOM_STATE"
	CodeUnsupportedRoomVersion  Code = "M_UNSUPPORTED_ROOM_VERSION"
	CodeIncompatibleRoomVersion Code = "M_INCOMPATIBLE_ROOM_VERSION"
	CodeBadState                Code = "M_BAD_STATE"
	CodeGuestAccessForbidden    Code = "M_GUEST_ACCESS_FORBIDDEN"
	CodeMissingParam            Code = "M_MISSING_PARAM"
	CodeInvalidParam            Code = "M_INVALID_PARAM"
	CodeTooLarge                Code = "M_TOO_LARGE"
	CodeExclusive               Code = "M_EXCLUSIVE"
	CodeResourceLimitExceeded   Code = "M_RESOURCE_LIMIT_EXCEEDED"
	CodeCannotLeaveServerNotice Code = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	CodeWeakPassword            Code = "M_WEAK_PASSWORD"
	CodeUnableToAuthoriseJoin   Code = "M_UNABLE_TO_AUTHORISE_JOIN"
	CodeUnableToGrantJoin       Code = "M_UNABLE_TO_GRANT_JOIN"
	CodeDuplicateAnnotation     Code = "M_DUPLICATE_ANNOTATION"
	CodeBadAlias                Code = "M_BAD_ALIAS"
	CodeProfileTooLarge         Code = "M_PROFILE_TOO_LARGE"
	CodeKeyTooLarge             Code = "M_KEY_TOO_LARGE"
	CodeWrongRoomKeysVersion    Code = "M_WRONG_ROOM_KEYS_VERSION"
	CodeInviteBlocked           Code = "M_INVITE_BLOCKED"
	CodeConnectionFailed        Code = "M_CONNECTION_FAILED"
	CodeConnectionTimeout       Code = "M_CONNECTION_TIMEOUT"
	CodeThreepidNotFound        Code = "M_THREEPID_NOT_FOUND"
	CodeThreepidInUse           Code = "M_THREEPID_IN_USE"
	CodeThreepidDenied          Code = "M_THREEPID_DENIED"
	CodeThreepidAuthFailed      Code = "M_THREEPID_AUTH_FAILED"
	CodeCaptchaNeeded           Code = "M_CAPTCHA_NEEDED"
	CodeCaptchaInvalid          Code = "M_CAPTCHA_INVALID"
	CodeServerNotTrusted        Code = "M_SERVER_NOT_TRUSTED"
	CodeUnknownPos              Code = "M_UNKNOWN_POS"
	CodeInvalidSignature        Code = "M_INVALID_SIGNATURE"
	CodeNotYetUploaded          Code = "M_NOT_YET_UPLOADED"
	CodeCannotOverwriteMedia    Code = "M_CANNOT_OVERWRITE_MEDIA"
	CodeUnknownDevice           Code = "M_UNKNOWN_DEVICE"
	CodeURLNotSet               Code = "M_URL_NOT_SET"
	CodeBadStatus               Code = "M_BAD_STATUS"
)

// Error is what a client sees of a failure.
type Error struct {
	Code Code
	// Text is one sentence for a human, without secrets.
	Text string
	// Extra holds further top-level fields of the response, such as room_version. May be nil.
	Extra map[string]any
	// RetryAfter is set with M_LIMIT_EXCEEDED: how long the caller should wait.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Text }

// New makes an Error. The format and its arguments must be safe to show.
func New(code Code, format string, args ...any) *Error {
	if len(args) == 0 {
		return &Error{Code: code, Text: format}
	}
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// With returns a copy of the error with one more field in the response.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = make(map[string]any, len(e.Extra)+1)
	for k, v := range e.Extra {
		c.Extra[k] = v
	}
	c.Extra[key] = value
	return &c
}

// Of finds the Error inside err, and false where there is none.
func Of(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Is reports whether err carries this code.
func Is(err error, code Code) bool {
	e, ok := Of(err)
	return ok && e.Code == code
}

// Forbidden says that the caller may not do this.
func Forbidden(format string, args ...any) *Error { return New(CodeForbidden, format, args...) }

// NotFound says that the thing does not exist, or that the caller may not know of it.
func NotFound(format string, args ...any) *Error { return New(CodeNotFound, format, args...) }

// BadJSON says that the body is JSON but not of the expected shape.
func BadJSON(format string, args ...any) *Error { return New(CodeBadJSON, format, args...) }

// InvalidParam says that a parameter has a value that can't be used.
func InvalidParam(format string, args ...any) *Error { return New(CodeInvalidParam, format, args...) }

// MissingParam says that a required parameter is absent.
func MissingParam(format string, args ...any) *Error { return New(CodeMissingParam, format, args...) }

// TooLarge says that something exceeds a limit; the text names the limit.
func TooLarge(format string, args ...any) *Error { return New(CodeTooLarge, format, args...) }

// LimitExceeded says that the caller is too fast, and when it may try again.
func LimitExceeded(retryAfter time.Duration) *Error {
	return &Error{Code: CodeLimitExceeded, Text: "Too many requests. Wait before you try again.", RetryAfter: retryAfter}
}
