package servertest

import (
	"github.com/tidwall/gjson"
)

// Sync is the answer to one /sync.
type Sync struct {
	*Answer
	Next string // next_batch
}

// Sync syncs from a token, or from the start where since is "". More parameters follow as names
// and values. It does not wait unless "timeout" says so.
func (c *Client) Sync(since string, params ...any) *Sync {
	c.tb.Helper()
	if since != "" {
		params = append(params, "since", since)
	}
	a := c.OK("GET", "sync"+Query(params...), nil)
	return &Sync{a, a.Text("next_batch")}
}

// syncTries bounds the syncs of Until; each waits up to syncWait milliseconds.
const (
	syncTries = 20
	syncWait  = "2000"
)

// Until syncs until the answer shows what is looked for, and returns that answer.
func (c *Client) Until(since, what string, shows func(*Sync) bool, params ...any) *Sync {
	c.tb.Helper()
	var s *Sync
	for range syncTries {
		s = c.Sync(since, append(params, "timeout", syncWait)...)
		if shows(s) {
			return s
		}
		since = s.Next
	}
	c.tb.Fatalf("no sync of %s shows %s; the last one: %s", c.User, what, clip(s.Body))
	return nil
}

// Joined is the part about a joined room.
func (s *Sync) Joined(room string) gjson.Result { return s.At("rooms", "join", room) }

// Invited is the part about an invite.
func (s *Sync) Invited(room string) gjson.Result { return s.At("rooms", "invite", room) }

// Knocked is the part about a knock.
func (s *Sync) Knocked(room string) gjson.Result { return s.At("rooms", "knock", room) }

// Left is the part about a room that was left.
func (s *Sync) Left(room string) gjson.Result { return s.At("rooms", "leave", room) }

// Timeline is a joined room's timeline.
func (s *Sync) Timeline(room string) gjson.Result { return s.Joined(room).Get("timeline.events") }

// HasEvent reports whether a list of events holds one with this ID.
func HasEvent(list gjson.Result, event string) bool {
	for _, id := range Events(list) {
		if id == event {
			return true
		}
	}
	return false
}

// UntilEvent syncs until a joined room's timeline holds the event.
func (c *Client) UntilEvent(since, room, event string) *Sync {
	c.tb.Helper()
	return c.Until(since, "event "+event, func(s *Sync) bool { return HasEvent(s.Timeline(room), event) })
}
