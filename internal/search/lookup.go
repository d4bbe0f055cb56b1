package search

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/words"
)

const (
	// maxRead is how many blocks one question reads: about four megabytes.
	maxRead = 1200
	// maxTail is how many events that aren't indexed yet a question looks at.
	maxTail = 1000
	// readAtOnce is how many blocks one statement reads.
	readAtOnce = 400
)

// scope is a room that is searched.
type scope struct {
	room graph.RoomNID
	// end is the place from which on nothing is of interest.
	end int64
}

// hit is an event that the index proposes.
type hit struct {
	room  graph.RoomNID
	ord   int64
	score float32
}

// hits are those of one room, by place.
type hits struct {
	ords   []posting
	scores []float32
}

// lookup is one question to the index.
type lookup struct {
	s        *Search
	question words.Question
	rooms    []scope // by number
	asOf     sqldb.Pos

	found   map[graph.RoomNID]*hits
	weights map[string]float32 // of the words that were looked up
	tail    sqldb.Pos          // what comes after it is not in the index
}

// part is a word to look up.
type part struct {
	term   string
	begins bool
	blocks []int64
}

// run finds all events that may match, as of a position, 0 for the newest one.
func (l *lookup) run(ctx context.Context) error {
	slices.SortFunc(l.rooms, func(a, b scope) int { return cmp.Compare(a.room, b.room) })
	err := l.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		l.found, l.weights = nil, make(map[string]float32)
		if l.asOf == 0 {
			last, err := tx.Last()
			if err != nil {
				return err
			}
			l.asOf = last
		}
		if _, err := tx.Get(indexedTo, nil, &l.tail); err != nil {
			return err
		}
		parts, err := l.plan(tx)
		if err != nil {
			return err
		}
		return l.read(tx, parts)
	})
	if err != nil {
		return fmt.Errorf("ask the index: %w", err)
	}
	return l.readTail(ctx)
}

// plan returns the words to look up, those with the fewest blocks first. What they cost beyond maxRead is left out: of the first word the oldest
// blocks, of others all, since the events that are proposed are looked at anyway.
func (l *lookup) plan(tx *sqldb.Tx) ([]part, error) {
	segments, err := l.s.segments(tx)
	if err != nil {
		return nil, err
	}
	var parts []part
	add := func(term string, begins bool) {
		p := part{term: term, begins: begins}
		for _, g := range segments {
			p.blocks = g.blocksOf(p.blocks, term, begins, l.rooms)
		}
		parts = append(parts, p)
	}
	for _, t := range l.question.Terms {
		add(t, false)
	}
	for _, t := range l.question.Begins {
		add(t, true)
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(len(a.blocks), len(b.blocks)) })
	left := maxRead
	for i, p := range parts {
		if len(p.blocks) > left {
			if i > 0 {
				return parts[:i], nil
			}
			parts[0].blocks = p.blocks[len(p.blocks)-left:]
			return parts[:1], nil
		}
		left -= len(p.blocks)
	}
	return parts, nil
}

func (l *lookup) read(tx *sqldb.Tx, parts []part) error {
	for i, p := range parts {
		lists, err := l.postings(tx, p)
		if err != nil {
			return err
		}
		n := 0
		for _, list := range lists {
			n += len(list)
		}
		weight := rarity(n)
		l.weights[p.term] = weight
		if i == 0 {
			l.found = make(map[graph.RoomNID]*hits, len(lists))
			for room, list := range lists {
				h := &hits{ords: list, scores: make([]float32, len(list))}
				for j, p := range list {
					h.scores[j] = score(weight, p.weight())
				}
				l.found[room] = h
			}
			continue
		}
		for room, h := range l.found {
			if h.keep(lists[room], weight); len(h.ords) == 0 {
				delete(l.found, room)
			}
		}
	}
	return nil
}

// rarity says how much it means that a text has a word, given how many of those that were searched have it.
func rarity(n int) float32 { return float32(math.Log(1 + 1e6/float64(n+1))) }

func score(rarity float32, weight int) float32 {
	return rarity * float32(weight+1) / (maxWeight + 1)
}

// keep drops what is not in another list as well.
func (h *hits) keep(list []posting, rarity float32) {
	n, j := 0, 0
	for i, p := range h.ords {
		for j < len(list) && list[j].ord() < p.ord() {
			j++
		}
		if j == len(list) {
			break
		}
		if list[j].ord() == p.ord() {
			h.ords[n], h.scores[n] = p, h.scores[i]+score(rarity, list[j].weight())
			n++
		}
	}
	h.ords, h.scores = h.ords[:n], h.scores[:n]
}

// postings returns the places of a word in the rooms that are searched, each list in order and each place once.
func (l *lookup) postings(tx *sqldb.Tx, p part) (map[graph.RoomNID][]posting, error) {
	lists := make(map[graph.RoomNID][]posting)
	bodies := make(map[int64][]byte, len(p.blocks))
	for some := range slices.Chunk(p.blocks, readAtOnce) {
		err := tx.Query(someBlocks, func(r *sqldb.Row) error {
			var nid int64
			var body []byte
			err := r.Scan(&nid, &body)
			bodies[nid] = body
			return err
		}, some)
		if err != nil {
			return nil, err
		}
	}
	// In the order of the plan, which is mostly that of places.
	for _, nid := range p.blocks {
		if err := l.collect(lists, p, bodies[nid]); err != nil {
			return nil, fmt.Errorf("block %d: %w", nid, err)
		}
	}
	for room, list := range lists {
		if !slices.IsSorted(list) {
			slices.Sort(list)
		}
		lists[room] = l.clip(room, slices.CompactFunc(list, func(a, b posting) bool { return a.ord() == b.ord() }))
	}
	return lists, nil
}

// clip cuts off what is of no interest.
func (l *lookup) clip(room graph.RoomNID, list []posting) []posting {
	end := min(l.endOf(room), int64(l.asOf)+1)
	return list[:sort.Search(len(list), func(i int) bool { return list[i].ord() >= end })]
}

// endOf is the end of a room's scope; far below everything for rooms that aren't searched.
func (l *lookup) endOf(room graph.RoomNID) int64 {
	i, ok := slices.BinarySearchFunc(l.rooms, room, func(s scope, r graph.RoomNID) int { return cmp.Compare(s.room, r) })
	if !ok {
		return math.MinInt64
	}
	return l.rooms[i].end
}

func (l *lookup) collect(lists map[graph.RoomNID][]posting, p part, body []byte) error {
	r := reader{rest: body}
	for r.next() {
		term := r.key.term
		switch {
		case term < p.term:
			continue
		case term > p.term && (!p.begins || len(term) < len(p.term) || term[:len(p.term)] != p.term):
			return nil
		case l.endOf(r.key.room) == math.MinInt64:
			continue
		}
		var err error
		if lists[r.key.room], err = r.postings(lists[r.key.room]); err != nil {
			return err
		}
	}
	return r.err()
}

// readTail adds what the index doesn't have yet.
func (l *lookup) readTail(ctx context.Context) error {
	if l.tail >= l.asOf {
		return nil
	}
	events, err := l.s.graph.EventsSince(ctx, l.tail, l.asOf, maxTail)
	if err != nil {
		return fmt.Errorf("read what is not indexed yet: %w", err)
	}
	for _, e := range events {
		if e.Ord >= l.endOf(e.Room) {
			continue
		}
		t, ok := textOf(e.PDU)
		if !ok {
			continue
		}
		folded := words.Fold(t.text)
		if !l.question.Matches(folded) {
			continue
		}
		if l.found == nil {
			l.found = make(map[graph.RoomNID]*hits)
		}
		h := l.found[e.Room]
		if h == nil {
			h = new(hits)
			l.found[e.Room] = h
		}
		h.ords = append(h.ords, pack(e.Ord, 0))
		h.scores = append(h.scores, l.rank(folded))
	}
	return nil
}

// rank is the score that a text gets once it is indexed.
func (l *lookup) rank(folded string) (sum float32) {
	counts := make(map[string]int)
	n := 0
	words.Terms(folded, func(term string) {
		n++
		counts[term]++
	})
	for term, rarity := range l.weights {
		if c := counts[term]; c > 0 {
			sum += score(rarity, weigh(c, n))
		}
	}
	return sum
}

func (l *lookup) count() (n int) {
	for _, h := range l.found {
		n += len(h.ords)
	}
	return n
}

// compareRecent and compareRank say which of two hits comes first.
func compareRecent(a, b hit) int {
	return cmp.Or(cmp.Compare(b.ord, a.ord), cmp.Compare(a.room, b.room))
}

func compareRank(a, b hit) int {
	return cmp.Or(cmp.Compare(b.score, a.score), compareRecent(a, b))
}

// first returns the first n hits in an order.
func (l *lookup) first(n int, compare func(a, b hit) int) []hit {
	best := make([]hit, 0, 2*n)
	sorted := false // the first n are the best so far, in order
	for room, h := range l.found {
		for i, p := range h.ords {
			x := hit{room, p.ord(), h.scores[i]}
			if sorted && compare(best[n-1], x) <= 0 {
				continue
			}
			if best = append(best, x); len(best) == 2*n {
				slices.SortFunc(best, compare)
				best, sorted = best[:n], true
			}
		}
	}
	slices.SortFunc(best, compare)
	return best[:min(n, len(best))]
}
