package syncer

import (
	"strconv"
	"strings"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/mxerr"
)

// Token is a place in the stream as clients of /sync hold it.
type Token struct {
	// Pos: everything up to here has been told.
	Pos sqldb.Pos
	// Confirm, if not 0, is before Pos: state events in between were told that did not prevail, so
	// what they touched has to be told again.
	Confirm sqldb.Pos
	// Queue, if not 0, is before Pos: of what waits for the device alone only so much has been told.
	Queue sqldb.Pos
	// Sticky, if not zero, is how far the user was told of events that stick, of which there were too many for one answer. It is at Pos or before.
	Sticky graph.StickyPlace
}

// String returns the token as clients see it. Package view reads it too.
func (t Token) String() string {
	s := "s" + strconv.FormatInt(int64(t.Pos), 10)
	more := []sqldb.Pos{t.Confirm, t.Queue, t.Sticky.At, t.Sticky.Pos}
	for len(more) > 0 && more[len(more)-1] == 0 {
		more = more[:len(more)-1]
	}
	for _, n := range more {
		s += "_" + strconv.FormatInt(int64(n), 10)
	}
	return s
}

// maxToken bounds a token's length in bytes: five numbers of 64 bits.
const maxToken = 104

// ParseToken reads a token. It returns M_INVALID_PARAM for what String doesn't make.
func ParseToken(s string) (Token, error) {
	rest, ok := strings.CutPrefix(s, "s")
	if !ok || len(s) > maxToken {
		return Token{}, badToken(s)
	}
	parts := strings.Split(rest, "_")
	var t Token
	for i, into := range []*sqldb.Pos{&t.Pos, &t.Confirm, &t.Queue, &t.Sticky.At, &t.Sticky.Pos} {
		if i >= len(parts) {
			break
		}
		if *into, ok = parsePos(parts[i]); !ok || (i == 1 || i == 2) && *into >= t.Pos {
			return Token{}, badToken(s)
		}
	}
	if t.Sticky.At > t.Pos || t.Sticky.Pos > t.Sticky.At || t.Sticky.At != 0 && t.Sticky.Pos == 0 {
		return Token{}, badToken(s)
	}
	if t.String() != s { // too many parts, or a 0 that is left out
		return Token{}, badToken(s)
	}
	return t, nil
}

// parsePos accepts what FormatInt makes of a position, and nothing else.
func parsePos(s string) (sqldb.Pos, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, false
	}
	return sqldb.Pos(n), true
}

func badToken(s string) error {
	return mxerr.InvalidParam("%.60q is not a sync token of this server", s)
}
