package ephemeral

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

var ago = regexp.MustCompile(`,"last_active_ago":\d+`)

// sees returns what a viewer sees of a user, without the time.
func (n *node) sees(viewer, user id.UserID) string {
	n.t.Helper()
	p, err := n.Presence(n.ctx, viewer, user)
	n.ok(err)
	return ago.ReplaceAllString(string(n.AppendContent(nil, p)), "")
}

func (n *node) tick(at int64) {
	n.t.Helper()
	n.ok(n.tickPresence(n.ctx, at))
}

const (
	isOffline     = `{"presence":"offline"}`
	isUnavailable = `{"presence":"unavailable"}`
	isActive      = `{"presence":"online","currently_active":true}`
	isOnline      = `{"presence":"online","currently_active":false}`
)

func TestPresenceIsSet(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		n.room(bob)
		if got := n.sees(alice, alice); got != isOffline {
			t.Errorf("at first alice is %s", got)
		}
		n.ok(n.SetPresence(n.ctx, alice, "D", Online, "hi \"there\"\x00"))
		news := n.took()
		if len(news) != 1 || news[0].Kind != bus.Presence || news[0].User != alice || news[0].Pos != n.last() {
			t.Fatalf("the bus told %v", news)
		}
		want := `{"presence":"online","currently_active":true,"status_msg":"hi \"there\""}`
		if got := n.sees(bob, alice); got != want {
			t.Errorf("bob sees %s", got)
		}
		_, err := n.Presence(n.ctx, eve, alice)
		n.refused(mxerr.CodeForbidden, err)
		event := string(n.AppendPresence(nil, news[0].Data.(*Presence)))
		if ago.ReplaceAllString(event, "") != `{"type":"m.presence","sender":"@alice:here.example","content":`+want+`}` {
			t.Errorf("the event is %s", event)
		}

		n.ok(n.SetPresence(n.ctx, alice, "D", Online, "hi \"there\""))
		if news := n.took(); len(news) != 0 {
			t.Errorf("nothing changed, yet the bus told %v", news)
		}
		n.ok(n.SetPresence(n.ctx, alice, "D", Unavailable, ""))
		if got := n.sees(bob, alice); got != isUnavailable {
			t.Errorf("bob sees %s", got)
		}
		n.ok(n.SetPresence(n.ctx, alice, "D", Offline, "gone"))
		if got := n.sees(bob, alice); got != `{"presence":"offline","status_msg":"gone"}` {
			t.Errorf("bob sees %s", got)
		}
		n.refused(mxerr.CodeInvalidParam, n.SetPresence(n.ctx, alice, "D", Online, strings.Repeat("x", maxStatus+1)))
		if _, err := ParseState("away"); !mxerr.Is(err, mxerr.CodeInvalidParam) {
			t.Errorf("away is a state: %v", err)
		}
	})
}

// TestPresenceFollowsTime lets a client poll, then be idle, then vanish.
func TestPresenceFollowsTime(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, _ := n.room()
		at := now()
		after := func(d time.Duration, want string) {
			t.Helper()
			n.tick(at + d.Milliseconds())
			if got := n.sees(alice, alice); got != want {
				t.Fatalf("after %s alice is %s, want %s", d, got, want)
			}
		}
		n.Poll(alice, "D", Offline)()
		after(0, isOffline)
		done := n.Poll(alice, "D", Online)
		after(0, isActive)
		after(59*time.Second, isActive)
		after(61*time.Second, isOnline)
		after(4*time.Minute, isOnline)
		after(6*time.Minute, isUnavailable)
		if got := len(n.took()); got != 3 {
			t.Errorf("%d changes were told, want 3", got)
		}
		n.send(name, `{}`)
		after(0, isActive)
		done()
		after(29*time.Second, isActive)
		after(31*time.Second, isOffline)
		if len(n.people) != 0 {
			t.Errorf("memory holds %v", n.people)
		}
		n.send(name, `{}`)
		after(0, isOffline) // who is not connected says nothing by sending
		if got := len(n.took()); got != 2 {
			t.Errorf("%d changes were told, want 2", got)
		}
	})
}

func TestPresenceOfSeveralDevices(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	at := now()
	is := func(what, want string) {
		t.Helper()
		n.tick(at)
		if got := n.sees(alice, alice); got != want {
			t.Fatalf("%s: alice is %s, want %s", what, got, want)
		}
	}
	n.Poll(alice, "A", Unavailable)()
	is("an idle device", isUnavailable)
	n.Poll(alice, "B", Online)()
	is("another one", isActive)
	n.ok(n.SetPresence(n.ctx, alice, "B", Unavailable, ""))
	is("the user says so", isUnavailable)
	n.Poll(alice, "B", Online)()
	is("polling changes nothing then", isUnavailable)
	n.Active(alice, "B")
	is("activity does", isActive)
	n.ok(n.SetPresence(n.ctx, alice, "B", Offline, ""))
	is("offline hides all devices", isOffline)
	n.Poll(alice, "A", Online)()
	is("until one polls", isActive)
	n.Active(eve, "E")
	if len(n.people) != 1 {
		t.Errorf("memory holds %v", n.people)
	}
}

// TestPresenceIsWrittenOnce checks that polls and ticks that change nothing write nothing.
func TestPresenceIsWrittenOnce(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	n.Poll(alice, "A", Online)()
	n.tick(now())
	before := n.db.Stats()
	for range 100 {
		n.Poll(alice, "A", Online)()
		n.Active(alice, "A")
		n.tick(now())
	}
	if after := n.db.Stats(); after != before {
		t.Errorf("the database was used: %+v, then %+v", before, after)
	}
}

func TestPresenceIsRead(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		n.ok(n.SetPresence(n.ctx, alice, "A", Online, ""))
		middle := n.last()
		n.ok(n.SetPresence(n.ctx, bob, "B", Unavailable, "x"))
		n.ok(n.db.Read(n.ctx, func(tx *sqldb.Tx) error {
			found, err := PresenceSince(tx, middle, n.last())
			if err != nil || len(found) != 1 || found[0].User != bob || found[0].StatusMsg != "x" || found[0].State != Unavailable {
				t.Errorf("got %v, %v", found, err)
			}
			found, err = PresenceOf(tx, []id.UserID{alice, eve})
			if err != nil || len(found) != 1 || found[0].User != alice || found[0].Pos != middle || !found[0].CurrentlyActive {
				t.Errorf("got %v, %v", found, err)
			}
			return nil
		}))
	})
}

// TestPresenceSurvivesRestart checks that whoever was online before a crash goes offline after it, unless they come back.
func TestPresenceSurvivesRestart(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		n.ok(n.SetPresence(n.ctx, alice, "A", Online, ""))
		n.ok(n.SetPresence(n.ctx, bob, "B", Online, ""))
		again, at := start(t, open, "a"), now()
		n.ok(again.renew(n.ctx, at, true))
		again.tick(at)
		if got := again.sees(alice, alice); got != isActive {
			t.Errorf("right after the start alice is %s", got)
		}
		done := again.Poll(bob, "B", Online)
		again.tick(at + 31_000)
		if a, b := again.sees(alice, alice), again.sees(bob, bob); a != isOffline || b != isActive {
			t.Errorf("later alice is %s and bob is %s", a, b)
		}
		done()
	})
}

// TestPresenceOfTwoNodes has a user connected to two nodes.
func TestPresenceOfTwoNodes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		a, b, at := start(t, open, "a"), start(t, open, "b"), now()
		a.ok(a.renew(a.ctx, at, true))
		b.ok(b.renew(b.ctx, at, true))
		a.Poll(alice, "A", Online)()
		done := b.Poll(alice, "B", Online)
		a.tick(at)
		b.tick(at)
		if news := b.took(); len(news) != 0 {
			t.Errorf("the second node told again: %v", news)
		}
		a.tick(at + 31_000) // knows nothing of the other device
		if got := b.sees(alice, alice); got != isOffline {
			t.Errorf("alice is %s", got)
		}
		b.doubt = true // as after news from another node
		b.tick(at + 31_000)
		if got := a.sees(alice, alice); got != isActive {
			t.Errorf("alice is %s", got)
		}
		a.Poll(alice, "A", Unavailable)()
		a.tick(at + 31_000)
		if got := a.sees(alice, alice); got != isActive {
			t.Errorf("the other node's word was overruled: alice is %s", got)
		}

		// The second node dies; the first one takes alice over.
		done()
		late := at + (goneAfter + time.Minute).Milliseconds()
		a.people = map[id.UserID]*person{}
		a.ok(a.renew(a.ctx, late, false))
		a.tick(late + 31_000)
		if got := a.sees(alice, alice); got != isOffline {
			t.Errorf("alice is %s", got)
		}
	})
}

func TestNoPresence(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	n.cfg.NoPresence = true
	n.Poll(alice, "A", Online)()
	if len(n.people) != 0 {
		t.Error("somebody is watched")
	}
	n.refused(mxerr.CodeForbidden, n.SetPresence(n.ctx, alice, "A", Online, ""))
	_, err := n.Presence(n.ctx, alice, alice)
	n.refused(mxerr.CodeForbidden, err)
}

// TestPresenceLoop runs the real loop.
func TestPresenceLoop(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	told := make(chan *Presence, 9)
	_, cancel := n.cfg.Bus.Subscribe(func(r bus.Range) {
		for _, e := range r.Entries {
			if p, ok := e.Data.(*Presence); ok {
				told <- p
			}
		}
	})
	defer cancel()
	g := work.NewGroup(nil)
	defer g.Stop()
	n.Start(g)
	n.Poll(alice, "A", Online)()
	if p := <-told; p.User != alice || p.State != Online {
		t.Errorf("the loop told %+v", p)
	}
}
