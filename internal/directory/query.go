package directory

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Bounds of a page of the list.
const (
	defaultPage = 500
	maxPage     = 1000
	// maxTerms bounds the words of a search.
	maxTerms = 32
)

// Query asks for a part of the list of published rooms.
type Query struct {
	// Limit is the most rooms to return; 0 means as many as fit well.
	Limit int64
	// Since is a token of another page, empty for the first one.
	Since string
	// Term holds words that must all occur in a room's name, topic or alias, in any case; empty selects all.
	Term string
	// Types selects rooms of these types, "" standing for rooms without one. Nil selects all.
	Types []string
	// Network selects the list of one third-party network instead of the server's own, AllNetworks the lists of all of them besides.
	Network     string
	AllNetworks bool
}

// Page is a part of the list.
type Page struct {
	Chunk []*Summary `json:"chunk"`
	Next  string     `json:"next_batch,omitempty"`
	Prev  string     `json:"prev_batch,omitempty"`
	Total int        `json:"total_room_count_estimate"`
}

// Rooms returns a page of the published rooms, those with the most members first.
//
// Spec: cs queryPublicRooms
func (d *Directory) Rooms(ctx context.Context, q Query) (Page, error) {
	if q.Limit < 0 {
		return Page{}, mxerr.InvalidParam("\"limit\" must not be negative.")
	}
	if q.Limit == 0 {
		q.Limit = defaultPage
	}
	var from *token
	if q.Since != "" {
		t, err := parseToken(q.Since)
		if err != nil {
			return Page{}, err
		}
		from = &t
	}
	rooms, err := d.rooms(ctx, q.AllNetworks || q.Network != "")
	if err == nil && q.Network != "" {
		rooms, err = d.inNetwork(ctx, q.Network, rooms)
	}
	if err != nil {
		return Page{}, err
	}
	return paginate(q.choose(rooms), from, int(min(q.Limit, maxPage))), nil
}

// choose returns the rooms that the query selects.
func (q Query) choose(rooms []*Summary) []*Summary {
	terms := strings.Fields(fold(q.Term))
	terms = terms[:min(len(terms), maxTerms)]
	if len(terms) == 0 && q.Types == nil {
		return rooms
	}
	var chosen []*Summary
	for _, s := range rooms {
		if q.Types != nil && !slices.Contains(q.Types, s.RoomType) {
			continue
		}
		missing := func(term string) bool { return !strings.Contains(s.words, term) }
		if !slices.ContainsFunc(terms, missing) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// paginate cuts a page out of the rooms.
func paginate(rooms []*Summary, from *token, limit int) Page {
	start, end := 0, min(limit, len(rooms))
	if from != nil {
		at, found := slices.BinarySearchFunc(rooms, from.place, func(s *Summary, p place) int { return s.place().compare(p) })
		if from.backward {
			start, end = max(0, at-limit), at
		} else {
			if found {
				at++
			}
			start, end = at, min(at+limit, len(rooms))
		}
	}
	p := Page{Chunk: rooms[start:end:end], Total: len(rooms)}
	if len(p.Chunk) == 0 {
		p.Chunk = []*Summary{}
	}
	if start > 0 && start < end {
		p.Prev = token{place: rooms[start].place(), backward: true}.String()
	}
	if end < len(rooms) && start < end {
		p.Next = token{place: rooms[end-1].place()}.String()
	}
	return p
}

// token stands just after a room of the list, or before it for a page backwards. Rooms that gain or lose
// members meanwhile may be skipped or shown twice; others are not.
type token struct {
	place
	backward bool
}

func (t token) String() string {
	dir := "f"
	if t.backward {
		dir = "b"
	}
	return dir + base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(t.joined, 10)+string(t.room)))
}

func parseToken(s string) (token, error) {
	bad := mxerr.InvalidParam("%.40q is not a token of this list.", s)
	if s == "" || s[0] != 'f' && s[0] != 'b' {
		return token{}, bad
	}
	raw, err := base64.RawURLEncoding.DecodeString(s[1:])
	if err != nil {
		return token{}, bad
	}
	count, room, ok := strings.Cut(string(raw), "!")
	joined, err := strconv.ParseInt(count, 10, 64)
	if err != nil || !ok {
		return token{}, bad
	}
	return token{place{joined, id.RoomID("!" + room)}, s[0] == 'b'}, nil
}
