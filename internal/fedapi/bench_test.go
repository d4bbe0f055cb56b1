package fedapi_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// drain is a response that is thrown away. It notes how large the heap was while it came.
type drain struct {
	header http.Header
	bytes  int64
	writes int
	peak   uint64
}

func (d *drain) Header() http.Header { return d.header }
func (d *drain) WriteHeader(int)     {}

func (d *drain) Write(p []byte) (int, error) {
	d.bytes += int64(len(p))
	if d.writes++; d.writes%64 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		d.peak = max(d.peak, m.HeapInuse)
	}
	return io.Discard.Write(p)
}

// BenchmarkLargeState is what it costs to tell another server the state of a room of 20,000 members, or of as many as
// -benchtime and patience allow: set by crowd.
func BenchmarkLargeState(b *testing.B) {
	const crowd = 20_000
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := serve(b, open)
		p := n.peer("there.example")
		r := n.create(room.Creation{})
		for i := range crowd {
			user := p.user
			if i > 0 {
				user = id.UserID("@user" + strconv.Itoa(i) + ":there.example")
			}
			if got := n.rooms.ReceiveAll(n.ctx, r, []*event.PDU{p.member(r, user, "join")})[0]; got.Err != nil {
				b.Fatal(got.Err)
			}
		}
		last := n.say(r, "hello")
		for _, op := range []string{"state", "state_ids"} {
			b.Run(op, func(b *testing.B) {
				what := fmt.Sprintf("GET /_matrix/federation/v1/%s/%s?event_id=%s", op, esc(r), esc(last))
				var d drain
				for b.Loop() {
					req := n.request(what, "")
					req.Header.Set("Authorization", p.signature(req, "").header(b))
					d = drain{header: make(http.Header)}
					n.mux.ServeHTTP(&d, req)
				}
				b.ReportMetric(float64(d.bytes)/(1<<20), "MiB/answer")
				b.ReportMetric(float64(d.peak)/(1<<20), "MiB-heap")
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/answer")
			})
		}
	})
}

// BenchmarkTransaction is one transaction of fifty messages, all checks on.
func BenchmarkTransaction(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := serve(b, open)
		p := n.peer("there.example")
		r := n.create(room.Creation{})
		p.joins(r)
		const size = 50
		events := 0
		for b.Loop() {
			b.StopTimer()
			body := p.chain(r, size)
			req := n.request("PUT /_matrix/federation/v1/send/"+strconv.FormatInt(time.Now().UnixNano(), 36), body)
			req.Header.Set("Authorization", p.signature(req, body).header(b))
			b.StartTimer()
			w := httptest.NewRecorder()
			n.mux.ServeHTTP(w, req)
			if w.Code != http.StatusOK {
				b.Fatalf("%d %s", w.Code, w.Body)
			}
			events += size
		}
		b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
	})
}
