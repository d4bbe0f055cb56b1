package view

import (
	"strconv"
	"strings"

	"myelin/matrix/mxerr"
)

// Token is a place in a room's order: just after the event with this ord. What is at or
// before the token was before it, what has a greater ord comes after it.
type Token int64

// String returns the token as clients see it.
func (t Token) String() string { return "t" + strconv.FormatInt(int64(t), 10) }

// ParseToken reads a timeline token, or a token of /sync: live events stand in their room's
// order at their position in the stream.
func ParseToken(s string) (Token, error) {
	rest, timeline := strings.CutPrefix(s, "t")
	if !timeline {
		var sync bool
		if rest, sync = strings.CutPrefix(s, "s"); !sync {
			return 0, badToken(s)
		}
		rest, _, _ = strings.Cut(rest, "_")
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil || !timeline && n < 0 {
		return 0, badToken(s)
	}
	return Token(n), nil
}

func badToken(s string) error {
	return mxerr.InvalidParam("%.40q is not a pagination token of this server", s)
}
