package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// limit is how long one seed may take. They take about a second.
const limit = 5 * time.Minute

func main() {
	var r run
	from := flag.Int("from", 0, "the first seed")
	seeds := flag.Int("seeds", 100, "how many seeds")
	parallel := flag.Int("parallel", runtime.NumCPU(), "how many at once")
	flag.BoolVar(&r.trace, "trace", false, "print what happens in each seed, not only in those that fail")
	flag.BoolVar(&r.twice, "twice", false, "run each seed twice; it fails if the two differ in anything that happened")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r.ctx = ctx
	dir, err := os.MkdirTemp("", "myelin-replay-")
	if err == nil {
		err = r.all(dir, *from, *seeds, *parallel)
		os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
}

// run is what all seeds have in common.
type run struct {
	ctx          context.Context
	trace, twice bool
	program      string
	template     string // what the first process leaves to the others
	place        string // in which each seed has a folder
	done, failed atomic.Int64
}

func (r *run) all(dir string, from, seeds, parallel int) (err error) {
	began := time.Now()
	fmt.Println("building the simulation; the first time that takes minutes")
	if r.program, err = build(dir); err != nil {
		return err
	}
	if r.place, err = place(); err != nil {
		return err
	}
	defer os.RemoveAll(r.place)
	r.template = filepath.Join(dir, "template")
	if out, err := r.child("template", 0, 0); err != nil {
		return fmt.Errorf("the servers can't be prepared: %w\n%s", err, out)
	}
	fmt.Printf("built in %s\n", time.Since(began).Round(time.Second))
	stop := r.tell(seeds)
	var next atomic.Int64
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < seeds && r.ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				r.seed(from + i)
			}
		})
	}
	all.Wait()
	stop()
	if r.ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %d seeds", r.done.Load(), seeds)
	}
	fmt.Printf("%d of %d seeds from %d on pass, %s\n", int64(seeds)-r.failed.Load(), seeds, from, time.Since(began).Round(time.Second))
	if n := r.failed.Load(); n > 0 {
		return fmt.Errorf("%d seeds fail", n)
	}
	return nil
}

// tell prints how far it is, every ten seconds until stop is called.
func (r *run) tell(seeds int) (stop func()) {
	end := make(chan struct{})
	go func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Printf("%d of %d seeds, %d failed\n", r.done.Load(), seeds, r.failed.Load())
			case <-end:
				return
			}
		}
	}()
	return func() { close(end) }
}

// seed runs one seed and prints what it said if it failed.
func (r *run) seed(seed int) {
	name := fmt.Sprintf("seed-%07d", seed)
	out, err := r.child(name, seed, 1)
	if err == nil && r.twice {
		again, _ := r.child(name, seed, 1)
		if happened(again) != happened(out) {
			err = fmt.Errorf("it goes another way the second time:\n%s", again)
		}
	}
	if r.ctx.Err() != nil {
		return
	}
	defer r.done.Add(1)
	if err != nil {
		r.failed.Add(1)
		fmt.Printf("%sseed %d fails: %v; again: go run ./internal/simulation/replay -from %d -seeds 1\n", out, seed, err, seed)
	} else if r.trace {
		fmt.Printf("%s", out)
	}
}

// child runs seeds in a process of their own, in the folder of that name.
func (r *run) child(name string, from, seeds int) ([]byte, error) {
	dir := filepath.Join(r.place, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.program, "-test.run", "^TestFederation$", "-test.v", "-test.timeout", "0",
		"-from", fmt.Sprint(from), "-seeds", fmt.Sprint(seeds), "-template", r.template, fmt.Sprintf("-trace=%t", r.trace || r.twice))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=off")
	return cmd.CombinedOutput()
}

// took is what the testing package says of how long a test took.
var took = regexp.MustCompile(`\(\d+\.\d+s\)`)

// happened is what a process printed, without real times.
func happened(out []byte) string { return took.ReplaceAllString(string(out), "") }
