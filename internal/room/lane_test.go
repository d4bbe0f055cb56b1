package room

import (
	"context"
	"errors"
	"sync"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// laneTest is an engine over a database whose writer can be stopped.
type laneTest struct {
	*Rooms
	t    *testing.T
	db   *sqldb.DB
	room id.RoomID
}

const alice = id.UserID("@alice:here.example")

func eachLane(t *testing.T, run func(*laneTest)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		l := &laneTest{t: t, db: open()}
		g, err := graph.Open(t.Context(), graph.Config{DB: l.db})
		l.must(err)
		set, err := ours.Open(t.Context(), ours.Config{DB: l.db, Names: []id.ServerName{"here.example"}})
		l.must(err)
		version, _ := roomver.Get(roomver.Default)
		l.Rooms = New(Config{
			Graph: g, Ours: set, DefaultVersion: version,
			Profile: func(context.Context, id.UserID) (Profile, error) { return Profile{}, nil },
		})
		l.room, err = l.Create(t.Context(), Creation{Creator: alice, Preset: PublicChat})
		l.must(err)
		run(l)
	})
}

func (l *laneTest) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// hold stops the writer until the function that it returns is called, or the test ends.
func (l *laneTest) hold() (release func()) {
	gate, stopped := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		first := true
		done <- l.db.Write(context.Background(), func(*sqldb.Tx) error {
			if first {
				first = false
				close(stopped)
				<-gate
			}
			return nil
		})
	}()
	<-stopped
	release = sync.OnceFunc(func() {
		close(gate)
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(release)
	return release
}

// say is a decision to send a message.
func (l *laneTest) say(body string) decision {
	return func(head *graph.Head, settled bool) (step, error) {
		b := l.batch(head, settled)
		pdu, err := b.add(l.t.Context(), Proposal{Sender: alice, Type: "m.room.message", Content: []byte(`{"body":"` + body + `"}`)})
		if err != nil {
			return step{}, err
		}
		return b.step(pdu.ID(), graph.TxnRef{}), nil
	}
}

type outcome struct {
	event id.EventID
	err   error
}

func (l *laneTest) start(d decision) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		e, err := l.advance(l.t.Context(), l.room, graph.TxnRef{}, d)
		done <- outcome{e, err}
	}()
	return done
}

// What a head that fails to become durable would have refused is decided again.
func TestRefusalOnAHeadThatFails(t *testing.T) {
	eachLane(t, func(l *laneTest) {
		stale, err := l.Head(t.Context(), l.room)
		l.must(err)
		_, err = l.advance(t.Context(), l.room, graph.TxnRef{}, l.say("in between"))
		l.must(err)

		release := l.hold()
		queued := make(chan struct{})
		attempts := 0
		first := l.start(func(head *graph.Head, settled bool) (step, error) {
			if attempts++; attempts == 1 {
				defer close(queued)
				return l.say("on a stale head")(stale, settled)
			}
			return l.say("again")(head, settled)
		})
		<-queued
		refused := make(chan struct{})
		times := 0
		second := l.start(func(head *graph.Head, settled bool) (step, error) {
			if times++; times == 1 {
				defer close(refused)
				if settled {
					t.Error("a head that is on its way counts as durable")
				}
				return step{}, mxerr.Forbidden("not on this head")
			}
			return l.say("after all")(head, settled)
		})
		<-refused
		select {
		case o := <-second:
			t.Fatalf("answered %v while the head was on its way", o)
		default:
		}
		release()
		for _, c := range []chan outcome{first, second} {
			if o := <-c; o.err != nil {
				t.Error(o.err)
			}
		}
		if times != 2 || attempts != 2 {
			t.Errorf("decided %d and %d times, want 2 and 2", attempts, times)
		}
	})
}

// An answer that changes nothing rests on what others are still writing.
func TestNothingIsAnsweredBeforeItIsDurable(t *testing.T) {
	eachLane(t, func(l *laneTest) {
		release := l.hold()
		queued, decided := make(chan struct{}), make(chan struct{})
		first := l.start(func(head *graph.Head, settled bool) (step, error) {
			defer close(queued)
			return l.say("one")(head, settled)
		})
		<-queued
		second := l.start(func(*graph.Head, bool) (step, error) {
			defer close(decided)
			return step{event: "$unchanged"}, nil
		})
		<-decided
		select {
		case o := <-second:
			t.Fatalf("answered %v while what it rests on was not durable", o)
		default:
		}
		release()
		if o := <-first; o.err != nil {
			t.Error(o.err)
		}
		if o := <-second; o.err != nil || o.event != "$unchanged" {
			t.Errorf("got %v", o)
		}
	})
}

// A caller who goes away takes nothing with them.
func TestCallerGoesAway(t *testing.T) {
	eachLane(t, func(l *laneTest) {
		release := l.hold()
		ctx, cancel := context.WithCancel(t.Context())
		queued := make(chan struct{})
		first := make(chan outcome, 1)
		go func() {
			e, err := l.advance(ctx, l.room, graph.TxnRef{}, func(head *graph.Head, settled bool) (step, error) {
				defer close(queued)
				return l.say("one")(head, settled)
			})
			first <- outcome{e, err}
		}()
		<-queued
		second := l.start(l.say("two"))
		cancel()
		release()
		one, two := <-first, <-second
		if one.err != nil || two.err != nil {
			t.Fatalf("got %v and %v", one.err, two.err)
		}
		_, err := l.advance(ctx, l.room, graph.TxnRef{}, func(head *graph.Head, _ bool) (step, error) { return step{}, ctx.Err() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		for _, e := range []id.EventID{one.event, two.event} {
			if _, ok, err := l.cfg.Graph.Event(t.Context(), e); err != nil || !ok {
				t.Errorf("%s is not stored: %v", e, err)
			}
		}
	})
}

// A received event may follow one that is still on its way to the disk.
func TestDecisionThatNeedsADurableHead(t *testing.T) {
	eachLane(t, func(l *laneTest) {
		release := l.hold()
		queued := make(chan struct{})
		first := l.start(func(head *graph.Head, settled bool) (step, error) {
			defer close(queued)
			return l.say("one")(head, settled)
		})
		<-queued
		var seen []bool
		asked := make(chan struct{})
		second := l.start(func(head *graph.Head, settled bool) (step, error) {
			if seen = append(seen, settled); !settled {
				defer close(asked)
				return step{}, errUnsettled
			}
			return l.say("two")(head, settled)
		})
		<-asked
		release()
		for _, c := range []chan outcome{first, second} {
			if o := <-c; o.err != nil {
				t.Error(o.err)
			}
		}
		if len(seen) != 2 || seen[0] || !seen[1] {
			t.Errorf("settled: %v", seen)
		}
	})
}
