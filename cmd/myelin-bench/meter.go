package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// meter takes the CPU time of this process and of the server's, if its --pid is known.
type meter struct {
	pid                  int
	began                time.Time
	wall                 time.Duration
	ownBefore, ownAfter  time.Duration
	procBefore, procUsed time.Duration
}

func (b *bench) meter() *meter { return &meter{pid: b.o.pid} }

func (m *meter) start() {
	m.began = time.Now()
	m.ownBefore, _ = cpuTime(os.Getpid())
	if m.pid > 0 {
		m.procBefore, _ = cpuTime(m.pid)
	}
}

func (m *meter) stop() {
	m.wall = time.Since(m.began)
	m.ownAfter, _ = cpuTime(os.Getpid())
	if m.pid > 0 {
		after, err := cpuTime(m.pid)
		if err == nil {
			m.procUsed = after - m.procBefore
		}
	}
}

// report adds what was measured while so many requests were answered; without /proc nothing is.
func (m *meter) report(to *metrics, requests float64) {
	if m.wall == 0 || m.ownAfter == 0 {
		return
	}
	to.add("CPU of the bench", (m.ownAfter-m.ownBefore).Seconds()/m.wall.Seconds(), "cores")
	if m.pid > 0 {
		to.add("CPU of the server", m.procUsed.Seconds()/m.wall.Seconds(), "cores")
		if requests > 0 {
			to.add("CPU of the server per request", float64(m.procUsed.Microseconds())/requests, "µs")
		}
		if rss, err := resident(m.pid); err == nil {
			to.add("resident memory of the server", float64(rss)/(1<<20), "MiB")
		}
	}
}

// ticks is the unit of times in /proc, which Linux fixes for user space.
const ticks = 10 * time.Millisecond

// cpuTime reads the CPU time a process has used from Linux's /proc.
func cpuTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold anything; fields 14 and 15 are counted behind it.
	_, rest, ok := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("/proc has another form than expected")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * ticks, errors.Join(err1, err2)
}

// resident reads the resident memory of a process in bytes.
func resident(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fields := strings.Fields(rest)
			if len(fields) == 2 && fields[1] == "kB" {
				kb, err := strconv.ParseInt(fields[0], 10, 64)
				return kb << 10, err
			}
		}
	}
	return 0, errors.New("/proc has another form than expected")
}
