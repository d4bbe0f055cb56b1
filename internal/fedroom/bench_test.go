package fedroom_test

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// BenchmarkReceive takes messages of another server in transactions of 50, signatures checked, one room.
func BenchmarkReceive(b *testing.B) {
	w := newTown(b)
	here, there, _, bob, r := pair(b, w, nil)
	_ = here
	// What there says reaches here.
	events := there.speak(r, bob, (b.N+49)/50*50)
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raws[i] = there.raw(e)
	}
	b.ResetTimer()
	for len(raws) > 0 {
		for _, o := range here.fed.Receive(b.Context(), there.name, raws[:50]) {
			must(b, o.Err)
		}
		raws = raws[50:]
	}
	b.ReportMetric(float64(len(events))/b.Elapsed().Seconds(), "PDUs/s")
}

// BenchmarkReceiveGarbage takes messages whose signature is wrong.
func BenchmarkReceiveGarbage(b *testing.B) {
	w := newTown(b)
	here, there, _, bob, r := pair(b, w, nil)
	var raws []json.RawMessage
	for _, e := range there.speak(r, bob, 50) {
		var o map[string]any
		must(b, json.Unmarshal(there.raw(e), &o))
		o["origin_server_ts"] = 1
		raw, err := json.Marshal(o)
		must(b, err)
		raws = append(raws, raw)
	}
	n := 0
	for b.Loop() {
		for _, o := range here.fed.Receive(b.Context(), there.name, raws) {
			if o.Err == nil {
				b.Fatal("taken")
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "PDUs/s")
}

// BenchmarkJoin joins a room of MYELIN_BENCH_MEMBERS members (20,000 by default) that another server holds: how long until the room can be used,
// and until it is complete.
func BenchmarkJoin(b *testing.B) {
	members, err := strconv.Atoi(os.Getenv("MYELIN_BENCH_MEMBERS"))
	if err != nil {
		members = 20_000
	}
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		w := newTown(b)
		there := w.server("there.example")
		alice := there.user("alice")
		r := there.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		there.crowd(r, members)
		var usable, whole time.Duration
		n := 0
		for b.Loop() {
			n++
			here := w.serverOn(id.ServerName("here"+strconv.Itoa(n)+".example"), open)
			bob := here.user("bob")
			started := time.Now()
			_, err := here.fed.Join(b.Context(), room.Join{Membership: room.Membership{Room: r, Sender: bob}}, []id.ServerName{there.name})
			must(b, err)
			usable += time.Since(started)
			must(b, here.fed.Complete(b.Context(), r))
			whole += time.Since(started)
		}
		b.ReportMetric(usable.Seconds()/float64(n), "s-usable/op")
		b.ReportMetric(whole.Seconds()/float64(n), "s-whole/op")
	})
}
