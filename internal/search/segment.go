package search

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/words"
)

// segment is a part of the index. Immutable.
type segment struct {
	nid      int64
	level    int64
	blocks   int64
	docs     int64
	firstOrd int64
	lastOrd  int64
	dir      []key
}

// block is the number of a block in the database.
func (s *segment) block(n int) int64 { return s.nid*maxBlocks + int64(n) }

// draft is a segment that is made in memory.
type draft struct {
	lists    map[key][]posting
	docs     int64
	firstOrd int64
	lastOrd  int64
}

func newDraft() *draft {
	return &draft{lists: make(map[key][]posting), firstOrd: math.MaxInt64, lastOrd: math.MinInt64}
}

// maxTerms bounds the different words of one event that are indexed. Who writes more is found by the others.
const maxTerms = 2000

// add indexes a text. Events of a room need not come in order.
func (d *draft) add(room graph.RoomNID, ord int64, text string) {
	counts := make(map[string]int)
	n := 0
	words.Terms(words.Fold(text), func(term string) {
		n++
		if counts[term] > 0 || len(counts) < maxTerms {
			counts[term]++
		}
	})
	if len(counts) == 0 {
		return
	}
	d.docs++
	d.firstOrd, d.lastOrd = min(d.firstOrd, ord), max(d.lastOrd, ord)
	for term, c := range counts {
		k := key{term, room}
		d.lists[k] = append(d.lists[k], pack(ord, weigh(c, n)))
	}
}

// usual is how many words a message has that is neither short nor long.
const usual = 12

// weigh says how much of a text one word is: the more often the word stands there the more, the longer the text the less. It is the
// middle part of the BM25 formula in eight steps.
func weigh(count, length int) int {
	const saturation, most = 1.2, 2.2
	c := float64(count)
	w := c * most / (c + saturation*(0.25+0.75*float64(length)/usual))
	return min(maxWeight, int(w/most*(maxWeight+1)))
}

// finished is a draft in the form in which it is stored.
type finished struct {
	*draft
	blocks [][]byte
	dir    []key
}

func (d *draft) finish() (*finished, error) {
	keys := make([]key, 0, len(d.lists))
	for k, list := range d.lists {
		slices.Sort(list)
		keys = append(keys, k)
	}
	slices.SortFunc(keys, key.compare)
	f := &finished{draft: d}
	w := writer{flush: func(_ int, body []byte) error { f.blocks = append(f.blocks, body); return nil }}
	for _, k := range keys {
		if err := w.add(k, d.lists[k]); err != nil {
			return nil, err
		}
	}
	err := w.end()
	f.dir = w.dir
	return f, err
}

// store queues the rows of a segment.
func (f *finished) store(tx *sqldb.Tx, nid int64) {
	for i, body := range f.blocks {
		tx.Queue(insertBlock, nid*maxBlocks+int64(i), body)
	}
	tx.Queue(insertSegment, nid, live, 0, len(f.blocks), f.docs, f.firstOrd, f.lastOrd, encodeDirectory(f.dir))
}

// segments returns all live segments in the order of their oldest events.
func (s *Search) segments(tx *sqldb.Tx) ([]*segment, error) {
	var found []*segment
	err := tx.Query(liveSegments, func(r *sqldb.Row) error {
		g := new(segment)
		err := r.Scan(&g.nid, &g.level, &g.blocks, &g.docs, &g.firstOrd, &g.lastOrd)
		found = append(found, g)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the segments of the index: %w", err)
	}
	var missing []int64
	for _, g := range found {
		var ok bool
		if g.dir, ok = s.directories.GetIfPresent(g.nid); !ok {
			missing = append(missing, g.nid)
		}
	}
	if len(missing) > 0 {
		loaded := make(map[int64][]key, len(missing))
		err = tx.Query(directories, func(r *sqldb.Row) error {
			var nid int64
			var raw []byte
			if err := r.Scan(&nid, &raw); err != nil {
				return err
			}
			loaded[nid], err = decodeDirectory(raw)
			return err
		}, missing)
		if err != nil {
			return nil, fmt.Errorf("read the directory of a segment: %w", err)
		}
		for _, g := range found {
			if dir, ok := loaded[g.nid]; ok {
				g.dir = dir
				s.directories.Set(g.nid, dir)
			}
		}
	}
	slices.SortFunc(found, func(a, b *segment) int { return cmp.Compare(a.firstOrd, b.firstOrd) })
	return found, nil
}

// span returns the blocks that may hold keys from first to last, both included: of the block before first, it is not known where it ends.
func (g *segment) span(first, last key) (from, to int) {
	from = sort.Search(len(g.dir), func(i int) bool { return g.dir[i].compare(first) >= 0 })
	to = from + sort.Search(len(g.dir)-from, func(i int) bool { return g.dir[from+i].compare(last) > 0 })
	return max(0, from-1), to
}

// blocksOf appends the numbers of the blocks that may hold a word in one of the rooms, which are sorted. With begins they may hold any word that
// begins so.
func (g *segment) blocksOf(dst []int64, term string, begins bool, rooms []scope) []int64 {
	if len(rooms) == 0 || len(g.dir) == 0 {
		return dst
	}
	if begins {
		from, to := g.span(key{term: term}, key{term: term + "\xff"})
		for i := from; i < to; i++ {
			dst = append(dst, g.block(i))
		}
		return dst
	}
	from, to := g.span(key{term, rooms[0].room}, key{term, rooms[len(rooms)-1].room})
	for i := from; i < to; i++ {
		at := 0
		if g.dir[i].term == term {
			at = sort.Search(len(rooms), func(j int) bool { return rooms[j].room >= g.dir[i].room })
		}
		if at == len(rooms) {
			break
		}
		if i+1 < len(g.dir) && g.dir[i+1].compare(key{term, rooms[at].room}) < 0 {
			continue // the block ends before the next room of interest
		}
		dst = append(dst, g.block(i))
	}
	return dst
}
