package search

import (
	"cmp"
	"encoding/binary"
	"errors"
	"strings"

	"myelin/internal/graph"
)

const (
	// blockSize is about the size of a block: a page of SQLite holds one.
	blockSize = 3600
	// maxBlocks is how many blocks a segment can have.
	maxBlocks = 1 << 20
)

// posting is a place in a room's order with the weight of a word there, packed so that postings sort as places do.
type posting int64

// weightBits is how many bits the weight of a posting has, maxWeight the greatest.
const (
	weightBits = 3
	maxWeight  = 1<<weightBits - 1
)

func pack(ord int64, weight int) posting { return posting(ord<<weightBits | int64(weight)) }
func (p posting) ord() int64             { return int64(p) >> weightBits }
func (p posting) weight() int            { return int(p & maxWeight) }

// key is what a segment is sorted by.
type key struct {
	term string
	room graph.RoomNID
}

func (k key) compare(o key) int {
	return cmp.Or(strings.Compare(k.term, o.term), cmp.Compare(k.room, o.room))
}

// writer makes the blocks of a segment. Keys come in their order, and the postings of a key in theirs.
type writer struct {
	flush func(n int, body []byte) error // gets block n; body is not used afterwards
	dir   []key                          // the first key of each block

	body []byte
	last key // of the entry before
	list []byte
}

// maxHeader is more than what an entry has before its postings.
const maxHeader = 100

// add writes the postings of a key, cut where a block is full.
func (w *writer) add(k key, postings []posting) error {
	for len(postings) > 0 {
		if len(w.body) > blockSize-2*maxHeader {
			if err := w.end(); err != nil {
				return err
			}
		}
		space := blockSize - maxHeader - len(w.body)
		w.list = binary.AppendVarint(w.list[:0], int64(postings[0]))
		n := 1
		for ; n < len(postings) && len(w.list) < space; n++ {
			w.list = binary.AppendUvarint(w.list, uint64(postings[n]-postings[n-1]))
		}
		w.entry(k)
		postings = postings[n:]
	}
	return nil
}

// entry is a key, the length of its list in bytes, and the list. Of its term only what differs from the one before is written; of a
// room with the same term, the difference.
func (w *writer) entry(k key) {
	if len(w.body) == 0 {
		w.dir = append(w.dir, k)
		w.last = key{}
	}
	w.body = appendKey(w.body, w.last, k)
	w.last = k
	w.body = binary.AppendUvarint(w.body, uint64(len(w.list)))
	w.body = append(w.body, w.list...)
}

// end completes the block under way.
func (w *writer) end() error {
	if len(w.body) == 0 {
		return nil
	}
	body := w.body
	w.body = make([]byte, 0, blockSize+maxHeader)
	return w.flush(len(w.dir)-1, body)
}

func appendKey(dst []byte, last, k key) []byte {
	shared := 0
	for shared < len(last.term) && shared < len(k.term) && last.term[shared] == k.term[shared] {
		shared++
	}
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(k.term)-shared))
	dst = append(dst, k.term[shared:]...)
	room := k.room
	if k.term == last.term {
		room -= last.room
	}
	return binary.AppendUvarint(dst, uint64(room))
}

var errBlock = errors.New("search: a block of the index is damaged")

// reader goes through a block, or through a directory.
type reader struct {
	rest []byte
	key  key
	list []byte // of the entry; encoded
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad = true
		r.rest = nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.bad = true
		r.rest = nil
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

// nextKey reads a key.
func (r *reader) nextKey() {
	shared := r.uvarint()
	suffix := r.take(r.uvarint())
	room := graph.RoomNID(r.uvarint())
	if shared > uint64(len(r.key.term)) {
		r.bad = true
		return
	}
	term := r.key.term
	if shared != uint64(len(term)) || len(suffix) > 0 {
		term = term[:shared] + string(suffix)
	}
	if term == r.key.term {
		room += r.key.room
	}
	r.key = key{term, room}
}

// next reads an entry, or reports that there is none.
func (r *reader) next() bool {
	if len(r.rest) == 0 || r.bad {
		return false
	}
	r.nextKey()
	r.list = r.take(r.uvarint())
	return !r.bad
}

func (r *reader) err() error {
	if r.bad {
		return errBlock
	}
	return nil
}

// postings appends the list of the entry.
func (r *reader) postings(dst []posting) ([]posting, error) {
	first, n := binary.Varint(r.list)
	if n <= 0 {
		return dst, errBlock
	}
	last := posting(first)
	dst = append(dst, last)
	for rest := r.list[n:]; len(rest) > 0; rest = rest[n:] {
		var by uint64
		if by, n = binary.Uvarint(rest); n <= 0 {
			return dst, errBlock
		}
		last += posting(by)
		dst = append(dst, last)
	}
	return dst, nil
}

func encodeDirectory(dir []key) []byte {
	out, last := []byte{}, key{}
	for _, k := range dir {
		out = appendKey(out, last, k)
		last = k
	}
	return out
}

func decodeDirectory(raw []byte) ([]key, error) {
	r := reader{rest: raw}
	var dir []key
	for len(r.rest) > 0 {
		r.nextKey()
		dir = append(dir, r.key)
	}
	return dir, r.err()
}
