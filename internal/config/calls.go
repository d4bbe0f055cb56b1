package config

import (
	"strings"
	"time"
)

// checkCalls looks at what clients are told for calls.
func (c *Config) checkCalls(wrong func(key, format string, args ...any)) {
	t := c.Turn
	for _, uri := range t.URIs {
		if !strings.HasPrefix(uri, "turn:") && !strings.HasPrefix(uri, "turns:") {
			wrong("turn.uris", "%q is not the address of a TURN server; write one such as turn:turn.example.org:3478?transport=udp", uri)
		}
	}
	switch {
	case t.SharedSecret != "" && t.Username != "":
		wrong("turn.username", "a server either shares a secret or has one account for all; leave one of turn.shared_secret and turn.username empty")
	case len(t.URIs) > 0 && t.SharedSecret == "" && t.Username == "":
		wrong("turn.uris", "TURN servers are open to nobody without turn.shared_secret or turn.username")
	case t.Username != "" && t.Password == "":
		wrong("turn.password", "must not be empty where turn.username is set")
	case time.Duration(t.Lifetime) < time.Minute:
		wrong("turn.lifetime", "must be a minute at least; write a time such as 24h")
	}
	for _, u := range c.Rtc.LiveKit {
		if err := checkURL(u); err != nil || u == "" {
			wrong("rtc.livekit", "%q is not a URL; write one such as https://rtc.example.org/livekit/jwt", u)
		}
	}
}
