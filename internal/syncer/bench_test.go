package syncer_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/syncer"
	"myelin/matrix/id"
)

func local(b *testing.B) *server {
	b.Helper()
	return start(b, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(b, c...) })
}

// BenchmarkIncremental is an answer with one message.
func BenchmarkIncremental(b *testing.B) {
	s := local(b)
	r := s.create(room.Creation{})
	a := s.sync(alice, "")
	s.did(s.say(r, alice, "hello"))
	token, err := syncer.ParseToken(a.next)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.syncer.Sync(s.ctx, syncer.Request{User: alice, Device: "D", Since: &token}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInitial is a first sync of 1,000 rooms of 50 members that loads members lazily.
func BenchmarkInitial(b *testing.B) {
	const rooms, members = 1000, 50
	s := local(b)
	var work sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		work.Go(func() {
			for n := next.Add(1); n <= rooms; n = next.Add(1) {
				c := room.Creation{Creator: alice, Preset: room.PublicChat, PowerLevels: map[string]json.RawMessage{"invite": json.RawMessage("0")}}
				r, err := s.rooms.Create(s.ctx, c)
				if err != nil {
					b.Error(err)
					return
				}
				for m := range members - 1 {
					if _, err := s.join(r, id.UserID(fmt.Sprintf("@m%d:here.test", m))); err != nil {
						b.Error(err)
					}
				}
				for m := range 20 {
					if _, err := s.say(r, id.UserID(fmt.Sprintf("@m%d:here.test", m%5)), "hello"); err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
	q := syncer.Request{User: alice}
	const filter = `{"room":{"timeline":{"limit":10},"state":{"lazy_load_members":true}}}`
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			if a := s.with(q, "", filter); a.Get("rooms.join.@keys.#").Int() != rooms {
				b.Fatal("rooms are missing")
			}
		}
	})
}

// BenchmarkFanout is a message that 500 waiting requests hear of; the time is that until the last of them is answered.
func BenchmarkFanout(b *testing.B) {
	const waiters = 500
	s := local(b)
	r := s.create(room.Creation{})
	users := make([]id.UserID, waiters)
	tokens := make([]syncer.Token, waiters)
	for i := range users {
		users[i] = id.UserID(fmt.Sprintf("@w%d:here.test", i))
		s.did(s.join(r, users[i]))
	}
	for i, u := range users {
		var err error
		tokens[i], err = syncer.ParseToken(s.sync(u, "").next)
		must(b, err)
	}
	var median time.Duration
	for b.Loop() {
		var wait sync.WaitGroup
		took := make([]time.Duration, waiters)
		start := make(chan time.Time, waiters)
		var ready sync.WaitGroup
		for i := range users {
			ready.Add(1)
			wait.Go(func() {
				ready.Done()
				body, err := s.syncer.Sync(s.ctx, syncer.Request{User: users[i], Device: "D", Since: &tokens[i], Timeout: patient})
				if err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(<-start)
				tokens[i], err = syncer.ParseToken(parse(body).Get("next_batch").Str)
				if err != nil {
					b.Error(err)
				}
			})
		}
		ready.Wait()
		s.did(s.say(r, alice, "all"))
		now := time.Now()
		for range users {
			start <- now
		}
		wait.Wait()
		median += took[waiters/2]
	}
	b.ReportMetric(float64(median.Microseconds())/float64(b.N)/1000, "ms/median")
	b.ReportMetric(float64(waiters*b.N)/b.Elapsed().Seconds(), "answers/s")
}

// BenchmarkSliding is sliding sync of accounts with few and with many rooms: the first answer with 20 rooms of a server that has nothing
// in memory, and an answer with one message, where the list shows 20 rooms and where it shows all.
func BenchmarkSliding(b *testing.B) {
	for _, rooms := range []int{50, 5000} {
		s := local(b)
		made := make([]id.RoomID, rooms)
		var work sync.WaitGroup
		var next atomic.Int64
		for range 16 {
			work.Go(func() {
				for n := next.Add(1); int(n) <= rooms; n = next.Add(1) {
					r, err := s.rooms.Create(s.ctx, room.Creation{Creator: alice, Preset: room.PublicChat})
					if err != nil {
						b.Error(err)
						return
					}
					made[n-1] = r
				}
			})
		}
		work.Wait()
		state := [][]string{{"m.room.create", ""}, {"m.room.name", ""}, {"m.room.encryption", ""}, {"m.room.member", "$LAZY"}, {"m.room.member", "$ME"}}
		b.Run(fmt.Sprintf("first/rooms=%d", rooms), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				on := s.newSyncer()
				b.StartTimer()
				if _, err := s.slideOn(on, syncer.SlidingUnstable, alice, "D", "", all(0, 19, 1, state...)); err != nil {
					b.Fatal(err)
				}
				on.Close()
			}
		})
		for _, shown := range []int{20, rooms} {
			b.Run(fmt.Sprintf("incremental/shown=%d/rooms=%d", shown, rooms), func(b *testing.B) {
				pos := s.slide(alice, "", all(0, shown-1, 1, state...)).Get("pos").Str
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					s.did(s.say(made[i%20], alice, "hello"))
					b.StartTimer()
					a := s.slide(alice, pos, all(0, shown-1, 1, state...))
					if pos = a.Get("pos").Str; a.Get("rooms.@keys.#").Int() != 1 {
						b.Fatalf("%s", a)
					}
				}
			})
		}
	}
}
