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

// maxPlace bounds the places of tokens, so that one can be added to them.
const maxPlace = 1 << 62

// maxParts is how many numbers a token of /sync has at most.
const maxParts = 5

// slidingParts is how many numbers a token of sliding sync has.
const slidingParts = 4

// ParseToken reads a timeline token, or a token of /sync in either form: live events stand in their room's
// order at their position in the stream. It accepts only what this server makes.
func ParseToken(s string) (Token, error) {
	if rest, ok := strings.CutPrefix(s, "t"); ok {
		if n, ok := parsePlace(rest); ok {
			return Token(n), nil
		}
		return 0, badToken(s)
	}
	rest, ok := strings.CutPrefix(s, "s")
	sliding := false
	if !ok {
		if rest, sliding = strings.CutPrefix(s, "c"); !sliding {
			return 0, badToken(s)
		}
	}
	// What follows the position is for package syncer alone.
	parts := strings.Split(rest, "_")
	n, ok := parsePlace(parts[0])
	ok = ok && (len(parts) <= maxParts && !sliding || len(parts) == slidingParts && sliding)
	for _, part := range parts[1:] {
		if _, number := parsePlace(part); !number {
			ok = false
		}
	}
	if !ok || n < 0 {
		return 0, badToken(s)
	}
	return Token(n), nil
}

// parsePlace accepts what String makes of a place, and nothing else.
func parsePlace(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s && n >= -maxPlace && n <= maxPlace
}

func badToken(s string) error {
	return mxerr.InvalidParam("%.40q is not a pagination token of this server", s)
}
