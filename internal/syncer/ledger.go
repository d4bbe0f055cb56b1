package syncer

import (
	"encoding/binary"
	"errors"
	"maps"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
)

// progress says how far a client was told of something: never, up to the position of its token, or up to a position before that.
type progress int64

const (
	never   progress = 0
	current progress = -1
)

// upTo returns the position up to which a client with a token at pos was told.
func (t progress) upTo(pos sqldb.Pos) sqldb.Pos {
	if t == current {
		return pos
	}
	return sqldb.Pos(t)
}

// What a client is told of each room.
const (
	theEvents = iota
	theData   // account data
	theReceipts
	theTyping
	tellings
)

// And of what is not about a room, which stands under room 0.
const (
	theGlobalData = theData
	theKeys       = theReceipts
	theThreads    = theTyping
)

// mark is what a connection knows of a room.
type mark struct {
	told [tellings]progress
	// config is the configuration under which the state was told, limit the number of newest events that the client has at least.
	config, limit int
	direct        bool
}

// ledger is what was told on a connection up to one answer. Immutable: the next answer adds a layer.
type ledger struct {
	// version is the answer's number, 0 before the first.
	version int64
	layers  []map[graph.RoomNID]mark // the oldest first
	texts   []string                 // of configurations; mark.config counts from 1
	steps   int                      // rows in the database
}

const (
	// maxTexts and maxMarks bound what is kept of one connection; beyond that it expires.
	maxTexts = 300
	maxMarks = 200_000
)

func (l *ledger) get(room graph.RoomNID) mark {
	for i := len(l.layers) - 1; i >= 0; i-- {
		if m, ok := l.layers[i][room]; ok {
			return m
		}
	}
	return mark{}
}

// with returns the ledger with marks and configurations added. Layers of similar size become one, so that there are few.
func (l *ledger) with(version int64, marks map[graph.RoomNID]mark, texts []string) *ledger {
	n := &ledger{version: version, texts: texts, steps: l.steps + 1}
	n.layers = append(n.layers, l.layers...)
	if len(marks) == 0 {
		return n
	}
	top := marks
	for len(n.layers) > 0 {
		last := n.layers[len(n.layers)-1]
		if len(last) > 2*len(top) {
			break
		}
		both := make(map[graph.RoomNID]mark, len(last)+len(top))
		maps.Copy(both, last)
		maps.Copy(both, top)
		top, n.layers = both, n.layers[:len(n.layers)-1]
	}
	n.layers = append(n.layers, top)
	return n
}

// size is the number of marks, counted more than once where they were replaced.
func (l *ledger) size() (n int) {
	for _, layer := range l.layers {
		n += len(layer)
	}
	return n
}

// all returns every mark.
func (l *ledger) all() map[graph.RoomNID]mark {
	all := make(map[graph.RoomNID]mark, l.size())
	for _, layer := range l.layers {
		maps.Copy(all, layer)
	}
	maps.DeleteFunc(all, func(_ graph.RoomNID, m mark) bool { return m == mark{} })
	return all
}

const blobVersion = 1

// encodeMarks writes marks, and the configurations from a number on, as a row holds them.
func encodeMarks(marks map[graph.RoomNID]mark, texts []string, from int) []byte {
	out := append(make([]byte, 0, 16+16*len(marks)), blobVersion)
	out = binary.AppendUvarint(out, uint64(from))
	out = binary.AppendUvarint(out, uint64(len(texts)-from))
	for _, t := range texts[from:] {
		out = binary.AppendUvarint(out, uint64(len(t)))
		out = append(out, t...)
	}
	for room, m := range marks {
		out = binary.AppendUvarint(out, uint64(room))
		for _, t := range m.told {
			out = binary.AppendVarint(out, int64(t))
		}
		out = binary.AppendUvarint(out, uint64(m.config))
		limit := uint64(m.limit) << 1
		if m.direct {
			limit |= 1
		}
		out = binary.AppendUvarint(out, limit)
	}
	return out
}

var errBlob = errors.New("what is stored of a sliding sync connection is damaged")

// blobReader reads numbers until something is wrong.
type blobReader struct {
	rest []byte
	bad  bool
}

func (b *blobReader) next() uint64 {
	v, n := binary.Uvarint(b.rest)
	if n <= 0 {
		b.bad, b.rest = true, nil
		return 0
	}
	b.rest = b.rest[n:]
	return v
}

func (b *blobReader) signed() int64 {
	v, n := binary.Varint(b.rest)
	if n <= 0 {
		b.bad, b.rest = true, nil
		return 0
	}
	b.rest = b.rest[n:]
	return v
}

func (b *blobReader) text() string {
	n := b.next()
	if n > uint64(len(b.rest)) {
		b.bad, b.rest = true, nil
		return ""
	}
	t := string(b.rest[:n])
	b.rest = b.rest[n:]
	return t
}

// decodeMarks reads what encodeMarks wrote on top of the configurations known before.
func decodeMarks(raw []byte, texts []string) (map[graph.RoomNID]mark, []string, error) {
	if len(raw) == 0 || raw[0] != blobVersion {
		return nil, nil, errBlob
	}
	b := &blobReader{rest: raw[1:]}
	from, n := b.next(), b.next()
	if b.bad || from > uint64(len(texts)) || n > maxTexts {
		return nil, nil, errBlob
	}
	texts = texts[:from:from]
	for range n {
		texts = append(texts, b.text())
	}
	marks := make(map[graph.RoomNID]mark)
	for len(b.rest) > 0 {
		room := graph.RoomNID(b.next())
		var m mark
		for i := range m.told {
			m.told[i] = progress(b.signed())
		}
		config, limit := b.next(), b.next()
		if b.bad || config > uint64(len(texts)) || limit > 2*MaxTimeline+1 {
			return nil, nil, errBlob
		}
		m.config, m.limit, m.direct = int(config), int(limit>>1), limit&1 == 1
		marks[room] = m
	}
	if b.bad {
		return nil, nil, errBlob
	}
	return marks, texts, nil
}
