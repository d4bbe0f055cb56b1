package room_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
)

// BenchmarkLongChains measures the intake of an event that ends a fork, in a room whose power levels were changed 10,000 times, and in one where a user of
// another server changed their name 20,000 times on the branch: everything is then in the auth chains of what conflicts.
func BenchmarkLongChains(b *testing.B) {
	for _, kind := range []string{"levels", "members"} {
		b.Run(kind, func(b *testing.B) {
			sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) { benchmarkChains(b, open(), kind) })
		})
	}
}

func benchmarkChains(b *testing.B, db *sqldb.DB, kind string) {
	ctx := context.Background()
	a := newAbroad(b, "11")
	ids, state := a.before(a.tip()), slices.Clone(a.all)
	joins := a.state(alice, "m.room.member", string(alice), joinContent)
	r, _ := engine(b, db)
	take(b, r, a, state, ids, joins)
	receive := func(r *room.Rooms, pdus []*event.PDU) {
		for part := range slices.Chunk(pdus, 50) {
			for _, result := range r.ReceiveAll(ctx, a.room, part) {
				if result.Err != nil || result.Verdict != room.Accepted {
					b.Fatal(result)
				}
			}
		}
	}
	from := len(a.all)
	a.state(frank, "m.room.member", string(frank), joinContent)
	trunk := a.tip()
	long := 10_000
	if kind == "members" {
		long = 20_000
	}
	for i := range long {
		if kind == "levels" {
			trunk = a.state(erin, "m.room.power_levels", "", a.levels(fmt.Sprintf(`{%q:50,"@x%d:there.example":1}`, frank, i)), trunk)
		} else if i == 0 {
			trunk = a.state(erin, "m.room.power_levels", "", a.levels(fmt.Sprintf(`{%q:50}`, frank)), trunk)
		} else {
			trunk = a.state(frank, "m.room.member", string(frank), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i), trunk)
		}
	}
	receive(r, a.all[from:])
	base := trunk
	if kind == "members" {
		base = a.all[from+1] // before all those names
	}
	b.ResetTimer()
	var warm, cold, most time.Duration
	for i := range b.N {
		fork := []*event.PDU{
			a.state(erin, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i), base),
			a.state(frank, "m.room.topic", "", fmt.Sprintf(`{"topic":"other %d"}`, i), base),
		}
		for j, p := range fork {
			engineNow := r
			if i == 0 && j == 1 {
				engineNow, _ = engine(b, db) // nothing in memory
			}
			began := time.Now()
			receive(engineNow, []*event.PDU{p})
			took := time.Since(began)
			if engineNow != r {
				cold = took
			} else {
				warm, most = warm+took, max(most, took)
			}
		}
	}
	b.ReportMetric(cold.Seconds()*1000, "ms-cold")
	b.ReportMetric(warm.Seconds()*1000/float64(2*b.N-1), "ms-warm")
	b.ReportMetric(most.Seconds()*1000, "ms-most")
}
