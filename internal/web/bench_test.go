package web_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/web"
)

type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

// BenchmarkRequest is what this package adds to a send: routing, token, limits, decoding,
// answer, metrics and log line (formatted, and thrown away).
func BenchmarkRequest(b *testing.B) {
	const path = "/_matrix/client/v3/rooms/!abcdefghijklmnop:example.org/send/m.room.message/txn12345"
	body := `{"msgtype":"m.text","body":"` + strings.Repeat("lorem ipsum ", 30) + `"}`
	limits := web.DefaultLimits()
	limits.User[web.RateSend] = web.Limit{PerSecond: 1e9, Burst: 1e9}
	mux := newMux(b, web.Config{
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		Limits:  &limits,
		Metrics: prometheus.NewRegistry(),
		Routes: []web.Route{{
			Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", Op: "sendMessage", Rate: web.RateSend,
			Handle: func(_ context.Context, r *web.Request) (*web.Response, error) {
				if _, err := r.Object(); err != nil {
					return nil, err
				}
				return web.JSON(map[string]string{"event_id": "$abc"}), nil
			},
		}},
	})
	b.ReportAllocs()
	for b.Loop() {
		r, _ := http.NewRequest("PUT", path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer alice")
		mux.ServeHTTP(&nullWriter{make(http.Header)}, r)
	}
}
