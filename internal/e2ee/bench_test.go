package e2ee

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// BenchmarkClaims claims one-time keys one at a time from many goroutines, each of one of 100 devices.
func BenchmarkClaims(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := start(b, open)
		const devices, claimers = 100, 64
		phones := make([]*phone, devices)
		each := b.N/devices + 1
		for i := range phones {
			phones[i] = n.device(alice, id.DeviceID(fmt.Sprint("A", i)))
			var ids []string
			for k := range each {
				ids = append(ids, fmt.Sprint(k))
			}
			n.upload(phones[i], ids...)
		}
		var next atomic.Int64
		var work sync.WaitGroup
		b.ResetTimer()
		for range claimers {
			work.Go(func() {
				for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
					p := phones[i%devices]
					got, err := n.ClaimLocal(n.ctx, Claims{p.user: {p.device: "signed_curve25519"}})
					if err != nil || len(got[p.user][p.device]) != 1 {
						b.Errorf("claimed %v, %v", got, err)
						return
					}
				}
			})
		}
		work.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
	})
}

// BenchmarkToDevice sends 10 messages to each of 1,000 devices, every request twice, and has the devices read until they have all of it.
func BenchmarkToDevice(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := start(b, open)
		const devices, messages = 1000, 10
		names := make([]id.DeviceID, devices)
		for i := range names {
			names[i] = id.DeviceID(fmt.Sprint("B", i))
			n.device(bob, names[i])
		}
		n.device(alice, "A")
		for round := 0; b.Loop(); round++ {
			from := n.cfg.Bus.Last()
			for k := range messages {
				to := make(map[id.DeviceID]json.RawMessage, devices)
				for _, name := range names {
					to[name] = body(fmt.Sprint(k))
				}
				for range 2 {
					n.ok(n.Send(n.ctx, alice, "A", "m.room_key", fmt.Sprint(round, k), Messages{bob: to}))
				}
			}
			end := n.cfg.Bus.Last()
			for _, name := range names {
				events, upTo, err := n.Inbox(n.ctx, bob, name, from, end)
				n.ok(err)
				if got := len(gjson.ParseBytes(events).Array()); got != messages || upTo != end {
					b.Fatalf("%s has %d messages", name, got)
				}
				if events, _, err = n.Inbox(n.ctx, bob, name, end, end); err != nil || len(gjson.ParseBytes(events).Array()) != 0 {
					b.Fatalf("%s gets messages again: %v", name, err)
				}
			}
		}
	})
}

var (
	putRoom   = sqldb.SQL(`INSERT INTO rooms (room_nid, room_id, version) VALUES ($1, $2, '11')`)
	putMember = sqldb.SQL(`INSERT INTO memberships (user_id, room_nid, membership, event_nid, pos, since, prev, forgotten) VALUES ($1, $2, 'join', 0, $3, $3, '', 0)`)
)

// BenchmarkListUpdate is a device of a user who shares 2,000 rooms with 10,000 others that gets new keys: what that costs, and what it costs
// to tell one of the others, when nobody has to look into the database for what happened.
func BenchmarkListUpdate(b *testing.B) {
	const rooms, others = 2000, 10_000
	n := start(b, func(configure ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(b, configure...) })
	other := func(i int) id.UserID { return id.UserID(fmt.Sprintf("@u%d:here.example", i)) }
	n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos()
		for room := 1; room <= rooms; room++ {
			tx.Queue(putRoom, room, fmt.Sprintf("!r%d:here.example", room))
			tx.Queue(putMember, alice, room, pos)
		}
		for i := range others {
			tx.Queue(putMember, other(i), 1+i%rooms, pos)
		}
		return err
	}))
	var update, telling time.Duration
	for i := 0; b.Loop(); i++ {
		name := id.DeviceID(fmt.Sprint("A", i))
		p := n.device(alice, name)
		keys := p.keys(b)
		from := n.cfg.Bus.Last()
		before := cpu(b)
		_, err := n.Upload(n.ctx, alice, name, Upload{DeviceKeys: keys})
		update += cpu(b) - before
		n.ok(err)
		n.news = nil
		before = cpu(b)
		for k := range others {
			w := Window{User: other(k), From: from, To: n.cfg.Bus.Last(), Rooms: map[graph.RoomNID]struct{}{graph.RoomNID(1 + k%rooms): {}}}
			c, err := n.Changes(n.ctx, w)
			if n.ok(err); len(c.Changed) != 1 {
				b.Fatalf("%s is told %+v", w.User, c)
			}
		}
		telling += cpu(b) - before
	}
	b.ReportMetric(float64(update.Microseconds())/float64(b.N)/1000, "cpu-ms/update")
	b.ReportMetric(float64(telling.Microseconds())/float64(b.N)/others, "cpu-us/told")
}

// cpu is how much of the processors' time this process has taken.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
