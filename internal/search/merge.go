package search

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/work"
)

const (
	// fanout is how many segments of a level make one of the next.
	fanout = 8
	// writeBlocks is how many blocks one transaction writes: sends wait behind it.
	writeBlocks = 24
	// readBlocks is how many blocks of each segment are read at once.
	readBlocks = 8
	// removeBlocks is how many blocks one transaction removes.
	removeBlocks = 64
	// largest is the most blocks that segments to be merged may have together.
	largest = maxBlocks / 2
	// mergePeriod is how often segments are counted even if nothing was heard of new ones.
	mergePeriod = time.Minute
)

// merge keeps the number of segments low for as long as it has the lease.
func (s *Search) merge(ctx context.Context, l *work.Lease) error {
	var rested time.Time // until then words of redacted events wait
	for {
		if err := s.clean(ctx, l); err != nil {
			return err
		}
		if begun := time.Now(); !begun.Before(rested) {
			n, err := s.erase(ctx, l, begun.Add(-eraseAfter))
			if err != nil {
				return err
			}
			if n > 0 {
				rested = time.Now().Add(eraseShare * time.Since(begun))
			}
		}
		some, err := s.due(ctx)
		if err != nil {
			return err
		}
		if some != nil {
			if err := s.mergeAll(ctx, l, some); err != nil {
				return err
			}
			continue
		}
		timer := time.NewTimer(mergePeriod)
		select {
		case <-s.grown:
			timer.Stop()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// due returns the segments to merge next, those of the lowest level that has enough.
func (s *Search) due(ctx context.Context) (some []*segment, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		all, err := s.segments(tx)
		if err != nil {
			return err
		}
		levels := make(map[int64][]*segment)
		sizes := make(map[int64]int64)
		for _, g := range all {
			if len(levels[g.level]) < fanout && sizes[g.level]+g.blocks <= largest {
				levels[g.level] = append(levels[g.level], g)
				sizes[g.level] += g.blocks
			}
		}
		some = nil
		for level, of := range levels {
			if len(of) == fanout && (some == nil || level < some[0].level) {
				some = of
			}
		}
		return nil
	})
	return some, err
}

// clean removes segments that are of no use: merged ones, and what a crash left of new ones.
func (s *Search) clean(ctx context.Context, l *work.Lease) error {
	var useless []int64
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		useless = nil
		return tx.Query(uselessOnes, func(r *sqldb.Row) error {
			var nid int64
			err := r.Scan(&nid, nil)
			useless = append(useless, nid)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("list segments without a use: %w", err)
	}
	for _, nid := range useless {
		for done := false; !done; {
			err := s.leased(ctx, l, func(tx *sqldb.Tx) (err error) {
				done, err = removeSome(tx, nid)
				return err
			})
			if err != nil {
				return fmt.Errorf("remove segment %d: %w", nid, err)
			}
		}
		s.directories.Invalidate(nid)
	}
	return nil
}

// removeSome removes blocks of a segment from its end, and finally the segment.
func removeSome(tx *sqldb.Tx, nid int64) (done bool, err error) {
	first, end := nid*maxBlocks, (nid+1)*maxBlocks
	var last int64
	found, err := tx.Get(lastBlockIn, []any{first, end}, &last)
	if err != nil {
		return false, err
	}
	if found {
		tx.Queue(deleteBlocks, max(first, last+1-removeBlocks), end)
		if last+1-removeBlocks > first {
			return false, nil
		}
	}
	tx.Queue(deleteSegment, nid)
	return true, nil
}

// leased writes while the lease is held.
func (s *Search) leased(ctx context.Context, l *work.Lease, fn func(tx *sqldb.Tx) error) error {
	return s.db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := l.Check(tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// mergeAll makes one segment of several.
func (s *Search) mergeAll(ctx context.Context, l *work.Lease, some []*segment) error {
	return s.rewrite(ctx, l, some, some[0].level+1, nil)
}

// rewrite makes one segment of one or several, without the words of events that are gone: small ones in one transaction.
func (s *Search) rewrite(ctx context.Context, l *work.Lease, some []*segment, level int64, gone map[spot]struct{}) error {
	nid, err := s.segNIDs.Next(ctx)
	if err != nil {
		return fmt.Errorf("number a segment: %w", err)
	}
	m := &merging{s: s, l: l, ctx: ctx, nid: nid, gone: gone}
	olds := make([]int64, len(some))
	blocks, docs, first, last := int64(0), int64(0), int64(math.MaxInt64), int64(math.MinInt64)
	for i, g := range some {
		olds[i] = g.nid
		blocks += g.blocks
		docs += g.docs
		first, last = min(first, g.firstOrd), max(last, g.lastOrd)
	}
	m.small = blocks <= writeBlocks
	if !m.small {
		err = s.leased(ctx, l, func(tx *sqldb.Tx) error {
			tx.Queue(insertSegment, nid, building, level, 0, 0, 0, 0, []byte{})
			return nil
		})
		if err != nil {
			return fmt.Errorf("begin segment %d: %w", nid, err)
		}
	}
	w := writer{flush: m.flush}
	if err := m.run(some, &w); err != nil {
		return fmt.Errorf("merge into segment %d: %w", nid, err)
	}
	err = s.leased(ctx, l, func(tx *sqldb.Tx) error {
		if !m.small {
			tx.Queue(finishSegment, nid, len(w.dir), docs, first, last, encodeDirectory(w.dir))
			tx.Queue(endSegments, olds)
			return nil
		}
		m.insert(tx)
		tx.Queue(insertSegment, nid, live, level, len(w.dir), docs, first, last, encodeDirectory(w.dir))
		for _, old := range olds {
			tx.Queue(deleteBlocks, old*maxBlocks, (old+1)*maxBlocks)
			tx.Queue(deleteSegment, old)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("finish segment %d: %w", nid, err)
	}
	return nil
}

// merging is a merge under way.
type merging struct {
	s     *Search
	l     *work.Lease
	ctx   context.Context
	nid   int64
	small bool // the caller writes the blocks
	gone  map[spot]struct{}

	first int      // number of the first of full
	full  [][]byte // blocks that wait to be written
}

func (m *merging) flush(n int, body []byte) error {
	if n >= maxBlocks {
		return errors.New("the segment has too many blocks")
	}
	if len(m.full) == 0 {
		m.first = n
	}
	if m.full = append(m.full, body); len(m.full) < writeBlocks {
		return nil
	}
	return m.write()
}

func (m *merging) write() error {
	if len(m.full) == 0 || m.small {
		return nil
	}
	err := m.s.leased(m.ctx, m.l, func(tx *sqldb.Tx) error {
		m.insert(tx)
		return nil
	})
	m.full = nil
	return err
}

func (m *merging) insert(tx *sqldb.Tx) {
	for i, body := range m.full {
		tx.Queue(insertBlock, m.nid*maxBlocks+int64(m.first+i), body)
	}
}

// maxList is how many postings of one key are collected before they are written. More than that come in several entries.
const maxList = 4096

func (m *merging) run(some []*segment, w *writer) error {
	var sources sources
	for _, g := range some {
		src := &source{m: m, segment: g}
		if ok, err := src.next(); err != nil {
			return err
		} else if ok {
			sources = append(sources, src)
		}
	}
	heap.Init(&sources)
	var at key
	var list []posting
	flush := func() error {
		if len(list) == 0 {
			return nil
		}
		err := w.add(at, list)
		list = list[:0]
		return err
	}
	for len(sources) > 0 {
		src := sources[0]
		if k := src.reader.key; k != at || len(list) >= maxList {
			last := posting(math.MinInt64)
			if k == at {
				last = list[len(list)-1]
			}
			if err := flush(); err != nil {
				return err
			}
			at = k
			if src.list[src.at] == last {
				src.at++
				if err := m.advance(&sources); err != nil {
					return err
				}
				continue
			}
		}
		p := src.list[src.at]
		if _, is := m.gone[spot{at.room, p.ord()}]; !is && (len(list) == 0 || list[len(list)-1] != p) {
			list = append(list, p)
		}
		src.at++
		if err := m.advance(&sources); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := w.end(); err != nil {
		return err
	}
	return m.write()
}

// advance restores the order of the sources after the first one was read from.
func (m *merging) advance(sources *sources) error {
	src := (*sources)[0]
	if src.at < len(src.list) {
		heap.Fix(sources, 0)
		return nil
	}
	ok, err := src.next()
	switch {
	case err != nil:
		return err
	case ok:
		heap.Fix(sources, 0)
	default:
		heap.Pop(sources)
	}
	return nil
}

// source is a segment that is read from its beginning to its end.
type source struct {
	m       *merging
	segment *segment
	read    int // blocks read
	blocks  [][]byte
	reader  reader
	list    []posting
	at      int
}

// next goes to the next entry.
func (s *source) next() (bool, error) {
	for !s.reader.next() {
		if err := s.reader.err(); err != nil {
			return false, err
		}
		if len(s.blocks) == 0 {
			if s.read >= len(s.segment.dir) {
				return false, nil
			}
			if err := s.fill(); err != nil {
				return false, err
			}
		}
		s.reader = reader{rest: s.blocks[0]}
		s.blocks = s.blocks[1:]
	}
	var err error
	s.list, err = s.reader.postings(s.list[:0])
	s.at = 0
	return true, err
}

func (s *source) fill() error {
	err := s.m.s.db.Read(s.m.ctx, func(tx *sqldb.Tx) error {
		s.blocks = nil
		return tx.Query(blocksFrom, func(r *sqldb.Row) error {
			var body []byte
			err := r.Scan(nil, &body)
			s.blocks = append(s.blocks, body)
			return err
		}, s.segment.block(s.read), s.segment.block(len(s.segment.dir)), readBlocks)
	})
	if err == nil && len(s.blocks) == 0 {
		err = errBlock
	}
	s.read += len(s.blocks)
	return err
}

// sources is a heap.
type sources []*source

func (s sources) Len() int { return len(s) }
func (s sources) Less(i, j int) bool {
	if c := s[i].reader.key.compare(s[j].reader.key); c != 0 {
		return c < 0
	}
	return s[i].list[s[i].at] < s[j].list[s[j].at]
}
func (s sources) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *sources) Push(x any)   { *s = append(*s, x.(*source)) }
func (s *sources) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}
