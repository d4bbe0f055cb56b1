package search

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/internal/words"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	defaultLimit   = 10
	maxLimit       = 100
	defaultContext = 5
	maxContext     = 50
	// maxQuestion is the most bytes of a search term, maxAsked the most words and pairs of characters that are looked up.
	maxQuestion = 1000
	maxAsked    = 40
)

// Request is what somebody searches for.
type Request struct {
	Audience view.Audience

	question words.Question
	keys     []string
	filter   *view.RoomEventFilter
	limit    int
	recent   bool
	context  *eventContext
	state    bool
	groups   []string
	from     token
}

// eventContext is the context of results that is asked for.
type eventContext struct {
	Before   *int64 `json:"before_limit"`
	After    *int64 `json:"after_limit"`
	Profiles bool   `json:"include_profile"`
}

// The ways to group results.
const (
	byRoom   = "room_id"
	bySender = "sender"
)

// ParseRequest reads the body of a search, a valid JSON object, and the token of the query. It returns nil where nothing that this
// server knows of is searched.
//
// Spec: cs search
func ParseRequest(body []byte, nextBatch string, decode func([]byte, any) error) (*Request, error) {
	var b struct {
		Categories *struct {
			RoomEvents *struct {
				Term      *string         `json:"search_term"`
				Keys      []string        `json:"keys"`
				Filter    json.RawMessage `json:"filter"`
				OrderBy   string          `json:"order_by"`
				Context   *eventContext   `json:"event_context"`
				State     bool            `json:"include_state"`
				Groupings struct {
					GroupBy []struct {
						Key string `json:"key"`
					} `json:"group_by"`
				} `json:"groupings"`
			} `json:"room_events"`
		} `json:"search_categories"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if b.Categories == nil {
		return nil, mxerr.MissingParam("\"search_categories\" is missing")
	}
	c := b.Categories.RoomEvents
	if c == nil {
		return nil, nil
	}
	if c.Term == nil {
		return nil, mxerr.MissingParam("\"search_term\" is missing")
	}
	if len(*c.Term) > maxQuestion {
		return nil, mxerr.InvalidParam("\"search_term\" must not have more than %d bytes", maxQuestion)
	}
	r := &Request{question: words.Ask(*c.Term), context: c.Context, state: c.State, keys: c.Keys}
	if len(r.question.Terms)+len(r.question.Begins) > maxAsked {
		return nil, mxerr.InvalidParam("\"search_term\" has too many words")
	}
	for _, k := range r.keys {
		if k != keyBody && k != keyName && k != keyTopic {
			return nil, mxerr.InvalidParam("\"keys\" must be content.body, content.name or content.topic")
		}
	}
	switch c.OrderBy {
	case "", "rank":
	case "recent":
		r.recent = true
	default:
		return nil, mxerr.InvalidParam("\"order_by\" must be rank or recent")
	}
	for _, g := range c.Groupings.GroupBy {
		if g.Key != byRoom && g.Key != bySender {
			return nil, mxerr.InvalidParam("\"group_by\" knows the keys room_id and sender")
		}
		if !slices.Contains(r.groups, g.Key) {
			r.groups = append(r.groups, g.Key)
		}
	}
	return r, r.parseRest(c.Filter, nextBatch)
}

func (r *Request) parseRest(filter []byte, nextBatch string) (err error) {
	if bytes.Equal(filter, []byte("null")) {
		filter = nil
	}
	if r.filter, err = view.ParseRoomEventFilter(filter); err != nil {
		return err
	}
	r.limit = max(1, r.filter.LimitOr(defaultLimit, maxLimit))
	if nextBatch != "" {
		r.from, err = parseToken(nextBatch)
	}
	return err
}

// bounded is a number of events that was asked for, as far as the server goes.
func bounded(asked *int64) int {
	if asked == nil {
		return defaultContext
	}
	return int(min(max(*asked, 0), maxContext))
}

// token is where the next page begins: behind so many of the hits that there were at a position of the stream, in one group or in all.
type token struct {
	asOf   sqldb.Pos
	offset int
	group  string // byRoom, bySender or empty
	value  string
}

// maxOffset is how far into the hits pages lead.
const maxOffset = 10000

func (t token) String() string {
	s := strconv.FormatInt(int64(t.asOf), 10) + "_" + strconv.Itoa(t.offset)
	if t.group != "" {
		s += "_" + t.group[:1] + "_" + t.value
	}
	return s
}

func parseToken(s string) (token, error) {
	bad := mxerr.InvalidParam("%.40q is not a token of this server's search", s)
	parts := strings.SplitN(s, "_", 4)
	if len(parts) != 2 && len(parts) != 4 {
		return token{}, bad
	}
	asOf, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || asOf <= 0 {
		return token{}, bad
	}
	t := token{asOf: sqldb.Pos(asOf)}
	if t.offset, err = strconv.Atoi(parts[1]); err != nil || t.offset < 0 || t.offset > maxOffset {
		return token{}, bad
	}
	if len(parts) == 4 {
		t.value = parts[3]
		switch parts[2] {
		case byRoom[:1]:
			t.group = byRoom
			_, err = id.ParseRoomID(t.value)
		case bySender[:1]:
			t.group = bySender
			_, err = id.ParseUserID(t.value)
		default:
			return token{}, bad
		}
		if err != nil {
			return token{}, bad
		}
	}
	return t, nil
}
