package servertest

import (
	"flag"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/config"
	"myelin/internal/sqldb"
)

var (
	ghosts   = flag.Int("bridge.users", 1000, "how many users of the bridge BenchmarkBridge puts into a room")
	messages = flag.Int("bridge.messages", 5000, "how many messages it sends to the bridge")
)

// BenchmarkBridge measures how fast a bridge that was away gets what happened in a room full of its users, in order.
func BenchmarkBridge(b *testing.B) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		b.Run(d.String(), func(b *testing.B) {
			var br *bridge
			s := Start(b, d, func(c *config.Config) {
				br = newBridge(b)
				c.Appservices = []string{br.file}
			})
			as := s.Anonymous(b)
			as.Token = "as-secret"
			room := as.OK("POST", "createRoom", M{"preset": "public_chat"}).Text("room_id")
			each := func(n int, do func(i int) (*Answer, error)) {
				var all sync.WaitGroup
				for worker := range 16 {
					all.Go(func() {
						for i := worker; i < n; i += 16 {
							if a, err := do(i); err != nil || a.Status != http.StatusOK {
								b.Errorf("request %d: %v %v", i, a, err)
								return
							}
						}
					})
				}
				all.Wait()
			}
			name := func(i int) string { return fmt.Sprintf("_irc_%d", i) }
			each(*ghosts, func(i int) (*Answer, error) {
				if a, err := as.Try("POST", "register", M{"type": "m.login.application_service", "username": name(i), "inhibit_login": true}); err != nil || a.Status != 200 {
					return a, err
				}
				return as.Try("POST", Path("join", room)+Query("user_id", "@"+name(i)+":localhost"), M{})
			})
			// It hears of all who joined before the clock starts.
			br.event(as.OK("PUT", Path("rooms", room, "send", "m.room.message", Unique("joined")), M{"msgtype": "m.text", "body": "all are in"}).Text("event_id"))
			for b.Loop() {
				br.set(503)
				var mu sync.Mutex
				sent := make(map[string]bool)
				run := Unique("run")
				each(*messages, func(i int) (*Answer, error) {
					a, err := as.Try("PUT", Path("rooms", room, "send", "m.room.message", run+fmt.Sprint(i))+Query("user_id", "@"+name(i%*ghosts)+":localhost"), M{"msgtype": "m.text", "body": "x"})
					if err == nil && a.Status == 200 {
						mu.Lock()
						defer mu.Unlock()
						sent[a.Text("event_id")] = true
					}
					return a, err
				})
				marker := as.OK("PUT", Path("rooms", room, "send", "m.room.message", run), M{"msgtype": "m.text", "body": "last"}).Text("event_id")
				br.set(200)
				start := time.Now()
				as.OK("GET", "account/whoami", nil)
				br.event(marker)
				b.ReportMetric(float64(len(sent))/time.Since(start).Seconds(), "events/s")
				br.mu.Lock()
				last := int64(0)
				for _, txn := range br.txns {
					for _, e := range gjson.Get(br.bodies[txn], "events").Array() {
						delete(sent, e.Get("event_id").Str)
						last++
					}
				}
				br.mu.Unlock()
				if len(sent) > 0 {
					b.Errorf("%d events did not arrive", len(sent))
				}
			}
		})
	}
}
