package fedsend

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

type eduKind uint8

const (
	typingEDU eduKind = iota
	receiptEDU
	presenceEDU
)

const (
	// maxPDUs and maxEDUs bound a transaction.
	//
	// Spec: ss Transactions
	maxPDUs = 50
	maxEDUs = 100
	// maxWaiting bounds the EDUs that wait for a server that answers, fewWaiting for one that fails. What is newer is dropped: it
	// can be done without.
	maxWaiting = 400
	fewWaiting = 100
)

// lasts is for how long an EDU of a kind is worth sending.
var lasts = [...]time.Duration{typingEDU: 30 * time.Second, receiptEDU: 24 * time.Hour, presenceEDU: 10 * time.Minute}

// eduKey is what an EDU is about: a newer one with the same key replaces it.
type eduKey struct {
	kind   eduKind
	room   graph.RoomNID
	user   id.UserID
	thread string
}

// edu is an EDU on its way to some servers, who share it. Immutable.
type edu struct {
	eduKey
	made time.Time
	seq  uint64 // order among all
	// body is the EDU; for presence an element of "push".
	body json.RawMessage
}

// edus are the EDUs that wait for one server. The zero value is empty.
type edus struct{ waiting map[eduKey]*edu }

func (s *edus) empty() bool { return len(s.waiting) == 0 }

// add reports false where there are so many already.
func (s *edus) add(e *edu, most int) bool {
	if _, replaces := s.waiting[e.eduKey]; !replaces && len(s.waiting) >= most {
		if s.expire(); len(s.waiting) >= most {
			return false
		}
	}
	if s.waiting == nil {
		s.waiting = make(map[eduKey]*edu)
	}
	s.waiting[e.eduKey] = e
	return true
}

// putBack adds what was taken and not sent, unless something newer has taken its place.
func (s *edus) putBack(list []*edu) {
	for _, e := range list {
		if _, newer := s.waiting[e.eduKey]; !newer {
			s.add(e, maxWaiting)
		}
	}
}

// expire drops what has outlived its use.
func (s *edus) expire() {
	maps.DeleteFunc(s.waiting, func(_ eduKey, e *edu) bool { return time.Since(e.made) > lasts[e.kind] })
}

// take removes and returns the oldest EDUs that are still of use, at most so many.
func (s *edus) take(most int) []*edu {
	if s.empty() {
		return nil
	}
	s.expire()
	list := slices.Collect(maps.Values(s.waiting))
	slices.SortFunc(list, func(a, b *edu) int { return cmp.Compare(a.seq, b.seq) })
	list = list[:min(len(list), most)]
	for _, e := range list {
		delete(s.waiting, e.eduKey)
	}
	if len(s.waiting) == 0 {
		s.waiting = nil
	}
	return list
}

// forgetTyping drops what will have changed when a server is back.
func (s *edus) forgetTyping() {
	maps.DeleteFunc(s.waiting, func(key eduKey, _ *edu) bool { return key.kind == typingEDU })
}

// render returns the EDUs of a transaction. Presence of several users makes one EDU.
//
// Spec: ss Presence
func render(list []*edu) (out []json.RawMessage) {
	var push []byte
	for _, e := range list {
		if e.kind != presenceEDU {
			out = append(out, e.body)
			continue
		}
		if push == nil {
			push = append(push, `{"edu_type":"m.presence","content":{"push":[`...)
		} else {
			push = append(push, ',')
		}
		push = append(push, e.body...)
	}
	if push != nil {
		out = append(out, append(push, "]}}"...))
	}
	return out
}

// Spec: ss Typing Notifications
func typingBody(room id.RoomID, user id.UserID, typing bool) []byte {
	b := canon.AppendString([]byte(`{"edu_type":"m.typing","content":{"room_id":`), string(room))
	b = canon.AppendString(append(b, `,"user_id":`...), string(user))
	return append(strconv.AppendBool(append(b, `,"typing":`...), typing), "}}"...)
}

// Spec: ss Receipts
func receiptBody(room id.RoomID, r *ephemeral.Receipt) []byte {
	b := canon.AppendString([]byte(`{"edu_type":"m.receipt","content":{`), string(room))
	b = canon.AppendString(append(b, `:{"m.read":{`...), string(r.User))
	b = canon.AppendString(append(b, `:{"event_ids":[`...), string(r.Event))
	b = strconv.AppendInt(append(b, `],"data":{"ts":`...), r.TS, 10)
	if r.Thread != "" {
		b = canon.AppendString(append(b, `,"thread_id":`...), r.Thread)
	}
	return append(b, "}}}}}}"...)
}

// presenceBody is an element of "push". content is that of an m.presence event for clients, an object.
//
// Spec: ss Presence
func presenceBody(user id.UserID, content []byte) []byte {
	b := canon.AppendString([]byte(`{"user_id":`), string(user))
	if !bytes.Contains(content, []byte(`"last_active_ago":`)) { // as a key: in a text the quotes are escaped
		b = append(b, `,"last_active_ago":0`...)
	}
	return append(append(b, ','), content[1:]...)
}
