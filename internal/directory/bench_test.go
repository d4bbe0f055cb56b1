package directory

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// BenchmarkUsers looks for users by the beginnings of their names, of one letter, of three and of a whole name, among 500,000: where all can be
// found, and where none of them can, which takes more looking.
func BenchmarkUsers(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		const users, batch = 500_000, 5000
		db := open()
		names, err := ours.Open(b.Context(), ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
		mustBench(b, err)
		g, err := graph.Open(b.Context(), graph.Config{DB: db})
		mustBench(b, err)
		d, err := Open(b.Context(), Config{DB: db, Ours: names, Graph: g, Bus: bus.New(bus.Config{}), AllUsers: true})
		mustBench(b, err)
		b.Cleanup(d.Close)
		random := rand.New(rand.NewPCG(1, 2))
		word := func() string {
			var s strings.Builder
			for range 2 + random.IntN(3) {
				s.WriteByte("bcdfghklmnprstvz"[random.IntN(16)])
				s.WriteByte("aeiou"[random.IntN(5)])
			}
			return s.String()
		}
		whole := ""
		for at := 0; at < users; at += batch {
			mustBench(b, db.Write(b.Context(), func(tx *sqldb.Tx) error {
				for i := range batch {
					user := id.UserID(fmt.Sprintf("@%s%d:here.example", word(), at+i))
					whole = word() + " " + word()
					tx.Queue(putUser, user, true, whole, "", 0)
					for _, w := range wordsOf(user, whole) {
						tx.Queue(putWord, w.word, w.whole, user, w.named)
					}
				}
				return nil
			}))
		}
		for _, all := range []bool{true, false} {
			d.allUsers = all
			for _, term := range []string{"b", "bar", whole, "nobody"} {
				b.Run(fmt.Sprintf("all=%v/%d letters", all, len(term)), func(b *testing.B) {
					for b.Loop() {
						found, err := d.SearchUsers(b.Context(), "@alice:here.example", term, 10)
						if err != nil || all && term != "nobody" && len(found.Users) == 0 {
							b.Fatal(err, found)
						}
					}
				})
			}
		}
	})
}

func mustBench(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
