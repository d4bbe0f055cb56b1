package room_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// engine opens a server's room engine for a benchmark.
func engine(b *testing.B, db *sqldb.DB) (*room.Rooms, *graph.Graph) {
	b.Helper()
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
	return room.New(room.Config{Graph: g, Ours: set, DefaultVersion: version}), g
}

const bigRoom = 20_000

// take stores a room's state in pieces, as it comes from another server, and adopts alice's join.
func take(b *testing.B, r *room.Rooms, a *abroad, state []*event.PDU, ids []id.EventID, joins *event.PDU) {
	b.Helper()
	ctx := context.Background()
	for len(state) > 0 {
		n := min(1000, len(state))
		if err := r.Outliers(ctx, a.room, a.version, state[:n]); err != nil {
			b.Fatal(err)
		}
		state = state[n:]
	}
	if err := r.Adopt(ctx, room.Adoption{Room: a.room, Version: a.version, Join: joins, State: ids}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAdopt measures how long it takes to join a room of 20,000 members, signatures and the network aside: their events are stored,
// the state is built, and the memberships are written.
func BenchmarkAdopt(b *testing.B) {
	a := newAbroad(b, "11")
	a.crowd(bigRoom)
	last := a.tip()
	state := append([]*event.PDU(nil), a.all...)
	ids := a.before(last)
	joins := a.state(alice, "m.room.member", string(alice), joinContent)
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		for range b.N {
			b.StopTimer()
			r, _ := engine(b, open())
			runtime.GC()
			b.StartTimer()
			take(b, r, a, state, ids, joins)
		}
	})
}

// BenchmarkReceiveAll measures the intake of events that follow each other in one room, in transactions of 50 as other servers send them,
// their signatures checked.
func BenchmarkReceiveAll(b *testing.B) {
	a := newAbroad(b, "11")
	a.crowd(100)
	last := a.tip()
	ids, state := a.before(last), append([]*event.PDU(nil), a.all...)
	joins := a.state(alice, "m.room.member", string(alice), joinContent)
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		r, _ := engine(b, open())
		take(b, r, a, state, ids, joins)
		ctx := context.Background()
		tip := joins
		b.ResetTimer()
		b.StopTimer()
		var spent time.Duration
		n := 0
		for range b.N {
			chain := make([]*event.PDU, 50)
			for i := range chain {
				sender := id.UserID(fmt.Sprintf("@member%d:there.example", i))
				chain[i] = a.build(event.Draft{Type: "m.room.message", Sender: sender, Content: []byte(`{"body":"` + padding + `"}`)}, a.after[joins.ID()], tip)
				tip = chain[i]
			}
			b.StartTimer()
			began := time.Now()
			for _, result := range r.ReceiveAll(ctx, a.room, chain) {
				if result.Err != nil || result.Verdict != room.Accepted {
					b.Fatal(result)
				}
			}
			spent += time.Since(began)
			b.StopTimer()
			n += len(chain)
		}
		b.ReportMetric(float64(n)/spent.Seconds(), "PDUs/s")
	})
}

const padding = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

// BenchmarkForks measures the intake of an event that ends one of 100 branches of a room of 20,000 members, each of which changed the state:
// the resolution of all of them.
func BenchmarkForks(b *testing.B) {
	for _, kind := range []string{"warm", "cold", "hostile"} {
		b.Run(kind, func(b *testing.B) {
			sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) { benchmarkForks(b, open(), kind) })
		})
	}
}

// With hostile, one of the branches names an event as its authority that nobody else in the room does, so that the members' auth chains must be
// searched for it.
func benchmarkForks(b *testing.B, db *sqldb.DB, kind string) {
	ctx := context.Background()
	a := newAbroad(b, "11")
	bosses := make([]id.UserID, 10) // of ten servers: each may have so many branches
	for i := range bosses {
		bosses[i] = id.UserID(fmt.Sprintf("@boss:there%d.example", i))
		a.state(bosses[i], "m.room.member", string(bosses[i]), joinContent)
	}
	powers := func(i int) string {
		users := ""
		for _, u := range bosses {
			users += fmt.Sprintf("%q:90,", u)
		}
		return a.levels(fmt.Sprintf(`{%s"@member%d:there.example":50}`, users, i))
	}
	for i := range 50 { // a history of power levels
		a.state(erin, "m.room.power_levels", "", powers(i))
	}
	old := a.state(erin, "m.room.join_rules", "", `{"join_rule":"public","for":"a moment"}`)
	a.state(erin, "m.room.join_rules", "", `{"join_rule":"public"}`)
	a.crowd(bigRoom)
	last := a.tip()
	ids, state := a.before(last), append([]*event.PDU(nil), a.all...)
	joins := a.state(alice, "m.room.member", string(alice), joinContent)
	r, g := engine(b, db)
	take(b, r, a, state, ids, joins)
	var tips []*event.PDU
	for i := range 100 {
		boss := bosses[i%10]
		tip := a.state(boss, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i), joins)
		tip = a.state(boss, "m.room.member", fmt.Sprintf("@member%d:there.example", 100*i), `{"membership":"ban"}`, tip)
		if i%10 == 0 {
			tip = a.state(boss, "m.room.power_levels", "", powers(i), tip)
		}
		if i == 50 && kind == "hostile" {
			now := a.after[tip.ID()]
			d := event.Draft{Type: "m.room.member", StateKey: key(string(boss)), Sender: boss, Content: []byte(`{"membership":"join","displayname":"M"}`)}
			for _, e := range []*event.PDU{a.all[0], now[event.Key{Type: "m.room.power_levels"}], now[event.Key{Type: "m.room.member", StateKey: string(boss)}], old} {
				d.AuthEvents = append(d.AuthEvents, e.ID())
			}
			tip = a.add(d, tip)
		}
		tips = append(tips, tip)
	}
	for _, result := range r.ReceiveAll(ctx, a.room, a.all[len(state)+1:]) {
		if result.Err != nil || result.Verdict == room.Rejected {
			b.Fatal(result)
		}
	}
	head, err := g.Head(ctx, a.room)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		if kind == "cold" {
			r, _ = engine(b, db)
		}
		next := a.say(bosses[i%10], "again", tips[i%len(tips)])
		tips[i%len(tips)] = next
		b.StartTimer()
		if got := r.ReceiveAll(ctx, a.room, []*event.PDU{next})[0]; got.Err != nil || got.Verdict == room.Rejected {
			b.Fatal(got)
		}
	}
	b.ReportMetric(float64(len(head.Extremities)), "branches")
}
