package search

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/words"
	"myelin/internal/work"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// shelf is an index without rooms, and what stands in it.
type shelf struct {
	*Search
	t     *testing.T
	texts map[graph.RoomNID]map[int64]string
}

func newShelf(t *testing.T, open sqldbtest.Open) *shelf {
	t.Helper()
	db := open()
	s, err := Open(t.Context(), Config{DB: db})
	must(t, err)
	must(t, db.Migrate(t.Context(), work.Migrations()...))
	return &shelf{s, t, make(map[graph.RoomNID]map[int64]string)}
}

// put stores texts as one segment.
func (s *shelf) put(room func() graph.RoomNID, ords []int64, text func() string) {
	s.t.Helper()
	d := newDraft()
	for _, ord := range ords {
		r, words := room(), text()
		if s.texts[r] == nil {
			s.texts[r] = make(map[int64]string)
		}
		s.texts[r][ord] = words
		d.add(r, ord, words)
	}
	store, err := s.storing(s.t.Context(), d)
	must(s.t, err)
	must(s.t, s.db.Write(s.t.Context(), func(tx *sqldb.Tx) error { store(tx); return nil }))
}

// check compares what the index proposes with what stands in the texts.
func (s *shelf) check(ask string, asOf sqldb.Pos, rooms ...scope) {
	s.t.Helper()
	l := lookup{s: s.Search, question: words.Ask(ask), rooms: rooms, asOf: asOf}
	must(s.t, s.db.Write(s.t.Context(), func(tx *sqldb.Tx) error { tx.Queue(setIndexedTo, 1<<50); return nil }))
	must(s.t, l.run(s.t.Context()))
	var want []string
	for _, r := range rooms {
		for ord, text := range s.texts[r.room] {
			if ord < r.end && ord <= int64(asOf) && l.question.Matches(words.Fold(text)) {
				want = append(want, fmt.Sprint(r.room, ord))
			}
		}
	}
	var got []string
	last := hit{score: float32(math.Inf(1)), ord: math.MaxInt64}
	for _, h := range l.first(len(want)+10, compareRank) {
		got = append(got, fmt.Sprint(h.room, h.ord))
		if compareRank(last, h) > 0 {
			s.t.Errorf("%q: %v stands before %v", ask, last, h)
		}
		last = h
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || l.count() != len(want) {
		s.t.Errorf("%q in %d rooms: %d found, want %d", ask, len(rooms), len(got), len(want))
	}
	recent := l.first(3, compareRecent)
	if !slices.IsSortedFunc(recent, compareRecent) || len(recent) != min(3, len(want)) {
		s.t.Errorf("%q: the newest are %v", ask, recent)
	}
}

// TestIndex: whatever the texts, their order and the merges, the index proposes exactly those that have the words.
func TestIndex(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s := newShelf(t, open)
		random := rand.New(rand.NewPCG(1, 2))
		vocabulary := strings.Fields("the a river stone apple apples été 東京都 日本語 cat dog 🎉 zebra 4 42 naïve")
		for i := range 500 {
			vocabulary = append(vocabulary, fmt.Sprintf("word%d", i))
		}
		text := func() string {
			var all []string
			for range 1 + random.IntN(12) {
				// The first words are the most frequent.
				all = append(all, vocabulary[int(float64(len(vocabulary))*math.Pow(random.Float64(), 4))])
			}
			return strings.Join(all, " ")
		}
		room := func() graph.RoomNID { return graph.RoomNID(1 + random.IntN(5)*random.IntN(40)) }
		at, low := int64(1), int64(-1)
		look := func() {
			t.Helper()
			all := []scope{}
			for r := range graph.RoomNID(200) {
				all = append(all, scope{r, math.MaxInt64})
			}
			for _, ask := range []string{"the", "zebra", "the river", "日本語", "京", "都 the", "ETE", "word7", "word499 a", "unheard", "🎉"} {
				s.check(ask, 1<<50, all...)
				s.check(ask, sqldb.Pos(at/2), scope{1, math.MaxInt64}, scope{13, at / 3}, scope{37, -5})
			}
			s.check("the", 1<<50)
		}
		fill := func(segments, size int) {
			for range segments {
				ords := make([]int64, size)
				for i := range ords {
					at += 1 + random.Int64N(20)
					ords[i] = at
				}
				s.put(room, ords, text)
				for i := range ords[:1+size/10] {
					low--
					ords[i] = low
				}
				s.put(room, ords[:1+size/10], text)
			}
		}
		fill(5, 7)
		look()
		fill(20, 200)
		s.put(func() graph.RoomNID { return 1 }, span(&at, 3000), text) // lists that span blocks
		look()

		r := work.New(work.Config{DB: s.db, Bus: bus.New(bus.Config{})})
		defer r.Stop()
		merged := make(chan struct{})
		r.Lead("merge", func(ctx context.Context, l *work.Lease) error {
			defer close(merged)
			for {
				some, err := s.due(ctx)
				if err != nil || some == nil {
					return err
				}
				if err := s.mergeAll(ctx, l, some); err != nil {
					return err
				}
				if err := s.clean(ctx, l); err != nil {
					return err
				}
			}
		})
		<-merged
		look()
		var blocks, counted int64
		must(t, s.db.Read(t.Context(), func(tx *sqldb.Tx) error {
			all, err := s.segments(tx)
			for _, g := range all {
				counted += g.blocks
			}
			if len(all) > 2*fanout {
				t.Errorf("%d segments are left", len(all))
			}
			must(t, err)
			return tx.Query(countBlocks, func(r *sqldb.Row) error { return r.Scan(&blocks) })
		}))
		if blocks != counted {
			t.Errorf("there are %d blocks, and the segments have %d", blocks, counted)
		}
	})
}

var countBlocks = sqldb.SQL(`SELECT COUNT(*) FROM search_blocks`)

func span(at *int64, n int) []int64 {
	ords := make([]int64, n)
	for i := range ords {
		*at++
		ords[i] = *at
	}
	return ords
}

// TestAbandoned: what a crash leaves of a merge goes.
func TestAbandoned(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s := newShelf(t, open)
		must(t, s.db.Write(t.Context(), func(tx *sqldb.Tx) error {
			for i := range int64(200) {
				tx.Queue(insertBlock, 7*maxBlocks+i, []byte("x"))
			}
			tx.Queue(insertSegment, 7, building, 1, 0, 0, 0, 0, []byte{})
			tx.Queue(insertSegment, 8, dead, 0, 0, 0, 0, 0, []byte{})
			tx.Queue(insertSegment, 9, live, 0, 0, 0, 0, 0, []byte{})
			return nil
		}))
		r := work.New(work.Config{DB: s.db, Bus: bus.New(bus.Config{})})
		defer r.Stop()
		done := make(chan error, 1)
		r.Lead("merge", func(ctx context.Context, l *work.Lease) error {
			done <- s.clean(ctx, l)
			return nil
		})
		must(t, <-done)
		var blocks, segments int
		must(t, s.db.Read(t.Context(), func(tx *sqldb.Tx) error {
			if _, err := tx.Get(countBlocks, nil, &blocks); err != nil {
				return err
			}
			all, err := s.segments(tx)
			segments = len(all)
			return err
		}))
		if blocks != 0 || segments != 1 {
			t.Errorf("%d blocks and %d segments are left", blocks, segments)
		}
	})
}

// TestErase: the words of events that were redacted leave the tables, and nothing else does.
func TestErase(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s := newShelf(t, open)
		at, n := int64(0), 0
		text := func() string {
			n++
			return fmt.Sprintf("the word%d of all secret%d", n%7, n)
		}
		room := func() graph.RoomNID { return graph.RoomNID(1 + n%3) }
		s.put(room, span(&at, 5000), text) // more than one transaction writes
		s.put(room, span(&at, 20), text)
		s.put(func() graph.RoomNID { return 9 }, []int64{-3, -2, -1}, text)
		gone := []spot{{1, 301}, {2, 5006}, {9, -2}}
		for _, g := range gone {
			if _, ok := s.texts[g.room][g.ord]; !ok {
				t.Fatalf("room %d has nothing at %d: %v", g.room, g.ord, s.texts[9])
			}
			delete(s.texts[g.room], g.ord)
		}
		must(t, s.db.Write(t.Context(), func(tx *sqldb.Tx) error { markErased(tx, gone); return nil }))
		r := work.New(work.Config{DB: s.db, Bus: bus.New(bus.Config{})})
		defer r.Stop()
		done := make(chan error, 1)
		r.Lead("merge", func(ctx context.Context, l *work.Lease) error {
			n, err := s.erase(ctx, l, time.Now().Add(-eraseAfter))
			if err == nil && n != 0 {
				err = fmt.Errorf("%d are erased at once", n)
			}
			for _, want := range []int{len(gone), 0} {
				if err == nil {
					if n, err = s.erase(ctx, l, time.Now().Add(time.Second)); n != want {
						err = fmt.Errorf("%d are erased, want %d", n, want)
					}
				}
			}
			done <- err
			return nil
		})
		must(t, <-done)
		want := make(map[string]bool)
		for _, of := range s.texts {
			for _, text := range of {
				for _, term := range strings.Fields(text) {
					want[term] = true
				}
			}
		}
		for term := range s.terms() {
			if !want[term] {
				t.Errorf("%q stands in the tables", term)
			}
			delete(want, term)
		}
		if len(want) > 0 {
			t.Errorf("%d words are lost", len(want))
		}
		for _, ask := range []string{"the", "word3", "secret17"} {
			s.check(ask, 1<<40, scope{1, math.MaxInt64}, scope{2, math.MaxInt64}, scope{3, math.MaxInt64}, scope{9, math.MaxInt64})
		}
	})
}

// TestQuestionsAreBounded: words that stand in all rooms, or begin all words, cost no more blocks than a question may read; rare ones go first.
func TestQuestionsAreBounded(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s := newShelf(t, open)
		const many = 4 * maxRead
		var dir []key
		var rooms []scope
		for room := graph.RoomNID(1); room <= many; room++ {
			dir, rooms = append(dir, key{"the", room}), append(rooms, scope{room, math.MaxInt64})
		}
		must(t, s.db.Write(t.Context(), func(tx *sqldb.Tx) error {
			tx.Queue(insertSegment, 1, live, 0, len(dir), 10, 1, 9, encodeDirectory(dir))
			tx.Queue(insertSegment, 2, live, 0, 1, 1, 10, 10, encodeDirectory([]key{{"rare", 7}}))
			return nil
		}))
		for _, c := range []struct {
			question words.Question
			blocks   []int // of each word that is looked up
		}{
			{words.Question{Terms: []string{"the"}}, []int{maxRead}},
			{words.Question{Begins: []string{"t"}}, []int{maxRead}},
			{words.Question{Terms: []string{"the", "rare"}}, []int{1}},
			{words.Question{Terms: []string{"the", "rare"}, Begins: []string{"th", "ra"}}, []int{1, 2}},
		} {
			l := &lookup{s: s.Search, question: c.question, rooms: rooms}
			var parts []part
			must(t, s.db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
				parts, err = l.plan(tx)
				return err
			}))
			var got []int
			for _, p := range parts {
				got = append(got, len(p.blocks))
			}
			if total := slices.Max(got); total > maxRead || len(got) != len(c.blocks) || got[0] != c.blocks[0] {
				t.Errorf("%+v: blocks %v, want %v", c.question, got, c.blocks)
			}
		}
	})
}

// terms returns all words in the tables, those of directories too.
func (s *shelf) terms() map[string]bool {
	s.t.Helper()
	found := make(map[string]bool)
	must(s.t, s.db.Read(s.t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(blocksFrom, func(r *sqldb.Row) error {
			var body []byte
			if err := r.Scan(nil, &body); err != nil {
				return err
			}
			in := reader{rest: body}
			for in.next() {
				found[in.key.term] = true
			}
			return in.err()
		}, 0, int64(math.MaxInt64), 1<<30)
	}))
	must(s.t, s.db.Read(s.t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(allDirectories, func(r *sqldb.Row) error {
			var raw []byte
			if err := r.Scan(&raw); err != nil {
				return err
			}
			dir, err := decodeDirectory(raw)
			for _, k := range dir {
				found[k.term] = true
			}
			return err
		})
	}))
	return found
}

var allDirectories = sqldb.SQL(`SELECT directory FROM search_segments`)

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := open()
		_, err := graph.Open(t.Context(), graph.Config{DB: db})
		must(t, err)
		_, err = Open(t.Context(), Config{DB: db})
		must(t, err)
		must(t, db.Migrate(t.Context(), work.Migrations()...))
		sqldbtest.PrepareAll(t, db)
	})
}

func FuzzBlock(f *testing.F) {
	d := newDraft()
	d.add(1, 5, "hello world")
	d.add(2, -5, "hello 日本語")
	made, err := d.finish()
	must(f, err)
	f.Add(made.blocks[0])
	f.Add(encodeDirectory(made.dir))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := reader{rest: raw}
		for r.next() {
			if _, err := r.postings(nil); err != nil {
				return
			}
		}
		_, _ = decodeDirectory(raw)
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"search_categories":{"room_events":{"search_term":"a b","keys":["content.body"],"filter":{"limit":3},"event_context":{"before_limit":1}}}}`), "12_3_r_!a:b")
	f.Add([]byte(`{"search_categories":{}}`), "")
	f.Fuzz(func(t *testing.T, body []byte, token string) {
		r, err := ParseRequest(body, token, decodeJSON)
		if err == nil && r != nil && token != "" {
			again, err := parseToken(r.from.String())
			if err != nil || again != r.from {
				t.Fatalf("%q becomes %q", token, r.from)
			}
		}
	})
}

func decodeJSON(raw []byte, v any) error { return json.Unmarshal(raw, v) }
