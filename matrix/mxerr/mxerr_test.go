package mxerr

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"
)

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		code Code
		text string
	}{
		{Forbidden("no %s", "way"), CodeForbidden, "no way"},
		{Forbidden("plain"), CodeForbidden, "plain"},
		{NotFound("gone"), CodeNotFound, "gone"},
		{BadJSON("field %q", "x"), CodeBadJSON, `field "x"`},
		{InvalidParam("p"), CodeInvalidParam, "p"},
		{MissingParam("p"), CodeMissingParam, "p"},
		{TooLarge("%d bytes", 5), CodeTooLarge, "5 bytes"},
		{New(CodeUnknown, "u"), CodeUnknown, "u"},
	} {
		if c.err.Code != c.code || c.err.Text != c.text || c.err.Error() != string(c.code)+": "+c.text {
			t.Errorf("%#v, want %s %s", c.err, c.code, c.text)
		}
	}
	if e := LimitExceeded(time.Second); e.RetryAfter != time.Second || e.Code != CodeLimitExceeded {
		t.Errorf("%#v", e)
	}
}

func TestOfFindsTheInnermost(t *testing.T) {
	wrapped := fmt.Errorf("load: %w", fmt.Errorf("decide: %w", Forbidden("no")))
	if e, ok := Of(wrapped); !ok || e.Text != "no" || !Is(wrapped, CodeForbidden) || Is(wrapped, CodeNotFound) {
		t.Errorf("%v, %v", e, ok)
	}
	for _, err := range []error{nil, errors.New("internal")} {
		if e, ok := Of(err); ok || e != nil || Is(err, CodeForbidden) {
			t.Errorf("%v holds %v", err, e)
		}
	}
}

func TestWithCopies(t *testing.T) {
	first := NotFound("x")
	second := first.With("a", 1)
	third := second.With("b", 2).With("a", 3)
	if first.Extra != nil || len(second.Extra) != 1 || second.Extra["a"] != 1 || len(third.Extra) != 2 || third.Extra["a"] != 3 {
		t.Errorf("%v, %v, %v", first.Extra, second.Extra, third.Extra)
	}
}

func TestCodesLookLikeCodes(t *testing.T) {
	for _, c := range []Code{CodeForbidden, CodeUnknownPos, CodeThreepidDenied, CodeNotJSON} {
		if !regexp.MustCompile(`^M_[A-Z]+(_[A-Z]+)*$`).MatchString(string(c)) {
			t.Errorf("%q", c)
		}
	}
}
