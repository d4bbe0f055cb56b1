package push

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

// cpu is how much of the processors' time this process has taken.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLargeRoom judges messages in a room of 10,000 local members: with the predefined rules, with rules of their own in every tenth, and
// with rules of their own in all of them.
func BenchmarkLargeRoom(b *testing.B) {
	const members = 10_000
	for _, every := range []int{0, 10, 1} {
		b.Run(fmt.Sprintf("own-rules=%d", share(members, every)), func(b *testing.B) {
			n := start(b, func(configure ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(b, configure...) }, nil)
			name, nid := n.room()
			for i := range members {
				user := id.UserID(fmt.Sprintf("@u%d:here.example", i))
				if _, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: name, Sender: user}}); err != nil {
					b.Fatal(err)
				}
				if every > 0 && i%every == 0 {
					err := n.accounts.ChangePushRules(n.ctx, user, func(s pushrule.Ruleset) (pushrule.Ruleset, error) {
						return s.Put(pushrule.Content, "cake", pushrule.Draft{Actions: raws(`"notify"`), Pattern: text("cake")}, pushrule.Place{})
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			n.work.Stop()
			done, err := n.db.Last(n.ctx)
			n.ok(err)
			f := &follower{p: n.Push}
			judge := func() {
				last, err := n.db.Last(n.ctx)
				n.ok(err)
				for done < last {
					to, effect, err := f.batch(n.ctx, done, last)
					n.ok(err)
					if done = to; effect != nil {
						n.ok(n.db.Write(n.ctx, effect))
					}
				}
			}
			benchMessage(n, name)
			judge() // learns who is there
			runtime.GC()
			var spent time.Duration
			for b.Loop() {
				b.StopTimer()
				benchMessage(n, name)
				b.StartTimer()
				before := cpu(b)
				judge()
				spent += cpu(b) - before
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/1000, "cpu-ms/message")
			_ = nid
		})
	}
}

func share(of, every int) int {
	if every == 0 {
		return 0
	}
	return of / every
}

func benchMessage(n *node, name id.RoomID) *graph.Event {
	return n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"hello to everybody who is here"}`)
}
