package search

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/words"
	"myelin/internal/work"
)

// BenchmarkMillion asks an index of a million messages of ten words, in a thousand rooms, of which one has half of them: for a word of every
// fifth message, for a rare one, and for both. Words are as frequent as in a language.
func BenchmarkMillion(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		const messages, batch = 1_000_000, 1000
		db := open()
		s, err := Open(b.Context(), Config{DB: db})
		must(b, err)
		must(b, db.Migrate(b.Context(), work.Migrations()...))
		random := rand.New(rand.NewPCG(1, 2))
		zipf := rand.NewZipf(random, 1.1, 4, 50_000)
		for at := int64(0); at < messages; at += batch {
			d := newDraft()
			for i := range int64(batch) {
				var text strings.Builder
				for range 10 {
					fmt.Fprintf(&text, "word%d ", zipf.Uint64())
				}
				room := graph.RoomNID(1)
				if random.IntN(2) == 0 {
					room = graph.RoomNID(2 + random.IntN(999))
				}
				d.add(room, 1+at+i, text.String())
			}
			store, err := s.storing(b.Context(), d)
			must(b, err)
			must(b, db.Write(b.Context(), func(tx *sqldb.Tx) error { store(tx); return nil }))
		}
		r := work.New(work.Config{DB: db, Bus: bus.New(bus.Config{})})
		defer r.Stop()
		merged := make(chan error, 1)
		r.Lead("merge", func(ctx context.Context, l *work.Lease) error {
			for {
				some, err := s.due(ctx)
				if err != nil || some == nil {
					merged <- err
					return nil
				}
				if err := s.mergeAll(ctx, l, some); err != nil {
					return err
				}
				if err := s.clean(ctx, l); err != nil {
					return err
				}
			}
		})
		must(b, <-merged)
		must(b, db.Write(b.Context(), func(tx *sqldb.Tx) error { tx.Queue(setIndexedTo, 1<<50); return nil }))
		rooms := func(n graph.RoomNID) (all []scope) {
			for i := range n {
				all = append(all, scope{1 + i, math.MaxInt64})
			}
			return all
		}
		for _, c := range []struct {
			name, ask string
			rooms     []scope
		}{
			{"frequent", "word3", rooms(1000)}, {"rare", "word4000", rooms(1000)}, {"both", "word3 word400", rooms(1000)},
			{"few rooms", "word3", rooms(50)[1:]},
		} {
			b.Run(c.name, func(b *testing.B) {
				for b.Loop() {
					l := lookup{s: s, question: words.Ask(c.ask), rooms: c.rooms, asOf: 1 << 50}
					must(b, l.run(b.Context()))
					l.first(40, compareRank)
					b.ReportMetric(float64(l.count()), "hits")
				}
			})
		}
	})
}
