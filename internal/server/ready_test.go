package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"myelin/internal/config"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/id"
)

var readyEvents = flag.Int("ready.events", 20_000, "events in the database of BenchmarkReady")

// BenchmarkReady is the time from the start of a server to its first answer, on a database that the engine filled: with -ready.events
// of them in rooms of about 1,000. Once after a server that was stopped, and once after one that was killed and left
// the database a log to recover from.
func BenchmarkReady(b *testing.B) {
	folder := b.TempDir()
	c := config.Default()
	c.DataDir, c.Client.Listen = filepath.Join(folder, "data"), "127.0.0.1:0"
	s, err := New(b.Context(), Config{Config: c, Version: "test"})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, s, *readyEvents)
	last, err := s.db.Last(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	killed := filepath.Join(folder, "killed")
	if err := os.CopyFS(killed, os.DirFS(c.DataDir)); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		s, err := New(ctx, Config{Config: c, Version: "test", Ready: func(net.Addr) { b.StopTimer(); cancel() }})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Run(ctx); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		b.ReportMetric(float64(last), "positions")
	}
	b.Run("stopped", func(b *testing.B) {
		for range b.N {
			run(b)
		}
	})
	b.Run("killed", func(b *testing.B) {
		for i := range b.N {
			b.StopTimer()
			copied := filepath.Join(folder, fmt.Sprintf("copy%d-%d", b.N, i))
			copyDurably(b, copied, killed)
			c.DataDir = copied
			b.StartTimer()
			run(b)
			os.RemoveAll(copied)
		}
	})
}

// copyDurably copies a folder and waits until the disk has it: the first fsync of the server would otherwise wait for the copy.
func copyDurably(b *testing.B, to, from string) {
	err := os.CopyFS(to, os.DirFS(from))
	if err == nil {
		err = filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return errors.Join(f.Sync(), f.Close())
		})
	}
	if err != nil {
		b.Fatal(err)
	}
}

// fill has people chat until there are so many events.
func fill(b *testing.B, s *Server, events int) {
	const perRoom, writers = 1000, 64
	content := []byte(`{"msgtype":"m.text","body":"` + strings.Repeat("x", 256) + `"}`)
	people := make([]id.UserID, 100)
	for i := range people {
		people[i] = id.UserID(fmt.Sprintf("@person%d:%s", i, s.config.ServerName))
	}
	var next atomic.Int64
	var work sync.WaitGroup
	for range writers {
		work.Go(func() {
			for n := next.Add(1); int(n-1)*perRoom < events; n = next.Add(1) {
				sender := people[int(n)%len(people)]
				in, err := s.rooms.Create(b.Context(), room.Creation{Creator: sender, Preset: room.PublicChat})
				for m := 0; m < min(perRoom, events) && err == nil; m++ {
					_, err = s.rooms.Send(b.Context(), room.Message{
						Room:     in,
						Proposal: room.Proposal{Sender: sender, Type: "m.room.message", Content: content},
						Txn:      graph.TxnRef{User: sender, Device: "D", Scope: string(in), ID: fmt.Sprint(m)},
					})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	if b.Failed() {
		b.FailNow()
	}
}
