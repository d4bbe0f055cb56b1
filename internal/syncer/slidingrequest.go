package syncer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"myelin/internal/ephemeral"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// SlidingForm says in which form a client speaks sliding sync.
type SlidingForm uint8

// The accepted form, and the one that was deployed before.
const (
	SlidingStable SlidingForm = iota
	// MSC4186: org.matrix.simplified_msc3575; it goes once no client of note speaks it.
	SlidingUnstable
)

// Bounds of requests. MaxLists and MaxSubscriptions are those of the proposal.
const (
	MaxLists         = 100
	MaxSubscriptions = 100
	// maxPatterns bounds the entries of one required_state, maxFilterEntries those of one list in a filter.
	maxPatterns      = 200
	maxFilterEntries = 100
	maxRanges        = 20
	// maxName bounds names of lists and connections, and transaction IDs, in bytes; maxPatternText the types and state keys asked for.
	maxName        = 255
	maxPatternText = 255
	// maxWanted bounds all of required_state in a request, as text.
	maxWanted = 64 << 10
)

// Sliding is a request of sliding sync.
type Sliding struct {
	User   id.UserID
	Device id.DeviceID
	// Pos is empty in the first request of a connection.
	Pos string
	// Timeout is how long to wait for news; not more than MaxTimeout.
	Timeout time.Duration
	// Presence is what the user is shown as while the request lasts.
	Presence ephemeral.State
	// Draining ends the waiting early. May be nil.
	Draining <-chan struct{}

	form   SlidingForm
	connID string
	txnID  string
	lists  []list
	subs   map[id.RoomID]*roomConfig
	ext    extensions
	// rules stands for lists and subs: equal rules have equal sums.
	rules uint64
}

// list is a rule that selects rooms by their place among a user's rooms.
//
// MSC4186: SyncListConfig
type list struct {
	name   string
	ranges []span
	filter listFilter
	config *roomConfig
}

// span is a range of places, both ends within.
type span struct{ first, last int }

// slidingBody is a request as it comes.
type slidingBody struct {
	ConnID      string                     `json:"conn_id"`
	TxnID       string                     `json:"txn_id"`
	Pos         string                     `json:"pos"`
	Timeout     *int64                     `json:"timeout"`
	SetPresence *string                    `json:"set_presence"`
	Lists       map[string]json.RawMessage `json:"lists"`
	Subs        map[string]json.RawMessage `json:"room_subscriptions"`
	Extensions  extensions                 `json:"extensions"`
}

// ruleBody is a list or a subscription as it comes.
type ruleBody struct {
	TimelineLimit *int64          `json:"timeline_limit"`
	RequiredState json.RawMessage `json:"required_state"`
	Range         []int64         `json:"range"`
	Ranges        [][]int64       `json:"ranges"`
	Filters       *listFilter     `json:"filters"`
}

var rulesSeed = maphash.MakeSeed()

// ParseSliding reads the body of a request. It returns M_BAD_JSON or M_INVALID_PARAM for what doesn't make sense or is out of bounds, and
// M_MISSING_PARAM where something is missing. What it doesn't know it ignores. Each request says all that it wants: nothing of the one before holds on,
// so there is nothing for the proposals' earlier unsubscribe_rooms to end.
//
// MSC4186: Request Body
func ParseSliding(form SlidingForm, user id.UserID, body []byte) (*Sliding, error) {
	var b slidingBody
	if err := decodeSliding(body, &b); err != nil {
		return nil, err
	}
	q := &Sliding{User: user, form: form, connID: b.ConnID, txnID: b.TxnID, ext: b.Extensions}
	if len(b.ConnID) > maxName || len(b.TxnID) > maxName || strings.ContainsRune(b.ConnID, 0) {
		return nil, mxerr.InvalidParam("conn_id and txn_id must not be longer than %d bytes, and not hold NUL.", maxName)
	}
	if err := q.ext.check(); err != nil {
		return nil, err
	}
	if form == SlidingStable {
		q.Pos = b.Pos
		if b.Timeout != nil {
			q.Timeout = SlidingTimeout(*b.Timeout)
		}
		presence := "online"
		if b.SetPresence != nil {
			presence = *b.SetPresence
		}
		var err error
		if q.Presence, err = ephemeral.ParseState(presence); err != nil {
			return nil, err
		}
	}
	return q, q.addRules(&b)
}

// SlidingTimeout makes milliseconds that a client names the time to wait.
func SlidingTimeout(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), MaxTimeout.Milliseconds())) * time.Millisecond
}

func decodeSliding(raw []byte, v any) error {
	err := json.Unmarshal(raw, v)
	var mistyped *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mistyped):
		return mxerr.InvalidParam("%q has a value of the wrong type.", mistyped.Field)
	}
	if _, ok := mxerr.Of(err); ok {
		return err
	}
	return mxerr.BadJSON("The body has a bad value: %s.", err)
}

func (q *Sliding) addRules(b *slidingBody) error {
	if len(b.Lists) > MaxLists {
		return mxerr.InvalidParam("There are %d lists; %d are allowed.", len(b.Lists), MaxLists)
	}
	if len(b.Subs) > MaxSubscriptions {
		return mxerr.InvalidParam("There are %d room subscriptions; %d are allowed.", len(b.Subs), MaxSubscriptions)
	}
	var sum maphash.Hash
	sum.SetSeed(rulesSeed)
	note := func(name string, raw []byte) {
		maphash.WriteComparable(&sum, name)
		maphash.WriteComparable(&sum, len(raw))
		_, _ = sum.Write(raw)
	}
	wanted := 0
	for name, raw := range b.Lists {
		if name == "" || len(name) > maxName || q.form == SlidingStable && !opaque(name) {
			return mxerr.InvalidParam("Names of lists have 1 to %d of the characters 0-9, a-z, A-Z, '.', '_', '~' and '-'.", maxName)
		}
		l, err := q.list(name, raw)
		if err != nil {
			return err
		}
		wanted += len(l.config.text)
		q.lists = append(q.lists, l)
	}
	slices.SortFunc(q.lists, func(a, b list) int { return cmp.Compare(a.name, b.name) })
	for _, l := range q.lists {
		note(l.name, b.Lists[l.name])
	}
	q.subs = make(map[id.RoomID]*roomConfig, len(b.Subs))
	names := make([]string, 0, len(b.Subs))
	for name := range b.Subs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		room, err := id.ParseRoomID(name)
		if err != nil {
			return mxerr.InvalidParam("%.60q in room_subscriptions is no room ID.", name)
		}
		var r ruleBody
		if err := decodeSliding(b.Subs[name], &r); err != nil {
			return err
		}
		if q.subs[room], err = q.config(&r); err != nil {
			return err
		}
		wanted += len(q.subs[room].text)
		note("room "+name, b.Subs[name])
	}
	if wanted > maxWanted {
		return mxerr.InvalidParam("The rules of required_state are too long.")
	}
	q.rules = sum.Sum64()
	return nil
}

// opaque reports whether a text has only characters of opaque identifiers.
//
// Spec: appendices Opaque Identifiers
func opaque(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("._~-", r))
	})
}

func (q *Sliding) list(name string, raw json.RawMessage) (list, error) {
	var r ruleBody
	if err := decodeSliding(raw, &r); err != nil {
		return list{}, err
	}
	l := list{name: name}
	if r.Filters != nil {
		l.filter = *r.Filters
		if err := l.filter.check(); err != nil {
			return l, err
		}
	}
	ranges := r.Ranges
	if q.form == SlidingStable {
		ranges = nil
	}
	if r.Range != nil {
		ranges = append(ranges, r.Range)
	}
	if len(ranges) > maxRanges {
		return l, mxerr.InvalidParam("The list %.60q has %d ranges; %d are allowed.", name, len(ranges), maxRanges)
	}
	for _, pair := range ranges {
		if len(pair) != 2 || pair[0] < 0 || pair[1] < pair[0] {
			return l, mxerr.InvalidParam("A range of the list %.60q is not [first, last].", name)
		}
		// No list is as long as that.
		l.ranges = append(l.ranges, span{int(min(pair[0], maxPlace)), int(min(pair[1], maxPlace))})
	}
	if len(l.ranges) == 0 && q.form == SlidingStable {
		l.ranges = []span{{0, maxPlace}}
	}
	var err error
	l.config, err = q.config(&r)
	return l, err
}

// maxPlace is after every room.
const maxPlace = 1 << 30

func (q *Sliding) config(r *ruleBody) (*roomConfig, error) {
	limit := int64(defaultTimeline)
	switch {
	case r.TimelineLimit != nil:
		limit = *r.TimelineLimit
	case q.form == SlidingStable:
		return nil, mxerr.MissingParam("\"timeline_limit\" is missing.")
	}
	if limit < 0 {
		return nil, mxerr.InvalidParam("\"timeline_limit\" must not be negative.")
	}
	var w *wanted
	var err error
	switch {
	case q.form == SlidingUnstable:
		w, err = q.pairs(r.RequiredState)
	case len(r.RequiredState) == 0:
		err = mxerr.MissingParam("\"required_state\" is missing.")
	default:
		w = new(wanted)
		err = decodeSliding(r.RequiredState, w)
	}
	if err != nil {
		return nil, err
	}
	if err := w.check(); err != nil {
		return nil, err
	}
	return newConfig(int(min(limit, MaxTimeline)), w), nil
}

// pairs reads required_state in its unstable form: pairs of type and state key with * for all, $ME and $LAZY.
func (q *Sliding) pairs(raw json.RawMessage) (*wanted, error) {
	w := new(wanted)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return w, nil
	}
	var pairs [][]string
	if err := decodeSliding(raw, &pairs); err != nil {
		return nil, err
	}
	for _, pair := range pairs {
		if len(pair) != 2 {
			return nil, mxerr.InvalidParam("Entries of required_state are pairs of a type and a state key.")
		}
		typ, key := pair[0], pair[1]
		var p pattern
		if typ != "*" {
			p.Type = &typ
		}
		switch {
		case key == "$LAZY":
			// For other types it means nothing.
			w.Lazy = w.Lazy || typ == memberType
			continue
		case key == "$ME":
			me := string(q.User)
			p.Key = &me
		case key != "*":
			p.Key = &key
		}
		w.Include = append(w.Include, p)
	}
	// All members are more than those who show up.
	if w.Lazy && slices.ContainsFunc(w.Include, func(p pattern) bool { return p.Key == nil && p.Type != nil && *p.Type == memberType }) {
		w.Lazy = false
	}
	return w, nil
}

func (w *wanted) check() error {
	if len(w.Include) > maxPatterns || len(w.Exclude) > maxPatterns {
		return mxerr.InvalidParam("A required_state has more than %d entries.", maxPatterns)
	}
	for _, p := range slices.Concat(w.Include, w.Exclude) {
		if p.Type != nil && len(*p.Type) > maxPatternText || p.Key != nil && len(*p.Key) > maxPatternText {
			return mxerr.InvalidParam("A required_state names a type or state key of more than %d bytes.", maxPatternText)
		}
	}
	return nil
}

// listFilter selects rooms. What the proposal doesn't have is no filter here either: an earlier one had room_name_like, which servers of today ignore.
//
// MSC4186: SlidingRoomFilter
type listFilter struct {
	IsDM         *bool       `json:"is_dm"`
	Spaces       []id.RoomID `json:"spaces"`
	IsEncrypted  *bool       `json:"is_encrypted"`
	IsInvited    *bool       `json:"is_invited"`
	IsInvite     *bool       `json:"is_invite"` // its unstable name
	RoomTypes    []*string   `json:"room_types"`
	NotRoomTypes []*string   `json:"not_room_types"`
	Tags         []string    `json:"tags"`
	NotTags      []string    `json:"not_tags"`
}

func (f *listFilter) check() error {
	for _, n := range []int{len(f.Spaces), len(f.RoomTypes), len(f.NotRoomTypes), len(f.Tags), len(f.NotTags)} {
		if n > maxFilterEntries {
			return mxerr.InvalidParam("A filter has a list of %d entries; %d are allowed.", n, maxFilterEntries)
		}
	}
	for _, room := range f.Spaces {
		if _, err := id.ParseRoomID(string(room)); err != nil {
			return mxerr.InvalidParam("%.60q in a filter is no room ID.", room)
		}
	}
	if f.IsInvited == nil {
		f.IsInvited = f.IsInvite
	}
	return nil
}
