package room_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// BenchmarkSend measures durable sends through the engine, without HTTP: one event of about
// 1 KB each, by writers spread over rooms.
func BenchmarkSend(b *testing.B) {
	for _, shape := range []struct{ rooms, writers int }{{1, 1}, {1, 64}, {64, 64}} {
		b.Run(fmt.Sprintf("rooms=%d/writers=%d", shape.rooms, shape.writers), func(b *testing.B) {
			sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
				benchmarkSend(b, open(), shape.rooms, shape.writers)
			})
		})
	}
}

func benchmarkSend(b *testing.B, db *sqldb.DB, rooms, writers int) {
	ctx := context.Background()
	g, err := graph.Open(ctx, graph.Config{DB: db})
	if err != nil {
		b.Fatal(err)
	}
	set, err := ours.Open(ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	if err != nil {
		b.Fatal(err)
	}
	version, _ := roomver.Get(roomver.Default)
	r := room.New(room.Config{
		Graph: g, Ours: set, DefaultVersion: version,
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
	})
	ids := make([]id.RoomID, rooms)
	for i := range ids {
		if ids[i], err = r.Create(ctx, room.Creation{Creator: alice, Preset: room.PublicChat}); err != nil {
			b.Fatal(err)
		}
	}
	content := []byte(`{"msgtype":"m.text","body":"` + strings.Repeat("x", 500) + `"}`)
	var next atomic.Int64
	b.SetParallelism(writers)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			n := next.Add(1)
			_, err := r.Send(ctx, room.Message{
				Room:     ids[int(n)%rooms],
				Proposal: room.Proposal{Sender: alice, Type: "m.room.message", Content: content},
				Txn:      graph.TxnRef{User: alice, Device: "D", Scope: "send", ID: fmt.Sprint(n)},
			})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
}
