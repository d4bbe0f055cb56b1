package syncer

import (
	"strconv"
	"strings"

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
}

// String returns the token as clients see it. Package view reads it too.
func (t Token) String() string {
	s := "s" + strconv.FormatInt(int64(t.Pos), 10)
	if t.Confirm != 0 || t.Queue != 0 {
		s += "_" + strconv.FormatInt(int64(t.Confirm), 10)
	}
	if t.Queue != 0 {
		s += "_" + strconv.FormatInt(int64(t.Queue), 10)
	}
	return s
}

// maxToken bounds a token's length in bytes: three numbers of 64 bits.
const maxToken = 62

// ParseToken reads a token. It returns M_INVALID_PARAM for what String doesn't make.
func ParseToken(s string) (Token, error) {
	rest, ok := strings.CutPrefix(s, "s")
	if !ok || len(s) > maxToken {
		return Token{}, badToken(s)
	}
	parts := strings.Split(rest, "_")
	var t Token
	for i, into := range []*sqldb.Pos{&t.Pos, &t.Confirm, &t.Queue} {
		if i >= len(parts) {
			break
		}
		if *into, ok = parsePos(parts[i]); !ok || i > 0 && *into >= t.Pos {
			return Token{}, badToken(s)
		}
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
