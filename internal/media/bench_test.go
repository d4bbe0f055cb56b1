package media

import (
	"bytes"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

// mostMemory is the most that was resident of this process since it was last asked to forget that, in MiB; 0 where the system doesn't say.
func mostMemory(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseFloat(kib, 64)
	if err != nil {
		return 0
	}
	return n / 1024
}

// forgetMemory gives memory back and begins to count anew.
func forgetMemory() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // Where that can't be done the figure is too large, never too small.
}

// BenchmarkThumbnail has eight requests at once ask for thumbnails of 24-megapixel JPEGs, each of another size.
func BenchmarkThumbnail(b *testing.B) {
	n := start(b, sqldbtest.SQLite(b), Limits{Thumbnails: 1 << 30})
	raw := encoded(b, quarters(6000, 4000), typeJPEG)
	u, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(raw)})
	n.ok(err)
	forgetMemory()
	for b.Loop() {
		var all sync.WaitGroup
		for _, side := range sides {
			all.Go(func() {
				f, err := n.Thumbnail(n.ctx, Want{URI: u}, Size{Width: side, Height: side, Crop: true})
				if err != nil {
					b.Error(err)
					return
				}
				f.Body.Close()
			})
		}
		all.Wait()
		b.StopTimer()
		n.limits.Thumbnails = 0
		n.ok(n.Trim(n.ctx))
		b.StartTimer()
	}
	b.ReportMetric(mostMemory(b), "MiB-most")
}

// BenchmarkStream uploads and downloads a file of 256 MiB.
func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	n := start(b, sqldbtest.SQLite(b), Limits{})
	upload := func() URI {
		u, err := n.Upload(n.ctx, Upload{User: alice, Body: io.LimitReader(repeat("a line of a file\n"), size)})
		n.ok(err)
		return u
	}
	b.Run("upload", func(b *testing.B) {
		b.SetBytes(size)
		forgetMemory()
		for b.Loop() {
			u := upload()
			b.StopTimer()
			_, err := n.Remove(n.ctx, u)
			n.ok(err)
			b.StartTimer()
		}
		b.ReportMetric(mostMemory(b), "MiB-most")
	})
	u := upload()
	b.Run("download", func(b *testing.B) {
		b.SetBytes(size)
		forgetMemory()
		for b.Loop() {
			f, err := n.Download(n.ctx, Want{URI: u})
			n.ok(err)
			if got, err := io.Copy(struct{ io.Writer }{io.Discard}, f.Body); got != size || err != nil {
				b.Errorf("%d bytes: %v", got, err)
			}
			f.Body.Close()
		}
		b.ReportMetric(mostMemory(b), "MiB-most")
	})
}
