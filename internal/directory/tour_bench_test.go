package directory_test

import (
	"testing"

	"myelin/internal/directory"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// BenchmarkTour walks a space of a thousand rooms: its first page, all of its pages, and what another server is told.
func BenchmarkTour(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := start(b, open)
		space := n.make(room.Creation{Content: map[string]any{"type": "m.space"}})
		for range 1000 {
			child := n.make(room.Creation{Name: new("A room"), Topic: new("What it is about")})
			n.state(space, "m.space.child", string(child), `{"via":["here.example"]}`)
		}
		walk := func(pages int) (rooms int) {
			t := directory.Tour{Space: space, Depth: -1, Limit: 100}
			for range pages {
				page, err := n.Tour(b.Context(), directory.Seeker{User: alice}, t)
				n.ok(err)
				rooms += len(page.Rooms)
				if t.From = page.Next; t.From == "" {
					break
				}
			}
			return rooms
		}
		for name, pages := range map[string]int{"first page": 1, "all pages": 20} {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					if got := walk(pages); got < 100 || pages > 1 && got != 1001 {
						b.Fatal(got)
					}
				}
			})
		}
		b.Run("for another server", func(b *testing.B) {
			for b.Loop() {
				_, err := n.Hierarchy(b.Context(), visitor(id.ServerName("far.example")), space, false)
				n.ok(err)
			}
		})
	})
}
