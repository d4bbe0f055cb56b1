package servertest

import (
	"testing"
	"testing/synctest"

	"myelin/internal/sqldb"
)

// TestNet: servers of a network run in a bubble, keep over a crash what they acknowledged, and forget nothing in a restart.
func TestNet(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		room := alice.CreateRoom(M{"name": "Here"})
		bob.CreateRoom(nil)
		a.Restart()
		if name := alice.State(room, "m.room.name", "").Get("name").Str; name != "Here" {
			t.Errorf("name %q", name)
		}
	})
}

// TestCrashKeepsWhatWasAcknowledged: the last answer before the power fails is as good as any.
func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(t, sqldb.SQLite, 1)
		a := n.Start("a.test")
		alice := a.Register(t, "alice")
		room := alice.CreateRoom(nil)
		for range 3 {
			var said []string
			for range 20 {
				said = append(said, alice.Say(room, "hello"))
			}
			a.Crash()
			if _, err := alice.Try("GET", "account/whoami", nil); err == nil {
				t.Error("it answers after the crash")
			}
			a.Up()
			for _, event := range said {
				alice.OK("GET", Path("rooms", room, "event", event), nil)
			}
		}
	})
}
