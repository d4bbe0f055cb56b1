package directory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/words"
	"myelin/matrix/id"
)

// userMigrations make the tables for finding users.
//
// known_users has the users that can be found: those of ours with an account in use, and others that were seen in rooms. name and avatar are those of
// the profile, or else of a member event; room_nid is 0 where anybody may know them, and otherwise the room that told of them.
//
// user_words has what a question may be the beginning of: whole is 0 for a whole name or ID, 1 for the end of one from some word on. named
// tells names from IDs.
//
// seen_rooms has the rooms whose members were or must be looked at. open is 1 for those that anybody may look into or join.
//
// users_state has one row: up to which position users are known.
var userMigrations = []sqldb.Migration{{Slice: "user directory", Version: 1, SQL: `
	CREATE TABLE known_users (
		user_id TEXT NOT NULL PRIMARY KEY,
		local BIGINT NOT NULL,
		name TEXT NOT NULL,
		avatar TEXT NOT NULL,
		room_nid BIGINT NOT NULL
	) WITHOUT ROWID;
	CREATE TABLE user_words (
		word TEXT NOT NULL,
		whole BIGINT NOT NULL,
		user_id TEXT NOT NULL,
		named BIGINT NOT NULL,
		PRIMARY KEY (word, whole, user_id, named)
	) WITHOUT ROWID;
	CREATE TABLE seen_rooms (
		room_nid BIGINT NOT NULL PRIMARY KEY,
		open BIGINT NOT NULL,
		unread BIGINT NOT NULL
	);
	CREATE TABLE users_state (
		one BIGINT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL
	);
	INSERT INTO users_state (one, pos) VALUES (1, 0);
`}}

const userColumns = `w.word, w.whole, w.user_id, w.named, u.local, u.name, u.avatar, u.room_nid
	FROM user_words w JOIN known_users u ON u.user_id = w.user_id`

var (
	// One lower bound: with a second one PostgreSQL may begin at the wrong one, which is the beginning of the index.
	usersByWord = sqldb.SQL(`SELECT ` + userColumns + ` WHERE w.word < $1 AND (w.word, w.whole, w.user_id, w.named) > ($2, $3, $4, $5)
		ORDER BY w.word, w.whole, w.user_id, w.named LIMIT $6`)
	usersByID = sqldb.SQL(`SELECT u.user_id, CAST(1 AS BIGINT), u.user_id, CAST(1 AS BIGINT), u.local, u.name, u.avatar, u.room_nid FROM known_users u WHERE u.user_id = ANY($1)`)
	openAmong = sqldb.SQL(`SELECT room_nid FROM seen_rooms WHERE room_nid = ANY($1) AND open = 1`)
)

// FoundUser is a user as the directory shows them.
//
// Spec: cs searchUserDirectory
type FoundUser struct {
	ID     id.UserID `json:"user_id"`
	Name   string    `json:"display_name,omitempty"`
	Avatar string    `json:"avatar_url,omitempty"`
}

// FoundUsers is the answer to a search for users.
type FoundUsers struct {
	Users   []FoundUser `json:"results"`
	Limited bool        `json:"limited"`
}

// Bounds of a search for users.
const (
	defaultUsers = 10
	maxUsers     = 100
	// maxCandidates bounds how many users with the right names are looked at, whether or not the one who asks may see them.
	maxCandidates = 2000
	// maxAcquaintances bounds how many users who share rooms are looked at instead, where too many have the right name.
	maxAcquaintances = 2000
	firstCandidates  = 50
	maxPairs         = 20000
)

// candidate is a user with a name or ID that fits.
type candidate struct {
	FoundUser
	word  string
	whole int64 // 0 for a whole name or ID
	named int64
	local bool
	room  graph.RoomNID
}

// userSearch is a search under way.
type userSearch struct {
	d     *Directory
	me    id.UserID
	want  int
	mine  map[graph.RoomNID]bool
	found []candidate
	seen  map[id.UserID]bool
	looks int
}

// SearchUsers finds users whose names or IDs begin with what is asked for, or have a word that does: those that the user can see because they
// share a room, or are in a room that is open to anybody. Whole names come first.
//
// Spec: cs searchUserDirectory
func (d *Directory) SearchUsers(ctx context.Context, me id.UserID, term string, limit int64) (*FoundUsers, error) {
	n := int(min(cmp.Or(max(limit, 0), defaultUsers), maxUsers))
	answer := &FoundUsers{Users: []FoundUser{}}
	question := words.Cut(words.Phrase(term))
	if term = strings.TrimSpace(term); strings.HasPrefix(term, "@") && len(term) > 1 {
		question = words.Cut(words.Fold(term))
	}
	if question == "" {
		return answer, nil
	}
	if err := d.awaitUsers(ctx); err != nil {
		return nil, err
	}
	s := &userSearch{d: d, me: me, want: n + 1, seen: map[id.UserID]bool{me: true}}
	err := d.db.Read(ctx, func(tx *sqldb.Tx) error { return s.run(tx, question) })
	if err != nil {
		return nil, fmt.Errorf("search users: %w", err)
	}
	if answer.Limited = len(s.found) > n; answer.Limited {
		s.found = s.found[:n]
	}
	slices.SortStableFunc(s.found, func(a, b candidate) int {
		exact := func(c candidate) int {
			if c.word == question && c.whole == 0 {
				return 0
			}
			return 1
		}
		return cmp.Or(exact(a)-exact(b), cmp.Compare(a.whole, b.whole), strings.Compare(b.Name, "")-strings.Compare(a.Name, ""))
	})
	for _, c := range s.found {
		answer.Users = append(answer.Users, c.FoundUser)
	}
	return answer, nil
}

func (s *userSearch) run(tx *sqldb.Tx, question string) error {
	rooms, err := graph.JoinedRooms(tx, s.me)
	if err != nil {
		return err
	}
	s.mine = make(map[graph.RoomNID]bool, len(rooms))
	for _, r := range rooms {
		s.mine[r] = true
	}
	s.found, s.looks = nil, 0
	clear(s.seen)
	s.seen[s.me] = true
	all := func(candidate) bool { return true }
	if err := s.scan(tx, question, all); err != nil {
		return err
	}
	// The words may stand in another order, or apart.
	if parts := strings.Split(question, " "); len(parts) > 1 && len(s.found) < s.want {
		longest := slices.MaxFunc(parts, func(a, b string) int { return len(a) - len(b) })
		if err := s.scan(tx, longest, func(c candidate) bool { return c.has(parts) }); err != nil {
			return err
		}
	}
	if s.looks < maxCandidates || len(s.found) >= s.want {
		return nil
	}
	return s.acquaintances(tx, question)
}

// has reports whether words of the name or of the ID begin with each of the parts.
func (c candidate) has(parts []string) bool {
	var own []string
	for _, text := range []string{c.Name, string(c.ID)} {
		words.Endings(words.Phrase(text), func(e string) { own = append(own, e) })
	}
	return !slices.ContainsFunc(parts, func(p string) bool {
		return !slices.ContainsFunc(own, func(e string) bool { return strings.HasPrefix(e, p) })
	})
}

// scan looks at users with words that begin with the question, until enough were found or looked at.
func (s *userSearch) scan(tx *sqldb.Tx, question string, fits func(candidate) bool) error {
	last := candidate{word: question, whole: -1}
	for page := firstCandidates; s.looks < maxCandidates && len(s.found) < s.want; page = min(4*page, maxCandidates) {
		var some []candidate
		err := tx.Query(usersByWord, func(r *sqldb.Row) error {
			c, err := scanCandidate(r)
			some = append(some, c)
			return err
		}, question+"\U0010FFFF", last.word, last.whole, string(last.ID), last.named, page)
		if err != nil {
			return err
		}
		s.looks += len(some)
		if len(some) > 0 {
			last = some[len(some)-1]
		}
		short := len(some) < page
		some = slices.DeleteFunc(some, func(c candidate) bool { return s.seen[c.ID] || !fits(c) })
		if err := s.take(tx, some); err != nil {
			return err
		}
		if short {
			return nil
		}
	}
	return nil
}

func scanCandidate(r *sqldb.Row) (candidate, error) {
	var c candidate
	err := r.Scan(&c.word, &c.whole, &c.ID, &c.named, &c.local, &c.Name, &c.Avatar, &c.room)
	return c, err
}

// take keeps those candidates that the one who asks may see.
func (s *userSearch) take(tx *sqldb.Tx, some []candidate) error {
	if len(some) == 0 {
		return nil
	}
	users := make([]string, 0, len(some))
	for _, c := range some {
		users = append(users, string(c.ID))
	}
	rooms, n, err := graph.RoomsOfUsers(tx, users, maxPairs)
	if err != nil {
		return err
	}
	if n == maxPairs && len(some) > 1 {
		if err := s.take(tx, some[:len(some)/2]); err != nil {
			return err
		}
		return s.take(tx, some[len(some)/2:])
	}
	open, err := s.open(tx, rooms)
	if err != nil {
		return err
	}
	for _, c := range some {
		visible := c.local && s.d.allUsers || slices.ContainsFunc(rooms[c.ID], func(r graph.RoomNID) bool { return s.mine[r] || open[r] })
		if !visible || s.seen[c.ID] || len(s.found) == s.want {
			continue
		}
		if c.room != 0 && !s.mine[c.room] {
			// What they are called was said in a room that is not for everybody.
			if c.named == 1 {
				continue
			}
			c.Name, c.Avatar = "", ""
		}
		s.seen[c.ID] = true
		s.found = append(s.found, c)
	}
	return nil
}

// open returns which of the rooms that users are in are open to anybody. The asker's own need not be looked at.
func (s *userSearch) open(tx *sqldb.Tx, rooms map[id.UserID][]graph.RoomNID) (map[graph.RoomNID]bool, error) {
	open := make(map[graph.RoomNID]bool)
	var others []int64
	for _, of := range rooms {
		for _, r := range of {
			if _, asked := open[r]; !asked && !s.mine[r] {
				open[r] = false
				others = append(others, int64(r))
			}
		}
	}
	if len(others) == 0 {
		return open, nil
	}
	return open, tx.Query(openAmong, func(r *sqldb.Row) error {
		var room graph.RoomNID
		err := r.Scan(&room)
		open[room] = true
		return err
	}, others)
}

// acquaintances looks at the users who share rooms, where so many have the right name that not all of them could be looked at.
func (s *userSearch) acquaintances(tx *sqldb.Tx, question string) error {
	users, err := graph.SomeSharing(tx, s.me, maxAcquaintances)
	if err != nil {
		return err
	}
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = string(u)
	}
	var some []candidate
	err = tx.Query(usersByID, func(r *sqldb.Row) error {
		c, err := scanCandidate(r)
		if err != nil || s.seen[c.ID] {
			return err
		}
		for _, w := range wordsOf(c.ID, c.Name) {
			if strings.HasPrefix(w.word, question) {
				c.word, c.whole, c.named = w.word, w.whole, w.named
				some = append(some, c)
				break
			}
		}
		return nil
	}, names)
	if err != nil {
		return err
	}
	return s.take(tx, some)
}

// userWord is a row of user_words.
type userWord struct {
	word         string
	whole, named int64
}

// maxUserWords bounds the words of a name that it is found by.
const maxUserWords = 24

// wordsOf returns all that a user is found by, each once.
func wordsOf(user id.UserID, name string) []userWord {
	list := []userWord{{words.Cut(words.Fold(string(user))), 0, 0}}
	add := func(text string, named int64) {
		phrase := words.Phrase(text)
		whole := int64(0)
		words.Endings(phrase, func(e string) {
			w := userWord{e, whole, named}
			whole = 1
			if len(list) < 2*maxUserWords && !slices.ContainsFunc(list, func(o userWord) bool { return o.word == e && o.named == named }) {
				list = append(list, w)
			}
		})
	}
	add(user.Localpart(), 0)
	if len(list) > maxUserWords {
		list = list[:maxUserWords]
	}
	add(name, 1)
	return list
}

// usersWait bounds how long a search waits for what has just changed.
const usersWait = 100 * time.Millisecond
