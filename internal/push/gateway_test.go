package push

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/ephemeral"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/pushrule"
)

// gateway is a push gateway. It answers what it is told to, in order, and at last that all is well.
type gateway struct {
	*httptest.Server
	t       testing.TB
	got     chan gjson.Result
	answers chan func(w http.ResponseWriter, r *http.Request)
}

func newGateway(t testing.TB) *gateway {
	g := &gateway{t: t, got: make(chan gjson.Result, 100), answers: make(chan func(http.ResponseWriter, *http.Request), 100)}
	g.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != gatewayPath {
			t.Errorf("a request to %s: %v", r.URL, err)
		}
		select {
		case answer := <-g.answers:
			answer(w, r)
		default:
			_, _ = io.WriteString(w, `{"rejected":[]}`)
		}
		g.got <- gjson.ParseBytes(raw).Get("notification")
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) next() gjson.Result {
	g.t.Helper()
	select {
	case m := <-g.got:
		return m
	case <-time.After(20 * time.Second):
		g.t.Fatal("the gateway was not told")
		return gjson.Result{}
	}
}

func (g *gateway) draft(key, data string) PusherDraft {
	return PusherDraft{
		AppID: text("app"), Pushkey: text(key), Kind: json.RawMessage(`"http"`), AppName: text("App"), DeviceName: text("Phone"), Lang: text("en"),
		Data: json.RawMessage(`{"url":"` + g.URL + gatewayPath + `"` + data + `}`),
	}
}

// What is said is told to the gateway, with the number of what is unread; a receipt takes the number back.
func TestGateway(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		g := newGateway(t)
		n := start(t, open, g.Client().Transport)
		name, _ := n.room(bob)
		other, _ := n.room(bob)
		n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", `,"brand":"x"`)))
		n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"one"}`)
		m := g.next()
		if m.Get("content.body").Str != "one" || m.Get("room_id").Str != string(name) || m.Get("counts.unread").Int() != 1 || m.Get("sender").Str != string(alice) ||
			m.Get("devices.0.pushkey").Str != "key" || m.Get("devices.0.data").Raw != `{"brand":"x"}` || m.Get("prio").Str != "high" || m.Get("devices.0.tweaks.sound").Str != "default" {
			t.Fatalf("told %s", m.Raw)
		}
		n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", `,"format":"event_id_only"`)))
		e := n.send(other, alice, "m.room.message", `{"msgtype":"m.text","body":"two"}`)
		m = g.next()
		if m.Get("event_id").Str != string(e.PDU.ID()) || m.Get("content").Exists() || m.Get("sender").Exists() || m.Get("counts.unread").Int() != 2 {
			t.Fatalf("told %s", m.Raw)
		}
		n.ok(n.reads.Mark(n.ctx, bob, other, ephemeral.Mark{Type: ephemeral.ReadPrivate, Event: e.PDU.ID()}))
		if m = g.next(); m.Get("event_id").Exists() || m.Get("counts.unread").Int() != 1 {
			t.Fatalf("told %s", m.Raw)
		}
		// So does leaving the room where it is.
		e = n.send(other, alice, "m.room.message", `{"msgtype":"m.text","body":"two and a half"}`)
		if m = g.next(); m.Get("event_id").Str != string(e.PDU.ID()) || m.Get("counts.unread").Int() != 2 {
			t.Fatalf("told %s", m.Raw)
		}
		_, err := n.rooms.Leave(n.ctx, room.Membership{Room: other, Sender: bob})
		n.ok(err)
		if m = g.next(); m.Get("event_id").Exists() || m.Get("counts.unread").Int() != 1 {
			t.Fatalf("told %s", m.Raw)
		}
		// An answer in the three hundreds leads nowhere, and what was not told is told later.
		g.answers <- func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, g.URL+"/elsewhere", http.StatusTemporaryRedirect)
		}
		e = n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"three"}`)
		for range 2 {
			if m = g.next(); m.Get("event_id").Str != string(e.PDU.ID()) {
				t.Fatalf("told %s", m.Raw)
			}
		}
		// A rejected key is not used again.
		g.answers <- func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"rejected":["key"]}`) }
		n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"four"}`)
		g.next()
		for {
			list, err := n.Pushers(n.ctx, bob)
			n.ok(err)
			if len(list) == 0 {
				break
			}
			n.ok(sleep(n.ctx, 5*time.Millisecond))
		}
	})
}

// A gateway that hangs keeps nobody else waiting.
func TestHangingGateway(t *testing.T) {
	g, slow := newGateway(t), newGateway(t)
	n := start(t, func(configure ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, configure...) }, g.Client().Transport)
	release := make(chan struct{})
	for range 30 {
		slow.answers <- func(http.ResponseWriter, *http.Request) { <-release }
	}
	name, _ := n.room(bob, carol)
	for _, key := range []string{"a", "b", "c", "d"} {
		n.ok(n.SetPusher(n.ctx, carol, "PHONE", slow.draft(key, "")))
	}
	n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", "")))
	for range 3 {
		e := n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"one"}`)
		if m := g.next(); m.Get("event_id").Str != string(e.PDU.ID()) {
			t.Fatalf("told %s", m.Raw)
		}
	}
	close(release)
}

func TestSetPusher(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		g := newGateway(t)
		n := start(t, open, g.Client().Transport)
		refused := func(code mxerr.Code, change func(d *PusherDraft)) {
			t.Helper()
			d := g.draft("key", "")
			change(&d)
			if err := n.SetPusher(n.ctx, bob, "PHONE", d); !mxerr.Is(err, code) {
				t.Errorf("got %v, want %s", err, code)
			}
		}
		url := func(s string) func(d *PusherDraft) {
			return func(d *PusherDraft) { d.Data = json.RawMessage(`{"url":"` + s + `"}`) }
		}
		refused(mxerr.CodeMissingParam, func(d *PusherDraft) { d.Lang = nil })
		refused(mxerr.CodeMissingParam, func(d *PusherDraft) { d.Data = nil })
		refused(mxerr.CodeMissingParam, func(d *PusherDraft) { d.Kind = nil })
		refused(mxerr.CodeInvalidParam, func(d *PusherDraft) { d.Kind = json.RawMessage(`"email"`) })
		refused(mxerr.CodeInvalidParam, url("http://example.org"+gatewayPath))
		refused(mxerr.CodeInvalidParam, url("https://example.org/other"))
		refused(mxerr.CodeInvalidParam, url("https://u:p@example.org"+gatewayPath))
		count := func(user id.UserID, want int) {
			t.Helper()
			list, err := n.Pushers(n.ctx, user)
			if n.ok(err); len(list) != want {
				t.Errorf("%s has %d pushers, want %d: %s", user, len(list), want, list)
			}
		}
		n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", "")))
		n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", "")))
		count(bob, 1)
		d := g.draft("key", "")
		d.Append = true
		n.ok(n.SetPusher(n.ctx, carol, "PHONE", d))
		count(bob, 1)
		n.ok(n.SetPusher(n.ctx, carol, "PHONE", g.draft("key", "")))
		count(bob, 0)
		d.Kind = json.RawMessage("null")
		n.ok(n.SetPusher(n.ctx, carol, "PHONE", d))
		count(carol, 0)
	})
}

func TestNotifications(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, nil)
		name, _ := n.room(bob)
		n.rulesFor(bob, func(s pushrule.Ruleset) (pushrule.Ruleset, error) {
			return s.Put(pushrule.Content, "cake", pushrule.Draft{Actions: raws(`"notify"`, `{"set_tweak":"highlight"}`), Pattern: text("cake")}, pushrule.Place{})
		})
		first := n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"one"}`)
		n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"cake"}`)
		n.send(name, alice, "m.room.message", `{"msgtype":"m.notice","body":"nothing"}`)
		n.send(name, bob, "m.reaction", `{}`)
		n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"three"}`)
		to := view.Audience{User: bob, OmitRoomID: true}
		page, err := n.Notifications(n.ctx, NotificationsQuery{To: to, Limit: 2})
		n.ok(err)
		if len(page.Notifications) != 2 || page.Notifications[0].Read || !page.Notifications[1].Read || page.NextToken == "" {
			t.Fatalf("got %+v", page)
		}
		page, err = n.Notifications(n.ctx, NotificationsQuery{To: to, From: page.NextToken})
		n.ok(err)
		if len(page.Notifications) != 1 || page.NextToken != "" || gjson.GetBytes(page.Notifications[0].Event, "event_id").Str != string(first.PDU.ID()) {
			t.Fatalf("got %+v", page)
		}
		page, err = n.Notifications(n.ctx, NotificationsQuery{To: to, Highlights: true})
		n.ok(err)
		if len(page.Notifications) != 1 || gjson.GetBytes(page.Notifications[0].Event, "content.body").Str != "cake" {
			t.Fatalf("got %+v", page)
		}
		if _, err = n.Notifications(n.ctx, NotificationsQuery{To: to, From: "x"}); !mxerr.Is(err, mxerr.CodeInvalidParam) {
			t.Fatalf("got %v", err)
		}
	})
}
